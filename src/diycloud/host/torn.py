"""What a power cut leaves of a file that was being written: the new text beside it, under a name that nobody asks for.

Every file of ours is written beside its place and renamed into it (system/local.py), so the file itself is the old one or
the new one. What lies beside it may hold password hashes.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from diycloud.system import System

ACCOUNT_FILES = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")


def booted_at(system: System) -> int:
    """Return when this machine was started, seconds since 1970 (proc_stat(5)); 0 if the kernel does not tell."""
    found = re.search(r"^btime ([0-9]+)$", system.read("/proc/stat") or "", re.MULTILINE)
    return int(found[1]) if found else 0


def remove_torn(system: System, folder: Path, *, before: float, names: Iterable[str] = ()) -> list[str]:
    """Remove what was left in a folder of root's before a time (seconds since 1970), which is a start of the machine.

    names: of which files, where others write in that folder; all without. Returns what was removed.
    """
    of = "|".join(map(re.escape, names)) or ".+"
    pattern = re.compile(rf"\.({of})\.[0-9a-f]{{8}}")
    removed = []
    for name in filter(pattern.fullmatch, system.list_dir(folder)):
        info = os.lstat(folder / name)
        if stat.S_ISREG(info.st_mode) and info.st_uid == 0 and info.st_mtime < before and system.remove(folder / name):
            removed.append(str(folder / name))
    return removed
