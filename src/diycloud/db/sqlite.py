"""The database in one SQLite file.

Point reads run inline on a kept connection: a lookup takes microseconds, a thread hop fifty. Long reads run in a thread
with a connection of their own.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from diycloud.db.engine import Database
from diycloud.errors import Conflict, DiyCloudError, Unavailable

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


class SqliteDatabase(Database):
    """path: the file, made by `db.migrate` before."""

    def __init__(self, path: Path, *, before_commit: Callable[[], None] | None = None) -> None:
        super().__init__(before_commit)
        self.path = path
        self._reader = connect(path)
        self._reading = self._reader.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._writer = connect(path)
        self._writing = self._writer.connect()
        self._durable = True
        self._long_reader = connect(path)
        self._reader_thread = ThreadPoolExecutor(1, thread_name_prefix="db-reader")

    async def read(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return fn(self._reading, *args, **kwargs)

    def read_now(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return fn(self._reading, *args, **kwargs)

    async def read_long(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        def job() -> T:
            with self._long_reader.connect() as connection:
                return fn(connection, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._reader_thread, job)

    def _transaction(self, fn: Callable[[Connection], T], *, durable: bool) -> T:
        with self._writing.begin():
            if durable != self._durable:  # the kept connection stays as the last transaction had it
                self._writing.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            result = fn(self._writing)
            if self._before_commit is not None:
                self._before_commit()
        return result

    def _refusal(self, error: Exception) -> DiyCloudError | None:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, sqlite3.IntegrityError):
            return Conflict(f"The database refused: {cause}.")
        if isinstance(cause, sqlite3.OperationalError):
            return Unavailable(
                f"The database cannot be written: {cause}.", "Look for a full disk or an open sqlite3 shell."
            )
        return None

    def claim(self) -> None:
        """Nothing to do: the file is beside the server's one socket, and SQLite locks it for every transaction."""

    def close(self) -> None:
        super().close()
        self._reader_thread.shutdown()
        self._reading.close()
        self._writing.close()
        for engine in (self._reader, self._writer, self._long_reader):
            engine.dispose()
