"""Bring the database to this program's schema: `python -m diycloud.db.migrate [--prefix P]`, under the server's user.

Forward only, with a copy of the file made before (users.db.before-REVISION beside it). Alembic is imported only when
there is something to do.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from diycloud.config import Paths
from diycloud.errors import DiyCloudError, HostError

HEAD = "0001"


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
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["database"] = path
    umask = os.umask(0o077)
    try:
        command.upgrade(config, "head")
    finally:
        os.umask(umask)
    return True


def _copy(source: Path, target: Path) -> None:
    """Copy a database that may be in use, by SQLite's own backup."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def main() -> int:
    """Entry point; exit status 0 done, 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", default="/")
    paths = Paths(parser.parse_args().prefix)
    try:
        migrate(paths.database)
    except DiyCloudError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
