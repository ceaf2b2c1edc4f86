"""The database in PostgreSQL (13 or newer), reached by a URL without a password: the setting server.database.

Reads run in threads, each with a connection of its own that can only read. Writes of all the platform's processes take
one advisory lock, so that a transaction sees what the one before it wrote and nobody writes beside it, as with SQLite.
A password comes from the file of the setting server.database_password_file, or as libpq finds it (~/.pgpass); it is in
no argument, log or error. Source: libpq's "Connection URIs", PostgreSQL's "Advisory Locks" and "Asynchronous Commit".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from diycloud.config import Settings
from diycloud.db.engine import Database
from diycloud.errors import Conflict, DiyCloudError, InvalidInput, Unavailable, Unsupported

P = ParamSpec("P")
T = TypeVar("T")

READERS = 6
LONG_READERS = 2
OLDEST = 130_000
"""Version 13: gen_random_uuid() and triggers as the schema uses them."""
CONNECT_S = 5
_LOCK = 0x64697963  # "diyc"
_TURN, _SERVER = 1, 2
_COMMON = "-c search_path=public -c lock_timeout=5000 -c idle_in_transaction_session_timeout=60000"
_READING = f"{_COMMON} -c default_transaction_read_only=on -c statement_timeout=60000"
_DOWN = "Look whether PostgreSQL runs, and lets the account of the server in."


class Address(NamedTuple):
    """url: libpq's, without a password. password_file: its first line is the password; empty for none."""

    url: str
    password_file: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Address:
        return cls(settings.server.database, settings.server.database_password_file)

    def connect(self, options: str = _COMMON) -> psycopg.Connection[Any]:
        """Return a connection. Raises Unavailable, InvalidInput for what is no URL, Unsupported for an old server."""
        try:
            found: psycopg.Connection[Any] = psycopg.connect(
                self.url, password=self._password(), options=options, connect_timeout=CONNECT_S,
                application_name="diycloud", client_encoding="utf8",
            )  # fmt: skip
        except psycopg.ProgrammingError:  # its message could hold the URL
            raise InvalidInput("server.database is no URL of PostgreSQL.", "Such as postgresql:///diycloud") from None
        except psycopg.OperationalError as error:
            raise Unavailable(f"PostgreSQL does not answer: {_first_line(error).rstrip('.')}.", _DOWN) from error
        version, encoding = found.info.server_version, found.info.parameter_status("server_encoding")
        if version < OLDEST or encoding != "UTF8":
            found.close()
            raise Unsupported(
                f"This PostgreSQL is version {version // 10_000}, and the database's encoding {encoding}.",
                "Version 13 or newer is needed, and a database with encoding UTF8.",
            )
        return found

    def _password(self) -> str | None:
        if not self.password_file:
            return None
        file = Path(self.password_file)
        try:
            if file.stat().st_mode & 0o007:
                raise Unavailable(f"{file} is open to everybody on this machine.", _PASSWORD_FILE)
            return file.read_text(encoding="utf-8").partition("\n")[0] or None
        except OSError as error:
            raise Unavailable(f"{file} cannot be read: {error.strerror}.", _PASSWORD_FILE) from error


_PASSWORD_FILE = "The server's account must be able to read it, and nobody else: chown root:diycloud, chmod 0640."  # noqa: S105


def _first_line(error: Exception) -> str:
    """Return what PostgreSQL said, without the row it said it of: a row holds password hashes."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return primary or str(error).strip().partition("\n")[0]


def connect(address: Address, *, reading: bool = False, pool_size: int = 0) -> Engine:
    """Return an engine. reading: its connections can only read and see every commit; pool_size 0: kept by the caller."""
    options = _READING if reading else _COMMON
    pool: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 0} if pool_size else {"poolclass": NullPool}
    return create_engine(
        "postgresql+psycopg://",
        creator=lambda: address.connect(options),
        isolation_level="AUTOCOMMIT" if reading else "READ COMMITTED",
        use_native_hstore=False,
        **pool,
    )


@contextmanager
def only_one(address: Address) -> Iterator[Connection]:
    """Give a connection in one transaction that no other writer of the platform's is beside; committed at the end.

    Raises Unavailable if another writes for longer than five seconds, and what the database refuses as `Database.write`.
    """
    engine = connect(address)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK}, {_TURN})")
            yield connection
    except (DBAPIError, psycopg.Error) as error:
        found = refusal(error)
        if found is None:
            raise
        raise found from error
    finally:
        engine.dispose()


def refusal(error: Exception) -> DiyCloudError | None:
    """Return what an error of SQLAlchemy's or the driver's means, None if it is neither's."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, psycopg.IntegrityError):
        return Conflict(f"The database refused: {_first_line(cause)}.")
    if isinstance(cause, psycopg.DataError):
        return InvalidInput(f"The database cannot hold a value: {_first_line(cause)}.")
    if isinstance(cause, psycopg.OperationalError | psycopg.InternalError):
        return Unavailable(f"The database cannot be used: {_first_line(cause)}.", _DOWN)
    return None


