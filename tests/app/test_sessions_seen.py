"""Sessions seen, ended, limited and renewed; proofs; passwords' ages. The whole application on a real database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from diycloud.db.engine import Database
from tests.app.restful import FAR, PASSWORD, World
from tests.app.town import Town

NEW = "another long phrase of hers"


@pytest.fixture
def small(database: Database) -> Callable[..., World]:
    """Make a server with some settings, an administrator and ada."""

    def start(**settings: Any) -> World:
        world = World(database, **settings)
        world.first_admin()
        assert world.ask("POST", "/api/v1/users", json={"username": "ada", "password": PASSWORD}).status_code == 201
        return world

    return start


def holds(world: World, token: str) -> bool:
    return world.ask("GET", "/api/v1/auth/whoami", token=token).status_code == 200


def log_in(world: World, name: str, password: str, **more: Any) -> httpx.Response:
    sent = {"username": name, "password": password}
    return world.ask("POST", "/api/v1/auth/login", json=sent, token="", **more)


# -- seen


def test_people_see_where_they_are_signed_in(town: Town) -> None:
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    sent = {"username": "ada", "password": PASSWORD}
    other = town.ask(
        "POST", "/api/v1/auth/login", json=sent, token="", headers={"User-Agent": agent}, address="198.51.100.4"
    )
    found = town.by("ada", "GET", "/users/ada/sessions").json()["sessions"]
    assert [(s["current"], s["address"]) for s in sorted(found, key=lambda s: int(s["id"]))] == [
        (True, FAR),
        (False, "198.51.100.4"),
    ]
    (new,) = [s for s in found if not s["current"]]
    assert (new["device"], new["kind"], new["methods"]) == ("Firefox on Linux", "api", ["pwd"])
    assert new["created_at"] <= new["last_seen"] < new["idle_at"] < new["ends_at"]
    everything = str(town.by("ada", "GET", "/users/ada/sessions").json())
    assert other.json()["token"] not in everything and town.tokens["ada"] not in everything, "a number opens nothing"
    assert not holds(town, new["id"])


def test_what_holds_no_more_is_not_shown(town: Town) -> None:
    for column, gone in (("expires_at", int(time.time())), ("last_seen", int(time.time()) - 3 * 3600)):
        town.token("bob", PASSWORD)
        town.sql(f"UPDATE sessions SET {column} = ? WHERE id = (SELECT max(id) FROM sessions)", gone)
    assert len(town.by("bob", "GET", "/users/bob/sessions").json()["sessions"]) == 1


def test_administrators_see_who_is_signed_in_page_by_page(town: Town) -> None:
    first = town.by("admin", "GET", "/sessions?limit=4")
    assert len(first.json()["sessions"]) == 4 and first.json()["total"] == 6
    assert f"before={first.json()['next']}" in first.headers["link"]
    rest = town.by("admin", "GET", f"/sessions?limit=4&before={first.json()['next']}").json()
    names = [s["username"] for s in first.json()["sessions"] + rest["sessions"]]
    assert sorted(names) == ["ada", "admin", "bob", "chief", "head", "watcher"] and rest["next"] is None
    assert [s["username"] for s in town.by("admin", "GET", "/sessions?user=ada").json()["sessions"]] == ["ada"]
    assert town.by("admin", "GET", "/sessions?address=203.0.113.1").json()["total"] == 0


def test_a_domain_sees_its_own_and_users_nobody_elses(town: Town) -> None:
    seen = {s["username"] for s in town.by("head", "GET", "/sessions").json()["sessions"]}
    assert seen == {"head", "ada", "watcher"}
    assert town.by("head", "GET", "/sessions?user=bob").json()["total"] == 0
    assert (
        town.by("ada", "GET", "/sessions").status_code
        == town.by("ada", "GET", "/users/bob/sessions").status_code
        == 403
    )
    assert town.by("watcher", "GET", "/sessions").json()["total"] == 6


# -- ended


def test_people_end_one_of_their_own_or_all_others(town: Town) -> None:
    more = [town.token("ada", PASSWORD) for _ in range(3)]
    found = town.by("ada", "GET", "/users/ada/sessions").json()["sessions"]
    one = max((s["id"] for s in found), key=int)
    assert town.by("ada", "DELETE", f"/users/ada/sessions/{one}").status_code == 204
    assert [holds(town, token) for token in more] == [True, True, False]
    assert town.by("ada", "DELETE", f"/users/ada/sessions/{one}").status_code == 404
    assert town.by("ada", "DELETE", "/users/ada/sessions", json={"keep_this": True}).status_code == 204
    assert [holds(town, token) for token in (town.tokens["ada"], *more)] == [True, False, False, False]
    assert town.by("ada", "DELETE", "/users/ada/sessions").status_code == 204
    assert not holds(town, town.tokens["ada"])


def test_nobody_ends_a_strangers_session(town: Town) -> None:
    (mine,) = town.by("bob", "GET", "/users/bob/sessions").json()["sessions"]
    assert town.by("ada", "DELETE", f"/users/bob/sessions/{mine['id']}").status_code == 403
    assert town.by("ada", "DELETE", f"/users/ada/sessions/{mine['id']}").status_code == 404
    assert town.by("head", "DELETE", f"/users/bob/sessions/{mine['id']}").status_code == 403
    assert town.by("head", "DELETE", "/users/watcher/sessions").status_code == 403, "who reaches beyond the domain"
    assert town.by("watcher", "DELETE", "/users/ada/sessions").status_code == 403
    assert holds(town, town.tokens["bob"]) and holds(town, town.tokens["watcher"])
    assert town.by("chief", "DELETE", f"/users/bob/sessions/{mine['id']}").status_code == 204
    assert not holds(town, town.tokens["bob"])


@pytest.mark.parametrize("change", [{"role": "monitor"}, {"role": "domain-admin"}, {"role": "admin"}])
def test_another_role_is_another_sign_in(town: Town, change: dict[str, str]) -> None:
    assert town.by("admin", "PATCH", "/users/ada", json=change).status_code == 200
    assert not holds(town, town.tokens["ada"])


def test_the_policy_says_how_many_sessions_one_person_has(town: Town) -> None:
    town.root("PATCH", "/policies/small", json={"max_sessions": 2})
    assert town.root("GET", "/policies/small").json()["max_sessions"] == 2
    second, third = town.token("ada", PASSWORD), town.token("ada", PASSWORD)
    assert [holds(town, token) for token in (town.tokens["ada"], second, third)] == [False, True, True]
    assert holds(town, town.tokens["bob"]) and holds(town, town.tokens["admin"])
    town.root("PATCH", "/policies/small", json={"max_sessions": None})
    assert holds(town, town.token("ada", PASSWORD)) and holds(town, second)


@pytest.mark.parametrize("text", ["0", "-1", "1001", "many", '"2"', "1.5"])
def test_no_number_of_sessions_is_refused(town: Town, text: str) -> None:
    body = f'{{"max_sessions": {text}}}' if text != "many" else '{"max_sessions": "many"}'
    answer = town.by("admin", "PATCH", "/policies/small", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422


# -- passwords and proofs


def test_a_stolen_token_opens_nothing_after_a_new_password(town: Town) -> None:
    """Whoever has taken the very session in which the password is changed is out too: it goes on under another token."""
    stolen, other = town.tokens["ada"], town.token("ada", PASSWORD)
    changed = town.by("ada", "PUT", "/account/password", json={"current": PASSWORD, "password": NEW})
    assert changed.status_code == 200
    assert not holds(town, stolen) and not holds(town, other)
    assert holds(town, changed.json()["session_token"])
    assert log_in(town, "ada", PASSWORD).status_code == 401 and town.token("ada", NEW)


def test_a_proof_is_slowed_as_signing_in_is_and_tells_nothing(town: Town) -> None:
    answers = [town.by("ada", "POST", "/account/proof", json={"password": f"guess {n}"}) for n in range(6)]
    assert [a.status_code for a in answers] == [422] * 5 + [429]
    assert {a.json()["detail"] for a in answers[:5]} == {"The password or the code is wrong."}
    assert log_in(town, "ada", PASSWORD).status_code == 429, (
        "it is one count, or one would guess here what one may not there"
    )
    assert log_in(town, "ada", PASSWORD, address="198.51.100.1").status_code == 200, "and nobody is locked out by it"


def test_guesses_at_the_present_password_are_slowed_even_all_at_once(town: Town) -> None:
    async def guess() -> list[int]:
        sent = [
            town.send(
                "PUT", "/api/v1/account/password", token=town.tokens["ada"], json={"current": f"g{n}", "password": NEW}
            )
            for n in range(20)
        ]
        return [answer.status_code for answer in await asyncio.gather(*sent)]

    found = asyncio.run(guess())
    assert found.count(422) <= 6 and found.count(429) >= 14


def test_a_proof_renews_the_token_of_its_session_only(town: Town) -> None:
    other = town.token("ada", PASSWORD)
    before = town.tokens["ada"]
    proved = town.by("ada", "POST", "/account/proof", json={"password": PASSWORD}).json()
    assert not holds(town, before) and holds(town, proved["session_token"]) and holds(town, other)
    with_key = {"Idempotency-Key": "0123456789abcdef0123456789abcdef"}
    again = town.ask(
        "POST", "/api/v1/account/proof", token=proved["session_token"], json={"password": PASSWORD}, headers=with_key
    )
    assert again.status_code == 200 and again.json()["session_token"] not in str(
        town.sql("SELECT * FROM idempotency_keys")
    )


def test_root_and_who_acts_for_another_prove_nothing(town: Town) -> None:
    assert town.ask("POST", "/api/v1/account/proof", json={"password": PASSWORD}).status_code == 403
    acting = {"X-On-Behalf-Of": "ada"}
    assert town.by("admin", "POST", "/account/proof", json={"password": PASSWORD}, headers=acting).status_code == 403


# -- how old a password may be


def test_a_password_that_is_too_old_lets_in_to_change_it(small: Callable[..., World]) -> None:
    world = small(password_max_age_days=30)
    assert log_in(world, "ada", PASSWORD).json()["must_change_password"] is False
    world.sql("UPDATE users SET password_changed_at = datetime('now', '-31 days') WHERE username = 'ada'")
    for _ in range(2):  # whoever puts it off comes back to it
        done = log_in(world, "ada", PASSWORD).json()
        assert done["must_change_password"] is True
    token = done["token"]
    assert world.ask("GET", "/api/v1/users/ada", token=token).status_code == 403
    body = {"current": PASSWORD, "password": NEW}
    assert world.ask("PUT", "/api/v1/account/password", token=token, json=body).status_code == 200
    assert log_in(world, "ada", NEW).json()["must_change_password"] is False


def test_a_password_for_one_time_holds_for_its_days(small: Callable[..., World]) -> None:
    world = small(first_password_days=14)
    made = world.ask("PUT", "/api/v1/users/ada/password", json={}).json()["password"]
    world.sql("UPDATE users SET password_changed_at = datetime('now', '-13 days') WHERE username = 'ada'")
    assert log_in(world, "ada", made).json()["must_change_password"] is True
    world.sql("UPDATE users SET password_changed_at = datetime('now', '-15 days') WHERE username = 'ada'")
    answer, wrong = log_in(world, "ada", made), log_in(world, "ada", "something else")
    assert answer.status_code == wrong.status_code == 401
    assert "one time" in answer.json()["detail"] and "one time" not in wrong.json()["detail"], "only who has it is told"
    again = world.ask("PUT", "/api/v1/users/ada/password", json={}).json()["password"]
    assert log_in(world, "ada", again).status_code == 200


def test_an_old_password_of_ones_own_is_no_password_for_one_time(small: Callable[..., World]) -> None:
    world = small(first_password_days=14)
    world.sql("UPDATE users SET password_changed_at = datetime('now', '-900 days') WHERE username = 'ada'")
    assert log_in(world, "ada", PASSWORD).status_code == 200


def test_earlier_passwords_are_not_taken_again(small: Callable[..., World]) -> None:
    world = small(password_history=2)
    token, current = world.token("ada", PASSWORD), PASSWORD
    phrases = ["first other phrase", "second other phrase", "third other phrase"]

    def change(to: str) -> int:
        nonlocal token, current
        answer = world.ask("PUT", "/api/v1/account/password", token=token, json={"current": current, "password": to})
        if answer.status_code == 200:
            token, current = answer.json()["session_token"], to
        return answer.status_code

    assert [change(p) for p in phrases[:2]] == [200, 200]
    assert [change(p) for p in (PASSWORD, phrases[0], phrases[1])] == [422, 422, 422]
    assert change(phrases[2]) == 200
    assert change(PASSWORD) == 200, "two are remembered, no more"
    assert world.sql("SELECT count(*) FROM old_passwords") == [(2,)]


def test_nothing_is_remembered_where_nothing_is_asked_for(small: Callable[..., World]) -> None:
    world = small()
    token = world.token("ada", PASSWORD)
    body = {"current": PASSWORD, "password": NEW}
    assert world.ask("PUT", "/api/v1/account/password", token=token, json=body).status_code == 200
    assert world.sql("SELECT count(*) FROM old_passwords") == [(0,)]


def test_the_shortest_password_is_a_setting(small: Callable[..., World]) -> None:
    world = small(password_min_length=20)
    token = world.token("ada", PASSWORD)
    short, long = "nineteen characters"[:19], "twenty characters at least"
    change = {"current": PASSWORD, "password": short}
    answer = world.ask("PUT", "/api/v1/account/password", token=token, json=change)
    assert answer.status_code == 422 and "20 characters" in answer.text
    assert (
        world.ask("PUT", "/api/v1/account/password", token=token, json={**change, "password": long}).status_code == 200
    )
    made = world.ask("PUT", "/api/v1/users/ada/password", json={}).json()["password"]
    assert len(made) == 20


# -- who must wait


def test_who_must_wait_is_shown_without_what_was_typed_by_mistake(town: Town) -> None:
    for _ in range(7):
        log_in(town, "ada", "wrong", address="203.0.113.5")
        log_in(town, "my secret password", "wrong", address="203.0.113.6")
    found = town.by("admin", "GET", "/throttle").json()["waiting"]
    assert {(w["kind"], w["username"], w["address"]) for w in found} == {
        ("pair", "ada", "203.0.113.5"),
        ("pair", "", "203.0.113.6"),
    }
    assert all(w["seconds"] > 0 and w["failures"] >= 5 for w in found)
    assert "secret" not in town.by("admin", "GET", "/throttle").text
    assert [w["username"] for w in town.by("head", "GET", "/throttle").json()["waiting"]] == ["ada"]
    assert town.by("chief", "GET", "/throttle").json()["waiting"] == []
    assert town.by("ada", "GET", "/throttle").status_code == 403
    town.root("DELETE", "/users/ada/throttle")
    assert [w["username"] for w in town.by("admin", "GET", "/throttle").json()["waiting"]] == [""]
