"""What is in a file system, and what changed in it: for tests that a dry run or an uninstall leaves nothing."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


class Entry(NamedTuple):
    """One name in a file system.

    mode: permission bits as in `0755`. owner: `UID:GID`. size: bytes, 0 for folders. content: a file's SHA-256, a
    link's target, a device's numbers, else empty.
    """

    type: str
    mode: str
    owner: str
    size: int
    content: str


def snapshot(root: str | Path = "/", *, largest: int | None = None, without: Collection[str] = ()) -> dict[str, Entry]:
    """Return every path under root (as `/etc/passwd`) with what is there. Other file systems are not entered.

    largest: bytes; of larger files only the size is taken (for slow machines), None reads all. without: folders, as paths
    under root, that are not entered either.
    """
    top = os.fspath(root).rstrip("/") or "/"
    device = os.lstat(top + "/.").st_dev  # the dot: a root given as /proc/PID/root is a link
    return dict(_walk(top, "", device, largest, without))


def _walk(
    top: str, below: str, device: int, largest: int | None, without: Collection[str]
) -> Iterator[tuple[str, Entry]]:
    with os.scandir(f"{top}{below}/") as names:
        for name in names:
            path = f"{below}/{name.name}"
            try:
                entry, inner = _read(name, device, largest)
                yield path, entry
                if inner and path not in without:
                    yield from _walk(top, path, device, largest, without)
            except FileNotFoundError:
                continue  # gone between the listing and the look


def _read(name: os.DirEntry[str], device: int, largest: int | None) -> tuple[Entry, bool]:
    """Return what a name is, and whether to go into it."""
    status = name.stat(follow_symlinks=False)
    kind = _TYPES[stat.S_IFMT(status.st_mode)]
    size, content = 0, ""
    if kind == "file":
        size = status.st_size
        if largest is None or size <= largest:
            with open(name.path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
    elif kind == "link":
        content = os.readlink(name.path)
    elif kind == "device":
        content = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    entry = Entry(kind, f"{stat.S_IMODE(status.st_mode):04o}", f"{status.st_uid}:{status.st_gid}", size, content)
    return entry, kind == "folder" and status.st_dev == device


def differences(before: Mapping[str, Entry], after: Mapping[str, Entry], ignore: Iterable[str] = ()) -> dict[str, str]:
    """Return path → what happened to it: `added: …`, `removed: …` or `changed: mode 0644 → 0600, …`.

    ignore: patterns of fnmatch(3) over whole paths; `*` also matches slashes, and a pattern without a wildcard takes
    what is below that path too.
    """
    patterns = [form for pattern in ignore for form in (pattern, f"{pattern.rstrip('/')}/*")]
    found = {}
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old == new or any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns):
            continue
        if old is None and new is not None:
            found[path] = f"added: {new.type} {new.mode} {new.owner}"
        elif new is None and old is not None:
            found[path] = f"removed: {old.type} {old.mode} {old.owner}"
        elif old is not None and new is not None:
            pairs = zip(Entry._fields, old, new, strict=True)
            found[path] = "changed: " + ", ".join(f"{field} {a} → {b}" for field, a, b in pairs if a != b)
    return found


def pack(source: str | Path) -> bytes:
    """Return a folder as a tar file owned by root: what Git tracks or would track, or all of it outside Git."""
    folder = os.fsencode(source)
    listing = subprocess.run(
        ["git", "-C", folder, "ls-files", "-z", "-co", "--exclude-standard"], capture_output=True, check=False
    )
    names = [name for name in listing.stdout.split(b"\0") if name and os.path.lexists(os.path.join(folder, name))]
    what = ["--null", "--files-from=-"] if listing.returncode == 0 else ["."]
    argv = ["tar", "-C", os.fsdecode(folder), "--owner=0", "--group=0", "--create", *what]
    return subprocess.run(argv, input=b"\0".join(names), stdout=subprocess.PIPE, check=True).stdout
