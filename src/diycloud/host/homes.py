"""Homes: made once, moved into a trash when their owner is purged, emptied later.

Root touches a home only here, and never while its owner can reach it: a new one is built in a root-only folder beside
the homes and renamed into place whole, so a home that is there is complete; a purged one is renamed into a root-only
trash on the same file system.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from diycloud.distro.mounts import parse_mountinfo
from diycloud.errors import Conflict
from diycloud.system.contract import Owner, System
from diycloud.system.tree import mount_id

STAGING = ".diycloud-new"
TRASH = ".diycloud-trash"
SKELETON = "/etc/skel"
MODE = 0o750
FOLDERS = ("notebooks", "data")
_TRASHED = re.compile(r"[a-z_][a-z0-9_-]{0,31}\.(?P<uid>[0-9]+)\.(?P<at>[0-9]+)\Z")
MAX_DEPTH = 200
MEASURE_S = 5.0
"""Measuring a home stops after this many seconds."""


class Size(NamedTuple):
    """bytes: disk space, hard links counted once; files: entries of any kind; whole: nothing was left out."""

    bytes: int
    files: int
    whole: bool = True


def ensure_home(system: System, base: str, name: str, owner: Owner) -> bool:
    """Make base/name a filled home of the owner, 0750. True if it was made; one that is there is left as it is.

    Raises Conflict if something else is in its place.
    """
    home, staged = Path(base) / name, Path(base) / STAGING / name
    if check_home(base, name, owner.uid):
        return False
    system.make_dir(staged.parent, mode=0o700)
    system.remove_tree(staged)  # of a start that was cut off
    system.make_dir(staged, mode=MODE, owner=owner)
    if system.exists(SKELETON):
        system.copy_tree(os.path.realpath(SKELETON), staged, owner=owner)
    for folder in FOLDERS:
        system.make_dir(staged / folder, mode=MODE, owner=owner)
    system.rename(staged, home)
    return True


def check_home(base: str, name: str, uid: int) -> bool:
    """Tell whether the home is there. Raises Conflict if what is there is not a directory of this UID."""
    try:
        info = os.lstat(Path(base) / name)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != uid:
        raise Conflict(f"{base}/{name} exists and is not {name}'s.", "Move it away, or choose another name.")
    return True


def trash_home(system: System, base: str, name: str, uid: int, now: float) -> bool:
    """Rename a home into the trash. True if there was one. now: seconds since 1970.

    Raises Conflict if what is in its place is not this UID's directory, or something is mounted in it.
    """
    system.remove_tree(Path(base) / STAGING / name)
    if not check_home(base, name, uid):
        return False
    check_no_mount(system, Path(base) / name)
    trash = Path(base) / TRASH
    system.make_dir(trash, mode=0o700)
    system.rename(Path(base) / name, trash / f"{name}.{uid}.{int(now)}")
    return True


def check_no_mount(system: System, home: Path) -> None:
    """Raises Conflict if something is mounted at or below a home: it is not the home's, and would go with it."""
    real = Path(os.path.realpath(home))
    for mount in parse_mountinfo(system.read("/proc/self/mountinfo") or ""):
        if Path(mount.point).is_relative_to(real):
            raise Conflict(f"Something is mounted at {mount.point}.", f"Unmount it first: umount {mount.point}.")


def trashed(system: System, base: str) -> Iterator[tuple[Path, float]]:
    """Give each home in the trash with the time it came there."""
    trash = Path(base) / TRASH
    for entry in system.list_dir(trash):
        if match := _TRASHED.match(entry):
            yield trash / entry, float(match["at"])


def in_trash(system: System, base: str, *, older_than: float) -> list[Path]:
    """Return what came to the trash before a time (seconds since 1970)."""
    return [path for path, at in trashed(system, base) if at < older_than]


def measure_home(base: str, name: str, *, patience_s: float = MEASURE_S) -> Size:
    """Return the size of a home without following a link or entering another mount.

    Deeper than 200 levels and later than patience_s is not counted: a home may be built to exhaust whoever walks it.
    """
    ways: list[tuple[int, list[str]]] = []
    try:
        _enter(ways, Path(base) / name)
        top, mount = os.fstat(ways[0][0]), mount_id(ways[0][0])
        total, files, seen = top.st_blocks * 512, 0, set[int]()
        end, whole = time.monotonic() + patience_s, True
        while ways:
            if time.monotonic() > end:
                return Size(total, files, whole=False)
            folder, names = ways[-1]
            if not names:
                os.close(folder)
                ways.pop()
                continue
            child = names.pop()
            with suppress(OSError):  # its owner removed it meanwhile
                info = os.stat(child, dir_fd=folder, follow_symlinks=False)
                if info.st_dev != top.st_dev or info.st_ino in seen:
                    continue
                total, files = total + info.st_blocks * 512, files + 1
                if not stat.S_ISDIR(info.st_mode):
                    seen.update({info.st_ino} if info.st_nlink > 1 else ())
                elif len(ways) == MAX_DEPTH:
                    whole = False
                else:
                    _enter(ways, child, folder)
                    if mount_id(ways[-1][0]) != mount:
                        ways[-1][1].clear()
        return Size(total, files, whole)
    except FileNotFoundError:
        return Size(0, 0)
    finally:
        for folder, _ in ways:
            os.close(folder)


def _enter(ways: list[tuple[int, list[str]]], path: str | Path, parent: int | None = None) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    ways.append((fd, []))
    with os.scandir(fd) as entries:
        ways[-1][1].extend(entry.name for entry in entries)
