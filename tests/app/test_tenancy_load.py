"""Attempts to wear the server out, to get between two changes, and to have answers repeated that are another's by now.

The whole application on a real database; the host is one of dictionaries.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from diycloud.core.routes import PREFIX
from tests.app.restful import PASSWORD
from tests.app.town import KEY, USERS, Town

# -- wearing the server out


def held(town: Town, ask: Callable[[], httpx.Response]) -> tuple[httpx.Response, float]:
    """Return an answer and the longest time, in seconds, that nothing else could run while it was made."""

    async def both() -> tuple[httpx.Response, float]:
        longest, done = 0.0, False

        async def pulse() -> None:
            nonlocal longest
            while not done:
                began = time.perf_counter()
                await asyncio.sleep(0)
                longest = max(longest, time.perf_counter() - began)

        watching = asyncio.create_task(pulse())
        answer = await ask()  # type: ignore[misc]
        done = True
        await watching
        return answer, longest

    return asyncio.run(both())


@pytest.mark.parametrize(
    "body",
    [
        {"allowed_client_ip": ["10.0.0.1"] * 70_000},
        {f"f{number}": 1 for number in range(60_000)},
        {"groups": ["x"] * 150_000},
        {"container_gids": [1] * 300_000},
        {"groups": ["!"] * 150_000},
    ],
    ids=["networks", "unknown", "groups", "numbers", "no-names"],
)
def test_a_body_of_a_megabyte_holds_nobody_up(town: Town, body: dict[str, Any]) -> None:
    async def ask() -> httpx.Response:
        return await town.send("PATCH", f"{USERS}/ada", token=town.tokens["head"], json=body)

    answer, longest = held(town, ask)  # type: ignore[arg-type]
    assert answer.status_code in (403, 422), answer.text[:200]
    assert len(answer.content) < 100_000
    assert longest < 0.25  # on a busy machine; it was seconds


def test_a_heading_of_a_million_cells_is_refused_at_once(town: Town) -> None:
    began = time.monotonic()
    answer = town.by("head", "POST", "/users/import", json={"csv": "," * 1_000_000 + "\nx\n"})
    assert answer.status_code == 422
    assert len(answer.content) < 100_000
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": KEY}])
@pytest.mark.parametrize(
    "value",
    ["1e999", "-1e999", "1e308", "9" * 4000, "1" + "0" * 30, "-0.0", "[" * 960 + "]" * 960, '"\\u0041"', "{}", "null"],
    ids=lambda value: value[:8],
)
@pytest.mark.parametrize("field", ["cpu", "memory", "tasks", "groups", "allowed_client_ip", "container_uid", "gpu"])
def test_no_number_breaks_the_server(town: Town, field: str, value: str, headers: dict[str, str]) -> None:
    content = f'{{"username": "eve", "{field}": {value}}}'
    sent = {"Content-Type": "application/json", **headers}
    answer = town.by("head", "POST", "/users", content=content, headers=sent)
    assert answer.status_code < 500, answer.text


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": KEY}])
def test_no_depth_breaks_the_server(town: Town, headers: dict[str, str]) -> None:
    sent = {"Content-Type": "application/json", **headers}
    seen = set()
    for depth in (*range(400, 1000, 12), 5000, 100_000):
        content = '{"username": "eve", "email": "\\u0041", "groups": ' + "[" * depth + "]" * depth + "}"
        seen.add(town.by("head", "POST", "/users", content=content, headers=sent).status_code)
    assert max(seen) < 500, seen


# -- two at once


def test_two_administrators_edit_one_user(town: Town) -> None:
    async def both(*asked: tuple[str, dict[str, Any], dict[str, str]]) -> list[int]:
        sent = [
            town.send("PATCH", f"{USERS}/ada", token=town.tokens[who], json=body, headers=headers)
            for who, body, headers in asked
        ]
        return [answer.status_code for answer in await asyncio.gather(*sent)]

    other = asyncio.run(both(("admin", {"full_name": "Ada"}, {}), ("head", {"description": "x"}, {})))
    assert other == [200, 200]
    assert (town.column("full_name"), town.column("description")) == ("Ada", "x")
    tag = {"If-Match": town.ask("GET", f"{USERS}/ada").headers["etag"]}
    one = asyncio.run(both(("admin", {"full_name": "A"}, tag), ("head", {"full_name": "B"}, tag)))
    assert sorted(one) == [200, 412]
    assert town.column("full_name") == ("A" if one[0] == 200 else "B")


def test_a_policy_that_is_lowered_meanwhile_is_what_counts(town: Town) -> None:
    async def both() -> list[int]:
        lower = town.send("PATCH", f"{PREFIX}/policies/small", json={"max_cpu": 0.5})
        give = town.send("PATCH", f"{USERS}/ada/limits", token=town.tokens["head"], json={"cpu": 1})
        return [answer.status_code for answer in await asyncio.gather(lower, give)]

    lowered, given = asyncio.run(both())
    cpu = town.sql(
        "SELECT cpu_limit FROM resource_allocations AS a JOIN users AS u ON u.id = a.user_id WHERE username = 'ada'"
    )
    assert lowered == 200
    assert cpu == [(1.0,)] if given == 200 else [(0.5,)]


def test_an_administrator_demoted_meanwhile_stops(town: Town) -> None:
    """A list of many changes goes on only as long as its administrator is one."""
    for number in range(130):
        town.sql(
            "INSERT INTO users (username, password_hash, domain, policy, status) VALUES (?, '-', 'physics', 'small', 'active')",
            f"user{number}",
        )
    rows = [{"action": "modify", "username": f"user{number}", "description": "x"} for number in range(130)]

    async def both() -> None:
        many = asyncio.create_task(
            town.send(
                "POST", f"{USERS}/bulk", token=town.tokens["head"], json={"changes": rows, "on_error": "continue"}
            )
        )
        while not town.sql("SELECT 1 FROM users WHERE description = 'x'"):
            await asyncio.sleep(0.001)
        await town.send("POST", f"{USERS}/head/disable", json={})
        await many

    asyncio.run(both())
    done = town.sql("SELECT count(*) FROM users WHERE description = 'x'")[0][0]
    assert done < 130


# -- answers repeated


IMPORT = {"csv": "username\nnew\n"}


def keyed(town: Town, who: str = "head", path: str = "", body: dict[str, Any] | None = None, **fields: str) -> Any:
    headers = {"Idempotency-Key": KEY, **fields}
    return town.by(who, "POST", "/users" + path, json=body or {"username": "new"}, headers=headers)


def sign_in_again(town: Town, who: str) -> None:
    town.tokens[who] = town.token(who, PASSWORD)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(("path", "body"), [("", {"username": "new"}), ("/import", IMPORT)])
@pytest.mark.parametrize(
    "change",
    [
        {"role": "user"}, {"role": "monitor"}, {"domain": "biology"}, {"role": "admin"}, {"role": "user", "domain": "biology"},
    ],
)  # fmt: skip
def test_an_answer_is_repeated_to_nobody_whose_rights_are_others_now(
    town: Town, change: dict[str, str], path: str, body: dict[str, Any], restarted: bool
) -> None:
    assert keyed(town, path=path, body=body).status_code in (200, 201)
    assert keyed(town, path=path, body=body).headers["idempotency-replayed"] == "true"
    if restarted:
        town.restart()
    town.root("PATCH", "/users/head", json=change)
    sign_in_again(town, "head")
    again = keyed(town, path=path, body=body)
    assert again.status_code == 403 and "new" not in again.text.replace("new key", "")
    done = town.sql(
        "SELECT outcome FROM audit WHERE actor = 'head' AND action IN ('user.create', 'user.import') ORDER BY id"
    )
    assert done[0] == ("done",) and done[-1] == ("refused",), (
        "a refusal is in the audit, an answer that is repeated is not"
    )
    town.root("PATCH", "/users/head", json={"role": "domain-admin", "domain": "physics"})
    sign_in_again(town, "head")
    assert keyed(town, path=path, body=body).headers["idempotency-replayed"] == "true", "their own again"


@pytest.mark.parametrize("scopes", [["users:read"], ["users:create"], ["all"]])
def test_an_answer_is_repeated_to_no_token_that_lends_less(town: Town, scopes: list[str]) -> None:
    made = town.by("head", "POST", "/users/head/tokens", json={"label": "a script", "scopes": scopes})
    assert made.status_code == 201, made.text
    first = keyed(town)
    town.tokens["session"], town.tokens["head"] = town.tokens["head"], made.json()["secret"]
    again = keyed(town)
    assert again.status_code == 403 and first.json()["password"] not in again.text
    assert keyed(town, "session").headers["idempotency-replayed"] == "true"


def test_an_answer_is_repeated_to_no_other_of_the_name(town: Town) -> None:
    assert keyed(town).status_code == 201
    town.sql("UPDATE users SET id = 4000 WHERE username = 'head'")
    sign_in_again(town, "head")
    assert keyed(town).status_code == 403


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET must_change_password = 1 WHERE username = 'head'",
        "UPDATE idempotency_keys SET fingerprint = substr(fingerprint, 1, 32)",
    ],
)
def test_an_answer_is_repeated_only_to_who_could_have_it_anew(town: Town, statement: str) -> None:
    """A password that must change comes first; and of answers that an older version kept nobody knows whose they are."""
    assert keyed(town).status_code == 201
    town.restart()
    town.sql(statement)
    assert keyed(town).status_code == 403


def test_an_answer_is_repeated_to_nobody_who_is_disabled(town: Town) -> None:
    assert keyed(town).status_code == 201
    town.root("POST", "/users/head/disable", json={})
    assert keyed(town).status_code == 401


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET status = 'inactive' WHERE username = 'head'",
        "UPDATE users SET role = 'user' WHERE username = 'head'",
        "UPDATE users SET domain = 'biology' WHERE username = 'head'",
        "UPDATE users SET role = 'domain-admin', domain = 'physics' WHERE username = 'admin'",
    ],
)
def test_an_answer_got_for_somebody_is_repeated_only_while_one_may_act_for_them(town: Town, statement: str) -> None:
    acting = {"X-On-Behalf-Of": "head"}
    assert keyed(town, "admin", **acting).status_code == 201
    assert keyed(town, "admin", **acting).headers["idempotency-replayed"] == "true"
    assert keyed(town, "admin").status_code == 422, "for oneself it is another request"
    town.sql(statement)
    assert keyed(town, "admin", **acting).status_code == 403


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET domain = 'biology' WHERE username = 'new'",
        "UPDATE users SET role = 'admin' WHERE username = 'new'",
        "UPDATE users SET sudo = 1 WHERE username = 'new'",
        "DELETE FROM users WHERE username = 'new'",
    ],
)
@pytest.mark.parametrize(("path", "body"), [("", {"username": "new"}), ("/import", {"csv": "username\nnew\nother\n"})])
def test_a_password_is_repeated_only_of_whom_one_still_reaches(
    town: Town, statement: str, path: str, body: dict[str, Any]
) -> None:
    first = keyed(town, path=path, body=body)
    assert keyed(town, path=path, body=body).json() == first.json()
    town.sql(statement)
    found = keyed(town, path=path, body=body).json()
    rows = found.get("rows", [found])
    assert rows[0]["password"] is None and len(found["warnings"]) == 1
    assert all(row["password"] for row in rows[1:])
