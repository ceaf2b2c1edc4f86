"""REST as the standards write it: entity tags, conditions, keys, limits, methods, media types, links, problems."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from diycloud.agent import protocol as wire
from diycloud.core.routes import PREFIX, ROUTES
from diycloud.db.engine import Database
from diycloud.errors import HostError
from diycloud.web import problems
from tests.unit.restful import World

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


def sql(world: World, statement: str, *values: object) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(world.database.path)  # type: ignore[attr-defined]
    try:
        found = connection.execute(statement, values).fetchall()
        connection.commit()
        return found
    finally:
        connection.close()


def tag(world: World, path: str) -> str:
    return str(world.ask("GET", path).headers["etag"])


# -- entity tags

THINGS = [
    ("/users", {"username": "ada"}, "/users/ada", {"description": "x"}),
    ("/groups", {"name": "lab", "members": []}, "/groups/lab", {"description": "x"}),
    ("/domains", {"name": "physics"}, "/domains/physics", {"description": "x"}),
    ("/policies", {"name": "small"}, "/policies/small", {"cpu": 0.5}),
]


@pytest.mark.parametrize(("collection", "create", "path", "change"), THINGS)
def test_every_answer_about_a_thing_has_its_tag(
    world: World, collection: str, create: dict, path: str, change: dict
) -> None:
    first = world.ask("POST", PREFIX + collection, json=create)
    assert first.status_code == 201 and first.headers["location"] == PREFIX + path
    shown = world.ask("GET", PREFIX + path)
    assert re.fullmatch(r'"[0-9a-f]{16}-[0-9a-f]{16}"', shown.headers["etag"])
    assert first.headers["etag"] == shown.headers["etag"], "nothing has to be read again before a change"
    changed = world.ask("PATCH", PREFIX + path, json=change, headers={"If-Match": shown.headers["etag"]})
    assert changed.status_code == 200 and changed.headers["etag"] != shown.headers["etag"]
    assert changed.headers["etag"] == tag(world, PREFIX + path)
    stale = world.ask("PATCH", PREFIX + path, json=change, headers={"If-Match": shown.headers["etag"]})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition-failed")
    gone = world.ask("DELETE", PREFIX + path, headers={"If-Match": shown.headers["etag"]})
    assert gone.status_code == 412
    assert world.ask("DELETE", PREFIX + path, headers={"If-Match": tag(world, PREFIX + path)}).status_code in (200, 204)


def test_a_tag_that_is_named_needs_no_second_answer(world: World) -> None:
    path = made(world)
    current = tag(world, path)
    for field in (current, f"W/{current}", f'"x", {current}', "*"):
        same = world.ask("GET", path, headers={"If-None-Match": field})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", current)
        assert "content-type" not in same.headers
    assert world.ask("GET", path, headers={"If-None-Match": OLD_TAG}).status_code == 200
    assert world.ask("GET", path, headers={"If-Match": OLD_TAG}).status_code == 412
    world.ask("PATCH", path, json={"description": "x"})
    assert world.ask("GET", path, headers={"If-None-Match": current}).status_code == 200


@pytest.mark.parametrize("column", ["last_login = '2026-01-01 00:00:00'", "host_problem = 'full'"])
def test_what_changes_by_itself_is_shown_but_keeps_nobody_from_a_change(world: World, column: str) -> None:
    path = made(world)
    before = tag(world, path)
    sql(world, f"UPDATE users SET {column}")
    assert world.ask("GET", path, headers={"If-None-Match": before}).status_code == 200, "no stale answer"
    assert tag(world, path) != before
    assert world.ask("PATCH", path, json={"description": "x"}, headers={"If-Match": before}).status_code == 200


def test_users_who_come_into_a_domain_keep_nobody_from_changing_it(world: World) -> None:
    world.ask("POST", f"{PREFIX}/domains", json={"name": "physics"})
    before = tag(world, f"{PREFIX}/domains/physics")
    made(world, domain="physics")
    answer = world.ask("PATCH", f"{PREFIX}/domains/physics", json={"description": "x"}, headers={"If-Match": before})
    assert answer.status_code == 200


def test_members_of_a_group_are_part_of_it(world: World) -> None:
    made(world)
    path = f"{PREFIX}/groups/lab"
    world.ask("POST", f"{PREFIX}/groups", json={"name": "lab"})
    before = tag(world, path)
    joined = world.ask("POST", f"{path}/members", json={"members": ["ada"]}, headers={"If-Match": before})
    assert joined.status_code == 200 and joined.headers["etag"] == tag(world, path) != before
    again = world.ask("DELETE", f"{path}/members", headers={"If-Match": before, "Content-Type": "application/json"},
                      content=json.dumps({"members": ["ada"]}))  # fmt: skip
    assert again.status_code == 412


@pytest.mark.parametrize(
    ("field", "status"),
    [("*", 200), (OLD_TAG, 412), ("nonsense", 412), ("", 412), ("TAG", 200), (f"{OLD_TAG}, TAG", 200), ("W/TAG", 412)],
)
def test_if_match(world: World, field: str, status: int) -> None:
    path = made(world)
    field = field.replace("TAG", tag(world, path))
    for method, there, body in (
        ("PATCH", path, {"description": "x"}),
        ("PATCH", f"{path}/limits", {"cpu": 0.5}),
        ("POST", f"{path}/disable", {}),
    ):
        sent = field if field in ("*", "nonsense", "") or status == 412 else tag(world, there.removesuffix("/limits").removesuffix("/disable"))
        assert world.ask(method, there, json=body, headers={"If-Match": sent}).status_code == status


def test_conditions_are_asked_only_of_what_would_be_done(world: World) -> None:
    """RFC 9110, 13.2.1: refusals and what is not there come first."""
    path, stale = made(world), {"If-Match": OLD_TAG}
    assert world.ask("PATCH", path, json={"cpu": -1}, headers=stale).status_code == 422
    assert world.ask("PATCH", f"{USERS}/nobody", json={"description": "x"}, headers=stale).status_code == 404
    assert world.ask("PATCH", path, json={}, headers=stale, token="").status_code == 401
    assert world.ask("POST", USERS, json={"username": "carl"}, headers=stale).status_code == 412
    assert world.ask("POST", USERS, json={"username": "carl"}, headers={"If-Match": "*"}).status_code == 201


def test_if_none_match_keeps_a_change_from_what_is_known(world: World) -> None:
    path = made(world)
    for field, status in ((tag(world, path), 412), ("*", 412), (OLD_TAG, 200)):
        assert world.ask("PATCH", path, json={"description": "x"}, headers={"If-None-Match": field}).status_code == status


def test_two_administrators_cannot_both_change_what_they_both_read(world: World) -> None:
    """The second is held up in the very transaction: both had passed the first look."""
    path = made(world)
    before = tag(world, path)
    waiting = asyncio.Event()

    async def both() -> tuple[int, int]:
        async def meanwhile() -> None:
            waiting.set()
            await asyncio.sleep(0.1)

        world.host.meanwhile[wire.CheckLimits] = meanwhile  # the first has looked at the tag and asks the host
        slow = asyncio.create_task(
            world.send("PATCH", path, json={"memory": "1G"}, headers={"If-Match": before})
        )
        await waiting.wait()
        quick = await world.send("PATCH", path, json={"description": "x"}, headers={"If-Match": before})
        return (await slow).status_code, quick.status_code

    assert asyncio.run(both()) == (412, 200)
    shown = world.ask("GET", path).json()
    assert (shown["description"], shown["limits"]["memory"]) == ("x", "2G")
    outcomes = sql(world, "SELECT outcome, code FROM audit WHERE action = 'user.modify' ORDER BY id")
    assert sorted(outcomes) == [("done", ""), ("refused", "precondition-failed")]


# -- idempotency keys


def create(world: World, name: str = "ada", key: str = KEY, **more: Any) -> Any:
    return world.ask("POST", USERS, json={"username": name}, headers={"Idempotency-Key": key}, **more)


def test_the_same_request_is_answered_the_same(world: World) -> None:
    first, again = create(world), create(world)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json() and again.json()["password"]
    assert again.headers["location"] == first.headers["location"]
    assert "idempotency-replayed" not in first.headers and again.headers["idempotency-replayed"] == "true"
    assert sql(world, "SELECT count(*) FROM audit WHERE action = 'user.create'") == [(1,)]


def test_after_a_restart_it_is_answered_without_the_password(world: World) -> None:
    first = create(world)
    password = first.json()["password"]
    world.restart()
    again = create(world)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert again.json()["password"] is None and "first answer" in again.json()["warnings"][0]
    assert again.json()["user"] == first.json()["user"] and again.headers["location"] == first.headers["location"]
    assert password.encode() not in b"".join(map(repr_of, sql(world, "SELECT * FROM idempotency_keys")))


def repr_of(row: tuple[Any, ...]) -> bytes:
    return b"|".join(v if isinstance(v, bytes) else str(v).encode() for v in row)


def test_neither_a_key_nor_a_given_password_is_in_the_table(world: World) -> None:
    body = {"username": "ada", "password": "hunter2 hunter2"}
    assert world.ask("POST", USERS, json=body, headers={"Idempotency-Key": KEY}).status_code == 201
    kept = b"".join(map(repr_of, sql(world, "SELECT * FROM idempotency_keys")))
    assert b"hunter2" not in kept and KEY.encode() not in kept


def test_a_key_is_for_one_request(world: World) -> None:
    create(world)
    for other in (create(world, "bob"), world.ask("POST", f"{PREFIX}/domains", json={"name": "bob"}, headers={"Idempotency-Key": KEY})):
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
    assert sql(world, "SELECT count(*) FROM users") == [(0,)]


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
    assert world.ask("POST", USERS, json={"username": "ada", "cpu": -1}, headers={"Idempotency-Key": KEY}).status_code == 422
    world.host.refuses["ada"] = HostError("useradd: full")
    assert create(world).status_code == 500
    assert sql(world, "SELECT count(*) FROM idempotency_keys") == [(0,)]
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
    assert sql(world, "SELECT count(*) FROM users") == [(1,)]


def test_a_group_that_a_crash_cut_off_is_made_once(world: World) -> None:
    cut_off(world, f"{PREFIX}/groups", {"name": "lab"})
    again = world.ask("POST", f"{PREFIX}/groups", json={"name": "lab"}, headers={"Idempotency-Key": KEY})
    assert (again.status_code, again.json()["group"]["name"]) == (202, "lab")


def test_what_was_cut_off_and_taken_back_is_done_anew(world: World) -> None:
    cut_off(world, USERS, {"username": "ada"})
    sql(world, "DELETE FROM users")
    again = create(world)
    assert again.status_code == 201 and again.json()["password"]


def test_an_import_that_was_cut_off_is_not_begun_again(world: World) -> None:
    path = f"{USERS}/import"
    cut_off(world, path, {"csv": "username\nada\n"})
    again = world.ask("POST", path, json={"csv": "username\nada\n"}, headers={"Idempotency-Key": KEY})
    assert again.status_code == 409 and "stopped" in again.json()["detail"]


def test_an_import_with_a_key_is_done_once(world: World) -> None:
    sent: dict[str, Any] = {"content": "username\nada\nbob\n", "headers": {"Content-Type": "text/csv", "Idempotency-Key": KEY}}
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
    sql(world, "UPDATE idempotency_keys SET created_at = created_at - 86401")
    world.restart()
    assert create(world).status_code == 409, "a name taken, no answer of yesterday's"
    asyncio.run(reconcile.housekeeping(world.services))
    assert sql(world, "SELECT count(*) FROM idempotency_keys") == [(0,)]
