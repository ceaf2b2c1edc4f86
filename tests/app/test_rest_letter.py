"""REST as the standards write it: entity tags, conditions, limits, methods, media types, links, problems."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from diycloud.agent import protocol as wire
from diycloud.core.routes import PREFIX, ROUTES
from diycloud.db.engine import Database
from diycloud.web import problems
from diycloud.web.ratelimit import RateLimit, network
from tests.app.restful import ADMIN, PASSWORD, World
from tests.app.test_idempotency import KEY, OLD_TAG, create, made, tag

USERS = f"{PREFIX}/users"


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    yield World(database)


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
    world.sql(f"UPDATE users SET {column}")
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
        sent = (
            field
            if field in ("*", "nonsense", "") or status == 412
            else tag(world, there.removesuffix("/limits").removesuffix("/disable"))
        )
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
        assert (
            world.ask("PATCH", path, json={"description": "x"}, headers={"If-None-Match": field}).status_code == status
        )


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
        slow = asyncio.create_task(world.send("PATCH", path, json={"memory": "1G"}, headers={"If-Match": before}))
        await waiting.wait()
        quick = await world.send("PATCH", path, json={"description": "x"}, headers={"If-Match": before})
        return (await slow).status_code, quick.status_code

    assert asyncio.run(both()) == (412, 200)
    shown = world.ask("GET", path).json()
    assert (shown["description"], shown["limits"]["memory"]) == ("x", "2G")
    outcomes = world.sql("SELECT outcome, code FROM audit WHERE action = 'user.modify' ORDER BY id")
    assert sorted(outcomes) == [("done", ""), ("refused", "precondition-failed")]


# -- rate limits


def test_a_session_has_its_limit_and_an_address_without_one_another(database: Database) -> None:
    world = World(database, requests_per_minute=3, strangers_per_minute=2)
    token, other = world.first_admin(), world.token("admin", "correct horse battery")
    quotas = [world.ask("GET", USERS, token=token) for _ in range(4)]
    assert [found.status_code for found in quotas] == [200, 200, 200, 429]
    assert [found.headers["ratelimit-remaining"] for found in quotas] == ["2", "1", "0", "0"]
    assert {found.headers["ratelimit-limit"] for found in quotas} == {"3"}
    assert all(0 < int(found.headers["ratelimit-reset"]) <= 60 for found in quotas)
    refused = quotas[-1]
    assert refused.json()["code"] == "too-many-requests" and 0 < int(refused.headers["retry-after"]) <= 20
    assert world.ask("GET", USERS, token=other).status_code == 200, "another session has its own"
    healthy = [world.ask("GET", f"{PREFIX}/health", token="").status_code for _ in range(3)]
    assert healthy == [200, 200, 429], "what signs in is counted by itself"
    for stranger in ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"):
        assert world.ask("GET", f"{PREFIX}/nothing", token="", address=stranger).status_code == 404
    assert world.ask("GET", USERS, token="", address="2001:db8:0:1::3").status_code == 429, "a /64 is one visitor"
    assert world.ask("GET", USERS, token="wrong" * 9, address="2001:db8:0:2::1").status_code == 401
    root = [world.ask("GET", USERS) for _ in range(9)]
    assert {found.status_code for found in root} == {200} and "ratelimit-limit" not in root[0].headers


def test_a_class_signs_in_from_one_address_and_a_flood_is_bounded(database: Database) -> None:
    """Two hundred people in a minute, with a password and a code each, some of whom mistype (templates/nginx has the same)."""
    world = World(database, strangers_per_minute=60)
    world.first_admin()
    sent, begun = {"username": ADMIN, "password": PASSWORD}, time.monotonic()
    same = {"sec-fetch-site": "same-origin", "origin": "https://cloud.test"}
    for number in range(200):
        typed = {"username": f"pupil{number}", "password": "wrong"} if number % 4 == 0 else sent
        first = world.ask("POST", "/sign-in", token="", data=typed, headers=same)
        second = world.ask("POST", f"{PREFIX}/auth/login", token="", json=sent)
        assert (first.status_code, second.status_code) == (401 if number % 4 == 0 else 303, 200), (number, first.text)
    passed = 400
    while world.ask("POST", f"{PREFIX}/auth/login", token="", json={}).status_code == 422:
        passed += 1
    assert 600 <= passed <= 600 + 10 * (time.monotonic() - begun) + 1
    assert world.ask("GET", "/sign-in", token="").status_code == 200


def test_the_portal_s_session_has_its_limit_too(database: Database) -> None:
    world = World(database, requests_per_minute=2)
    token = world.first_admin()
    cookie = {"Cookie": f"__Host-diycloud={token}"}
    found = [world.ask("GET", "/account", token="", headers=cookie).status_code for _ in range(3)]
    assert found == [200, 200, 429]
    assert world.ask("GET", "/account", token="").status_code == 303


def test_the_bucket_fills_again_and_forgets_the_longest_unused() -> None:
    now = [100.0]
    limit = RateLimit(60, clock=lambda: now[0], most=2)

    def take(key: str) -> tuple[int, int, int]:
        found = limit.take(key)
        assert found is not None
        return found.remaining, found.reset, found.wait

    assert [take("a")[0] for _ in range(60)] == list(range(59, -1, -1))
    assert take("a") == (0, 60, 1)
    now[0] += 2.5
    assert [take("a")[0], take("a")[0], take("a")[2]] == [1, 0, 1]
    take("b")
    take("c")
    assert take("a")[0] == 59, "a was the longest unused of more than two"
    assert RateLimit(0).take("a") is None


@pytest.mark.parametrize(
    ("address", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "nonsense:", False),
        ("", "", True),
    ],
)
def test_what_counts_as_one_visitor(address: str, other: str, same: bool) -> None:
    assert (network(address) == network(other)) is same


# -- methods, media types, sizes


def test_head_is_get_without_the_body(world: World) -> None:
    made(world)
    for path in (f"{USERS}/ada", USERS, f"{PREFIX}/health", f"{PREFIX}/audit/export", f"{PREFIX}/problems/conflict"):
        head, whole = world.ask("HEAD", path), world.ask("GET", path)
        assert (head.status_code, head.content) == (200, b"")
        for field in ("content-type", "etag"):
            assert head.headers.get(field) == whole.headers.get(field), path
    assert world.ask("HEAD", f"{USERS}/ada").headers["content-length"] == str(
        len(world.ask("GET", f"{USERS}/ada").content)
    )
    assert world.ask("HEAD", f"{USERS}/nobody").status_code == 404


def test_every_path_says_which_methods_it_has(world: World) -> None:
    by_path: dict[str, set[str]] = {}
    for route in ROUTES:
        by_path.setdefault(route.path, set()).add(route.method)
    for path, methods in by_path.items():
        there = PREFIX + re.sub(r"{\w+}", "ada", path)
        allowed = world.ask("OPTIONS", there)
        assert allowed.status_code == 204
        known = set(allowed.headers["allow"].split(", "))
        assert methods <= known and "OPTIONS" in known and ("HEAD" in known) == ("GET" in known)
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"} - known:
            refused = world.ask(method, there)
            assert (refused.status_code, refused.json()["code"]) == (405, "method-not-allowed"), (method, there)
            assert set(refused.headers["allow"].split(", ")) == known


@pytest.mark.parametrize("path", ["/api/", "/api/v1", "/api/v1/", "/api/v1/users/", "/api/v1/users//", "/api/v2/users",
                                  "/api/v1/users/ada/purge/x", "/api/v1/nothing", "/api/groups"])  # fmt: skip
def test_what_is_not_there_is_a_problem(world: World, path: str) -> None:
    for method in ("GET", "POST", "HEAD"):
        found = world.ask(method, path)
        assert (found.status_code, found.headers["content-type"]) == (404, "application/problem+json")
    assert world.ask("GET", path).json()["code"] == "not-found"


def test_a_method_is_overridden_by_nothing(world: World) -> None:
    path = made(world)
    for name in ("X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method"):
        assert world.ask("POST", path, headers={name: "DELETE"}).status_code == 405
    assert world.ask("GET", f"{path}?_method=DELETE").status_code == 422


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json", 200), ("*/*", 200), ("application/*", 200), ("text/html, */*;q=0.1", 200), ("", 200),
        ("text/html", 406), ("application/json;q=0", 406), ("application/json; q=0.000, */*", 406), (";;,q=", 200),
        ("application/json;q=0.5", 200), ("*/*;q=0", 406), ("\xff/\xfe", 406), ("APPLICATION/JSON", 200),
    ],
)  # fmt: skip
def test_what_the_client_takes(world: World, accept: str, status: int) -> None:
    headers: Any = {b"Accept": accept.encode("latin-1")}
    found = world.ask("GET", USERS, headers=headers)
    assert found.status_code == status
    assert world.ask("POST", USERS, json={"username": "ada"}, headers=headers).status_code == (
        201 if status == 200 else 406
    )
    assert world.sql("SELECT count(*) FROM users") == [(int(status == 200),)], "refused before anything is done"


def test_kinds_and_sizes_of_bodies(world: World) -> None:
    text = json.dumps({"username": "ada"})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "text/csv", "x"):
        found = world.ask("POST", USERS, content=text, headers={"Content-Type": kind})
        assert (found.status_code, found.json()["code"]) == (415, "unsupported-media-type")
        assert found.headers["accept"] == "application/json"
    found = world.ask("POST", f"{USERS}/import", content=text, headers={"Content-Type": "text/plain"})
    assert (found.status_code, found.headers["accept"]) == (415, "application/json, text/csv")
    large = world.ask("POST", USERS, content=b"x" * ((1 << 20) + 1), headers={"Content-Type": "application/json"})
    assert (large.status_code, large.json()["code"]) == (413, "too-large")

    async def pieces() -> Any:
        for _ in range(40):
            yield b"x" * (1 << 15)

    async def stream() -> int:
        found = await world.send("POST", USERS, content=pieces(), headers={"Content-Type": "application/json"})
        return found.status_code

    assert asyncio.run(stream()) == 413, "no length was said"


def test_a_change_takes_no_query(world: World) -> None:
    path = made(world)
    assert world.ask("POST", f"{path}/disable?keep_running=true").status_code == 422
    assert world.ask("GET", path).json()["status"] == "active"


# -- links, problems


@pytest.mark.parametrize("path", ["/users?limit=2", "/groups?limit=2", "/audit?limit=2"])
def test_pages_are_linked(world: World, path: str) -> None:
    for number in range(5):
        world.ask("POST", f"{PREFIX}/groups", json={"name": f"g{number}"})
        made(world, f"u{number}")
    there, seen, name = PREFIX + path, [], path[1:].partition("?")[0].replace("audit", "entries")
    while there:
        page = world.ask("GET", there)
        rows = page.json()[name]
        seen += [json.dumps(row) for row in rows]
        assert len(rows) <= 2 or not rows
        found = re.search(r'<([^>]+)>; rel="next"', page.headers.get("link", ""))
        there = found[1] if found else ""
    assert len(seen) == len(set(seen)) == (10 if "audit" in path else 5)


def test_every_problem_has_a_type_that_says_what_it_means(world: World) -> None:
    assert set(problems.MEANING) == set(problems.STATUS) and set(problems.STATUS.values()) <= set(problems.TITLE)
    for code, status in problems.STATUS.items():
        page = world.ask("GET", problems.TYPES + code, token="")
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        assert code in page.text and str(status) in page.text
    assert world.ask("GET", f"{problems.TYPES}nothing").status_code == 404
    refused = world.ask("GET", f"{USERS}/nobody").json()
    assert (refused["type"], refused["status"]) == (f"{problems.TYPES}not-found", 404)


# -- on behalf of


def test_what_is_done_on_behalf_is_done_with_that_user_s_rights(world: World) -> None:
    token = world.first_admin()
    made(world)
    made(world, "bob")
    headers = {"X-On-Behalf-Of": "ada"}
    assert world.ask("GET", f"{USERS}/ada", token=token, headers=headers).status_code == 200
    assert world.ask("GET", f"{USERS}/bob", token=token, headers=headers).status_code == 403
    assert world.ask("POST", f"{USERS}/bob/disable", token=token, headers=headers).status_code == 403
    row = world.sql("SELECT actor, on_behalf_of, outcome FROM audit ORDER BY id DESC LIMIT 1")
    assert row == [("admin", "ada", "refused")]
    for name in ("", "Ada", "ada ", "nobody, ada", "a" * 33):
        assert world.ask("GET", f"{USERS}/ada", token=token, headers={"X-On-Behalf-Of": name}).status_code == 422
    assert world.ask("GET", f"{USERS}/ada", token=token, headers={"X-On-Behalf-Of": "nobody"}).status_code == 403


def test_keys_and_limits_are_those_of_whoever_really_asks(database: Database) -> None:
    world = World(database, requests_per_minute=2)
    token = world.first_admin()
    made(world, role="domain-admin")
    headers = {"X-On-Behalf-Of": "ada", "Idempotency-Key": KEY}
    assert create(world, "bob", token=token).status_code == 201
    again = world.ask("POST", USERS, json={"username": "bob"}, token=token, headers=headers)
    assert again.status_code == 422, "the same key for something else: done by another"
    assert world.ask("GET", USERS, token=token, headers=headers).status_code == 429


# -- old clients


def test_an_old_client_creates_reads_changes_and_deletes(world: World) -> None:
    sent = {"username": "ada", "password": "hunter2 hunter2", "email": "ada@example.org", "role": "user",
            "cpu_limit": 0.5, "mem_limit": "512M", "disk_quota": "2G", "gpu_access": 0, "is_active": 1}  # fmt: skip
    first = world.ask("POST", "/api/users", json=sent)
    assert (first.status_code, first.headers["location"]) == (201, "/api/users/ada")
    old = {"cpu_limit": 0.5, "mem_limit": "512M", "disk_quota": "2G", "gpu_access": False, "is_active": True}
    assert {name: first.json()[name] for name in old} == old and first.json()["username"] == "ada"
    shown = world.ask("GET", "/api/users/ada")
    whole = shown.json()
    assert {name: whole[name] for name in old} == old
    world.sql("UPDATE users SET last_login = '2026-01-01 00:00:00'")
    changed = world.ask("PUT", "/api/users/ada", json={**whole, "cpu_limit": 2, "email": "a@example.org"})
    assert changed.status_code == 200, changed.text
    assert (changed.json()["cpu_limit"], changed.json()["email"], changed.json()["mem_limit"]) == (
        2,
        "a@example.org",
        "512M",
    )
    off = world.ask(
        "PUT",
        "/api/users/ada",
        json={"is_active": False, "cpu_limit": 1},
        headers={"If-Match": changed.headers["etag"]},
    )
    assert (off.status_code, off.json()["is_active"], off.json()["status"], off.json()["cpu_limit"]) == (
        200,
        False,
        "inactive",
        1,
    )
    assert world.ask("PUT", "/api/users/ada", json={"cpu_limit": 1}, headers={"If-Match": OLD_TAG}).status_code == 412
    assert world.ask("PUT", "/api/users/ada", json={"is_active": 1}).json()["status"] == "active"
    assert world.ask("DELETE", "/api/users/ada").json()["status"] == "deleted"
    assert world.ask("GET", "/api/users").json()["users"] == []


def test_an_old_client_gets_every_user_at_once(world: World) -> None:
    rows = "".join(f"u{number:04}\n" for number in range(1_030))
    assert world.ask("POST", f"{USERS}/import", json={"csv": f"username\n{rows}"}).json()["created"] == 1_030
    found = world.ask("GET", "/api/users").json()
    assert len({user["username"] for user in found["users"]}) == found["total"] == 1_030
    assert all(user["mem_limit"] == "2G" for user in found["users"])
    assert len(world.ask("GET", "/api/users?limit=7").json()["users"]) == 7


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"mem_limit": 512}, "mem_limit"),
        ({"disk_quota": "many"}, "disk_quota"),
        ({"cpu_limit": -1}, "cpu_limit"),
        ({"cpu_limit": 1, "cpu": 1}, "cpu_limit"),
        ({"gpu_access": 2}, "gpu_access"),
        ({"is_active": "yes"}, "is_active"),
        ({"status": "deleted"}, "status"),
        ({"uid": 0}, "uid"),
        ({"username": "bob"}, "username"),
    ],
)
def test_an_old_client_is_told_in_its_own_names_what_is_wrong(world: World, body: dict, field: str) -> None:
    made(world)
    found = world.ask("PUT", "/api/users/ada", json=body)
    assert found.status_code == 422 and found.json()["errors"][0]["field"] == field, found.text
    assert world.ask("POST", f"{USERS}/ada/limits", json=body).status_code == 405
    assert world.ask("PATCH", f"{USERS}/ada", json={"cpu_limit": 1}).status_code == 422, "there only"


def test_old_clients_sign_in_and_out(world: World) -> None:
    world.first_admin()
    sent = {"username": "admin", "password": "correct horse battery"}
    token = world.ask("POST", "/api/auth/login", json=sent, token="").json()["token"]
    assert world.ask("GET", "/api/users", token=token).status_code == 200
    assert world.ask("POST", "/api/auth/logout", token=token).status_code == 204
    assert world.ask("GET", "/api/users", token=token).status_code == 401
