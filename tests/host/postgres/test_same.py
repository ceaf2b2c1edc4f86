"""What SQLite and PostgreSQL must answer alike: triggers, defaults, the order of lists, what a search finds."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from diycloud.db.postgres import Address, connect
from diycloud.db.sqlite import connect as connect_sqlite
from diycloud.db.tables import ROLES, STATUSES, metadata
from diycloud.users import listing, repository
from diycloud.users.actions import SORTS
from diycloud.users.models import Allocation
from tests.conftest import closing_engine

NAMES = (
    "ada",
    "Ada",
    "bob",
    "zoe",
    "a-b",
    "a_b",
    "a1",
    "ab",
    "_x",
    "äda",
    "Äda",
    "éa",
    "日本",
    "\U0001f600",
    "",
    " a",
    "~",
    "ﬀ",
)


@pytest.fixture
def both(address: Address, database_file: Any) -> Any:
    """The same empty database twice."""
    with (
        closing_engine(connect(address).execution_options(isolation_level="AUTOCOMMIT")) as there,
        closing_engine(connect_sqlite(database_file)) as here,
    ):
        yield here, there


def alike(both: tuple[Connection, Connection], ask: Any) -> Any:
    """Return what both answer, which is the same."""
    here, there = (ask(connection) for connection in both)
    assert here == there
    return here


def row(connection: Connection) -> tuple:
    return tuple(
        connection.exec_driver_sql("SELECT status, is_active, generation FROM users ORDER BY id").first() or ()
    )


def other(column: sa.Column[Any]) -> str:
    """Return a literal that a column of a new row does not have."""
    if column.foreign_keys:
        return "id" if isinstance(column.type, sa.Integer) else "'default'"
    if column.name == "role":
        return f"'{ROLES[0]}'"
    return "7" if isinstance(column.type, sa.Integer | sa.Float) else "'7'"


COLUMNS = [
    (table, column.name)
    for table in ("users", "resource_allocations")
    for column in metadata.tables[table].columns
    if column.name not in ("id", "user_id", "status", "is_active", "generation", "host_generation")
]


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_every_column_is_as_much_of_a_wish(both: Any, table: str, column: str) -> None:
    literal = other(metadata.tables[table].c[column])

    def ask(connection: Connection) -> bool:
        repository.add(connection, {"username": "ada", "password_hash": "x"}, Allocation())
        before = row(connection)
        connection.exec_driver_sql(f"UPDATE {table} SET {column} = {literal}")
        after = row(connection)
        assert after[:2] == before[:2]
        return after[2] > before[2]

    alike(both, ask)


@pytest.mark.parametrize("first", STATUSES)
@pytest.mark.parametrize("second", [*(f"status = '{s}'" for s in STATUSES), "is_active = 0", "is_active = 1"])
def test_status_and_is_active_lead_to_the_same(both: Any, first: str, second: str) -> None:
    def ask(connection: Connection) -> tuple:
        connection.exec_driver_sql(
            f"INSERT INTO users (username, password_hash, status) VALUES ('ada', 'x', '{first}')"
        )
        begun = row(connection)
        connection.exec_driver_sql(f"UPDATE users SET {second}")
        status, active, generation = row(connection)
        return begun[:2], status, active, generation > begun[2]

    alike(both, ask)


def test_members_are_wishes(both: Any) -> None:
    def ask(connection: Connection) -> list[bool]:
        repository.add(connection, {"username": "ada", "password_hash": "x"}, Allocation())
        connection.exec_driver_sql("INSERT INTO groups (name) VALUES ('team')")
        seen = [row(connection)[2]]
        for statement in ("INSERT INTO group_members (group_id, user_id) VALUES (1, 1)", "DELETE FROM group_members"):
            connection.exec_driver_sql(statement)
            seen.append(row(connection)[2])
        return [after > before for before, after in itertools.pairwise(seen)]

    assert alike(both, ask) == [True, True]


def test_defaults_are_the_same(both: Any) -> None:
    def ask(connection: Connection) -> dict[str, Any]:
        connection.exec_driver_sql("INSERT INTO users (username, password_hash) VALUES ('ada', 'x')")
        connection.exec_driver_sql("INSERT INTO resource_allocations (user_id) VALUES (1)")
        connection.exec_driver_sql("INSERT INTO audit (actor, action) VALUES ('a', 'b')")
        found: dict[str, Any] = {}
        for table in ("users", "resource_allocations", "audit", "domains", "policies"):
            for key, value in connection.exec_driver_sql(f"SELECT * FROM {table}").mappings().one().items():
                found[f"{table}.{key}"] = re.sub(
                    r"\A\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\Z|\A[0-9a-f]{32}\Z", "…", str(value)
                )
        return found

    found = alike(both, ask)
    assert found["users.created_at"] == found["users.uuid"] == found["audit.at"] == "…"


def test_lists_have_the_same_order_and_pages(both: Any) -> None:
    for connection in both:
        for number, name in enumerate(NAMES):
            repository.add(
                connection,
                {
                    "username": name, "password_hash": "x", "full_name": NAMES[-number],
                    "last_login": [None, "2026-01-01 00:00:00"][number % 2], "created_at": f"2026-01-0{number % 4 + 1}",
                },
                Allocation(cpu=[0.1, 1.0, 2.25][number % 3], memory=[1 << 30, 3 << 20][number % 2]),
            )  # fmt: skip
        connection.exec_driver_sql("DELETE FROM resource_allocations WHERE id IN (3, 7)")

    def pages(connection: Connection, sort: str, descending: bool) -> list[list[str]]:
        found, cursor = [], ""
        asked: dict[str, Any] = {"search": "", "status": "all", "role": None, "sort": sort, "descending": descending}
        while True:
            rows, _, following, _ = listing.page(connection, **asked, cursor=cursor, limit=5)
            found.append([r.username for r in rows])
            if following is None:
                return found
            cursor = following

    for sort in SORTS:
        for descending in (False, True):
            found = alike(both, lambda c, s=sort, d=descending: pages(c, s, d))
            assert sorted(itertools.chain.from_iterable(found)) == sorted(NAMES)


@pytest.mark.parametrize("search", ["ADA", "Ä", "ä", "_", "%", "\\", "a-", "日", "é", "'"])
def test_a_search_finds_the_same(both: Any, search: str) -> None:
    for connection in both:
        for name in NAMES:
            repository.add(connection, {"username": name, "password_hash": "x"}, Allocation())
    asked: dict[str, Any] = {
        "search": search, "status": None, "role": None, "sort": "username", "descending": False, "cursor": "", "limit": 99,
    }  # fmt: skip
    alike(both, lambda connection: [r.username for r in listing.page(connection, **asked)[0]])
