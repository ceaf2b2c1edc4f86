"""What a server leaves running: kernels, their children, and whatever detached itself from them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

END_SECONDS = 10.0
"""A process that cannot be killed in this time hangs in the kernel (a dead network disk)."""


def reap() -> dict[int, int]:
    """Collect every child that ended, orphans of the server's among them: pid → wait status."""
    found: dict[int, int] = {}
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            found[pid] = status
    return found


def end_remains(folders: Iterable[Path]) -> bool:
    """Kill all but this process in the sub-cgroup's folders, and all its descendants, until none is left.

    Returns whether all ended in time. Those that appear meanwhile (a process that forks all the time) are found by looking again.
    """
    deadline = time.monotonic() + END_SECONDS
    while True:
        reap()
        left = _left(folders)
        if not left:
            return True
        if time.monotonic() > deadline:
            return False
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def _left(folders: Iterable[Path]) -> set[int]:
    found = _descendants(os.getpid())
    for folder in folders:
        with suppress(OSError):
            found |= {int(pid) for pid in (folder / "cgroup.procs").read_text(encoding="ascii").split()}
    return found - {os.getpid(), 0}


def _descendants(pid: int) -> set[int]:
    """Return the processes that descend from one. This process is their subreaper: none gets away by a double fork."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for task in _children_files(waiting.pop()):
            with suppress(OSError):
                below = {int(child) for child in task.read_text(encoding="ascii").split()} - found
                found |= below
                waiting += below
    return found


def _children_files(pid: int) -> list[Path]:
    with suppress(OSError):
        return [task / "children" for task in Path(f"/proc/{pid}/task").iterdir()]
    return []
