"""Directory trees, walked by descriptors: whatever a name is swapped for meanwhile, nothing outside is touched."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from diycloud.system.contract import Owner

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_DEPTH = 200
_MAX_ROUNDS = 1_000_000
"""One for each level of nesting: an end to the work if someone adds folders meanwhile."""


def copy_into(source: str | Path, target: str | Path, owner: Owner) -> None:
    """Copy files, directories and links from one directory into another; what is of another kind is left out.

    The files' content is on disk then: a name that is given to the whole afterwards must not outlive it in a power cut.
    Raises OSError, FileExistsError too: nothing that is there is written to.
    """
    with _descriptor(source) as old, _descriptor(target) as new:
        _copy(old, new, owner)


def _copy(old: int, new: int, owner: Owner) -> None:
    with os.scandir(old) as entries:
        for entry in entries:
            name, mode = entry.name, stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode) & 0o777
            if entry.is_symlink():
                os.symlink(os.readlink(name, dir_fd=old), name, dir_fd=new)
                os.chown(name, *owner, dir_fd=new, follow_symlinks=False)
            elif entry.is_dir():
                os.mkdir(name, 0o700, dir_fd=new)
                with _descriptor(name, old) as below, _descriptor(name, new) as made:
                    _copy(below, made, owner)
                    os.fchown(made, *owner)
                    os.fchmod(made, mode)
            elif entry.is_file():
                _copy_file(name, old, new, owner, mode)


def _copy_file(name: str, old: int, new: int, owner: Owner, mode: int) -> None:
    read = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=old)
    with os.fdopen(read, "rb") as source, os.fdopen(os.open(name, _NEW_FILE, 0o600, dir_fd=new), "wb") as target:
        shutil.copyfileobj(source, target)
        os.fchown(target.fileno(), *owner)
        os.fchmod(target.fileno(), mode)
        target.flush()
        os.fsync(target.fileno())


@contextlib.contextmanager
def _descriptor(path: str | Path, parent: int | None = None) -> Iterator[int]:
    fd = os.open(path, _DIRECTORY, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def mount_id(fd: int) -> int:
    """Return the number of the mount that a descriptor was opened in (proc_pid_fdinfo(5)).

    Not st_dev: a bind mount of a folder of the same file system has the same.
    """
    with contextlib.suppress(FileNotFoundError):
        for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    raise OSError(errno.ENOSYS, "/proc does not tell mounts apart")


def remove_at(parent: int, name: str, mount: int) -> None:
    """Remove a name by the descriptor of its directory, so that a swapped link leads nowhere.

    Folders below are lifted up to the top one and emptied there: however deep someone made them nest, two descriptors
    and no recursion are enough (but see _move_up).
    """
    try:
        os.unlink(name, dir_fd=parent)
    except IsADirectoryError:
        with _opened(parent, name, mount) as top:
            for _ in range(_MAX_ROUNDS):
                if not (children := os.listdir(top)):
                    break
                for child in children:
                    _lift(top, child, mount)
        os.rmdir(name, dir_fd=parent)


def _lift(top: int, name: str, mount: int) -> None:
    """Remove one entry of a folder; the folders in it move up beside it first."""
    with contextlib.suppress(FileNotFoundError):
        try:
            os.unlink(name, dir_fd=top)
        except IsADirectoryError:
            with _opened(top, name, mount) as folder:
                for child in os.listdir(folder):
                    try:
                        os.unlink(child, dir_fd=folder)
                    except IsADirectoryError:
                        _move_up(folder, child, top, mount)
            os.rmdir(name, dir_fd=top)


def _move_up(folder: int, name: str, top: int, mount: int) -> None:
    try:
        os.rename(name, secrets.token_hex(16), src_dir_fd=folder, dst_dir_fd=top)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # Overlayfs moves no folder of its lower layers; those nest as deep as an image was made, not as users like.
        remove_at(folder, name, mount)


class Given(NamedTuple):
    """What changed hands: entries given, and those left as they are."""

    given: int = 0
    left: int = 0

    def __add__(self, other: Given) -> Given:  # type: ignore[override]  # counts are added up, not strung together
        return Given(self.given + other.given, self.left + other.left)


def give_below(folder: int, old: int, new: int, mount: int, *, depth: int = MAX_DEPTH) -> Given:
    """Give what is one UID's below a directory to another: directories, and files of one name.

    Others may write there meanwhile, so an entry is opened first and looked at by its descriptor: what is not the old
    UID's own is never touched, whatever name it has. Links of both kinds, sockets and the like are left, and what is
    nested deeper than depth or mounted inside.
    """
    done = Given()
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            kind = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(kind.st_mode):
                done += _give_directory(folder, name, old, new, mount, depth)
            elif kind.st_uid == old:
                done += _give_file(folder, name, old, new) if stat.S_ISREG(kind.st_mode) else Given(left=1)
    return done


def _give_directory(parent: int, name: str, old: int, new: int, mount: int, depth: int) -> Given:
    if depth == 0:
        return Given(left=1)
    try:
        with _opened(parent, name, mount) as below:
            done = give_below(below, old, new, mount, depth=depth - 1)
            if os.fstat(below).st_uid != old:
                return done
            os.fchown(below, new, -1)
            return done + Given(given=1)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.ENOTDIR, errno.ELOOP):  # a mount; or it was swapped for something else
            return Given(left=1)
        raise


def _give_file(folder: int, name: str, old: int, new: int) -> Given:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # it was swapped for a link or a socket
            return Given(left=1)
        raise
    try:
        found = os.fstat(fd)
        if found.st_uid != old or not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            return Given(left=1)
        os.fchown(fd, new, -1)  # the kernel takes set-user-ID away with it
        return Given(given=1)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _opened(parent: int, name: str, mount: int) -> Iterator[int]:
    with _descriptor(name, parent) as fd:
        if mount_id(fd) != mount:
            raise OSError(errno.EXDEV, "something is mounted inside")
        yield fd
