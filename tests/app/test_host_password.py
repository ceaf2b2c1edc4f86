"""A password that was changed on the host is the portal's, and what the host asks beside it: the whole application."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from diycloud.agent import protocol as wire
from diycloud.auth import demands, factors, host_password
from diycloud.db.engine import Database
from diycloud.users import reconcile, repository

from .restful import World

LOGIN = "/api/v1/auth/login"
OLD, NEW = "another good phrase", "changed by passwd now"
PRINT = "a" * 64


@pytest.fixture
def world(database: Database) -> World:
    made = World(database)
    made.first_admin()
    answer = made.ask("POST", "/api/v1/users", json={"username": "ada", "password": OLD, "must_change_password": True})
    assert answer.status_code == 201, answer.text
    return made


class Changed:
    """The host's password of ada is NEW: what the agent answers, and what it was told."""

    def __init__(self, world: World) -> None:
        self.foreign, self.compared, self.confirmed = True, list[str](), list[str]()
        host: Any = world.host
        host._IsPasswordForeign = lambda message: self.foreign and message.name == "ada"
        host._VerifyPassword = self._verify
        host._ConfirmPassword = self._confirm

    def _verify(self, message: wire.VerifyPassword) -> wire.Verified:
        self.compared.append(message.password)
        return wire.Verified(PRINT if message.password == NEW else "")

    def _confirm(self, message: wire.ConfirmPassword) -> None:
        self.confirmed.append(message.fingerprint)
        self.foreign = False


def login(world: World, password: str) -> int:
    return world.ask("POST", LOGIN, json={"username": "ada", "password": password}, token="").status_code


def works(world: World, token: str) -> bool:
    return world.ask("GET", "/api/v1/users/ada", token=token).status_code != 401


def row(world: World) -> Any:
    def read(connection: Any) -> Any:
        query = "SELECT password_hash, password_void, must_change_password FROM users WHERE username = 'ada'"
        return connection.execute(text(query)).one()

    return asyncio.run(world.database.read(read))


def test_the_hosts_password_takes_the_place_of_the_old_one(world: World) -> None:
    before = world.token("ada", OLD)
    host = Changed(world)
    assert login(world, OLD) == 401, "the hash that is kept does not count any more"
    assert works(world, before), "a wrong one ends nobody's session"
    after = world.token("ada", NEW)
    assert host.confirmed == [PRINT]
    assert not works(world, before) and works(world, after)
    assert tuple(row(world)) == (f"plain {NEW}", 0, 0), "and need not be changed any more"
    host.compared.clear()
    assert login(world, NEW) == 200 and host.compared == [], "from now on it is compared here"


def test_whoever_may_not_come_learns_nothing_and_changes_nothing(world: World) -> None:
    host = Changed(world)
    world.ask("PATCH", "/api/v1/users/ada", json={"allowed_client_ip": ["198.51.100.0/24"]})
    assert login(world, NEW) == 401 and host.confirmed == []
    assert row(world).password_hash == f"plain {OLD}"


def test_an_agent_that_is_away_leaves_the_word_of_its_last_report(world: World) -> None:
    world.host.away = True
    assert login(world, OLD) == 200, "nothing was heard of another one"
    world.host.away = False
    asyncio.run(world.database.write(host_password.void, world.services, ["ada"]))
    world.host.away = True
    assert login(world, OLD) == 401 and login(world, NEW) == 401


def test_a_report_ends_sessions_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world.token("ada", OLD)
    host = Changed(world)

    async def report(wishes: Any) -> wire.SyncReport:
        list(wishes)
        return wire.SyncReport(foreign=["ada", "nobody-here", "admin"])

    monkeypatch.setattr(world.host, "sync", report)
    asyncio.run(reconcile.reconcile(world.services))
    assert not works(world, before) and row(world).password_void == 1
    after = world.token("ada", NEW)
    assert row(world).password_void == 0
    host.foreign = False
    asyncio.run(world.database.write(host_password.void, world.services, ["ada"]))
    assert not works(world, after)
    assert asyncio.run(world.database.write(host_password.void, world.services, ["ada"])) == [], (
        "said again, nothing ends again"
    )


