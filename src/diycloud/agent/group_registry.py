"""The agent's own truth of groups: one root-only file beside that of the accounts (docs/explanation/agent.md).

diycloud-groups 1 NEXT_GID
NAME GID
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from diycloud.agent.book import Book
from diycloud.system.contract import System


class GroupRegistry(Book[int]):
    """The groups that the agent manages, with their GIDs."""

    header = "diycloud-groups 1"
    mark = "groups-started"
    kind = "GID"
    pattern = re.compile(r"([a-z_][a-z0-9_-]{0,31}) ([0-9]+)")

    def __init__(self, system: System, path: Path, *, gid_min: int, gid_max: int, never: range = range(0)) -> None:
        """never: numbers that no group gets, those of the accounts' private groups."""
        super().__init__(system, path, first=gid_min, last=gid_max, never=never)

    @property
    def gids(self) -> Mapping[str, int]:
        """Return the GID of each."""
        return self.entries

    def _read(self, values: tuple[str, ...]) -> int:
        return int(values[1])

    def _line(self, name: str, entry: int) -> str:
        return f"{name} {entry}\n"

    def _number(self, entry: int) -> int:
        return entry

    def cancel(self, name: str) -> None:
        """Remove the line of a group that never came to be. Its number is free again, if it is the last one given.

        So a group that the host refuses each time it is wished for does not use up the range.
        """
        gid = self.gids[name]
        self._drop([name], gid if gid == self.next_number - 1 else self.next_number)
