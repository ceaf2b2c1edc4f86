"""Looking through a SQLite file for what PostgreSQL could not hold: people write into it by hand, and SQLite takes anything.

Found are values of another kind than their column's, text that is not UTF-8 or has NUL in it, and rows that point at
nothing. Each has one way to be mended, written at `mended` and `Orphan`.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Column, Table

from diycloud.db.tables import metadata


class RawText(bytes):
    """A text as it is in the file; a BLOB is plain bytes."""


class Problem(NamedTuple):
    """One cell. mending: what a repair makes of it."""

    table: str
    id: int
    column: str
    what: str
    mending: str


def open_raw(path: Path) -> sqlite3.Connection:
    """Return a connection to a file, in no transaction, that gives texts as RawText."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=5)
    connection.text_factory = RawText
    return connection


def names(table: Table) -> str:
    """Return a table's columns, quoted, as both databases take them."""
    return ", ".join(f'"{column.name}"' for column in table.columns)


def raw_rows(connection: sqlite3.Connection, table: Table) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table as they are, by id."""
    yield from connection.execute(f'SELECT {names(table)} FROM "{table.name}" ORDER BY id')  # noqa: S608


def fault(column: Column[Any], value: object) -> str:
    """Return what is wrong with a value, empty if nothing is."""
    if value is None:
        return "" if column.nullable else "NULL"
    kind = column.type
    if isinstance(kind, sa.Integer):
        return "" if isinstance(value, int) else f"{_kind(value)} in a column of whole numbers"
    if isinstance(kind, sa.Float):
        return "" if isinstance(value, int | float) else f"{_kind(value)} in a column of numbers"
    if isinstance(kind, sa.LargeBinary):
        return f"{_kind(value)} in a column of bytes" if isinstance(value, RawText) else ""
    if not isinstance(value, RawText):
        return f"{_kind(value)} in a column of text"
    with contextlib.suppress(UnicodeDecodeError):
        return "text with NUL in it" if "\0" in value.decode() else ""
    return "text that is not UTF-8"


def mended(column: Column[Any], value: Any) -> object:
    """Return a value as its column's kind: a number that can be read as one, text with U+FFFD for what is none.

    Where that cannot be, the column's default, or NULL.
    """
    kind = column.type
    if value is None:
        return default(column)
    if isinstance(kind, sa.Integer | sa.Float):
        number = int if isinstance(kind, sa.Integer) else float
        try:
            return number(_text(value) if isinstance(value, bytes) else value)
        except (ValueError, OverflowError):
            return default(column)
    if isinstance(kind, sa.LargeBinary):
        return bytes(value) if isinstance(value, bytes) else str(value).encode()
    return _text(value) if isinstance(value, bytes) else str(value)


def _text(value: bytes) -> str:
    return value.decode(errors="replace").replace("\0", "\ufffd")


def default(column: Column[Any]) -> object:
    """Return what a column has if nothing is said: NULL, its default, or the nothing of its kind."""
    if column.nullable:
        return None
    given = getattr(column.server_default, "arg", None)
    if isinstance(column.type, sa.Integer):
        return int(given or 0)
    return float(given or 0) if isinstance(column.type, sa.Float) else str(given or "")


def _kind(value: object) -> str:
    if isinstance(value, RawText):
        return "text"
    return "bytes" if isinstance(value, bytes) else "a number"


class Orphan(NamedTuple):
    """A row that points at nothing. remove: it goes with what it belonged to; else the column gets its default."""

    table: str
    id: int
    column: str
    remove: bool


def orphans(connection: sqlite3.Connection, table: Table) -> list[Orphan]:
    """Return the rows of a table that point at nothing."""
    found = []
    for key in sorted(table.foreign_keys, key=lambda key: str(key.parent.name)):
        column, there = str(key.parent.name), key.column
        query = (
            f'SELECT id FROM "{table.name}" WHERE "{column}" IS NOT NULL '  # noqa: S608
            f'AND "{column}" NOT IN (SELECT "{there.name}" FROM "{there.table.name}") ORDER BY id'
        )
        remove = key.ondelete == "CASCADE"
        found += [Orphan(table.name, row_id, column, remove) for (row_id,) in connection.execute(query)]
    return found


def problems(connection: sqlite3.Connection) -> list[Problem]:
    """Return all that a move would stumble over."""
    found = []
    for table in metadata.sorted_tables:
        for row in raw_rows(connection, table):
            for column, value in zip(table.columns, row, strict=True):
                what = fault(column, value)
                if what:
                    found.append(Problem(table.name, row[0], column.name, what, repr(mended(column, value))[:60]))
        for orphan in orphans(connection, table):
            mending = "nothing: the row is left out" if orphan.remove else repr(default(table.c[orphan.column]))
            found.append(Problem(orphan.table, orphan.id, orphan.column, "points at nothing", mending))
    return found
