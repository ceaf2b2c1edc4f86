"""Creates that are sent with an idempotency key: answered once and the same, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from diycloud.agent import protocol as wire
from diycloud.core.routes import PREFIX
from diycloud.db.engine import Database
from diycloud.errors import HostError
from tests.app.restful import World

USERS = f"{PREFIX}/users"
KEY = "0123456789abcdef0123456789abcdef"
OLD_TAG = '"0000000000000000-0000000000000000"'


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    yield World(database)


def made(world: World, name: str = "ada", **fields: Any) -> str:
    """Create a user as root; returns its address."""
    answer = world.ask("POST", USERS, json={"username": name, **fields})
    assert answer.status_code == 201, answer.text
    return f"{USERS}/{name}"


def tag(world: World, path: str) -> str:
    return str(world.ask("GET", path).headers["etag"])


def create(world: World, name: str = "ada", key: str = KEY, **more: Any) -> Any:
    return world.ask("POST", USERS, json={"username": name}, headers={"Idempotency-Key": key}, **more)


def test_the_same_request_is_answered_the_same(world: World) -> None:
    first, again = create(world), create(world)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json() and again.json()["password"]
    assert again.headers["location"] == first.headers["location"]
    assert "idempotency-replayed" not in first.headers and again.headers["idempotency-replayed"] == "true"
    assert world.sql("SELECT count(*) FROM audit WHERE action = 'user.create'") == [(1,)]


def test_after_a_restart_it_is_answered_without_the_password(world: World) -> None:
    first = create(world)
    password = first.json()["password"]
    world.restart()
    again = create(world)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert again.json()["password"] is None and "first answer" in again.json()["warnings"][0]
    assert again.json()["user"] == first.json()["user"] and again.headers["location"] == first.headers["location"]
    assert password.encode() not in b"".join(map(repr_of, world.sql("SELECT * FROM idempotency_keys")))


def repr_of(row: tuple[Any, ...]) -> bytes:
    return b"|".join(v if isinstance(v, bytes) else str(v).encode() for v in row)


def test_neither_a_key_nor_a_given_password_is_in_the_table(world: World) -> None:
    body = {"username": "ada", "password": "hunter2 hunter2"}
    assert world.ask("POST", USERS, json=body, headers={"Idempotency-Key": KEY}).status_code == 201
    kept = b"".join(map(repr_of, world.sql("SELECT * FROM idempotency_keys")))
    assert b"hunter2" not in kept and KEY.encode() not in kept


def test_a_key_is_for_one_request(world: World) -> None:
    create(world)
    for other in (
        create(world, "bob"),
        world.ask("POST", f"{PREFIX}/domains", json={"name": "bob"}, headers={"Idempotency-Key": KEY}),
    ):
        assert (other.status_code, other.json()["errors"][0]["field"]) == (422, "Idempotency-Key")
    world.restart()
    assert create(world, "bob").status_code == 422
    assert create(world, "bob", KEY[::-1]).status_code == 201


def test_a_key_belongs_to_one_actor(world: World) -> None:
    token = world.first_admin()
    assert create(world).status_code == 201
    assert create(world, token=token).status_code == 409, "the name is taken; root's answer is root's"


@pytest.mark.parametrize("key", ["", "short", "x" * 300, "0123456789 abcdef0123"])
def test_what_is_no_key(world: World, key: str) -> None:
    assert create(world, key=key).status_code == 422
    assert world.sql("SELECT count(*) FROM users") == [(0,)]


def test_a_second_request_meanwhile_is_told_to_wait(world: World) -> None:
    seen: list[Any] = []

    async def meanwhile() -> None:
        for name in ("ada", "bob"):
            headers = {"Idempotency-Key": KEY}
            seen.append(await world.send("POST", USERS, json={"username": name}, headers=headers))

    world.host.meanwhile[wire.EnsureAccounts] = meanwhile
    assert create(world).status_code == 201
    assert [found.status_code for found in seen] == [409, 422]
    assert seen[0].headers["retry-after"] == "1"


def test_what_made_nothing_leaves_no_key(world: World) -> None:
    assert (
        world.ask("POST", USERS, json={"username": "ada", "cpu": -1}, headers={"Idempotency-Key": KEY}).status_code
        == 422
    )
    world.host.refuses["ada"] = HostError("useradd: full")
    assert create(world).status_code == 500
    assert world.sql("SELECT count(*) FROM idempotency_keys") == [(0,)]
    del world.host.refuses["ada"]
    assert create(world).status_code == 201


def cut_off(world: World, path: str, body: dict[str, Any]) -> None:
    """Send a create that is cut off after its wish is written, while the host works on it; then stop and start."""

    async def run() -> None:
        there = asyncio.Event()

        async def hang() -> None:
            there.set()
            await asyncio.sleep(3600)

        world.host.meanwhile[wire.EnsureGroups if path.endswith("groups") else wire.EnsureAccounts] = hang
        task = asyncio.create_task(world.send("POST", path, json=body, headers={"Idempotency-Key": KEY}))
        await there.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    world.restart()


def test_what_a_crash_cut_off_is_done_once(world: World) -> None:
    cut_off(world, USERS, {"username": "ada"})
    again = create(world)
    assert (again.status_code, again.headers["location"]) == (202, f"{USERS}/ada")
    assert again.json()["user"]["username"] == "ada" and "lost" in again.json()["warnings"][0]
    third = create(world)
    assert (third.status_code, third.headers["idempotency-replayed"]) == (202, "true")
    assert world.sql("SELECT count(*) FROM users") == [(1,)]


def test_a_group_that_a_crash_cut_off_is_made_once(world: World) -> None:
    cut_off(world, f"{PREFIX}/groups", {"name": "lab"})
    again = world.ask("POST", f"{PREFIX}/groups", json={"name": "lab"}, headers={"Idempotency-Key": KEY})
    assert (again.status_code, again.json()["group"]["name"]) == (202, "lab")


def test_what_was_cut_off_and_taken_back_is_done_anew(world: World) -> None:
    cut_off(world, USERS, {"username": "ada"})
    world.sql("DELETE FROM users")
    again = create(world)
    assert again.status_code == 201 and again.json()["password"]


def test_an_import_that_was_cut_off_is_not_begun_again(world: World) -> None:
    path = f"{USERS}/import"
    cut_off(world, path, {"csv": "username\nada\n"})
    again = world.ask("POST", path, json={"csv": "username\nada\n"}, headers={"Idempotency-Key": KEY})
    assert again.status_code == 409 and "stopped" in again.json()["detail"]


def test_an_import_with_a_key_is_done_once(world: World) -> None:
    sent: dict[str, Any] = {
        "content": "username\nada\nbob\n",
        "headers": {"Content-Type": "text/csv", "Idempotency-Key": KEY},
    }
    first = world.ask("POST", f"{USERS}/import", **sent)
    assert first.json()["created"] == 2 and all(row["password"] for row in first.json()["rows"])
    assert world.ask("POST", f"{USERS}/import", **sent).json() == first.json()
    world.restart()
    again = world.ask("POST", f"{USERS}/import", **sent)
    assert again.status_code == 200 and not any(row["password"] for row in again.json()["rows"])
    assert again.json()["warnings"]


def test_keys_of_yesterday_are_forgotten(world: World) -> None:
    from diycloud.users import reconcile

    create(world)
    world.sql("UPDATE idempotency_keys SET created_at = created_at - 86401")
    world.restart()
    assert create(world).status_code == 409, "a name taken, no answer of yesterday's"
    asyncio.run(reconcile.housekeeping(world.services))
    assert world.sql("SELECT count(*) FROM idempotency_keys") == [(0,)]
