"""Archives of homes: packed and unpacked by a process that runs as the user, in the user's slice; kept in a folder of root's.

Root only copies bytes from that process's standard output to a file, 0600 in a folder 0700, so a home that was built to
harm whoever reads it meets its own owner. A file has its name when it is whole; until then it is `.NAME-UID.part`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from diycloud.errors import HostError
from diycloud.host import packing, unpacking
from diycloud.host.homes import measure_home
from diycloud.system.contract import PATH, Owner, System
from diycloud.units import human_size

RESERVE = 256 << 20
"""Bytes that an archive leaves free on its file system."""
MAX_S = 24 * 3600.0
_ENDINGS = {"zstd": "tar.zst", "gzip": "tar.gz"}
_NAME = re.compile(r"(?P<name>[a-z_][a-z0-9_-]{0,31})-(?P<uid>[0-9]+)-[0-9]{8}T[0-9]{6}Z\.tar\.(zst|gz)\Z")


class Archive(NamedTuple):
    """A whole one. bytes: of the file; left_out: sockets and the like, mounts, and what its owner could not read."""

    path: Path
    bytes: int
    left_out: int = 0


def archives(folder: Path) -> Iterator[tuple[Archive, str, int]]:
    """Give every whole archive in the folder with name and UID of whose it is."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if match := _NAME.match(path.name):
            yield Archive(path, path.stat().st_size), match["name"], int(match["uid"])


def find_archive(folder: Path, name: str, uid: int, home: Path) -> Archive | None:
    """Return an archive of the home as it is, or the last one if the home is gone; None if there is none.

    A home that was renamed or had an entry added since has a later change time (inode(7)), so an archive of an earlier
    life of the account is not taken for one of this.
    """
    mine = [archive for archive, owner, number in archives(folder) if (owner, number) == (name, uid)]
    if not mine:
        return None
    try:
        changed = home.lstat().st_ctime_ns
    except FileNotFoundError:
        return mine[-1]
    return mine[-1] if mine[-1].path.stat().st_mtime_ns >= changed else None


def pack_home(
    system: System,
    folder: Path,
    base: str,
    name: str,
    owner: Owner,
    *,
    within: Sequence[str] = (),
    now: float,
    still_wanted: Callable[[], None],
) -> Archive:
    """Pack base/name into a new archive. within: words ahead of a command that put it into the user's slice.

    now: seconds since 1970. still_wanted: called twice a second; what it raises ends the work. Nothing but a whole
    archive stays. Raises HostError if there is no room, or the packing fails.
    """
    return _pack(
        system, folder, base, name, name, owner, within=within, now=now, still_wanted=still_wanted
    )  # fmt: skip


def pack_folder(
    system: System, folder: Path, source: Path, name: str, owner: Owner, *, within: Sequence[str] = (), now: float
) -> Archive:
    """Pack one folder of a user's, as `pack_home` packs a home. name: of the user. Raises HostError as it does."""
    with system.locked(_made(system, folder) / f".{name}.lock", patience_s=1):
        return _pack(
            system, folder, str(source.parent), source.name, name, owner, within=within, now=now,
            still_wanted=lambda: None,
        )  # fmt: skip


def unpack_folder(
    system: System, archive: Path, home: Path, names: Sequence[str], owner: Owner, *, within: Sequence[str] = ()
) -> str:
    """Unpack an archive of a folder, as its owner, under the first of the names that nothing in the home holds.

    Returns its path. Nothing stays of what could not be unpacked whole. Raises HostError with the last words of it.
    """
    program = [sys.executable, "-I", "-S", unpacking.__file__]
    argv = [*within, *program, str(owner.uid), str(owner.gid), str(archive), str(home), *names]
    done = system.run(argv, ok=(0, 1), timeout=MAX_S)
    if not done.ok:
        last = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise HostError(
            f"{archive} could not be unpacked in {home}: {last}",
            "Nothing of it stays. Look for room and the user's quota there, and whether the archive is whole.",
        )
    return done.stdout.strip()


def _made(system: System, folder: Path) -> Path:
    for missing in [path for path in reversed(folder.parents) if not system.exists(path)]:
        system.make_dir(missing)
    system.make_dir(folder, mode=0o700)
    return folder


def _pack(
    system: System, folder: Path, base: str, inside: str, name: str, owner: Owner, *, within: Sequence[str], now: float,
    still_wanted: Callable[[], None],
) -> Archive:  # fmt: skip
    """Pack base/inside into folder. name: of the user, whose the archive is."""
    home = f"{base}/{inside}"
    _made(system, folder)
    part = folder / f".{name}-{owner.uid}.part"
    system.remove(part)  # of a start that was cut off
    size = measure_home(base, inside).bytes
    if _free(folder) < size + RESERVE:
        raise HostError(
            f"{home} has {human_size(size)}, and {folder} has {human_size(_free(folder))} free.",
            "Make room, or set agent.archive to a folder on another disk.",
        )
    method = "zstd" if shutil.which("zstd", path=PATH) else "gzip"
    end = time.monotonic() + MAX_S

    def watch(_: int) -> None:
        still_wanted()
        if _free(folder) < RESERVE:
            raise HostError(f"{folder} is full: less than {human_size(RESERVE)} would be left.", "Make room there.")
        if time.monotonic() > end:
            raise HostError(f"Packing {home} took longer than {MAX_S / 3600:g} hours.")

    program = [sys.executable, "-I", "-S", packing.__file__]
    try:
        told = system.store_output(
            [*within, *program, str(owner.uid), str(owner.gid), home, inside, method], part, watch=watch
        )
    except BaseException:
        system.remove(part)
        raise
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    path = folder / f"{name}-{owner.uid}-{stamp}.{_ENDINGS[method]}"
    system.rename(part, path)
    return Archive(path, path.stat().st_size, _left_out(told))


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _left_out(told: str) -> int:
    try:
        return int(json.loads(told.splitlines()[-1])["left_out"])
    except (ValueError, KeyError, IndexError, TypeError):
        return 0
