"""Running a command to its end and keeping what it printed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Callable

TIMED_OUT = -signal.SIGKILL


def complete(
    start: Callable[..., subprocess.Popen[str]], *, input: str, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Start a command, give it input, wait for it; after timeout (seconds) kill its session, status TIMED_OUT.

    start: makes a Popen that leads a session of its own, from stdin, stdout, stderr. Files, not pipes: a daemon that
    inherits a pipe would keep it open long after the command has ended.
    """
    with (
        tempfile.TemporaryFile("w+") as given,
        tempfile.TemporaryFile("w+", errors="replace") as out,
        tempfile.TemporaryFile("w+", errors="replace") as err,
    ):
        given.write(input)
        given.seek(0)
        process = start(stdin=given, stdout=out, stderr=err)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = TIMED_OUT
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(process.args, status, out.read(), err.read())


def kill_and_wait(pid: int, seconds: float = 10) -> None:
    """Kill a process and wait until it is gone, with its files closed. Raises TimeoutError.

    By pidfd: /proc/PID/cmdline is empty long before a dying process has let go of its files and locks.
    """
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            if not select.select([descriptor], [], [], seconds)[0]:
                raise TimeoutError(f"process {pid} does not end")
        finally:
            os.close(descriptor)


def last_lines(done: subprocess.CompletedProcess[str]) -> str:
    """Return how a command ended and its last lines, for an error's message."""
    how = "did not end in time" if done.returncode == TIMED_OUT else f"ended with {done.returncode}"
    return "\n".join([how + ":", *(done.stdout + done.stderr).splitlines()[-30:]])
