"""The agent's own truth: one root-only file of the accounts it manages (docs/explanation/agent.md).

Text, so that the PAM hook, a shell script, reads it while the agent is down:

    diycloud-managed 1 NEXT_UID
    NAME UID GENERATION STATE CPU_QUOTA_US MEMORY_BYTES TASKS

While it cannot be read in full, limits fall back to DEFAULT_LIMITS.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from diycloud.agent.book import Book
from diycloud.agent.protocol import State, Wish
from diycloud.host.slices import Limits
from diycloud.system.contract import System
from diycloud.units import CPU_PERIOD_US, Bytes, Cores, cpu_quota_us

DEFAULT_LIMITS = Limits(Cores(1.0), Bytes(2 << 30), 512)


class Entry(NamedTuple):
    """One managed account. cpu_quota_us: of each 100,000 µs; memory: bytes; tasks: processes and threads."""

    name: str
    uid: int
    generation: int
    state: State
    cpu_quota_us: int
    memory: int
    tasks: int

    @property
    def limits(self) -> Limits:
        return Limits(Cores(self.cpu_quota_us / CPU_PERIOD_US), Bytes(self.memory), self.tasks)

    @classmethod
    def of(cls, wish: Wish, uid: int) -> Entry:
        limits = wish.limits
        quota = cpu_quota_us(limits.cpu)
        return cls(wish.name, uid, wish.generation, wish.state, quota, limits.memory, limits.tasks)

    def line(self) -> str:
        return f"{self.name} {self.uid} {self.generation} {self.state} {self.cpu_quota_us} {self.memory} {self.tasks}\n"


class Registry(Book[Entry]):
    """The accounts that the agent manages."""

    header = "diycloud-managed 1"
    mark = "started"
    kind = "UID"
    pattern = re.compile(r"([a-z_][a-z0-9_-]{0,31}) ([0-9]+) ([0-9]+) (active|locked) ([0-9]+) ([0-9]+) ([0-9]+)")
    """The PAM hook goes by the same pattern."""

    def __init__(self, system: System, path: Path, *, uid_min: int, uid_max: int) -> None:
        super().__init__(system, path, first=uid_min, last=uid_max)

    def _read(self, values: tuple[str, ...]) -> Entry:
        name, uid, generation, state, *limits = values
        return Entry(name, int(uid), int(generation), State(state), *map(int, limits))

    def _line(self, name: str, entry: Entry) -> str:
        return entry.line()

    def _number(self, entry: Entry) -> int:
        return entry.uid

    def store(self, entries: Iterable[Entry]) -> bool:
        """Put lines in place of those of the same names, in one write. True if anything changed."""
        return self.put({entry.name: entry for entry in entries})
