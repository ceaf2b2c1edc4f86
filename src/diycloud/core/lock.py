"""One installation or uninstallation at a time: the lock that install.sh, `diycloud install` and `uninstall` take.

flock(2) on a file that only root can open, so that nobody else can hold it. It ends with its holder, however that one
dies. The file is outside every folder that an uninstallation removes, and goes when its holder is done.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from diycloud.config import Paths
from diycloud.errors import Conflict, HostError
from diycloud.system import System

HANDED_OVER = 9
"""The descriptor on which install.sh has the lock when it becomes `diycloud install`."""


@contextlib.contextmanager
def only_one(system: System, paths: Paths) -> Iterator[None]:
    """Be the only one to install or uninstall here. Raises Conflict while another does, HostError without a file."""
    path = paths.install_lock
    for folder in reversed(path.parents):
        if not system.exists(folder):
            system.make_dir(folder)
    try:
        fd = _take(path)
    except BlockingIOError as error:
        raise Conflict(
            "Another installation is running, or an uninstallation.",
            f"Wait for its end. An installation tells what it does in {paths.logs / 'install.log'}.",
        ) from error
    except OSError as error:
        raise HostError(f"Cannot lock {path}: {error.strerror}.") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # first: nobody can get the lock of a file that is not there any more
        os.close(fd)


def _take(path: Path) -> int:
    """Return a locked descriptor of the file at path. Raises BlockingIOError if another process has the lock."""
    while True:
        fd = HANDED_OVER if _is_handed_over(path) else _open(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, path):
                os.set_inheritable(fd, False)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its holder took the file away between the two lines above


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _is_handed_over(path: Path) -> bool:
    """Tell whether the shell left its own descriptor of the file. A new one would be locked out by it (flock(2))."""
    try:
        return os.get_inheritable(HANDED_OVER) and _is_at(HANDED_OVER, path)
    except OSError:  # there is none
        return False


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False
