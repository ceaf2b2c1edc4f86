"""A notebook server's places on the host, what is known of its processes, and the conversation with the launcher.

    RUN/notebooks/             0711
        sockets/STEM.sock      root's folder, 0711; the socket is its user's and Nginx's, 0660
        records/STEM.json      root's only: which processes a server is, and how it ended
        logs/STEM.log          root's only: its last output
        runtime/STEM/          the user's, 0700: sockets of kernels
    STATE/notebooks/tmp/UID/   the user's, 0700: what their servers see as /tmp

STEM is NAME, or NAME+SERVER of a named server; no account's name holds a `+`. Everything below RUN is gone after a reboot,
and so are the processes it tells of.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from diycloud.config import Paths
from diycloud.errors import HostError, Unavailable
from diycloud.system.contract import Owner, System

MAX_LINE = 128 * 1024
"""Bytes of a line of the conversation."""
FORK_S = 30.0
"""A launcher that has not forked by then is stuck; one that was just started loads for some seconds before it does."""
LOOK_S = 0.1
LOG_LINES, LOG_WIDTH = 40, 300
"""Of a log that is told: with four bytes a character it fits a frame."""
BACKLOG = 1024


class ServerKey(NamedTuple):
    """Names one server: whose it is, and its name, empty for the first one."""

    name: str
    server: str

    @property
    def stem(self) -> str:
        return f"{self.name}+{self.server}" if self.server else self.name

    @property
    def part(self) -> str:
        """The name of its part of the slice."""
        return f"notebook-{self.server}" if self.server else "notebook"

    @classmethod
    def of_stem(cls, stem: str) -> ServerKey:
        name, _, server = stem.partition("+")
        return cls(name, server)


class Record(msgspec.Struct, frozen=True):
    """What is written down of one server, by the agent before it starts, by its shim from then on.

    shim: the pid of root's process that looks after it; shim_start: when that began (proc_pid_stat(5): starttime), so that
    the pid is not taken for another's; pid: of the server, 0 as long as there is none; kills: for memory.
    """

    name: str
    server: str = ""
    profile: str = ""
    shim: int = 0
    shim_start: int = 0
    pid: int = 0
    started: float = 0.0
    ended: float | None = None
    exit_code: int | None = None
    kills: int = 0


class Places:
    """Where the things of notebooks are."""

    def __init__(self, system: System, paths: Paths) -> None:
        self._system = system
        self._run, self._tmp = paths.notebooks, paths.notebook_tmp

    def ensure(self) -> None:
        """Make the folders, at the agent's start."""
        tops = (*reversed(self._run.parents), *reversed(self._tmp.parents))
        for folder in [top for top in tops if not self._system.exists(top)]:
            self._system.make_dir(folder)
        for folder, mode in (
            (self._run, 0o711),
            (self._run / "sockets", 0o711),
            (self._run / "records", 0o700),
            (self._run / "logs", 0o700),
            (self._run / "runtime", 0o711),
            (self._tmp, 0o711),
        ):
            self._system.make_dir(folder, mode=mode)
        for name in self._system.list_dir(self._run / "records"):
            if name.startswith("."):  # an agent was killed while it wrote
                self._system.remove(self._run / "records" / name)

    def ensure_own(self, key: ServerKey, owner: Owner) -> None:
        """Make the user's /tmp, and room for a runtime folder, which the shim makes: what is there is of a server before."""
        self._system.remove_tree(self.runtime(key))
        self._system.make_dir(self.tmp(owner.uid), mode=0o700, owner=owner)

    def socket(self, key: ServerKey) -> Path:
        return self._run / "sockets" / f"{key.stem}.sock"

    def record(self, key: ServerKey) -> Path:
        return self._run / "records" / f"{key.stem}.json"

    def log(self, key: ServerKey) -> Path:
        return self._run / "logs" / f"{key.stem}.log"

    def runtime(self, key: ServerKey) -> Path:
        return self._run / "runtime" / key.stem

    def tmp(self, uid: int) -> Path:
        return self._tmp / str(uid)

    def known(self) -> set[ServerKey]:
        """Return the servers of which anything is there."""
        found = [
            *(name.removesuffix(".sock") for name in self._system.list_dir(self._run / "sockets")),
            *(name.rpartition(".")[0] for name in self._system.list_dir(self._run / "records")),
            *(name.rpartition(".")[0] for name in self._system.list_dir(self._run / "logs")),
            *self._system.list_dir(self._run / "runtime"),
        ]
        return {ServerKey.of_stem(stem) for stem in found if stem and not stem.startswith(".")}

    def read_record(self, key: ServerKey) -> Record | None:
        """Read what is written down; None if nothing is, or not a record."""
        text = self._system.read(self.record(key))
        with contextlib.suppress(msgspec.DecodeError, msgspec.ValidationError):
            return msgspec.json.decode(text or "", type=Record)
        return None

    def write_record(self, key: ServerKey, record: Record) -> None:
        self._system.write(self.record(key), msgspec.json.encode(record).decode(), mode=0o600)

    def read_log(self, key: ServerKey) -> tuple[str, ...]:
        """Read a server's last lines, without what a terminal would obey."""
        lines = (self._system.read(self.log(key)) or "").splitlines()[-LOG_LINES:]
        return tuple("".join(c for c in line[:LOG_WIDTH] if c.isprintable() or c == "\t") for line in lines)

    def close(self, key: ServerKey) -> None:
        """Remove the socket and the runtime folder."""
        self._system.remove(self.socket(key))
        self._system.remove_tree(self.runtime(key))

    def forget(self, key: ServerKey) -> None:
        """Remove all there is of a server that runs no more, with what its shim was writing when it was killed."""
        self.close(key)
        for path in (self.record(key), self.log(key)):
            self._system.remove(path)
            self._system.remove(path.with_suffix(".new"))

    def forget_tmp(self, uid: int) -> None:
        self._system.remove_tree(self.tmp(uid))


