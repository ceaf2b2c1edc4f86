"""What the tests share. A running platform (tests/stack.py) is started once for a module, if this machine can."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from sqlalchemy import Connection, Engine

from diycloud.db.engine import Database
from diycloud.db.sqlite import SqliteDatabase, connect
from tests.cluster import Cluster
from tests.stack import CONTROLLERS, ROOT, Stack

if TYPE_CHECKING:
    from tests.unit.tenants import Bench

OWN: dict[str, Any] = {"uid_min": 54_000, "uid_max": 55_999, "cgroup": "dtwide"}
"""What a stack of these tests has to itself, beside others on the same machine."""


def cannot_run() -> str:
    """Return why the platform cannot be run on this machine, empty if it can."""
    if os.geteuid() != 0:
        return "needs root: accounts are made"
    others = subprocess.run(
        [sys.executable, "-c", ""], cwd="/", capture_output=True, check=False, user=65_534, group=65_534
    )
    if others.returncode or not os.stat(ROOT).st_mode & 0o001:
        return f"other accounts cannot run {sys.executable} or read {ROOT}: move the checkout, and remove .venv"
    missing = [c for c in CONTROLLERS if not os.access(Path("/sys/fs/cgroup") / c, os.W_OK)]
    return f"no cgroup v1 controller {', '.join(missing)}" if missing else ""


@pytest.fixture(autouse=True)
def leaves_the_process_as_it_was() -> Iterator[None]:
    """Fail the test that changes what all others run with, not those after it."""

    def state() -> tuple[int, str, bool]:
        umask = os.umask(0o022)
        os.umask(umask)
        return umask, os.getcwd(), structlog.is_configured()

    before = state()
    yield
    after = state()
    os.umask(before[0])
    os.chdir(before[1])
    structlog.reset_defaults()
    assert after == before


@pytest.fixture(scope="session")
def stack_cluster() -> Cluster | None:
    """Where stacks keep their data: a SQLite file of their own. tests/host/postgres says otherwise."""
    return None


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The platform with its own UIDs and cgroups; every account, home and process of it is gone afterwards."""
    reason = cannot_run()
    if reason:
        pytest.skip(reason)
    with Stack(**OWN) as running:
        yield running


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database that nobody writes to: copy it (Alembic takes half a second)."""
    from diycloud.db.migrate import migrate

    path = tmp_path_factory.mktemp("database") / "users.db"
    migrate(path)
    return path


@pytest.fixture
def database_file(empty_database: Path, tmp_path: Path) -> Path:
    """A database of the test's own."""
    return Path(shutil.copyfile(empty_database, tmp_path / "users.db"))


@pytest.fixture
def connection(database_file: Path) -> Iterator[Connection]:
    """A connection to a database of the test's own, in one transaction."""
    with closing_engine(connect(database_file)) as found:
        yield found


@pytest.fixture(scope="module")
def module_connection(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A connection to a database of the module's own."""
    path = Path(shutil.copyfile(empty_database, tmp_path_factory.mktemp("module") / "users.db"))
    with closing_engine(connect(path)) as found:
        yield found


@contextmanager
def closing_engine(engine: Engine) -> Iterator[Connection]:
    """Give a connection of an engine that is closed afterwards."""
    with engine.connect() as found:
        yield found
    engine.dispose()


@pytest.fixture
def database(database_file: Path) -> Iterator[Database]:
    """The same, open."""
    found = SqliteDatabase(database_file)
    yield found
    found.close()


@pytest.fixture
def bench(database: Database) -> Bench:
    """A dispatcher on such a database, with a host of the test's own."""
    from tests.unit.tenants import Bench

    return Bench(database)
