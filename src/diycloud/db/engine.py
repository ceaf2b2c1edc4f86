"""The one way to the database.

Point reads run inline on a kept connection (a SQLite lookup takes microseconds, a thread hop fifty). Every write goes
through one writer thread and is one short transaction, so that no writer waits for another and the event loop for none.
Long reads (lists, exports) run in a thread with a connection of their own. No transaction is open while the host or
network works: `write` takes a plain function and commits when it returns.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import structlog
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import IntegrityError, OperationalError
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


def data_version(connection: Connection) -> int:
    """Return a number that changes when another connection has committed (SQLite, PRAGMA data_version)."""
    found = fetch_one(connection, "PRAGMA data_version", ())
    assert found is not None
    return int(found[0])


class Database:
    """Reads and writes for asynchronous callers. path: the SQLite file, made by `db.migrate` before."""

    def __init__(self, path: Path, *, before_commit: Callable[[], None] | None = None) -> None:
        self.path = path
        self._before_commit = before_commit
        self._reader = connect(path)
        self._reading = self._reader.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._writer = connect(path)
        self._writer_thread = ThreadPoolExecutor(1, thread_name_prefix="db-writer")
        self._long_reader = connect(path)
        self._reader_thread = ThreadPoolExecutor(1, thread_name_prefix="db-reader")

    def read(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a point read inline. Keep it to lookups by key and pages of a list."""
        return fn(self._reading, *args, **kwargs)

    async def read_long(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read that may take more than a few milliseconds, in a thread."""

        def job() -> T:
            with self._long_reader.connect() as connection:
                return fn(connection, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._reader_thread, job)

    async def write(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run fn in one transaction in the writer thread and commit it.

        Raises Conflict for a broken constraint, Unavailable if somebody holds the database's lock or the disk is full.
        """

        def job() -> T:
            with self._writer.begin() as connection:
                result = fn(connection, *args, **kwargs)
                if self._before_commit is not None:
                    self._before_commit()
            return result

        try:
            return await asyncio.get_running_loop().run_in_executor(self._writer_thread, job)
        except IntegrityError as error:
            raise Conflict(f"The database refused: {error.orig}.") from error
        except OperationalError as error:
            raise Unavailable(
                f"The database cannot be written: {error.orig}.", "Look for a full disk or an open sqlite3 shell."
            ) from error

    def write_later(self, fn: Callable[Concatenate[Connection, P], object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Queue a write that nobody waits for (a time of last use). A failure is only logged."""

        def job() -> None:
            try:
                with self._writer.begin() as connection:
                    fn(connection, *args, **kwargs)
            except (IntegrityError, OperationalError) as error:
                log.warning("write failed", error=str(error.orig))

        self._writer_thread.submit(job)

    def close(self) -> None:
        """Finish what is queued and close."""
        self._writer_thread.shutdown()
        self._reader_thread.shutdown()
        self._reading.close()
        for engine in (self._reader, self._writer, self._long_reader):
            engine.dispose()
