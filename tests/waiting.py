"""Waiting for what comes about by itself, and for programs that take a port."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable


def until(holds: Callable[[], object], seconds: float = 30.0, why: Callable[[], str] = lambda: "") -> None:
    """Wait until something holds. Raises AssertionError, with what `why` tells, if it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it did not come about in {seconds:g} s {why()}"
        time.sleep(0.05)


def until_it_listens(
    port: int, process: subprocess.Popen[bytes], log: Callable[[], str], seconds: float = 30.0
) -> None:
    """Wait until a program takes connections. Raises RuntimeError, with its log, if it ends first or does not in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens at port {port}:\n{log()}")


def free_port() -> int:
    """Return a loopback TCP port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
