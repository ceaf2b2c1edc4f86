"""A book of names: a root-only file of what the agent manages, with numbers that are given once and never again.

    HEADER NEXT_NUMBER
    NAME NUMBER …

Managed means: in the file. NEXT_NUMBER only grows, as files of what is gone may be about. A file that cannot be read in full
stops every change until it is mended (`problem`).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from diycloud.errors import HostError, Unavailable
from diycloud.system.contract import System

E = TypeVar("E")


class Book(ABC, Generic[E]):
    """The file in memory; every change is on disk before the call returns. E: what is known of a name."""

    header: ClassVar[str]
    mark: ClassVar[str]
    """The file beside it that tells one that was lost from one that was never there: a lost one must not free its numbers."""
    kind: ClassVar[str]
    """`UID` or `GID`, as messages and settings have it."""
    pattern: ClassVar[re.Pattern[str]]
    """Of a line; its first two groups are name and number."""

    def __init__(self, system: System, path: Path, *, first: int, last: int, never: Collection[int] = range(0)) -> None:
        """first, last: the range of numbers; never: those of it that nothing gets."""
        self._system = system
        self.path = path
        self._last = last
        self._never = never
        self.entries: Mapping[str, E] = {}
        self.next_number = first
        self.problem = ""
        """Why the file cannot be trusted; empty when it can."""
        self._lines: Mapping[str, str] = {}
        self._load()

    @abstractmethod
    def _read(self, values: tuple[str, ...]) -> E:
        """Return what a line says of a name. values: the groups of `pattern`. Raises ValueError."""

    @abstractmethod
    def _line(self, name: str, entry: E) -> str:
        """Return the line of a name, with its end."""

    @abstractmethod
    def _number(self, entry: E) -> int: ...

    def _load(self) -> None:
        mark = self.path.with_name(self.mark)
        try:
            text = self._system.read(self.path)
        except (OSError, HostError) as error:
            self.problem = f"{self.path} cannot be read: {error}"
            return
        if text is None and not self._system.exists(mark) and not self._system.exists(self.path):
            self._save({}, {}, self.next_number)
            self._system.write(mark, "", mode=0o600)
            return
        try:
            next_number, entries = self._parse(text or "")
        except ValueError as error:
            self.problem = f"{self.path} is broken: {error}"
            return
        self.entries, self.next_number = entries, max(self.next_number, next_number)
        self._lines = {name: self._line(name, entry) for name, entry in entries.items()}
        if not self._system.exists(mark):
            self._system.write(mark, "", mode=0o600)

    def _parse(self, text: str) -> tuple[int, dict[str, E]]:
        """Return the next number and what is known by name. Raises ValueError naming the line at fault."""
        head, *lines = text.split("\n")
        if not (match := re.fullmatch(rf"{self.header} ([0-9]+)", head)) or lines[-1:] != [""]:
            raise ValueError("it has no header, or its end is cut off")
        next_number = int(match[1])
        entries: dict[str, E] = {}
        for at, line in enumerate(lines[:-1], start=2):
            if not (match := self.pattern.fullmatch(line)):
                raise ValueError(f"line {at}")
            entries[match[1]] = self._read(match.groups())
        numbers = {self._number(entry) for entry in entries.values()}
        once = len(numbers) == len(entries) == len(lines) - 1
        if not once or any(not 0 < number < next_number for number in numbers):
            raise ValueError(f"a name or {self.kind} is there twice, or out of range")
        return next_number, entries

    def require_sound(self) -> None:
        """Raises Unavailable if the file cannot be trusted: nothing of it may be changed."""
        if self.problem:
            raise Unavailable(self.problem, "Put the file back from a backup, then restart the agent.")

    def get(self, name: str) -> E | None:
        return self.entries.get(name)

    def free_numbers(self, number: int, taken: Collection[int]) -> list[int]:
        """Return numbers never given before, and in use by nothing of the host's. They are given when `put` saves them.

        taken: UIDs and GIDs of the host. Raises Unavailable when the range is used up.
        """
        found: list[int] = []
        wanted = self.next_number
        while len(found) < number:
            if wanted > self._last:
                setting = f"agent.{self.kind.lower()}_max"
                raise Unavailable(f"The range of {self.kind}s is used up.", f"Raise {setting} in the settings.")
            if wanted not in taken and wanted not in self._never:
                found.append(wanted)
            wanted += 1
        return found

    def put(self, entries: Mapping[str, E]) -> bool:
        """Put lines in place of those of the same names, in one write. True if anything changed."""
        changed = {name: entry for name, entry in entries.items() if self.entries.get(name) != entry}
        if changed:
            lines = {**self._lines, **{name: self._line(name, entry) for name, entry in changed.items()}}
            beyond = max(map(self._number, changed.values())) + 1
            self._save(lines, {**self.entries, **changed}, max(self.next_number, beyond))
        return bool(changed)

    def forget(self, names: Iterable[str]) -> bool:
        """Remove lines, in one write. Their numbers stay used up. True if there were any."""
        gone = set(names) & self.entries.keys()
        if gone:
            self._drop(gone, self.next_number)
        return bool(gone)

    def _drop(self, gone: Collection[str], next_number: int) -> None:
        lines = {name: line for name, line in self._lines.items() if name not in gone}
        entries = {name: entry for name, entry in self.entries.items() if name not in gone}
        self._save(lines, entries, next_number)

    def _save(self, lines: Mapping[str, str], entries: Mapping[str, E], next_number: int) -> None:
        self._system.write(self.path, f"{self.header} {next_number}\n" + "".join(lines.values()), mode=0o600)
        self._lines, self.entries, self.next_number = lines, entries, next_number
