"""One server's keeper: root's, in the server's own sub-cgroup, there from before its first instruction until after its last.

It survives the launcher, the agent and the hub; it keeps the end of what the server prints, ends what the server leaves
running, and writes down how it ended. It is a fork of the launcher, and executes nothing.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from diycloud.launcher import linux
from diycloud.launcher.conversation import REQUEST_SECONDS, Broken, Conversation
from diycloud.launcher.output import Output
from diycloud.launcher.privileges import close_all_but
from diycloud.launcher.record import Record, now, read_kills, read_start_time, write_record
from diycloud.launcher.remains import end_remains, reap
from diycloud.launcher.request import Refused, Request, parse_request
from diycloud.launcher.server import run_server


def run_shim(connection: socket.socket, visible: list[Path]) -> NoReturn:
    """Do all that one connection of the agent's asks. Never returns."""
    code = 1
    try:
        _detach(connection)
        talk = Conversation(connection)
        try:
            request = parse_request(talk.read_line(REQUEST_SECONDS))
            listener = talk.take_listener()
            talk.say(pid=os.getpid())
            talk.wait_for_go()
            code = _Shim(request, talk).keep(listener, visible)
        except Broken:
            pass
        except Refused as refused:
            talk.say(failed=str(refused), log=[])
        except Exception as error:  # such as no process more in the slice
            talk.say(failed=f"The server could not be started: {error or type(error).__name__}.", log=[])
    finally:
        os._exit(code)


def _detach(connection: socket.socket) -> None:
    """Leave the launcher's session and descriptors behind, and do not be chosen when memory ends."""
    os.setsid()
    linux.set_name("notebook-shim")
    linux.become_subreaper()
    nowhere = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    close_all_but((0, 1, 2, connection.fileno()))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # a container may not
        Path("/proc/self/oom_score_adj").write_text("-1000", encoding="ascii")


class _Shim:
    """The keeping of one server."""

    def __init__(self, request: Request, talk: Conversation) -> None:
        self._request = request
        self._talk = talk
        self._ready = False
        self._kills_before = read_kills(request.kills_file, request.kills_key)
        self._record = Record(
            request.name, request.server, request.profile, os.getpid(), read_start_time(os.getpid()), started=now()
        )

    def keep(self, listener: socket.socket, visible: list[Path]) -> int:
        """Start the server and stay until it and all it started has ended. Returns the shim's own exit status."""
        request = self._request
        self._make_runtime()
        ready, ready_in_server = os.pipe2(os.O_CLOEXEC)
        printed, printed_by_server = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(printed, False)
        os.fchown(printed_by_server, request.uid, request.gid)  # programs open /dev/stderr anew
        self._output = Output(printed, request.log)
        waker = self._watch_children()
        pid = os.fork()
        if pid == 0:
            self._talk.close()
            run_server(request, listener, ready_in_server, printed_by_server, visible)
        for descriptor in (ready_in_server, printed_by_server):
            os.close(descriptor)
        listener.close()
        self._record.pid = pid
        signal.signal(signal.SIGTERM, lambda *_: _pass_on(pid))
        self._write_record()
        status = self._wait(pid, ready, waker)
        self._finish(status)
        return 0

    def _make_runtime(self) -> None:
        """Make the folder on which the server has its own memory (privileges.own_runtime). It stays empty, and root's."""
        self._request.runtime.mkdir(mode=0o700, exist_ok=True)

    def _watch_children(self) -> int:
        """Return a descriptor that can be read when a child ended."""
        waker, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        return waker

    def _wait(self, pid: int, ready: int, waker: int) -> int:
        """Return the server's wait status once it ended; collect its output and orphans until then."""
        poll = select.poll()
        on_input: dict[int, Callable[[], bool]] = {
            self._output.source: self._output.read,
            ready: lambda: self._hear_ready(ready, pid),
        }
        for descriptor in (*on_input, waker):
            poll.register(descriptor, select.POLLIN)
        while True:
            due = self._output.due()
            events = poll.poll(None if due is None else due * 1000 + 1)
            for descriptor, _ in events:
                if descriptor == waker:
                    os.read(waker, 4096)
                    status = reap().get(pid)
                    if status is not None:
                        return status
                elif not on_input[descriptor]():
                    poll.unregister(descriptor)
            if self._output.due() == 0.0:
                self._output.write()

    def _hear_ready(self, ready: int, pid: int) -> bool:
        if os.read(ready, 1):
            self._ready = True
            self._talk.say(ready=True, pid=pid)
            self._talk.close()
        return False

    def _finish(self, status: int) -> None:
        """Leave nothing behind but the record and the log."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # there is nobody to pass it on to, and this ends in a moment
        request, record = self._request, self._record
        record.exit_code = os.waitstatus_to_exitcode(status)
        end_remains(request.folders)
        self._output.read_rest()
        self._output.write()
        record.kills = max(0, read_kills(request.kills_file, request.kills_key) - self._kills_before)
        record.ended = now()
        with suppress(OSError):
            request.socket.unlink()
        with suppress(OSError):
            request.runtime.rmdir()
        self._write_record()
        if not self._ready:
            self._talk.say(failed=self._reason(), log=self._output.last_lines())

    def _reason(self) -> str:
        code = self._record.exit_code or 0
        if self._record.kills:
            return "The server was killed because all of the user's memory was in use."
        if code < 0:
            return f"The server was ended by {signal.Signals(-code).name} before it answered."
        return f"The server ended with status {code} before it answered."

    def _write_record(self) -> None:
        with suppress(OSError):  # a full /run ends no server; the agent finds the process itself
            write_record(self._record, self._request.record)


def _pass_on(server: int) -> None:
    """Pass SIGTERM on. A scope of systemd's that is stopped sends it to both, and the server may have ended by it."""
    with suppress(ProcessLookupError):
        os.kill(server, signal.SIGTERM)
