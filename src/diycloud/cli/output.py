"""What the command line prints: tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

_COLOURS = {"green": "32", "red": "31", "yellow": "33", "dim": "2", "bold": "1"}


def colour(text: str, name: str, stream: Any = None) -> str:
    """Return text in a colour, plain where nobody sees it (no terminal, NO_COLOR)."""
    stream = stream or sys.stdout
    if not stream.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\033[{_COLOURS[name]}m{text}\033[0m"


def printable(value: Any) -> str:
    """Return a value as one line without control characters: a name in the database must not drive a terminal."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def width(text: str) -> int:
    """Return how many columns text takes on a terminal."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Sequence[str] = ()) -> str:
    """Return rows in aligned columns under headings. right: headings of columns that end at the same edge."""
    cells = [[printable(value) for value in row] for row in rows]
    widths = [max([width(h), *(width(row[i]) for row in cells)]) for i, h in enumerate(headings)]

    def line(parts: Sequence[str]) -> str:
        padded = []
        for part, size, heading in zip(parts, widths, headings, strict=True):
            space = " " * (size - width(part))
            padded.append(space + part if heading in right else part + space)
        return "  ".join(padded).rstrip()

    return "\n".join([colour(line(list(headings)), "bold"), *(line(row) for row in cells)])


def facts(pairs: Sequence[tuple[str, Any]]) -> str:
    """Return name and value pairs, one a line."""
    size = max(width(name) for name, _ in pairs)
    return "\n".join(f"{name}{' ' * (size - width(name))}  {printable(value)}" for name, value in pairs)


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
