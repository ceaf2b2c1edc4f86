"""The mount table. Source: proc_pid_mountinfo(5)."""

from __future__ import annotations

import re
from typing import NamedTuple


class Mount(NamedTuple):
    """kind: file system type; options: of this mount; super_options: of the file system."""

    point: str
    kind: str
    source: str
    options: frozenset[str]
    super_options: frozenset[str]


_OCTAL = re.compile(r"\\([0-7]{3})")


def parse_mountinfo(text: str) -> list[Mount]:
    """Return the mounts of a mountinfo file, in its order."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        head, tail = before.split(" "), after.split(" ")
        if len(head) >= 6 and len(tail) >= 3:
            options = frozenset(head[5].split(","))
            found.append(Mount(_unescape(head[4]), tail[0], _unescape(tail[1]), options, frozenset(tail[2].split(","))))
    return found


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
