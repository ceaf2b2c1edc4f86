"""One person of a provider's who comes for the first time several times at once: one user, one link, nobody turned away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import Connection

from diycloud.auth.outside import identities
from diycloud.auth.outside.person import Person
from diycloud.auth.signin import stranger
from diycloud.config_sign_in import ProviderSettings, SignInSettings
from diycloud.db.engine import Database
from diycloud.errors import Unauthenticated
from diycloud.users.models import Row
from tests.app.restful import FAR, PASSWORD, World

ADA = Person("uni", "s-1", username="ada", email="ada@example.org", email_verified=True)
VISITOR = stranger("portal", FAR, "r1")


def world_with(database: Database, **rules: Any) -> World:
    provider = ProviderSettings(
        name="uni", issuer="https://idp.example.org", client_id="c", client_secret_file="/nowhere", **rules
    )
    world = World(database, sign_in=SignInSettings(providers=(provider,)), host_name="cloud.test")
    world.first_admin()
    return world


def arrive(world: World, person: Person, times: int) -> list[Row]:
    outside = world.services.outside
    assert outside is not None

    async def all_of_them() -> list[Row]:
        try:
            return list(await asyncio.gather(*(outside.arrive(person, VISITOR) for _ in range(times))))
        finally:
            await outside.close()

    return asyncio.run(all_of_them())


def links(world: World, user_id: int) -> list[str]:
    found = world.database.read_now(identities.of_user, user_id)
    return [f"{one.provider}:{one.subject}" for one in found]


def names(world: World) -> set[str]:
    return {user["username"] for user in world.ask("GET", "/api/v1/users").json()["users"]}


@pytest.mark.parametrize("rule", ["username", "email"])
def test_a_user_who_is_there_is_linked_once(database: Database, rule: str) -> None:
    """Without `create`: the second would be told that they have no account."""
    world = world_with(database, link=rule)
    world.ask("POST", "/api/v1/users", json={"username": "ada", "password": PASSWORD, "email": ADA.email})
    found = arrive(world, ADA, 5)
    assert {row.username for row in found} == {"ada"} and links(world, found[0].id) == ["uni:s-1"]
    linked = world.ask("GET", "/api/v1/audit?action=identity.link").json()["entries"]
    assert len(linked) == 1


def test_a_user_is_made_once(database: Database) -> None:
    world = world_with(database, create=True)
    found = arrive(world, ADA, 5)
    assert len({row.id for row in found}) == 1 and names(world) == {"admin", "ada"}
    assert links(world, found[0].id) == ["uni:s-1"]


def test_two_people_of_one_name_there_are_not_one_here(database: Database) -> None:
    """Both come at once; the name is whose transaction is first, and the other is told to ask."""
    world = world_with(database, link="username")
    world.ask("POST", "/api/v1/users", json={"username": "ada", "password": PASSWORD})
    outside = world.services.outside
    assert outside is not None

    async def both() -> list[Row | BaseException]:
        people = (ADA, ADA._replace(subject="s-2"))
        try:
            return await asyncio.gather(*(outside.arrive(one, VISITOR) for one in people), return_exceptions=True)
        finally:
            await outside.close()

    found = asyncio.run(both())
    assert [type(one) for one in found].count(Unauthenticated) == 1, found
    assert links(world, next(one.id for one in found if isinstance(one, Row))) in (["uni:s-1"], ["uni:s-2"])


def test_a_link_that_changes_after_it_was_looked_up_is_no_error_of_ours(database: Database, monkeypatch: Any) -> None:
    """Between the look and the sign-in an administrator says that the user is somebody else there."""
    world = world_with(database)
    world.ask("POST", "/api/v1/users", json={"username": "ada", "password": PASSWORD})
    world.ask("POST", "/api/v1/users/ada/identities", json={"provider": "uni", "subject": "s-9"})
    known, looked = identities.user_of, list[int]()

    def stale(connection: Connection, provider: str, subject: str) -> int | None:
        if looked:
            return known(connection, provider, subject)
        looked.append(1)
        return known(connection, provider, "s-9")

    monkeypatch.setattr(identities, "user_of", stale)
    with pytest.raises(Unauthenticated):
        arrive(world, ADA, 1)
    assert looked
