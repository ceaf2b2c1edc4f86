"""What a server prints: the end of it is kept, however much it is."""

from __future__ import annotations

import os
import time
from pathlib import Path

KEPT = 64 * 1024
"""Bytes of the log file at most."""
_EVERY = 1.0
"""Seconds between two writes of the file."""


class Output:
    """The end of a pipe's output, and the file it is kept in, which root alone reads. source: non-blocking."""

    def __init__(self, source: int, file: Path) -> None:
        self.source = source
        self._file = file
        self._kept = bytearray()
        self._written_at = 0.0
        self._unwritten = True

    def read(self) -> bool:
        """Read what there is, at most as much as is kept; False at the end."""
        try:
            found = os.read(self.source, KEPT)
        except BlockingIOError:
            return True
        self._kept += found
        del self._kept[:-KEPT]
        self._unwritten = self._unwritten or bool(found)
        return bool(found)

    def read_rest(self) -> None:
        """Read what is left in the pipe once the server ended, without waiting for others that still hold it."""
        for _ in range(64):
            before = len(self._kept)
            if not self.read() or len(self._kept) == before < KEPT:
                return

    def due(self) -> float | None:
        """Return in how many seconds the file is to be written; None if it is up to date."""
        return max(0.0, self._written_at + _EVERY - time.monotonic()) if self._unwritten else None

    def write(self) -> None:
        """Write the file anew. One that cannot be written (a full disk) is no reason to end a server."""
        self._unwritten, self._written_at = False, time.monotonic()
        beside = self._file.with_suffix(".new")
        try:
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(self._kept)
            beside.replace(self._file)
        except OSError:
            pass

    def last_lines(self, count: int = 20) -> list[str]:
        """Return the last lines, without control characters."""
        text = self._kept.decode("utf-8", errors="replace")
        lines = ["".join(c for c in line if c.isprintable() or c == "\t")[-500:] for line in text.splitlines()]
        return [line for line in lines if line.strip()][-count:]
