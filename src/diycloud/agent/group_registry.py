"""The agent's own truth of groups: one root-only file beside that of the accounts (docs/explanation/agent.md).

    diycloud-groups 1 NEXT_GID
    NAME GID

A managed group is one in this file. GIDs are never given twice, as files of a group that is gone may be about: NEXT_GID
only grows. A file that cannot be read in full stops every change of groups until it is mended (`problem`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from diycloud.errors import HostError, Unavailable
from diycloud.system.contract import System

HEADER = "diycloud-groups 1"
MARK = "groups-started"
_HEAD = re.compile(rf"{HEADER} ([0-9]+)")
_LINE = re.compile(r"([a-z_][a-z0-9_-]{0,31}) ([0-9]+)")


class GroupRegistry:
    """The file in memory; every change is on disk before the call returns."""

    def __init__(self, system: System, path: Path, *, gid_min: int, gid_max: int, never: range = range(0)) -> None:
        """never: numbers that no group gets, those of the accounts' private groups."""
        self._system = system
        self._path = path
        self._gid_max = gid_max
        self._never = never
        self.gids: Mapping[str, int] = {}
        self.next_gid = gid_min
        self.problem = ""
        """Why the file cannot be trusted; empty when it can."""
        self._load()

    def _load(self) -> None:
        # The mark tells a file that was lost from one that was never there: a lost one must not free its GIDs.
        mark = self._path.with_name(MARK)
        try:
            text = self._system.read(self._path)
        except (OSError, HostError) as error:
            self.problem = f"{self._path} cannot be read: {error}"
            return
        if text is None and not self._system.exists(mark) and not self._system.exists(self._path):
            self._save({}, self.next_gid)
            self._system.write(mark, "", mode=0o600)
            return
        try:
            next_gid, gids = _parse(text or "")
        except ValueError as error:
            self.problem = f"{self._path} is broken: {error}"
            return
        self.gids, self.next_gid = gids, max(self.next_gid, next_gid)
        if not self._system.exists(mark):
            self._system.write(mark, "", mode=0o600)

    def require_sound(self) -> None:
        """Raises Unavailable if the file cannot be trusted: no group may be changed."""
        if self.problem:
            raise Unavailable(self.problem, "Put the file back from a backup, then restart the agent.")

    def get(self, name: str) -> int | None:
        return self.gids.get(name)

    def free_gids(self, number: int, taken: Collection[int]) -> list[int]:
        """Return GIDs never given before, and in use by nothing of the host's. They are given when `store` saves them.

        taken: UIDs and GIDs of the host. Raises Unavailable when the range is used up.
        """
        found: list[int] = []
        gid = self.next_gid
        while len(found) < number:
            if gid > self._gid_max:
                raise Unavailable("The range of GIDs is used up.", "Raise agent.gid_max in the settings.")
            if gid not in taken and gid not in self._never:
                found.append(gid)
            gid += 1
        return found

    def store(self, gids: Mapping[str, int]) -> None:
        """Add groups, in one write."""
        if gids:
            self._save({**self.gids, **gids}, max(self.next_gid, max(gids.values()) + 1))

    def forget(self, names: Iterable[str]) -> None:
        """Remove lines, in one write. Their GIDs stay used up."""
        gone = set(names) & self.gids.keys()
        if gone:
            self._save({name: gid for name, gid in self.gids.items() if name not in gone}, self.next_gid)

    def cancel(self, name: str) -> None:
        """Remove the line of a group that never came to be. Its number is free again, if it is the last one given.

        So a group that the host refuses each time it is wished for does not use up the range.
        """
        gid = self.gids[name]
        left = {other: its for other, its in self.gids.items() if other != name}
        self._save(left, gid if gid == self.next_gid - 1 else self.next_gid)

    def _save(self, gids: Mapping[str, int], next_gid: int) -> None:
        lines = "".join(f"{name} {gid}\n" for name, gid in gids.items())
        self._system.write(self._path, f"{HEADER} {next_gid}\n{lines}", mode=0o600)
        self.gids, self.next_gid = gids, next_gid


def _parse(text: str) -> tuple[int, dict[str, int]]:
    """Return next GID and GIDs by name. Raises ValueError naming the line at fault."""
    head, *lines = text.split("\n")
    if not (match := _HEAD.fullmatch(head)) or lines[-1:] != [""]:
        raise ValueError("it has no header, or its end is cut off")
    next_gid = int(match[1])
    gids: dict[str, int] = {}
    for number, line in enumerate(lines[:-1], start=2):
        if not (match := _LINE.fullmatch(line)):
            raise ValueError(f"line {number}")
        gids[match[1]] = int(match[2])
    if not len(set(gids.values())) == len(gids) == len(lines) - 1 or any(not 0 < g < next_gid for g in gids.values()):
        raise ValueError("a name or GID is there twice, or out of range")
    return next_gid, gids
