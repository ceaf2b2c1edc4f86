"""The agent and the launcher: the socket that is handed over, what each says, what is read of records, logs and processes."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diycloud.config import Paths
from diycloud.errors import Conflict, HostError, Unavailable
from diycloud.host import notebooks as host
from diycloud.host.notebooks import LOG_LINES, LOG_WIDTH, Places, Record, ServerKey, bind_socket, launching
from diycloud.system import Local
from diycloud.system.contract import Owner


def test_no_two_servers_share_a_place() -> None:
    keys = [ServerKey("a", ""), ServerKey("a", "b"), ServerKey("a-b", ""), ServerKey("ab", ""), ServerKey("a", "b-c")]
    assert len({key.stem for key in keys}) == len(keys)
    assert [ServerKey.of_stem(key.stem) for key in keys] == keys


def test_records_and_logs_are_read_as_what_others_wrote(tmp_path: Path) -> None:
    places = Places(Local(), Paths(str(tmp_path)))
    places.ensure()
    key = ServerKey("alice", "")
    assert places.read_record(key) is None
    for text in ("", "[]", "{", '{"name": 5}', '{"server": ""}', '{"name": "alice", "shim": "1"}'):
        places.record(key).write_text(text)
        assert places.read_record(key) is None
    places.record(key).write_text('{"name": "alice", "shim": 5, "shim_start": 9, "more": 1}')
    assert places.read_record(key) == Record("alice", shim=5, shim_start=9)
    places.log(key).write_bytes(b"old\n" * 100 + b"\x1b[2Jfine\x07 \xff\n" + b"x" * 999)
    lines = places.read_log(key)
    assert (len(lines), len(lines[-1])) == (LOG_LINES, LOG_WIDTH)
    assert lines[-2].startswith("[2Jfine")
    assert all(c.isprintable() for c in lines[-2])


def test_a_pid_is_not_taken_for_another_process() -> None:
    me, start = os.getpid(), host.start_of(Local(), os.getpid())
    assert start > 0
    assert host.is_looked_after(Local(), Record("a", shim=me, shim_start=start))
    for record in (Record("a"), Record("a", shim=me, shim_start=start + 1), Record("a", shim=2**30, shim_start=start)):
        assert not host.is_looked_after(Local(), record)
    assert host.is_child(Local(), me, os.getppid())
    assert not host.is_child(Local(), me, 1 if os.getppid() != 1 else 2)


def test_without_cgroups_all_that_a_shim_started_is_found_and_ended() -> None:
    read, write = os.pipe()
    shim = os.fork()
    if shim == 0:  # a child and a grandchild in a session of its own
        for _ in range(2):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.setsid()
                os.write(write, b"x")
                time.sleep(100)
                os._exit(0)
        time.sleep(100)
        os._exit(0)
    os.close(write)
    while len(told := os.read(read, 1)) and len(below := host.descendants(Local(), shim)) < 4:
        assert told == b"x"
    host.kill_tree(Local(), shim)
    os.waitpid(shim, 0)
    os.close(read)
    deadline = time.monotonic() + 20
    while any(host.start_of(Local(), pid) for pid in below):  # the machine's init collects them when it comes to it
        assert time.monotonic() < deadline
        time.sleep(0.02)


# -- the launcher


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with bind_socket(tmp_path / "s.sock", Owner(os.getuid(), os.getgid())) as found:
        yield found


def test_a_socket_is_the_users_and_replaces_one_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    path.write_text("left over")
    with bind_socket(path, Owner(os.getuid(), os.getgid())), socket.socket(socket.AF_UNIX) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        client.connect(str(path))
    with pytest.raises(HostError, match="Cannot listen"):
        bind_socket(tmp_path / "none" / "a.sock", Owner(0, 0))


def conversation(tmp_path: Path, listener: socket.socket, answers: list[bytes], *, seconds: float = 5) -> host.Answer:
    """Talk with a launcher that says these things, each after it heard a line."""
    path = tmp_path / "l.sock"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        door.listen()

        def serve() -> None:
            line, _ = door.accept()
            with line:
                data, descriptors, _, _ = socket.recv_fds(line, 65_536, 4)
                assert json.loads(data) == {"name": "alice"}
                assert len(descriptors) == 1
                os.close(descriptors[0])
                for number, answer in enumerate(answers):
                    if number == 1:
                        assert json.loads(line.recv(100)) == {"go": True}
                    line.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with launching(path) as launch:
                assert launch.ask({"name": "alice"}, listener) == 5
                launch.go()
                return launch.wait(seconds, lambda: None)
        finally:
            thread.join()


def test_a_server_that_answers_and_one_that_fails(tmp_path: Path, listener: socket.socket) -> None:
    ready = [b'{"pid": 5}\n', b'{"ready": true, "pid": 6}\n']
    assert conversation(tmp_path, listener, ready) == host.Answer(6)


def test_a_server_that_fails_says_why(tmp_path: Path, listener: socket.socket) -> None:
    failed = [b'{"pid"', b": 5}\n", b'{"failed": "It burnt.", "log": ["a", 5]}\n']
    failed = [failed[0] + failed[1], failed[2]]
    assert conversation(tmp_path, listener, failed) == host.Answer(0, "It burnt.", ("a", "5"))


@pytest.mark.parametrize(
    ("answers", "words"),
    [([], "broke off"), ([b'{"failed": "no room"}\n'], "refuses: no room"), ([b"5\n"], "names no process"),
     ([b"\xff\n"], "broke off"), ([b'{"pid": 5}\n', b""], "broke off")],
)  # fmt: skip
def test_a_launcher_that_is_not_up_to_it(
    tmp_path: Path, listener: socket.socket, answers: list[bytes], words: str
) -> None:
    with pytest.raises(Unavailable, match=words):
        conversation(tmp_path, listener, answers)


def test_no_launcher_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="diycloud up"), launching(tmp_path / "none.sock"):
        pass


def test_a_launcher_that_is_silent_is_waited_for_no_longer_than_asked(tmp_path: Path, listener: socket.socket) -> None:
    path = tmp_path / "l.sock"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        door.listen()
        with launching(path) as launch:
            began = time.monotonic()
            with pytest.raises(Unavailable, match="in time"):
                launch.wait(0.3, lambda: None)
            assert time.monotonic() - began < 2
            with pytest.raises(Conflict):  # what looks in the meantime ends the wait
                launch.wait(10, lambda: (_ for _ in ()).throw(Conflict("enough")))  # type: ignore[arg-type]
