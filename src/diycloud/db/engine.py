"""The one way to the database.

Point reads run inline on a kept connection (a SQLite lookup takes microseconds, a thread hop fifty). Every write goes
through one writer thread and is one short transaction, so that no writer waits for another and the event loop for none.
Long reads (lists, exports) run in a thread with a connection of their own. No transaction is open while the host or
network works: `write` takes a plain function and commits when it returns.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import structlog
from sqlalchemy import ClauseElement, Connection, Engine, create_engine, event
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.pool import StaticPool

from diycloud.errors import Conflict, Unavailable

log = structlog.get_logger()
P = ParamSpec("P")
T = TypeVar("T")

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # a committed wish survives a power cut
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",  # a database edited by others may hold views and triggers that call functions
    "PRAGMA busy_timeout = 5000",  # somebody's sqlite3 shell may hold the lock
)


_text = partial(str, encoding="utf-8", errors="replace")
"""One row that somebody wrote in another encoding must not stop the reading of all."""


def connect(path: Path) -> Engine:
    """Return an engine of one kept connection to a SQLite file, with the platform's settings."""
    engine = create_engine(
        f"sqlite:///{path}", poolclass=StaticPool, connect_args={"check_same_thread": False, "timeout": 5}
    )

    @event.listens_for(engine, "connect")
    def _set_up(connection: sqlite3.Connection, _record: object) -> None:
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        connection.text_factory = _text

    return engine


def fetch_one(connection: Connection, sql: str, parameters: tuple[object, ...]) -> tuple[Any, ...] | None:
    """Run one of the few hottest statements on the driver itself and return its first row.

    SQLAlchemy's result object costs ten times the lookup. Only for reads by a unique key.
    """
    driver = connection.connection.driver_connection
    assert driver is not None
    found: tuple[Any, ...] | None = driver.execute(sql, parameters).fetchone()
    return found


class Prepared:
    """A Core statement that runs with every change: compiled once, run on the driver itself.

    SQLAlchemy takes 0.1 to 0.2 ms to run one, SQLite a twentieth of it. values: its bind parameters by name.
    """

    def __init__(self, statement: ClauseElement) -> None:
        compiled = statement.compile(dialect=sqlite_dialect())
        self._sql = str(compiled)
        self._names: Sequence[str] = compiled.positiontup or ()  # type: ignore[attr-defined]  # of SQL's own compiler
        self._constants = compiled.params

    def __call__(self, connection: Connection, **values: object) -> sqlite3.Cursor:
        """Run it in the connection's transaction. Raises sqlite3.Error, as `Database.write` expects."""
        driver = connection.connection.driver_connection
        assert driver is not None
        cursor: sqlite3.Cursor = driver.execute(self._sql, [(self._constants | values)[name] for name in self._names])
        return cursor


def data_version(connection: Connection) -> int:
    """Return a number that changes when another connection has committed (SQLite, PRAGMA data_version)."""
    found = fetch_one(connection, "PRAGMA data_version", ())
    assert found is not None
    return int(found[0])


_REFUSALS = (IntegrityError, OperationalError, sqlite3.IntegrityError, sqlite3.OperationalError)
"""SQLAlchemy's own, and the driver's as `Prepared` lets them through."""


def _reason(error: Exception) -> str:
    return str(error.orig if isinstance(error, DBAPIError) else error)


class Database:
    """Reads and writes for asynchronous callers. path: the SQLite file, made by `db.migrate` before."""

    def __init__(self, path: Path, *, before_commit: Callable[[], None] | None = None) -> None:
        self.path = path
        self._before_commit = before_commit
        self._reader = connect(path)
        self._reading = self._reader.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._writer = connect(path)
        self._writing = self._writer.connect()
        self._synchronous = "FULL"
        self._writer_thread = ThreadPoolExecutor(1, thread_name_prefix="db-writer")
        self._long_reader = connect(path)
        self._reader_thread = ThreadPoolExecutor(1, thread_name_prefix="db-reader")

    async def read(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a point read, inline: a lookup takes microseconds. Keep it to lookups by key and pages of a list."""
        return fn(self._reading, *args, **kwargs)

    def read_now(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a point read where no event loop runs: a program of one task, a test."""
        return fn(self._reading, *args, **kwargs)

    async def read_long(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read that may take more than a few milliseconds, in a thread."""

        def job() -> T:
            with self._long_reader.connect() as connection:
                return fn(connection, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._reader_thread, job)

    async def write(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run fn in one transaction in the writer thread and commit it; what is committed survives a power cut.

        Raises Conflict for a broken constraint, Unavailable if somebody holds the database's lock or the disk is full.
        """
        return await self._in_turn(lambda connection: fn(connection, *args, **kwargs), "FULL")

    async def note(self, fn: Callable[[Connection], T]) -> T:
        """Run fn as `write` does, but without waiting for the disk: a power cut may take it back (not a crash).

        For what can be found out again: how the host answered to a wish that was written before. Raises as `write`.
        """
        return await self._in_turn(fn, "NORMAL")

    async def _in_turn(self, fn: Callable[[Connection], T], synchronous: str) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._writer_thread, self._run, fn, synchronous)
        except _REFUSALS as error:
            if isinstance(error, IntegrityError | sqlite3.IntegrityError):
                raise Conflict(f"The database refused: {_reason(error)}.") from error
            raise Unavailable(
                f"The database cannot be written: {_reason(error)}.", "Look for a full disk or an open sqlite3 shell."
            ) from error

    def _run(self, fn: Callable[[Connection], T], synchronous: str) -> T:
        with self._writing.begin():
            if synchronous != self._synchronous:  # the kept connection stays as the last transaction had it
                self._writing.exec_driver_sql(f"PRAGMA synchronous = {synchronous}")
                self._synchronous = synchronous
            result = fn(self._writing)
            if self._before_commit is not None:
                self._before_commit()
        return result

    def write_later(self, fn: Callable[Concatenate[Connection, P], object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Queue a write that nobody waits for (a time of last use). A failure is only logged."""

        def job() -> None:
            try:
                self._run(lambda connection: fn(connection, *args, **kwargs), "NORMAL")
            except _REFUSALS as error:
                log.warning("write failed", error=_reason(error))

        self._writer_thread.submit(job)

    def close(self) -> None:
        """Finish what is queued and close."""
        self._writer_thread.shutdown()
        self._reader_thread.shutdown()
        self._reading.close()
        self._writing.close()
        for engine in (self._reader, self._writer, self._long_reader):
            engine.dispose()
