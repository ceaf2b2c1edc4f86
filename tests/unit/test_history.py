"""What stays of a user who was purged, and that nobody signs in meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import Connection

from diycloud.actions.actor import Actor
from diycloud.actions.parsing import Source
from diycloud.actions.roles import Role
from diycloud.actions.services import Services
from diycloud.agent import protocol as wire
from diycloud.auth.passwords import OLD, Hasher, hash_password
from diycloud.auth.signin import SignIn, stranger
from diycloud.auth.throttle import Throttle
from diycloud.config import Settings
from diycloud.db.engine import Database
from diycloud.errors import Unauthenticated, Unavailable
from diycloud.users import life, repository
from diycloud.users.actions import BulkUsers, ModifyUser, PreviewPurge, PurgeUser
from diycloud.users.models import Status
from tests.unit.test_bulk import Host, dispatcher, fill, statuses

ROOT = Actor("root", Role.ADMIN, "cli", address="192.0.2.1")
ADA = Actor("ada", Role.ADMIN, "portal", user_id=1, address="192.0.2.9", domain="default")
PASSWORD = "correct horse battery"


class Away(Host):
    """An agent that is gone when a purge asks for it. first: what it answers before that."""

    async def call(self, message: Any, answer: Any, *, deadline: float = 60.0) -> Any:
        if isinstance(message, wire.PurgeAccount):
            raise Unavailable("The agent does not answer.")
        if isinstance(message, wire.PurgePreview):
            return wire.Remains(message.name, 20_000, "/home/ada", 4096, 3, 0)
        return await super().call(message, answer, deadline=deadline)


def prepare(database: Database) -> None:
    """Ada has changed bob, was changed by root, acted for bob, and is deleted now."""
    fill(database, "ada", role="admin")
    fill(database, "bob", "boss", role="admin")

    async def deeds() -> None:
        runs = dispatcher(database, Host())
        await runs.run(ADA, ModifyUser(username="bob", full_name="Bob"))
        await runs.run(ROOT, ModifyUser(username="ada", full_name="Ada Lovelace", email="ada@b.org"))
        await runs.run(ROOT, BulkUsers(changes=({"action": "create", "username": "adam"},)))

    def rest(connection: Connection) -> None:
        connection.exec_driver_sql("UPDATE users SET status = 'deleted' WHERE username = 'ada'")
        connection.exec_driver_sql(
            "INSERT INTO audit (actor, on_behalf_of, action, target, outcome, changes) VALUES "
            "('root', 'ada', 'user.show', 'bob', 'done', '{}'), "
            """('root', '', 'group.add-members', 'red', 'done', '{"members":["ada","adam"]}')"""
        )

    asyncio.run(deeds())
    asyncio.run(database.write(rest))


def history(database: Database) -> list[tuple[Any, ...]]:
    query = "SELECT actor, on_behalf_of, action, target, address, changes FROM audit ORDER BY id"
    return [tuple(row) for row in database.read_now(lambda c: c.exec_driver_sql(query).all())]


def purge(database: Database, host: Host, **asked: Any) -> Any:
    return asyncio.run(dispatcher(database, host).submit(ROOT, PurgeUser, {"username": "ada", **asked}, Source.JSON))


def test_the_audit_keeps_the_name_unless_it_is_not_to(database: Database) -> None:
    prepare(database)
    before = history(database)
    purge(database, Host())
    assert history(database)[: len(before)] == before
    assert "ada" not in statuses(database)


def test_an_anonymous_history_tells_what_one_person_did_and_not_who(database: Database) -> None:
    prepare(database)
    purge(database, Host(), history="anonymous")
    rows = history(database)
    assert [row[:4] for row in rows] == [
        ("purged-1", "", "user.modify", "bob"),
        ("root", "", "user.modify", "purged-1"),
        ("root", "", "user.bulk", ""),
        ("root", "", "user.create", "adam"),
        ("root", "purged-1", "user.show", "bob"),
        ("root", "", "group.add-members", "red"),
        ("root", "", "user.purge", "purged-1"),
    ]
    assert rows[0][4] == "" and rows[2][4] == "192.0.2.1", "whence others came stays"
    assert rows[5][5] == '{"members":["purged-1","adam"]}'
    text = str(rows)
    assert "'ada'" not in text and '"ada"' not in text and "Lovelace" not in text and "ada@b.org" not in text


def test_what_was_asked_holds_for_the_purge_that_reconcile_ends(database: Database) -> None:
    prepare(database)
    away = Away()
    with pytest.raises(Unavailable):
        purge(database, away, history="anonymous")
    assert statuses(database)["ada"] == "purging"
    assert any(row[3] == "ada" for row in history(database)), "nothing is forgotten before it is done"
    services = dispatcher(database, Host()).services
    row = database.read_now(repository.with_status, Status.PURGING)[0]
    asyncio.run(life.finish_purge(services, row))
    assert "ada" not in statuses(database)
    assert not any("ada" in row[:4] for row in history(database))
    assert database.read_now(lambda c: c.exec_driver_sql("SELECT count(*) FROM purges").scalar_one()) == 0


def test_the_preview_tells_what_stays(database: Database) -> None:
    prepare(database)

    def team(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO groups (name) VALUES ('red'), ('blue')")
        connection.exec_driver_sql("INSERT INTO group_members (group_id, user_id) VALUES (1, 1), (2, 1)")

    asyncio.run(database.write(team))
    plan = asyncio.run(dispatcher(database, Away()).run(ROOT, PreviewPurge(username="ada")))
    assert (plan.groups, plan.history, plan.home_files) == (("blue", "red"), 3, 3)


def sign_in(database: Database, password: str) -> Any:
    async def scenario() -> Any:
        hasher, agent = Hasher(), Host()
        services = Services(
            database=database, agent=agent, hasher=hasher, throttle=Throttle(), settings=Settings()  # type: ignore[arg-type]
        )  # fmt: skip
        try:
            return await SignIn(services)(
                "ada", password, actor=stranger("rest", "192.0.2.7", "r"), kind="api", user_agent=""
            )
        finally:
            hasher.close()

    return asyncio.run(scenario())


@pytest.mark.parametrize("status", ["deleted", "purging", "purge-error", "inactive"])
def test_nobody_signs_in_while_being_purged(database: Database, status: str) -> None:
    fill(database, "ada", password_hash=hash_password(PASSWORD), shadow_set=1)
    assert sign_in(database, PASSWORD).username == "ada"
    asyncio.run(database.write(lambda c: c.exec_driver_sql(f"UPDATE users SET status = '{status}'").rowcount))
    with pytest.raises(Unauthenticated):
        sign_in(database, PASSWORD)


def test_the_first_sign_in_replaces_an_old_sum(database: Database) -> None:
    old = OLD + "9028ea0d15decaa35b2da21c0290af3b1a5ba0a30a591906f89b5074e209ea72"  # of PASSWORD
    fill(database, "ada", password_hash=old, shadow_set=1)
    with pytest.raises(Unauthenticated):
        sign_in(database, "wrong")
    assert database.read_now(repository.by_name, "ada").password_hash == old
    sign_in(database, PASSWORD)
    assert database.read_now(repository.by_name, "ada").password_hash.startswith("$argon2id$")
    assert sign_in(database, PASSWORD).username == "ada"
