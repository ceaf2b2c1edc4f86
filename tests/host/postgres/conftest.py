"""The unit tests of what is stored, again on PostgreSQL: the fixtures `database` and `connection` are of a cluster here."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from diycloud.db.engine import Database
from tests import cluster as clusters
from tests.conftest import closing_engine

_numbers = itertools.count()
HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is about SQLite alone."""
    left_out = [item for item in items if HERE in item.path.parents and item.get_closest_marker("sqlite")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def cluster() -> Iterator[clusters.Cluster]:
    """A PostgreSQL with an empty database `fresh` at HEAD."""
    reason = clusters.cannot_run()
    if reason:
        pytest.skip(reason)
    from diycloud.db.migrate import migrate_postgres

    with clusters.Cluster() as running:
        migrate_postgres(running.database("fresh"))
        yield running


@pytest.fixture
def address(cluster: clusters.Cluster) -> Iterator[clusters.Address]:
    """A database of the test's own, at HEAD."""
    name = f"t{next(_numbers)}"
    yield cluster.database(name, like="fresh")
    cluster.drop(name)


@pytest.fixture
def database(address: clusters.Address) -> Iterator[Database]:
    from diycloud.db.postgres import PostgresDatabase

    found = PostgresDatabase(address)
    yield found
    found.close()


@pytest.fixture
def connection(address: clusters.Address) -> Iterator[Connection]:
    from diycloud.db.postgres import connect

    with closing_engine(connect(address).execution_options(isolation_level="AUTOCOMMIT")) as found:
        yield found


@pytest.fixture(scope="module")
def module_connection(cluster: clusters.Cluster) -> Iterator[Connection]:
    from diycloud.db.postgres import connect

    name = f"m{next(_numbers)}"
    engine = connect(cluster.database(name, like="fresh"))
    with closing_engine(engine.execution_options(isolation_level="AUTOCOMMIT")) as found:
        yield found
    cluster.drop(name)


@pytest.fixture(scope="session")
def stack_cluster(cluster: clusters.Cluster) -> clusters.Cluster:
    return cluster