def bind_socket(path: Path, owner: Owner) -> socket.socket:
    """Return a listening socket at a path that the owner and a group may connect to (0660); one that is there is replaced.

    owner: the user, and Nginx's group. Raises HostError.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        os.fchmod(listener.fileno(), 0o600)  # what bind(2) gives the file; umask(2) would be every thread's
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        os.chown(path, *owner, follow_symlinks=False)
        path.chmod(0o660)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise HostError(f"Cannot listen on {path}: {error.strerror or error}.") from error
    return listener


def _stat(system: System, pid: int) -> list[str]:
    """Return the fields of proc_pid_stat(5) from the third on, none if the process is gone or only waits to be reaped."""
    try:
        fields = (system.read(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
    except ProcessLookupError:  # it ended between open and read
        return []
    return [] if fields[:1] in (["Z"], ["X"]) else fields


def start_of(system: System, pid: int) -> int:
    """Return when a process began, in ticks since boot; 0 if it is not there."""
    fields = _stat(system, pid)
    return int(fields[19]) if len(fields) > 19 else 0


def is_looked_after(system: System, record: Record) -> bool:
    """Tell whether the shim is there that a record tells of."""
    return record.shim > 0 and start_of(system, record.shim) == record.shim_start != 0


def is_child(system: System, pid: int, parent: int) -> bool:
    """Tell whether a process is another's child."""
    fields = _stat(system, pid)
    return len(fields) > 1 and fields[1] == str(parent)


