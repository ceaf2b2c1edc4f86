"""Misuse of the agent's socket by another user of the host, and by the server's own account.

After each: refused, logged where somebody must be able to see it, nothing changed, and the agent answers.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from diycloud.agent.framing import Reply, Request, pack
from diycloud.agent.protocol import (
    Account,
    CheckLimits,
    EnsureAccounts,
    HashPasswords,
    Message,
    Outcome,
    Ping,
    Pong,
    PurgeAccount,
    PurgePreview,
    Remains,
    State,
    StopWorkloads,
    Wish,
)
from diycloud.errors import Conflict, InvalidInput, PermissionDenied, Unavailable
from diycloud.system import Local
from tests.host.agent_process import (
    PREFIX,
    SERVER_UID,
    STRANGER_UID,
    AgentProcess,
    account_files,
    as_user,
    running_agent,
    wish,
)

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="accounts can be made by root only")


@pytest.fixture(scope="module")
def process() -> Iterator[AgentProcess]:
    yield from running_agent()


@pytest.fixture
def agent(process: AgentProcess) -> Iterator[AgentProcess]:
    """The agent; after the test it must be the same process, and answer the server quickly."""
    pid = process.process.pid
    yield process
    assert process.process.poll() is None, process.raw_log()
    assert process.process.pid == pid
    start = time.monotonic()
    assert process.call_as_server(Ping(), Pong).problem == ""
    assert time.monotonic() - start < 2


@pytest.fixture
def unchanged() -> Iterator[None]:
    before = account_files()
    yield
    assert account_files() == before


def connect(agent: AgentProcess, timeout: float = 20.0) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.settimeout(timeout)
    line.connect(str(agent.socket))
    return line


def receive(line: socket.socket) -> Reply | None:
    """Return the next reply, None if the agent closed the connection."""
    data = b""
    while len(data) < 4 or len(data) < 4 + struct.unpack(">I", data[:4])[0]:
        try:
            part = line.recv(65536)
        except ConnectionResetError:
            return None
        if not part:
            return None
        data += part
    return msgspec.msgpack.decode(data[4:], type=Reply)


def exchange(agent: AgentProcess, data: bytes) -> Reply | None:
    with connect(agent) as line:
        line.sendall(data)
        return receive(line)


def frame(value: object) -> bytes:
    body = msgspec.msgpack.encode(value)
    return struct.pack(">I", len(body)) + body


def request(**body: object) -> dict[str, object]:
    return {"id": 1, "body": body, "version": 1, "deadline": 5.0}


# Another user of the host


def test_a_stranger_cannot_reach_the_socket(agent: AgentProcess) -> None:
    with pytest.raises(Unavailable, match="Permission denied"):
        as_user(STRANGER_UID, lambda: agent.call(Ping(), Pong))


def test_a_stranger_who_reaches_it_is_refused_by_the_kernels_word(agent: AgentProcess, unchanged: None) -> None:
    folder = agent.socket.parent
    folder.chmod(0o755)
    agent.socket.chmod(0o666)
    try:
        for message in (Ping(), EnsureAccounts([Account(wish(f"{PREFIX}evil"), create=True)]), PurgePreview("root")):
            with pytest.raises((PermissionDenied, Unavailable)):
                as_user(STRANGER_UID, lambda sent=message: agent.call(sent, Pong))  # type: ignore[misc]
    finally:
        folder.chmod(0o750)
        agent.socket.chmod(0o660)
    assert agent.logged(event="connection refused", caller=STRANGER_UID, code="permission-denied")


def test_places_are_closed(agent: AgentProcess) -> None:
    paths = agent.paths
    for path, mode, uid, gid in (
        (paths.agent_socket.parent, 0o40750, 0, SERVER_UID),
        (paths.agent_socket, 0o140660, 0, SERVER_UID),
        (paths.agent_state, 0o40700, 0, 0),
        (paths.managed, 0o100600, 0, 0),
    ):
        info = path.lstat()
        assert (oct(info.st_mode), info.st_uid, info.st_gid) == (oct(mode), uid, gid), path


# The server's own account, stolen

SYSTEM_NAMES = ("root", "daemon", "nobody", "sshd", "mail")


@pytest.mark.parametrize("name", SYSTEM_NAMES)
def test_no_account_of_the_system_is_touched(agent: AgentProcess, unchanged: None, name: str) -> None:
    hashed = "$6$abcdefgh$" + "x" * 86
    account = Account(wish(name, 2**50, State.LOCKED), shadow=hashed, create=True)
    (outcome,) = agent.call_as_server(EnsureAccounts([account]), list[Outcome])
    assert outcome.code in ("conflict", "permission-denied") or (name == "sshd" and outcome.code == ""), outcome
    for message in (
        PurgeAccount(name, 2**50),
        StopWorkloads(name),
        PurgePreview(name),
        CheckLimits(name, account.wish.limits),
    ):
        with pytest.raises(PermissionDenied):
            agent.call_as_server(message, Outcome)


def test_an_account_that_is_not_managed_is_not_touched(agent: AgentProcess) -> None:
    name = f"{PREFIX}human"
    subprocess.run(["useradd", "-m", "-u", "57902", name], check=True)
    before = account_files()
    (outcome,) = agent.call_as_server(
        EnsureAccounts([Account(wish(name), shadow="$6$abcdefgh$" + "x" * 86, create=True)]), list[Outcome]
    )
    assert outcome.code == "conflict"
    for message in (PurgeAccount(name, 9), StopWorkloads(name), PurgePreview(name)):
        with pytest.raises(PermissionDenied):
            agent.call_as_server(message, Outcome)
    assert account_files() == before
    assert Path(f"/home/{name}").is_dir()
    assert agent.logged(event="refused", caller=SERVER_UID, name=name, code="permission-denied")


@pytest.mark.parametrize("how", ["group", "primary", "sudoers", "sudoers-uid", "uid"])
def test_an_account_that_became_an_administrator_is_not_touched(agent: AgentProcess, how: str) -> None:
    name = f"{PREFIX}adm{how.replace('-', '')}"
    (outcome,) = agent.call(EnsureAccounts([Account(wish(name), create=True)]), list[Outcome])
    rule = Path(f"/etc/sudoers.d/{name}")
    try:
        if how == "group":
            subprocess.run(["usermod", "-aG", "sudo", name], check=True)
        elif how == "primary":
            subprocess.run(["usermod", "-g", "disk", name], check=True)
        elif how == "uid":
            set_uid(name, 0)
        else:
            if not rule.parent.is_dir():
                pytest.skip("no sudo here")
            who = f"#{outcome.uid}" if how == "sudoers-uid" else name
            rule.write_text(f"{who} ALL=(ALL:ALL) ALL\n")
            rule.chmod(0o440)
        before = account_files()
        account = Account(wish(name, 2, State.LOCKED), shadow="$6$abcdefgh$" + "x" * 86)
        (refused,) = agent.call_as_server(EnsureAccounts([account]), list[Outcome])
        assert refused.code in ("permission-denied", "conflict")
        for message in (PurgeAccount(name, 9), StopWorkloads(name)):
            with pytest.raises((PermissionDenied, Conflict)):
                agent.call_as_server(message, Outcome)
        assert account_files() == before
        assert Path(f"/home/{name}").is_dir()
        assert agent.logged(event="account refused", caller=SERVER_UID, name=name)
    finally:
        rule.unlink(missing_ok=True)
        if how == "uid":
            set_uid(name, outcome.uid)


@pytest.mark.parametrize("who", ["%{name}", "{name}"])
def test_no_name_that_sudoers_waits_for_can_be_had(agent: AgentProcess, unchanged: None, who: str) -> None:
    name = f"{PREFIX}waits"
    with sudoers(who.format(name=name)):
        for call in (agent.call_as_server, agent.call):
            (refused,) = call(EnsureAccounts([Account(wish(name), create=True)]), list[Outcome])
            assert (refused.code, refused.uid) == ("permission-denied", None)


def test_a_known_name_that_is_gone_does_not_come_back_as_an_administrator(agent: AgentProcess) -> None:
    name = f"{PREFIX}gone"
    (made,) = agent.call(EnsureAccounts([Account(wish(name), create=True)]), list[Outcome])
    subprocess.run(["userdel", name], check=True)
    with sudoers(name):
        (refused,) = agent.call_as_server(EnsureAccounts([Account(wish(name, 2))]), list[Outcome])
        assert (refused.code, refused.uid) == ("permission-denied", made.uid)
        assert f"{name}:" not in Path("/etc/passwd").read_text()
    (back,) = agent.call_as_server(EnsureAccounts([Account(wish(name, 2))]), list[Outcome])
    assert (back.code, back.uid) == ("", made.uid)


@contextlib.contextmanager
def sudoers(who: str) -> Iterator[None]:
    rule = Path("/etc/sudoers.d/dtag-rule")
    if not rule.parent.is_dir():
        pytest.skip("no sudo here")
    rule.write_text(f"{who} ALL=(ALL) NOPASSWD: ALL\n")
    rule.chmod(0o440)
    try:
        yield
    finally:
        rule.unlink()


def set_uid(name: str, uid: int | None) -> None:
    """Change a number in /etc/passwd as an editor would; usermod refuses while root has processes."""
    text = Path("/etc/passwd").read_text()
    Local().write("/etc/passwd", re.sub(rf"^{name}:x:\d+:", f"{name}:x:{uid}:", text, flags=re.MULTILINE))


def test_root_may_lock_an_administrator(agent: AgentProcess) -> None:
    name = f"{PREFIX}admroot"
    agent.call(EnsureAccounts([Account(wish(name), create=True)]), list[Outcome])
    subprocess.run(["usermod", "-aG", "sudo", name], check=True)
    (outcome,) = agent.call(EnsureAccounts([Account(wish(name, 2, State.LOCKED))]), list[Outcome])
    assert (outcome.code, outcome.changed) == ("", True)


ODD_NAMES = (
    "", "Root", "x" * 33, "-x", "-rf", "root\n", f"{PREFIX}a\n", f"{PREFIX} b", "äöü", "rооt", "a:b", "a/b", "../etc", "a\0b",
    "$(id)", "a;id", "a'b", "1abc", "a.b", " a", "a ", "%n", "alice@host", "\u202eabc", "ａｄｍｉｎ",
)  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_refused(agent: AgentProcess, unchanged: None, name: str) -> None:
    limits = {"cpu": 1.0, "memory": 64 << 20, "tasks": 50}
    odd = {"name": name, "generation": 1, "limits": limits, "state": "active", "full_name": "", "shell": "/bin/bash"}
    messages = (
        request(message="ensure-accounts", accounts=[{"wish": odd, "shadow": None, "create": True}]),
        request(message="purge-account", name=name, generation=1),
        request(message="stop-workloads", name=name),
        request(message="check-limits", name=name, limits=limits),
        request(message="read-usage", names=[name]),
        request(message="sync", part=[odd], first=True, last=True),
    )
    for message in messages:
        reply = as_user(SERVER_UID, lambda sent=message: exchange(agent, frame(sent)))  # type: ignore[misc]
        assert reply is not None
        assert (reply.id, reply.code) == (1, "invalid-input"), (message, reply)


BAD_VALUES = (
    {"full_name": "a:b"}, {"full_name": "a\nroot::0:0:::/bin/sh"}, {"full_name": "x" * 101}, {"full_name": "a,b"},
    {"shell": "bash"}, {"shell": "/bin/bash\n"}, {"shell": "/bin/../../evil shell"}, {"state": "admin"},
    {"generation": -1}, {"generation": 2**60}, {"generation": "1"}, {"generation": True}, {"uid": 0}, {"home": "/root"},
    {"limits": {"cpu": 0, "memory": 64 << 20, "tasks": 50}}, {"limits": {"cpu": float("nan"), "memory": 1 << 30, "tasks": 50}},
    {"limits": {"cpu": float("inf"), "memory": 64 << 20, "tasks": 50}}, {"limits": {"cpu": 1.0, "memory": -1, "tasks": 50}},
    {"limits": {"cpu": 1.0, "memory": 64 << 20, "tasks": 0}}, {"limits": {"cpu": 1.0, "memory": 64 << 20}},
    {"limits": {"cpu": 1.0, "memory": 64 << 20, "tasks": 50, "more": 1}},
)  # fmt: skip
BAD_SHADOWS = ("", "*", "!", "plain", "$1$salt$md5", "$6$salt$a:b", "$6$abcdefgh$xxxxxxxx\nroot:", "$6$" + "x" * 300)


@pytest.mark.parametrize("bad", [*BAD_VALUES, *({"shadow": text} for text in BAD_SHADOWS)])
def test_bad_values_are_refused(agent: AgentProcess, unchanged: None, bad: dict[str, object]) -> None:
    limits = {"cpu": 1.0, "memory": 64 << 20, "tasks": 50}
    good: dict[str, object] = {"name": f"{PREFIX}bad", "generation": 1, "limits": limits, "state": "active"}
    account: dict[str, object] = {"wish": good, "shadow": None, "create": True}
    if "shadow" in bad:
        account |= bad
    else:
        account["wish"] = good | bad
    message = request(message="ensure-accounts", accounts=[account])
    reply = as_user(SERVER_UID, lambda: exchange(agent, frame(message)))
    assert reply is not None
    assert reply.code == "invalid-input", reply


@pytest.mark.parametrize("password", ["", "nul\0inside", "line\nbreak", "x" * 600])
def test_passwords_that_libcrypt_would_cut_are_refused(agent: AgentProcess, password: str) -> None:
    with pytest.raises(InvalidInput):
        agent.call_as_server(HashPasswords([password]), list[str])
    assert "inside" not in agent.raw_log()


# Frames


BROKEN_FRAMES = {
    "zero length": struct.pack(">I", 0),
    "huge length": struct.pack(">I", 1 << 31) + b"x",
    "just too long": struct.pack(">I", 65537) + b"x" * 65537,
    "garbage": struct.pack(">I", 64) + os.urandom(64),
    "text": b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n",
    "no map": frame([1, 2, 3]),
    "trailing bytes": struct.pack(">I", 3) + b"\xc0\xc0\xc0",
    "deep nesting": struct.pack(">I", 60000) + b"\x91" * 60000,
    "unknown message": frame(request(message="grant-root", name="alice")),
    "no message": frame({"id": 1}),
    "unknown field": frame(request(message="ping", extra=1)),
    "unknown outer field": frame(request(message="ping") | {"as": "root"}),
    "other version": frame(request(message="ping") | {"version": 2}),
    "deadline without end": frame(request(message="ping") | {"deadline": float("inf")}),
    "negative deadline": frame(request(message="ping") | {"deadline": -1.0}),
    # {"id": 1, "id": 2, "body": {"message": "ping"}}
    "key twice": struct.pack(">I", 27) + b"\x83\xa2id\x01\xa2id\x02\xa4body\x81\xa7message\xa4ping",
    # The same name as a padded 8-bit string.
    "padded": struct.pack(">I", 25) + b"\x82\xd9\x02id\x01\xa4body\x81\xa7message\xa4ping",
}


@pytest.mark.parametrize("data", BROKEN_FRAMES.values(), ids=BROKEN_FRAMES.keys())
def test_broken_frames_end_the_conversation(agent: AgentProcess, unchanged: None, data: bytes) -> None:
    def send() -> str:
        with connect(agent) as line:
            line.sendall(data)
            reply = receive(line)
            try:
                closed = receive(line) is None
            except TimeoutError:
                closed = False
            return f"{reply.code if reply else 'closed'} {closed}"

    assert as_user(SERVER_UID, send) in ("invalid-input True", "closed True")


def test_a_frame_that_is_cut_off_or_slow_ends_the_conversation(agent: AgentProcess) -> None:
    def cut_off() -> None:
        for length in (1, 3, 4, 10):
            with connect(agent) as line:
                line.sendall(pack(Request(1, Ping()))[:length])

    def slow() -> float:
        start = time.monotonic()
        with connect(agent) as line:
            for byte in pack(Request(1, Ping())):
                try:
                    line.sendall(bytes([byte]))
                    line.settimeout(0.5)
                    if not line.recv(1000):
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
                else:
                    break
        return time.monotonic() - start

    as_user(SERVER_UID, cut_off)
    assert 4 < as_user(SERVER_UID, slow) < 8


def test_one_who_never_reads_is_dropped(agent: AgentProcess) -> None:
    def flood() -> int:
        sent = 0
        with connect(agent, timeout=3.0) as line:
            try:
                while sent < 100_000:
                    line.sendall(pack(Request(sent, Ping())))
                    sent += 1
            except OSError:
                pass
        return sent

    assert as_user(SERVER_UID, flood) < 100_000


def test_two_thousand_connections_leave_room_for_root(agent: AgentProcess) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, max(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))

    def crowd() -> tuple[int, int]:
        lines = []
        while len(lines) < 2000:
            with contextlib.suppress(BlockingIOError):  # the queue of the socket is full for a moment
                lines.append(connect(agent))
        time.sleep(2)  # all of them stay open meanwhile
        for line in lines:
            line.setblocking(False)
        return sum(_is_open(line) for line in lines), len(lines)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(as_user, SERVER_UID, crowd)
        slowest = 0.0
        while not waiting.done():
            start = time.monotonic()
            assert agent.call(Ping(), Pong).problem == ""
            slowest = max(slowest, time.monotonic() - start)
            time.sleep(0.05)
        kept, tried = waiting.result()
    assert tried == 2000
    assert kept <= 32
    assert slowest < 2
    assert agent.logged(event="connection refused", caller=SERVER_UID, code="unavailable")


def _is_open(line: socket.socket) -> bool:
    try:
        return line.recv(1000) == b"never sent"
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_every_message_has_a_caller_and_a_kind() -> None:
    from diycloud.agent.handlers import TABLE

    assert set(TABLE) == set(Message.__subclasses__())
    assert all(handler.callers for handler in TABLE.values())


def test_a_wish_list_must_begin_at_its_beginning(agent: AgentProcess) -> None:
    part = msgspec.to_builtins(Wish(f"{PREFIX}x", 1, wish("x").limits))
    reply = exchange(agent, frame(request(message="sync", part=[part], first=False, last=True)))
    assert reply is not None
    assert reply.code == "invalid-input"


def test_a_name_twice_in_one_message_is_refused(agent: AgentProcess, unchanged: None) -> None:
    account = Account(wish(f"{PREFIX}dup"), create=True)
    with pytest.raises(InvalidInput):
        agent.call_as_server(EnsureAccounts([account, account]), list[Outcome])


def test_the_preview_of_a_managed_account_is_the_servers_right(agent: AgentProcess) -> None:
    agent.call_as_server(EnsureAccounts([Account(wish(f"{PREFIX}own"), create=True)]), list[Outcome])
    assert agent.call_as_server(PurgePreview(f"{PREFIX}own"), Remains).home == f"/home/{PREFIX}own"
