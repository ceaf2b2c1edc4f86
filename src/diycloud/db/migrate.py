"""Bring the database to this program's schema: `python -m diycloud.db.migrate [--prefix P]`, under the server's user.

Forward only. A SQLite file is copied before (users.db.before-REVISION beside it); PostgreSQL does all in one transaction.
Alembic is imported only when there is something to do. An empty PostgreSQL database starts at HEAD: the migrations up to
0002 are SQLite's, later ones apply to both.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from diycloud import config
from diycloud.config import Paths, Settings
from diycloud.errors import Conflict, DiyCloudError, HostError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from diycloud.db.postgres import Address

HEAD = "0005"
SCRIPTS = Path(__file__).parent / "migrations"


def bring_up(settings: Settings, paths: Paths) -> bool:
    """Bring the database of the settings to HEAD, making it if there is none. True if anything changed."""
    if not settings.server.database:
        return migrate(paths.database)
    from diycloud.db.postgres import Address

    return migrate_postgres(Address.of(settings))


def revision(path: Path) -> str | None:
    """Return the schema's revision, None for a database that is not there or empty."""
    if not path.exists():
        return None
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").fetchall()
        if not rows:
            return None
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(found[0]) if found else None


def migrate(path: Path) -> bool:
    """Migrate the database at path to HEAD, making it if there is none. True if anything changed.

    Raises HostError if path is a symlink or belongs to somebody else: a file placed by another must not be used.
    """
    if path.is_symlink():
        raise HostError(f"{path} is a symbolic link.", "Remove it: the database itself belongs there.")
    if path.exists() and path.stat().st_uid != os.geteuid():
        raise HostError(f"{path} belongs to uid {path.stat().st_uid}.", f"chown it to uid {os.geteuid()}.")
    before = revision(path)
    if before == HEAD:
        return False
    if before is not None:
        _copy(path, path.with_name(f"{path.name}.before-{HEAD}"))
    from diycloud.db.sqlite import connect

    umask = os.umask(0o077)
    engine = connect(path)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(
                "PRAGMA foreign_keys = OFF"
            )  # has no effect in a transaction; tables are made anew
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # the driver itself begins one only before rows change
            _upgrade(connection)
            connection.commit()
    finally:
        engine.dispose()
        os.umask(umask)
    return True


def migrate_postgres(address: Address) -> bool:
    """Bring a PostgreSQL database to HEAD, making the schema in an empty one. True if anything changed.

    Raises Conflict if there are tables that are not the platform's, Unavailable if it does not answer.
    """
    from diycloud.db import postgres_schema
    from diycloud.db.postgres import only_one

    with only_one(address) as connection:
        before = postgres_schema.revision(connection)
        if before == HEAD:
            return False
        if before is not None:
            _upgrade(connection)
            return True
        strangers = postgres_schema.strangers(connection)
        if strangers:
            names = ", ".join(strangers[:5])
            raise Conflict(f"The PostgreSQL database holds other tables: {names}.", "Give the platform one of its own.")
        postgres_schema.create_schema(connection, HEAD)
    return True


def _upgrade(connection: Connection) -> None:
    """Run the migrations that are missing, in the connection's transaction."""
    from alembic import command
    from alembic.config import Config

    options = Config()
    options.set_main_option("script_location", str(SCRIPTS))
    options.attributes["connection"] = connection
    command.upgrade(options, "head")


def _copy(source: Path, target: Path) -> None:
    """Copy a database that may be in use, by SQLite's own backup."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


class Found(msgspec.Struct, frozen=True):
    """Which database answers. kind: `SQLite 3.40.1`; revision: of its schema, None if it is empty or not there.

    error: why none does (code, message, hint), as a child process tells it.
    """

    kind: str = ""
    revision: str | None = None
    error: dict[str, str] | None = None


def look(settings: Settings, paths: Paths) -> Found:
    """Return which database the settings name and what schema it has. Raises Unavailable if it does not answer."""
    if not settings.server.database:
        return Found(f"SQLite {sqlite3.sqlite_version}", revision(paths.database))
    from diycloud.db import postgres_schema
    from diycloud.db.postgres import Address, only_one

    with only_one(Address.of(settings)) as connection:
        version = str(connection.exec_driver_sql("SHOW server_version").scalar_one()).split()[0]
        return Found(f"PostgreSQL {version}", postgres_schema.revision(connection))


def main() -> int:
    """Entry point; exit status 0 done, 1 with the reason on standard error. --check: only print Found as JSON, status 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", default="/")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    paths = Paths(options.prefix)
    try:
        settings = config.load(paths.config)
        if options.check:
            sys.stdout.write(msgspec.json.encode(look(settings, paths)).decode())
        else:
            bring_up(settings, paths)
    except DiyCloudError as error:
        if options.check:
            told = Found(error={"code": error.code, "message": error.message, "hint": error.hint})
            sys.stdout.write(msgspec.json.encode(told).decode())
            return 0
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
