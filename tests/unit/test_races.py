"""What two administrators may do to each other at the same moment, and what a stranger may make the audit keep."""

from __future__ import annotations

import asyncio

import pytest

from diycloud.actions.roles import Role
from diycloud.auth.throttle import Throttle
from diycloud.db.engine import Database
from diycloud.errors import Conflict
from diycloud.users import repository, service
from diycloud.users.models import Allocation, Status


def add(database: Database, name: str, **more: object) -> int:
    values = {"username": name, "password_hash": "x", "status": Status.ACTIVE, **more}
    return asyncio.run(database.write(repository.add, values, Allocation()))


def test_a_status_that_somebody_else_changed_meanwhile_is_a_conflict(database: Database) -> None:
    user = add(database, "ada")
    asyncio.run(database.write(repository.change, user, {"status": Status.DELETED}, since=Status.ACTIVE))
    with pytest.raises(Conflict, match="meanwhile"):
        asyncio.run(database.write(repository.change, user, {"status": Status.INACTIVE}, since=Status.ACTIVE))
    row = database.read_now(repository.by_id, user)
    assert row is not None and row.status is Status.DELETED


def test_the_transaction_that_would_take_the_last_administrator_is_undone(database: Database) -> None:
    admin = add(database, "grace", role=Role.ADMIN)

    def disable(connection) -> None:
        repository.change(connection, admin, {"status": Status.INACTIVE})
        service.leave_an_admin(connection)

    with pytest.raises(Conflict, match="no administrator"):
        asyncio.run(database.write(disable))
    row = database.read_now(repository.by_id, admin)
    assert row is not None and row.status is Status.ACTIVE


def test_an_older_databases_generations_are_raised_above_the_agents(database: Database) -> None:
    user = add(database, "ada")
    before = database.read_now(repository.by_id, user)
    assert before is not None
    asyncio.run(database.write(repository.overtake, [("ada", before.generation + 5), ("nobody", 3)]))
    row = database.read_now(repository.by_id, user)
    assert row is not None and row.generation == before.generation + 6
    assert row.generation != row.host_generation


def test_a_change_that_overtook_the_list_on_its_way_is_no_older_database(database: Database) -> None:
    user = add(database, "ada")
    asyncio.run(database.write(repository.change, user, {"full_name": "Ada"}))
    before = database.read_now(repository.by_id, user)
    assert before is not None
    asyncio.run(database.write(repository.overtake, [("ada", before.generation)]))
    assert database.read_now(repository.by_id, user) == before


def test_throttled_tries_are_recorded_once_a_minute_for_each_network() -> None:
    now = [100.0]
    throttle = Throttle(lambda: now[0])
    assert [throttle.is_news("192.0.2.1") for _ in range(3)] == [True, False, False]
    assert throttle.is_news("192.0.2.2")
    assert throttle.is_news("2001:db8::1") and not throttle.is_news("2001:db8::2")
    now[0] += 61
    assert throttle.is_news("192.0.2.1")
