"""The agent's own truth: one root-only file of the accounts it manages (docs/explanation/agent.md).

Text, so that the PAM hook, a shell script, reads it while the agent is down:

    diycloud-managed 1 NEXT_UID
    NAME UID GENERATION STATE CPU_QUOTA_US MEMORY_BYTES TASKS

Managed means: in this file. UIDs are never given twice: NEXT_UID only grows. A file that cannot be read in full stops
every change of accounts until it is mended (`problem`), and limits fall back to DEFAULT_LIMITS.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from diycloud.agent.protocol import State, Wish
from diycloud.errors import HostError, Unavailable
from diycloud.host.slices import Limits
from diycloud.system.contract import System
from diycloud.units import CPU_PERIOD_US, Bytes, Cores, cpu_quota_us

HEADER = "diycloud-managed 1"
DEFAULT_LIMITS = Limits(Cores(1.0), Bytes(2 << 30), 512)
_HEAD = re.compile(rf"{HEADER} ([0-9]+)")
_LINE = re.compile(r"([a-z_][a-z0-9_-]{0,31}) ([0-9]+) ([0-9]+) (active|locked) ([0-9]+) ([0-9]+) ([0-9]+)")
"""The PAM hook goes by the same pattern."""


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


class Registry:
    """The file in memory; every change is on disk before the call returns."""

    def __init__(self, system: System, path: Path, *, uid_min: int, uid_max: int) -> None:
        self._system = system
        self._path = path
        self._uid_max = uid_max
        self.entries: dict[str, Entry] = {}
        self.next_uid = uid_min
        self.problem = ""
        """Why the file cannot be trusted; empty when it can."""
        self._lines: dict[str, str] = {}
        self._load()

    @property
    def path(self) -> Path:
        return self._path

    def _load(self) -> None:
        # The mark tells a file that was lost from one that was never there: a lost one must not free its UIDs.
        mark = self._path.with_name("started")
        try:
            text = self._system.read(self._path)
        except (OSError, HostError) as error:
            self.problem = f"{self._path} cannot be read: {error}"
            return
        if text is None and not self._system.exists(mark) and not self._system.exists(self._path):
            self._save(self._lines, self.next_uid)
            self._system.write(mark, "", mode=0o600)
            return
        try:
            next_uid, entries = _parse(text or "")
        except ValueError as error:
            self.problem = f"{self._path} is broken: {error}"
            return
        self.next_uid = max(self.next_uid, next_uid)
        self.entries = entries
        self._lines = {name: entry.line() for name, entry in entries.items()}
        if not self._system.exists(mark):
            self._system.write(mark, "", mode=0o600)

    def require_sound(self) -> None:
        """Raises Unavailable if the file cannot be trusted: no account may be changed."""
        if self.problem:
            raise Unavailable(self.problem, "Put the file back from a backup, then restart the agent.")

    def get(self, name: str) -> Entry | None:
        return self.entries.get(name)

    def free_uids(self, number: int, taken: Collection[int]) -> list[int]:
        """Return UIDs never given before, and in use by nothing of the host's. They are given when `store` saves them.

        taken: UIDs and GIDs of the host. Raises Unavailable when the range is used up.
        """
        found: list[int] = []
        uid = self.next_uid
        while len(found) < number:
            if uid > self._uid_max:
                raise Unavailable("The range of UIDs is used up.", "Raise agent.uid_max in the settings.")
            if uid not in taken:
                found.append(uid)
            uid += 1
        return found

    def store(self, entries: Iterable[Entry]) -> bool:
        """Put lines in place of those of the same names, in one write. True if anything changed."""
        changed = {entry.name: entry for entry in entries if self.entries.get(entry.name) != entry}
        if not changed:
            return False
        lines = self._lines | {name: entry.line() for name, entry in changed.items()}
        next_uid = max(self.next_uid, max(entry.uid for entry in changed.values()) + 1)
        self._save(lines, next_uid)
        self.entries |= changed
        return True

    def forget(self, names: Iterable[str]) -> bool:
        """Remove lines, in one write. Their UIDs stay used up. True if there were any."""
        gone = {name for name in names if name in self.entries}
        if gone:
            self._save({name: line for name, line in self._lines.items() if name not in gone}, self.next_uid)
            for name in gone:
                del self.entries[name]
        return bool(gone)

    def _save(self, lines: dict[str, str], next_uid: int) -> None:
        self._system.write(self._path, f"{HEADER} {next_uid}\n" + "".join(lines.values()), mode=0o600)
        self._lines, self.next_uid = lines, next_uid


def _parse(text: str) -> tuple[int, dict[str, Entry]]:
    """Return next UID and entries. Raises ValueError naming the line at fault."""
    head, *lines = text.split("\n")
    if not (match := _HEAD.fullmatch(head)) or lines[-1:] != [""]:
        raise ValueError("it has no header, or its end is cut off")
    next_uid = int(match[1])
    entries: dict[str, Entry] = {}
    for line in lines[:-1]:
        if not (match := _LINE.fullmatch(line)):
            raise ValueError(f"line {len(entries) + 2}")
        name, uid, generation, state, *limits = match.groups()
        entries[name] = Entry(name, int(uid), int(generation), State(state), *map(int, limits))
    uids = {entry.uid for entry in entries.values()}
    if not len(uids) == len(entries) == len(lines) - 1 or any(not 0 < uid < next_uid for uid in uids):
        raise ValueError("a name or UID is there twice, or out of range")
    return next_uid, entries