class PostgresDatabase(Database):
    """address: of a database that `db.migrate` has brought up."""

    def __init__(self, address: Address, *, before_commit: Callable[[], None] | None = None) -> None:
        super().__init__(before_commit)
        self._reading = connect(address, reading=True, pool_size=READERS + LONG_READERS)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="db-reader")
        self._long_readers = ThreadPoolExecutor(LONG_READERS, thread_name_prefix="db-long-reader")
        self._writer = connect(address)
        self._writing: Connection | None = None
        self._claimed = False

    async def read(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        job = lambda: self.read_now(fn, *args, **kwargs)  # noqa: E731
        return await asyncio.get_running_loop().run_in_executor(self._readers, job)

    async def read_long(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        job = lambda: self.read_now(fn, *args, **kwargs)  # noqa: E731
        return await asyncio.get_running_loop().run_in_executor(self._long_readers, job)

    def read_now(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read, again on a fresh connection if PostgreSQL was started anew meanwhile. Raises as `write`."""
        try:
            try:
                return self._read(fn, *args, **kwargs)
            except (DBAPIError, psycopg.Error) as error:
                if not _is_lost(error):
                    raise
                self._reading.dispose()
                return self._read(fn, *args, **kwargs)
        except (DBAPIError, psycopg.Error) as error:
            found = refusal(error)
            if found is None:
                raise
            raise found from error

    def _read(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._reading.connect() as connection:
            try:
                return fn(connection, *args, **kwargs)
            except (DBAPIError, psycopg.Error) as error:
                if _is_lost(error) and not connection.invalidated:
                    connection.invalidate()
                raise

    def _transaction(self, fn: Callable[[Connection], T], *, durable: bool) -> T:
        connection = self._begin(durable)
        try:
            result = fn(connection)
            if self._before_commit is not None:
                self._before_commit()
            connection.commit()
        except BaseException as error:
            if _is_lost(error):
                self._leave()
            else:
                self._undo(connection)
            raise
        return result

    def _begin(self, durable: bool) -> Connection:
        """Return the writer's connection with a transaction begun and its turn taken, on a fresh one if it was lost."""
        level = "on" if durable else "off"
        turn = f"SELECT pg_advisory_xact_lock({_LOCK}, {_TURN}), set_config('synchronous_commit', '{level}', true)"
        if self._writing is not None:
            try:
                self._writing.exec_driver_sql(turn)
                return self._writing
            except SQLAlchemyError as error:
                if isinstance(error, DBAPIError) and not _is_lost(error):
                    self._undo(self._writing)
                    raise
                self._leave()
        self._writing = self._writer.connect()
        try:
            if self._claimed:
                self._take_claim(self._writing)
            self._writing.exec_driver_sql(turn)
        except BaseException:
            self._leave()
            raise
        return self._writing

    def _undo(self, connection: Connection) -> None:
        try:
            connection.rollback()
        except SQLAlchemyError:  # lost meanwhile: PostgreSQL undoes it itself
            self._leave()

    def _leave(self) -> None:
        """Give up the writer's connection: what was begun on it is undone."""
        if self._writing is not None:
            self._writing.invalidate()
            self._writing.close()
            self._writing = None

    def claim(self) -> None:
        def job() -> None:
            self._leave()
            self._claimed = True
            self._transaction(lambda connection: None, durable=False)

        self._writer_thread.submit(job).result()

    def _take_claim(self, connection: Connection) -> None:
        """Hold the server's lock for as long as the connection lives. Waits five seconds for one that was just killed."""
        try:
            connection.exec_driver_sql(f"SELECT pg_advisory_lock({_LOCK}, {_SERVER})")
            connection.commit()
        except DBAPIError as error:
            if isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise Conflict(
                    "Another DIY Cloud server uses this database.", "Stop it, or give each its own."
                ) from error
            raise

    def _refusal(self, error: Exception) -> DiyCloudError | None:
        return refusal(error)

    def close(self) -> None:
        super().close()
        self._readers.shutdown()
        self._long_readers.shutdown()
        if self._writing is not None:
            self._writing.close()
        self._reading.dispose()
        self._writer.dispose()


def _is_lost(error: BaseException) -> bool:
    """Tell whether the connection is gone: PostgreSQL was stopped, or an administrator ended it."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or _is_lost(error.orig) if error.orig else False
    if not isinstance(error, psycopg.OperationalError):
        return False
    state = error.sqlstate
    return state is None or state.startswith(("57P", "08"))