def test_a_new_password_on_its_way_to_the_host_is_the_later_one(world: World) -> None:
    host = Changed(world)
    asyncio.run(
        world.database.write(
            lambda connection: connection.execute(text("UPDATE users SET shadow_hash = '$6$x' WHERE username = 'ada'"))
        )
    )
    assert login(world, NEW) == 401 and host.compared == []
    assert asyncio.run(world.database.write(host_password.void, world.services, ["ada"])) == []


def test_one_that_an_administrator_sets_is_not_void(world: World) -> None:
    asyncio.run(world.database.write(host_password.void, world.services, ["ada"]))
    answer = world.ask("PUT", "/api/v1/users/ada/password", json={"password": "set by the office now"})
    assert answer.status_code == 200, answer.text
    assert row(world).password_void == 0 and login(world, "set by the office now") == 200


def test_changing_it_here_asks_for_the_hosts(world: World) -> None:
    token = world.token("ada", OLD)
    Changed(world)
    sent = {"current": OLD, "password": "quite another phrase"}
    assert world.ask("PUT", "/api/v1/account/password", json=sent, token=token).status_code == 422
    answer = world.ask("PUT", "/api/v1/account/password", json={**sent, "current": NEW}, token=token)
    assert answer.status_code == 200, answer.text


def asked(world: World) -> demands.Asked:
    (ada,) = asyncio.run(
        world.database.read(lambda c: c.execute(text("SELECT id FROM users WHERE username='ada'")).all())
    )
    found = asyncio.run(demands.asked(world.services, [ada[0]]))
    everybody = asyncio.run(demands.asked(world.services))
    assert everybody.get(ada[0]) == found.get(ada[0]), "alone or in the list, the same"
    return found.get(ada[0], demands.NOTHING)


def change(world: World, statement: str) -> None:
    asyncio.run(world.database.write(lambda connection: connection.execute(text(statement))))


def test_what_the_host_asks_beside_the_password(world: World) -> None:
    assert asked(world) == demands.NOTHING
    change(world, "UPDATE policies SET second_factor = 1 WHERE name = 'default'")
    assert asked(world) == demands.Asked(uncoded=True), "forced, and not there yet"
    change(world, "UPDATE policies SET second_factor = 0")
    change(
        world,
        "INSERT INTO passkeys (user_id, credential_id, public_key) SELECT id, 'x', 'y' FROM users WHERE username = 'ada'",
    )
    assert asked(world) == demands.Asked(uncoded=True), "a passkey is nothing that SSH could ask for"
    sealed = world.services.vault.seal(b"JBSWY3DPEHPK3PXP", purpose="totps.secret of user 2")
    insert = text(
        "INSERT INTO totps (user_id, secret, active, last_step) SELECT id, :s, 1, 7 FROM users WHERE username='ada'"
    )
    asyncio.run(world.database.write(lambda connection: connection.execute(insert, {"s": sealed})))
    assert asked(world) == demands.Asked("JBSWY3DPEHPK3PXP", 7)
    asyncio.run(reconcile.reconcile(world.services))
    assert (world.host.wishes["ada"].secret, world.host.wishes["ada"].last_step) == ("JBSWY3DPEHPK3PXP", 7)
    change(world, "UPDATE totps SET secret = 'garbage'")
    assert asked(world) == demands.Asked(uncoded=True), (
        "a secret that does not open lets nobody in on the password alone"
    )


def test_a_code_that_ssh_has_taken_is_not_taken_here(world: World) -> None:
    ada = asyncio.run(world.database.read(repository.by_name, "ada"))
    assert ada is not None
    host: Any = world.host
    host._SpendStep = lambda message: message.step != 5
    change(world, "INSERT INTO totps (user_id, secret, active) SELECT id, 'x', 1 FROM users WHERE username = 'ada'")
    assert asyncio.run(factors.spend(world.services, ada, 5)) is False
    assert asyncio.run(factors.spend(world.services, ada, 6)) is True
    world.host.away = True
    assert asyncio.run(factors.spend(world.services, ada, 7)) is True
    assert asyncio.run(factors.spend(world.services, ada, 7)) is False


def test_networks_that_nobody_can_read_are_nowhere(world: World) -> None:
    change(world, "UPDATE users SET allowed_client_ip = 'the office' WHERE username = 'ada'")
    asyncio.run(reconcile.reconcile(world.services))
    assert world.host.wishes["ada"].networks == [wire.NOWHERE]
