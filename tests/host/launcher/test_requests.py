"""Requests to the launcher: by whom, what is refused, and what a connection that breaks off leaves."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.host.launcher_support import ALICE, NEEDED, UIDS, Answered, Bed

pytestmark = NEEDED


def shims() -> set[int]:
    return {
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and (entry / "comm").exists() and (entry / "comm").read_text() == "notebook-shim\n"
    }


def wait_until_gone(before: set[int], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while shims() - before:
        assert time.monotonic() < deadline, shims() - before
        time.sleep(0.05)


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\n",
        b"[]\n",
        b"{}\n",
        b"x" * 200_000,
        b'{"name": "a", "uid": 0}\n',
        b'{"name": "a", "uid": true, "gid": 1}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
    ],
)
def test_hostile_lines_leave_nothing(bed: Bed, line: bytes) -> None:
    before = shims()
    with bed.connect() as connection:
        try:
            connection.sendall(line)
            answer = connection.makefile("r").readline()
        except OSError:
            answer = ""
    assert "pid" not in answer
    wait_until_gone(before)
    assert bed.launcher.poll() is None


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"uid": 0}, "uid"),
        ({"gid": 0}, "gid"),
        ({"groups": [0]}, "groups"),
        ({"home": "relative"}, "home"),
        ({"environment": {"A=B": "c"}}, "environment"),
        ({"environment": {"A": "b\0c"}}, "environment"),
        ({"shell": "a\0b"}, "shell"),
        ({"groups_of_processes": "no"}, "groups_of_processes"),
        ({"tmp": 7}, "tmp"),
    ],
)
def test_request_that_must_not_be_is_refused(bed: Bed, changes: dict[str, Any], word: str) -> None:
    server = bed.start(ALICE, **changes)
    assert f"`{word}`" in server.failed["failed"]
    assert not server.shim
    bed.servers.clear()


def test_descriptor_must_be_one_socket_that_listens(bed: Bed) -> None:
    before = shims()
    line = json.dumps(bed.request(ALICE)).encode() + b"\n"
    with open("/etc/passwd") as file, socket.socket(socket.AF_UNIX) as deaf, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        for descriptors in ([], [file.fileno()], [deaf.fileno()], [other.fileno()], [deaf.fileno()] * 3):
            with bed.connect() as connection:
                socket.send_fds(connection, [line], descriptors)
                assert "descriptor" in json.loads(connection.makefile("r").readline())["failed"]
    wait_until_gone(before)


def test_connection_that_breaks_before_go_leaves_nothing(bed: Bed) -> None:
    before, request = shims(), bed.request(ALICE)
    Path(request["socket"]).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener, bed.connect() as connection:
        listener.bind(request["socket"])
        listener.listen()
        socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], [listener.fileno()])
        assert json.loads(connection.makefile("r").readline())["pid"]
    wait_until_gone(before)
    assert not Path(request["record"] + ".new").exists()
    assert not Path(request["runtime"]).exists()
    Path(request["socket"]).unlink()


def test_connection_that_breaks_after_go_changes_nothing(bed: Bed) -> None:
    request = bed.request(ALICE)
    Path(request["socket"]).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener, bed.connect() as connection:
        listener.bind(request["socket"])
        listener.listen()
        socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], [listener.fileno()])
        shim = json.loads(connection.makefile("r").readline())["pid"]
        connection.sendall(b'{"go": true}\n')
    server = Answered(bed, request)
    server.shim = shim
    bed.servers.append(server)
    assert server.get("api")[0] == 200
    server.pid = server.record["pid"]
    server.stop()


def test_others_are_not_heard(bed: Bed) -> None:
    ask = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(9))"
    command = ["/usr/bin/python3", "-c", ask, str(bed.socket)]
    refused = subprocess.run(command, user=UIDS[ALICE], group=UIDS[ALICE], capture_output=True, text=True, check=False)
    assert "PermissionError" in refused.stderr
    bed.socket.parent.chmod(0o755)
    bed.socket.chmod(0o666)
    try:  # even if the folder were open
        heard = subprocess.run(
            command, user=UIDS[ALICE], group=UIDS[ALICE], capture_output=True, text=True, check=False
        )
    finally:
        bed.socket.parent.chmod(0o700)
        bed.socket.chmod(0o600)
    assert heard.stdout in ("b''\n", "")
    assert "refused a connection" in bed.said()


def test_second_launcher_does_not_take_the_socket(bed: Bed) -> None:
    command = [str(bed.lab / "bin/python"), "-I", "-m", "diycloud.launcher", "--prefix", str(bed.prefix)]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert second.returncode != 0
    assert "answers on" in second.stderr
    assert bed.start(ALICE).get("api")[0] == 200
