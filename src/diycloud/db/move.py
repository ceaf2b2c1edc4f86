"""Move the database from SQLite to PostgreSQL: `python -m diycloud.db.move [--prefix P]`, under the server's user.

Reads a Wish as JSON on standard input and prints a Report, or {"error": {...}}. Everything is copied in one transaction, with
ids and the counters of ids, and read again and compared before it is committed. The file is only read; whoever calls
(core/moving.py) then changes the setting, which is the moment of the move.
"""

from __future__ import annotations

import argparse
import hashlib
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, func, select

from diycloud import config
from diycloud.config import Paths
from diycloud.db import faults, postgres_schema
from diycloud.db.migrate import HEAD, migrate
from diycloud.db.postgres import Address, only_one
from diycloud.db.tables import metadata
from diycloud.errors import Conflict, DiyCloudError, HostError, NotFound, Unavailable

SHOWN = 100
"""So many problems are told of in full."""


class Wish(msgspec.Struct, frozen=True):
    """url: the PostgreSQL database, empty to only look at the file. repair: mend what can be."""

    url: str = ""
    password_file: str = ""
    dry_run: bool = False
    repair: bool = False


class Report(msgspec.Struct, frozen=True):
    """rows: how many each table has; problems: the first of them, one text each; damage: SQLite's own findings.

    moved: they are in PostgreSQL now. there_before: they were already, from a move that was cut off before the setting.
    """

    rows: dict[str, int] = {}
    problems: list[str] = []
    more_problems: int = 0
    damage: list[str] = []
    moved: bool = False
    there_before: bool = False


def run(paths: Paths, wish: Wish) -> Report:
    """Look, and move unless something is wrong or only a look was wished.

    Raises NotFound without a file, Conflict if the target holds something else, HostError if the copy differs.
    """
    database = config.load(paths.config).server.database
    if database and not wish.url:
        return _look_there(Address(database, config.load(paths.config).server.database_password_file))
    if not paths.database.exists():
        raise NotFound(f"There is no {paths.database}.", "There is nothing to move.")
    try:
        return _run(paths, wish)
    except sqlite3.OperationalError as error:
        raise Unavailable(
            f"{paths.database} cannot be used: {error}.", "Close every sqlite3 shell, then try again."
        ) from error
    except sqlite3.DatabaseError as error:
        return Report(damage=[str(error)])


def _run(paths: Paths, wish: Wish) -> Report:
    migrate(paths.database)
    with closing(faults.open_raw(paths.database)) as source:
        source.execute("BEGIN IMMEDIATE")  # nobody's sqlite3 shell writes meanwhile
        report = look(source)
        if wish.url:
            report = _move(source, Address(wish.url, wish.password_file), wish, report)
        source.execute("ROLLBACK")
        if report.moved:
            source.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the one file is all there is
    return report


def look(source: sqlite3.Connection) -> Report:
    """Return what is in a file and what is wrong there."""
    damage = [str(row[0], "utf-8", "replace") for row in source.execute("PRAGMA integrity_check(20)")]
    if damage != ["ok"]:
        return Report(damage=damage)
    found = faults.problems(source)
    told = [f"{p.table} {p.id}, {p.column}: {p.what} (a repair makes it {p.mending})" for p in found[:SHOWN]]
    rows = {t.name: source.execute(f'SELECT count(*) FROM "{t.name}"').fetchone()[0] for t in metadata.sorted_tables}  # noqa: S608
    return Report(rows, told, len(found) - len(told))


def _look_there(address: Address) -> Report:
    """Return what is in PostgreSQL: it lets nothing wrong in."""
    with only_one(address) as target:
        return Report(
            {t.name: target.execute(select(func.count()).select_from(t)).scalar_one() for t in metadata.sorted_tables}
        )


def _move(source: sqlite3.Connection, address: Address, wish: Wish, report: Report) -> Report:
    if report.damage or (report.problems and not wish.repair):
        return report
    with only_one(address) as target:
        if postgres_schema.revision(target) == HEAD and _same(source, target):
            return msgspec.structs.replace(report, moved=not wish.dry_run, there_before=True)
        there = postgres_schema.strangers(target)
        if there:
            raise Conflict(
                f"The PostgreSQL database is not empty: it has {', '.join(there[:5])}.",
                "Make a new one (createdb), or drop this one if it is not needed.",
            )
        if wish.dry_run:
            return report
        postgres_schema.create_tables(target)
        written = {table.name: _copy(source, target, table) for table in metadata.sorted_tables}
        for table in metadata.sorted_tables:
            if _digest(_there(target, table)) != written[table.name]:
                raise HostError(f"The copy of {table.name} differs from the file.", "Nothing was moved. Try again.")
        postgres_schema.finish(target, HEAD)
    return msgspec.structs.replace(report, moved=True)


def _here(source: sqlite3.Connection, table: Table) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table as PostgreSQL takes them, mended where they must be."""
    found = faults.orphans(source, table)
    left_out = {orphan.id for orphan in found if orphan.remove}
    pointing = {(orphan.id, orphan.column) for orphan in found}
    for row in faults.raw_rows(source, table):
        if row[0] not in left_out:
            yield tuple(
                faults.default(column) if (row[0], column.name) in pointing else faults.mended(column, value)
                for column, value in zip(table.columns, row, strict=True)
            )


def _there(target: Connection, table: Table) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table in PostgreSQL, a few at a time."""
    driver: Any = target.connection.driver_connection
    with driver.cursor(name="move") as cursor:
        cursor.itersize = 1000
        yield from cursor.execute(f'SELECT {faults.names(table)} FROM "{table.name}" ORDER BY id')  # noqa: S608


def _copy(source: sqlite3.Connection, target: Connection, table: Table) -> tuple[int, str]:
    """Copy a table and its counter of ids; returns how many rows and their sum."""
    driver: Any = target.connection.driver_connection
    digest = hashlib.sha256()
    count = last = 0
    with driver.cursor() as cursor, cursor.copy(f'COPY "{table.name}" ({faults.names(table)}) FROM STDIN') as copy:
        for row in _here(source, table):
            copy.write_row(row)
            digest.update(repr(row).encode())
            count, last = count + 1, row[0]
    counter = source.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table.name,)).fetchone()
    last = max(last, counter[0] if counter else 0)  # a number is never given twice, not even a removed row's
    if last:
        driver.execute("SELECT setval(pg_get_serial_sequence(%s, 'id'), %s)", (f'"{table.name}"', last))
    return count, digest.hexdigest()


def _digest(rows: Iterator[tuple[Any, ...]]) -> tuple[int, str]:
    digest, count = hashlib.sha256(), 0
    for row in rows:
        digest.update(repr(row).encode())
        count += 1
    return count, digest.hexdigest()


def _same(source: sqlite3.Connection, target: Connection) -> bool:
    return all(_digest(_here(source, t)) == _digest(_there(target, t)) for t in metadata.sorted_tables)


def main() -> int:
    """Entry point; exit status 0, with what went wrong as JSON too: its caller tells people."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", default="/")
    paths = Paths(parser.parse_args().prefix)
    try:
        answer: Any = run(paths, msgspec.json.decode(sys.stdin.buffer.read(), type=Wish))
    except DiyCloudError as error:
        answer = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    sys.stdout.write(msgspec.json.encode(answer).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