def descendants(system: System, pid: int) -> list[int]:
    """Return what a process started, and what that did."""
    children: dict[int, list[int]] = {}
    for name in system.list_dir("/proc"):
        if name.isdecimal() and len(fields := _stat(system, int(name))) > 1:
            children.setdefault(int(fields[1]), []).append(int(name))
    found, todo = list[int](), [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def kill_tree(system: System, pid: int) -> None:
    """Kill a subreaper with all below it, where no cgroup holds them together. The subreaper last: until then none gets away."""
    for _ in range(100):
        below = descendants(system, pid)
        if not below:
            break
        for one in below:
            system.kill(one, signal.SIGKILL)
        time.sleep(0.01)
    system.kill(pid, signal.SIGKILL)


class Answer(NamedTuple):
    """How a start ended. pid: of the server that answers; failed: why there is none, with its last lines in log."""

    pid: int = 0
    failed: str = ""
    log: tuple[str, ...] = ()


class Launch:
    """One conversation with the launcher, and then with the shim that it forked: lines of JSON.

    Until `go` the shim does nothing, and ends when the line breaks, however that comes.
    """

    def __init__(self, path: Path) -> None:
        """Raises Unavailable if no launcher listens."""
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._rest = bytearray()
        try:
            self._line.settimeout(FORK_S)
            self._line.connect(str(path))
        except OSError as error:
            self._line.close()
            raise Unavailable(
                f"The launcher of notebooks does not answer ({error.strerror or error}).",
                "`diycloud jupyter status` tells how it fares; `diycloud up` starts it.",
            ) from error

    def ask(self, request: Mapping[str, Any], listener: socket.socket, look: Callable[[], None] = lambda: None) -> int:
        """Ask for a server that is to listen on a socket. Returns the pid of its shim, which waits for `go`.

        look: called now and then; what it raises ends the wait. Raises Unavailable if the launcher refuses or does not answer.
        """
        line = json.dumps(request, separators=(",", ":")).encode() + b"\n"
        if len(line) > MAX_LINE:
            raise Unavailable(f"The launcher takes {MAX_LINE >> 10} KiB, and this server's environment is larger.")
        try:
            sent = socket.send_fds(self._line, [line], [listener.fileno()])
            if sent < len(line):  # sending nothing to a launcher that refused and left would hide what it said
                self._line.sendall(line[sent:])
        except OSError as error:
            raise _broken(error) from error
        answer = self._receive(time.monotonic() + FORK_S, look, "The launcher of notebooks is not ready.", "Try again.")
        if not isinstance(answer.get("pid"), int):
            raise Unavailable(f"The launcher refuses: {answer.get('failed') or 'it names no process'}.")
        return int(answer["pid"])

    def go(self) -> None:
        """Let the server start."""
        try:
            self._line.sendall(b'{"go": true}\n')
        except OSError as error:
            raise _broken(error) from error

    def wait(self, seconds: float, look: Callable[[], None]) -> Answer:
        """Wait until the server answers, or has failed. look: called now and then; what it raises ends the wait.

        Raises Unavailable after so many seconds, and if the line breaks.
        """
        answer = self._receive(time.monotonic() + seconds, look)
        if answer.get("ready") is True and isinstance(answer.get("pid"), int):
            return Answer(pid=int(answer["pid"]))
        lines = answer.get("log")
        told = tuple(str(line)[:LOG_WIDTH] for line in lines[-LOG_LINES:]) if isinstance(lines, list) else ()
        return Answer(failed=str(answer.get("failed") or "It ended."), log=told)

    def close(self) -> None:
        self._line.close()

    def _receive(
        self, end: float, look: Callable[[], None], late: str = "The server did not answer in time.",
        hint: str = "Its log has its last lines.",
    ) -> dict[str, Any]:  # fmt: skip
        self._line.settimeout(LOOK_S)
        while b"\n" not in self._rest:
            look()
            if time.monotonic() > end or len(self._rest) > MAX_LINE:
                raise Unavailable(late, hint)
            with contextlib.suppress(TimeoutError):
                try:
                    part = self._line.recv(65_536)
                except ConnectionError as error:
                    raise _broken(error) from error
                if not part:
                    raise _broken(EOFError("the connection was closed"))
                self._rest += part
        line, _, rest = bytes(self._rest).partition(b"\n")
        self._rest = bytearray(rest)
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise _broken(error) from error
        return answer if isinstance(answer, dict) else {}


@contextlib.contextmanager
def launching(path: Path) -> Iterator[Launch]:
    """Talk with the launcher; the conversation ends with the block."""
    launch = Launch(path)
    try:
        yield launch
    finally:
        launch.close()


def _broken(error: Exception) -> Unavailable:
    return Unavailable(f"The launcher of notebooks broke off: {str(error) or type(error).__name__}.", "Try again.")
