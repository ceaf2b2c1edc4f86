"""The one way to the database, whichever it is.

`open_database` gives the SQLite file, or PostgreSQL where the setting server.database names one. Both keep one contract:
every write goes through one writer thread and is one short transaction, so that no writer waits for another and the event
loop for none, and what a transaction has read nobody changes before it commits. No transaction is open while the host or
network works: `write` takes a plain function and commits when it returns.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

import structlog
from sqlalchemy import ClauseElement, Connection, Dialect, Insert

from diycloud.config import Paths, Settings
from diycloud.errors import DiyCloudError

log = structlog.get_logger()
P = ParamSpec("P")
T = TypeVar("T")


class Cursor(Protocol):
    """What both drivers' cursors have."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class _Compiled(NamedTuple):
    """names: the order of its parameters, None where the driver takes them by name."""

    sql: str
    names: Sequence[str] | None
    constants: Mapping[str, Any]


_all_rows, _first_row = methodcaller("fetchall"), methodcaller("fetchone")


class Prepared:
    """A Core statement that runs with every request: compiled once for a dialect, run on the driver itself.

    SQLAlchemy takes 0.1 to 0.2 ms to run one, SQLite a twentieth of it. values: its bind parameters by name.
    """

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        self._compiled: dict[str, _Compiled] = {}

    def __call__(self, connection: Connection, **values: object) -> Cursor:
        """Run it in the connection's transaction. Raises the driver's own errors, as `Database.write` expects."""
        return self._run(connection.connection.driver_connection, connection.dialect, values)

    def fetch_all(self, connection: Connection, **values: object) -> list[Any]:
        """Run a SELECT; returns every row. Raises as calling it does."""
        found: list[Any] = self._fetch(connection, values, _all_rows)
        return found

    def fetch_one(self, connection: Connection, **values: object) -> Any:
        """Run a SELECT; returns its first row, None if there is none. Raises as calling it does."""
        return self._fetch(connection, values, _first_row)

    def _fetch(self, connection: Connection, values: Mapping[str, object], rows: Callable[[Cursor], Any]) -> Any:
        """Read with SQLite's own decoding of text, which halves the time of a list.

        It knows UTF-8 alone: what people wrote in another encoding is read again with the connection's own, which
        replaces what it cannot read.
        """
        driver: Any = connection.connection.driver_connection
        dialect = connection.dialect
        if dialect.name == "sqlite":
            forgiving, driver.text_factory = driver.text_factory, str
            try:
                return rows(self._run(driver, dialect, values))
            except driver_errors(connection).OperationalError:
                pass
            finally:
                driver.text_factory = forgiving
        return rows(self._run(driver, dialect, values))

    def _run(self, driver: Any, dialect: Dialect, values: Mapping[str, object]) -> Cursor:
        compiled = self._compiled.get(dialect.name) or self._compile(dialect)
        given = {**compiled.constants, **values}
        cursor: Cursor = driver.execute(
            compiled.sql, given if compiled.names is None else [given[name] for name in compiled.names]
        )
        return cursor

    def insert(self, connection: Connection, **values: object) -> int:
        """Run an INSERT; returns the id that the row was given."""
        cursor: Any = self(connection, **values)
        return int(cursor.lastrowid if connection.dialect.name == "sqlite" else cursor.fetchone()[0])

    def _compile(self, dialect: Dialect) -> _Compiled:
        statement = self._statement
        if isinstance(statement, Insert) and dialect.name != "sqlite":
            statement = statement.returning(*statement.table.primary_key)
        compiled: Any = statement.compile(dialect=dialect)
        self._compiled[dialect.name] = found = _Compiled(str(compiled), compiled.positiontup, compiled.params)
        return found


def driver_errors(connection: Connection) -> Any:
    """Return the driver's module: what `Prepared` raises are its errors, by PEP 249's names (DataError …)."""
    return connection.dialect.loaded_dbapi


_VERSIONS = {"sqlite": "PRAGMA data_version", "postgresql": "SELECT txid_current_snapshot()::text"}


def data_version(connection: Connection) -> object:
    """Return what is another value whenever somebody else has committed (in PostgreSQL: which transactions are seen)."""
    driver: Any = connection.connection.driver_connection
    return driver.execute(_VERSIONS[connection.dialect.name]).fetchone()[0]


class Database(ABC):
    """Reads and writes for asynchronous callers. before_commit: called inside every transaction, for tests."""

    def __init__(self, before_commit: Callable[[], None] | None = None) -> None:
        self._before_commit = before_commit
        self._writer_thread = ThreadPoolExecutor(1, thread_name_prefix="db-writer")

    @abstractmethod
    async def read(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a point read. Keep it to lookups by key and pages of a list."""

    @abstractmethod
    def read_now(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a point read where no event loop runs: a program of one task, a test."""

    @abstractmethod
    async def read_long(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read that may take more than a few milliseconds (lists, exports), in a thread."""

    async def write(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run fn in one transaction in the writer thread and commit it; what is committed survives a power cut.

        Raises Conflict for a broken constraint, InvalidInput for a value that the database cannot hold, Unavailable if it
        is locked by others, full or down.
        """
        return await self._in_turn(lambda connection: fn(connection, *args, **kwargs), durable=True)

    async def note(self, fn: Callable[[Connection], T]) -> T:
        """Run fn as `write` does, but without waiting for the disk: a power cut may take it back (not a crash).

        For what can be found out again: how the host answered to a wish that was written before. Raises as `write`.
        """
        return await self._in_turn(fn, durable=False)

    async def _in_turn(self, fn: Callable[[Connection], T], *, durable: bool) -> T:
        def job() -> T:
            return self._transaction(fn, durable=durable)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._writer_thread, job)
        except Exception as error:
            refusal = self._refusal(error)
            if refusal is None:
                raise
            raise refusal from error

    def write_later(self, fn: Callable[Concatenate[Connection, P], object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Queue a write that nobody waits for (a time of last use). A failure is only logged."""

        def job() -> None:
            try:
                self._transaction(lambda connection: fn(connection, *args, **kwargs), durable=False)
            except Exception as error:
                refusal = self._refusal(error)
                if refusal is None:
                    log.exception("write crashed")
                else:
                    log.warning("write failed", error=refusal.message)

        self._writer_thread.submit(job)

    @abstractmethod
    def _transaction(self, fn: Callable[[Connection], T], *, durable: bool) -> T:
        """Run fn in a transaction and commit it; in the writer thread."""

    @abstractmethod
    def _refusal(self, error: Exception) -> DiyCloudError | None:
        """Return what an error of SQLAlchemy's or the driver's means, None if it is neither's."""

    @abstractmethod
    def claim(self) -> None:
        """Be the one server of this database. Raises Conflict if another is; helpers of one request need no claim."""

    def close(self) -> None:
        """Finish what is queued and close."""
        self._writer_thread.shutdown()


def open_database(settings: Settings, paths: Paths, *, before_commit: Callable[[], None] | None = None) -> Database:
    """Return the database of the settings, brought to this program's schema. Raises HostError, Unavailable, Unsupported."""
    from diycloud.db import migrate

    migrate.bring_up(settings, paths)
    if settings.server.database:
        from diycloud.db.postgres import Address, PostgresDatabase  # takes 60 ms that the usual start does not pay

        return PostgresDatabase(Address.of(settings), before_commit=before_commit)
    from diycloud.db.sqlite import SqliteDatabase

    return SqliteDatabase(paths.database, before_commit=before_commit)
