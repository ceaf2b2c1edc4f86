"""Second factors through REST, the whole application in one process: setting up, signing in, forcing, taking away."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest
from sqlalchemy import text, update

from diycloud.auth import totp
from diycloud.auth.passwords import Hasher
from diycloud.db.engine import Database
from diycloud.db.sign_in_tables import totps
from diycloud.users import repository

from .factors import ADA, CLOCK, SECOND, Browser, Phone, ada, enrol, entries, login, now, second
from .factors import clock as standing  # noqa: F401 - a fixture
from .restful import ADMIN, PASSWORD, World


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


@pytest.fixture
def token(world: World) -> str:
    return world.first_admin()


# -- REST


def test_from_setting_up_to_signing_in(world: World, token: str) -> None:
    old = world.token(ADMIN, PASSWORD)
    phone, codes = enrol(world, token)
    assert len(codes) == 10
    assert world.ask("GET", "/api/v1/host", token=token).status_code == 200, "the session that set it up goes on"
    assert world.ask("GET", "/api/v1/host", token=old).status_code == 401, "others were begun with less"
    asked = login(world)
    body = asked.json()
    assert (asked.status_code, body["code"], body["ways"]) == (401, "second-factor-needed", ["totp", "recovery"])
    assert "www-authenticate" in asked.headers
    done = second(world, body["ticket"], code=phone.code())
    assert done.status_code == 200 and world.ask("GET", "/api/v1/host", token=done.json()["token"]).status_code == 200
    assert second(world, body["ticket"], code=phone.code()).json()["code"] == "unauthenticated", "a ticket is for once"
    shown = world.ask("GET", f"/api/v1/users/{ADMIN}/second-factor", token=token).json()
    assert shown["totp_since"] and shown["codes_left"] == 10 and shown["passkeys"] == [] and shown["required"] == ""


def test_in_one_request_and_by_the_old_short_form(world: World, token: str) -> None:
    phone, codes = enrol(world, token)
    assert login(world, code=phone.code()).status_code == 200
    sent = {"username": ADMIN, "password": PASSWORD}
    assert world.ask("POST", "/api/auth/login", token="", json=sent).json()["code"] == "second-factor-needed"
    assert world.ask("POST", "/api/auth/login", token="", json={**sent, "code": codes[0]}).status_code == 200
    assert login(world, code=codes[0]).status_code == 401, "a recovery code is for once"
    left = world.ask("GET", f"/api/v1/users/{ADMIN}/second-factor", token=token).json()["codes_left"]
    assert left == 9


def test_a_code_is_never_taken_twice_nor_one_before_it(world: World, token: str) -> None:
    phone, _ = enrol(world, token)
    CLOCK.now += 2 * totp.STEP_S
    code, before = phone.code(), totp.code_at(phone.secret, now() - 1)
    assert login(world, code=code).status_code == 200
    for refused in (code, before):
        answer = login(world, code=refused)
        assert (answer.status_code, answer.json()["code"]) == (401, "second-factor-needed")


def test_of_the_same_code_sent_many_times_at_once_one_signs_in(world: World, token: str) -> None:
    phone, _ = enrol(world, token)
    tickets = [login(world).json()["ticket"] for _ in range(8)]
    code = phone.code()

    async def together() -> list[httpx.Response]:
        sent = [
            world.send("POST", SECOND, token="", json={"ticket": t, "code": code}, address=f"192.0.2.{n}")
            for n, t in enumerate(tickets)
        ]
        return await asyncio.gather(*sent)

    assert [found.status_code for found in asyncio.run(together())].count(200) == 1


def test_of_one_ticket_shown_several_codes_at_once_one_session_begins(world: World, token: str) -> None:
    """Each code is right and unused; the ticket is for once all the same."""
    _, codes = enrol(world, token)
    ticket = login(world).json()["ticket"]

    async def together() -> list[httpx.Response]:
        sent = [
            world.send("POST", SECOND, token="", json={"ticket": ticket, "code": code}, address=f"192.0.2.{n}")
            for n, code in enumerate(codes[:4])
        ]
        return await asyncio.gather(*sent)

    assert [found.status_code for found in asyncio.run(together())].count(200) == 1


def test_five_wrong_codes_end_the_ticket(world: World, token: str) -> None:
    phone, _ = enrol(world, token)
    ticket = login(world).json()["ticket"]
    said = [second(world, ticket, code="000000", address=f"198.51.100.{n}").json()["code"] for n in range(6)]
    assert said == ["second-factor-needed"] * 4 + ["unauthenticated"] * 2
    assert second(world, ticket, code=phone.code()).json()["code"] == "unauthenticated"
    browser = Browser(world)
    browser.post("/sign-in", username=ADMIN, password=PASSWORD)
    browser.post("/sign-in/second", code=phone.code())
    assert "198.51.100.4 knew your password and sent wrong codes" in browser.get("/").text, "the person is told"


def test_wrong_codes_sent_all_at_once_are_five_too(world: World, token: str) -> None:
    phone, _ = enrol(world, token)
    ticket = login(world).json()["ticket"]
    wrong = [
        f"{n:06}" for n in range(60) if f"{n:06}" not in {totp.code_at(phone.secret, now() + d) for d in (-1, 0, 1, 2)}
    ]

    async def together() -> list[httpx.Response]:
        return await asyncio.gather(
            *(
                world.send("POST", SECOND, token="", json={"ticket": ticket, "code": code}, address=f"203.0.113.{n}")
                for n, code in enumerate(wrong[:40])
            )
        )

    found = asyncio.run(together())
    assert {answer.status_code for answer in found} == {401}
    tried = [entry for entry in entries(world, "session.begin") if "wrong" in entry["message"]]
    assert len(tried) <= 5
    assert second(world, ticket, code=phone.code()).status_code == 401


def test_guessing_codes_slows_down_and_the_real_user_still_gets_in(world: World, token: str) -> None:
    """Somebody who knows the password, from many addresses: the codes of the account slow down, not its owner's own place."""
    phone, _ = enrol(world, token)
    assert login(world, code=phone.code(), address="198.51.100.7").status_code == 200
    seen = set()
    for number in range(14):
        answer = login(world, code="000000", address=f"203.0.113.{number}")
        seen.add(answer.status_code)
    assert seen == {401, 429}
    late = login(world, code="000000", address="203.0.113.99")
    assert late.status_code == 429 and int(late.headers["retry-after"]) >= 1
    assert login(world, code=phone.code(), address="198.51.100.7").status_code == 200


def test_the_right_password_forgives_nothing_before_the_second_step(world: World, token: str) -> None:
    """Password, wrong code, password, wrong code: the right password must not wipe the count that slows it down."""
    enrol(world, token)
    statuses = [login(world, code="000000").status_code for _ in range(8)]
    assert statuses[0] == 401 and statuses[-1] == 429


def test_signing_in_as_oneself_forgives_no_guesses_at_others(world: World, token: str) -> None:
    """From one address: a hundred guesses slow it down, however often somebody there signs in with two steps of their own."""
    _, codes = enrol(world, ada(world, token))
    statuses = []
    for number in range(110):
        if number % 15 == 0:
            login(world, "ada", ADA, code=codes.pop())
        statuses.append(login(world, f"somebody{number}", "wrong wrong").status_code)
    assert statuses[0] == 401 and statuses[-1] == 429


@pytest.mark.parametrize("ticket", ["", "x", "x" * 43, "ü" * 10, "\x00"])
def test_tickets_that_are_none(world: World, token: str, ticket: str) -> None:
    enrol(world, token)
    answer = second(world, ticket, code="123456")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


def test_a_ticket_is_its_users_alone(world: World, token: str) -> None:
    hers = ada(world, token)
    mine, _ = enrol(world, token)
    phone, codes = enrol(world, hers)
    ticket = login(world, "ada", ADA).json()["ticket"]
    for code in (mine.code(),):
        assert second(world, ticket, code=code).status_code == 401, "another user's code"
    done = second(world, ticket, code=codes[0])
    assert done.json()["username"] == "ada"
    assert phone.secret != mine.secret


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"password": "a third good phrase"}, "PUT /api/v1/users/ada/password"),
        ({}, "POST /api/v1/users/ada/disable"),
        ({"allowed_client_ip": ["198.51.100.0/24"]}, "PATCH /api/v1/users/ada"),
    ],
    ids=["password", "disabled", "network"],
)
def test_a_ticket_ends_with_what_it_was_given_for(world: World, token: str, change: dict[str, Any], path: str) -> None:
    phone, _ = enrol(world, ada(world, token))
    ticket = login(world, "ada", ADA).json()["ticket"]
    method, _, where = path.partition(" ")
    assert world.ask(method, where, token=token, json=change).status_code == 200
    assert second(world, ticket, code=phone.code()).json()["code"] == "unauthenticated"


def test_a_ticket_does_not_last(world: World, token: str) -> None:
    phone, _ = enrol(world, token)
    clock = [time.monotonic()]
    world.services.tickets._clock = lambda: clock[0]
    ticket = login(world).json()["ticket"]
    clock[0] += 301
    assert second(world, ticket, code=phone.code()).json()["code"] == "unauthenticated"


def test_nothing_is_noted_about_a_sign_in_before_its_end(world: World, token: str) -> None:
    hers = ada(world, token)
    phone, _ = enrol(world, hers)
    before = world.ask("GET", "/api/v1/users/ada", token=token).json()["last_login_ip"]
    ticket = login(world, "ada", ADA, address="203.0.113.77").json()["ticket"]
    assert world.ask("GET", "/api/v1/users/ada", token=token).json()["last_login_ip"] == before
    assert second(world, ticket, code=phone.code(), address="203.0.113.77").status_code == 200
    assert world.ask("GET", "/api/v1/users/ada", token=token).json()["last_login_ip"] == "203.0.113.77"


def test_codes_and_tickets_are_in_no_audit(world: World, token: str) -> None:
    phone, codes = enrol(world, token)
    ticket = login(world).json()["ticket"]
    code = phone.code()
    second(world, ticket, code=code)
    login(world, code=codes[1])
    told = world.ask("GET", "/api/v1/audit?limit=1000").text
    assert not any(secret in told for secret in (phone.secret, codes[0], codes[1], ticket, f'"{code}"'))


def test_no_answer_with_a_secret_is_kept_for_a_repetition(world: World, token: str) -> None:
    key = {"Idempotency-Key": "7f0c9a52e1d44b0b9d5a6c1f8e3b2a90"}
    first, again = (world.ask("POST", "/api/v1/account/totp", token=token, headers=key) for _ in range(2))
    assert first.json() == again.json() and "idempotency-replayed" not in again.headers
    read = text("SELECT count(*) FROM idempotency_keys")
    assert asyncio.run(world.database.read(lambda c: c.execute(read).scalar_one())) == 0


def test_a_stranger_cannot_tell_who_has_a_second_factor(world: World, token: str) -> None:
    ada(world, token)
    enrol(world, token)
    said = []
    for name in (ADMIN, "ada", "nobody-here"):
        answer = login(world, name, "wrong wrong wrong", code="000000", address=f"203.0.113.{len(said)}")
        body = answer.json()
        del body["request_id"]
        said.append((answer.status_code, body, sorted(answer.headers)))
    assert said[0] == said[1] == said[2]


def test_a_wrong_password_takes_the_same_time_with_and_without_a_second_factor(world: World, token: str) -> None:
    ada(world, token)
    enrol(world, token)
    world.services.hasher = Hasher(threads=1)
    hashed = asyncio.run(world.services.hasher.hash(PASSWORD))
    asyncio.run(world.database.write(lambda c: c.execute(text("UPDATE users SET password_hash = :h"), {"h": hashed})))
    took: dict[str, list[float]] = {ADMIN: [], "ada": []}
    for number in range(40):
        for name, times in took.items():
            started = time.perf_counter()
            assert login(world, name, "wrong wrong", address=f"198.51.{number}.{len(name)}").status_code in (401, 429)
            times.append(time.perf_counter() - started)
            world.services.throttle.clear(name)
    world.services.hasher.close()
    one, other = (min(times) for times in took.values())  # what else this machine does only adds
    assert abs(one - other) < 0.25 * max(one, other)


# -- one's own


def test_setting_up_again_leaves_the_old_app_until_the_new_one_shows_a_code(world: World, token: str) -> None:
    old, _ = enrol(world, token)
    fresh = world.ask("POST", "/api/v1/account/totp", token=token).json()["secret"]
    assert world.ask("POST", "/api/v1/account/totp", token=token).json()["secret"] == fresh, (
        "a page that is loaded anew"
    )
    assert login(world, code=old.code()).status_code == 200
    assert world.ask("PUT", "/api/v1/account/totp", token=token, json={"code": "000000"}).status_code == 422
    new = Phone(fresh)
    done = world.ask("PUT", "/api/v1/account/totp", token=token, json={"code": new.code()})
    assert done.status_code == 200 and done.json()["codes"] == [], "the recovery codes stay"
    assert login(world, code=totp.code_at(old.secret, now())).status_code == 401
    assert login(world, code=new.code()).status_code == 200


def test_a_new_secret_takes_ten_tries(world: World, token: str) -> None:
    secret = world.ask("POST", "/api/v1/account/totp", token=token).json()["secret"]
    statuses = [
        world.ask("PUT", "/api/v1/account/totp", token=token, json={"code": "abcdef"}).status_code for _ in range(11)
    ]
    assert statuses == [422] * 10 + [429]
    code = totp.code_at(secret, now())
    assert world.ask("PUT", "/api/v1/account/totp", token=token, json={"code": code}).status_code == 409


def test_renewing_and_removing(world: World, token: str) -> None:
    assert world.ask("POST", "/api/v1/account/recovery-codes", token=token).status_code == 409
    assert world.ask("DELETE", "/api/v1/account/totp", token=token).status_code == 404
    _, old = enrol(world, token)
    new = world.ask("POST", "/api/v1/account/recovery-codes", token=token).json()["codes"]
    assert login(world, code=old[0]).status_code == 401 and login(world, code=new[0]).status_code == 200
    gone = world.ask("DELETE", "/api/v1/account/totp", token=token).json()
    assert gone["factors"]["totp_since"] is None and gone["factors"]["codes_left"] == 0
    assert login(world).status_code == 200


def test_what_changes_how_one_signs_in_asks_for_a_fresh_proof(world: World, token: str) -> None:
    enrol(world, token)
    asyncio.run(world.database.write(lambda c: c.execute(text("UPDATE sessions SET proved_at = 0"))))
    for method, path, body in (
        ("POST", "/totp", None), ("PUT", "/totp", {"code": "123456"}), ("DELETE", "/totp", None),
        ("POST", "/recovery-codes", None), ("POST", "/passkeys/begin", None), ("POST", "/passkeys", {"credential": "{}"}),
        ("DELETE", "/passkeys/1", None), ("PATCH", "/passkeys/1", {"label": "x"}),
    ):  # fmt: skip
        answer = world.ask(method, f"/api/v1/account{path}", token=token, **({"json": body} if body else {}))
        assert (answer.status_code, answer.json()["code"]) == (403, "proof-needed"), path


def test_nobody_sets_up_anothers(world: World, token: str) -> None:
    ada(world, token)
    for headers in ({"X-On-Behalf-Of": "ada"}, {}):
        who = token if headers else None
        answer = world.ask("POST", "/api/v1/account/totp", token=who, headers=headers)
        assert answer.status_code == 409, answer.text


def test_a_host_is_told_the_secret_changed(world: World, token: str) -> None:
    hers = ada(world, token)
    generation = world.host.wishes["ada"].generation
    enrol(world, hers)
    assert world.host.wishes["ada"].generation > generation


def test_a_code_that_ssh_has_taken_is_taken_no_more(world: World, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hers = ada(world, token)
    phone, _ = enrol(world, hers)
    asked = []
    monkeypatch.setattr(world.host, "_SpendStep", lambda message: asked.append(message) or len(asked) > 1)
    assert login(world, "ada", ADA, code=phone.code()).status_code == 401
    assert asked[0].name == "ada" and abs(asked[0].step - now()) <= 1
    assert login(world, "ada", ADA, code=phone.code()).status_code == 200


def test_without_the_agent_people_sign_in_all_the_same(world: World, token: str) -> None:
    hers = ada(world, token)
    phone, _ = enrol(world, hers)
    world.host.away = True
    code = phone.code()
    assert login(world, "ada", ADA, code=code).status_code == 200
    assert login(world, "ada", ADA, code=code).status_code == 401


# -- forced


def test_a_policy_forces_it_at_the_next_request(world: World, token: str) -> None:
    made = {"name": "strict", "second_factor": True}
    assert world.ask("POST", "/api/v1/policies", token=token, json=made).json()["policy"]["second_factor"] is True
    hers = ada(world, token)
    assert world.ask("PATCH", "/api/v1/users/ada", token=token, json={"policy": "strict"}).status_code == 200
    refused = world.ask("GET", "/api/v1/users/ada", token=hers)
    assert refused.status_code == 403 and "second factor" in refused.json()["detail"]
    assert login(world, "ada", ADA).json()["must_enrol"] is True
    shown = world.ask("GET", "/api/v1/users/ada/second-factor", token=hers).json()
    assert shown["required"] == "the policy strict asks for one"
    phone = Phone(world.ask("POST", "/api/v1/account/totp", token=hers).json()["secret"])
    done = world.ask("PUT", "/api/v1/account/totp", token=hers, json={"code": phone.code()}).json()
    assert world.ask("GET", "/api/v1/users/ada", token=hers).status_code == 401, "a gain of rights is another token"
    hers = done["session_token"]
    assert world.ask("GET", "/api/v1/users/ada", token=hers).status_code == 200
    assert login(world, "ada", ADA, code=phone.code()).json()["must_enrol"] is False
    last = world.ask("DELETE", "/api/v1/account/totp", token=hers)
    assert last.status_code == 409 and "Set up another first" in last.json()["hint"]
    loose = {"second_factor": False}
    assert world.ask("PATCH", "/api/v1/policies/strict", token=token, json=loose).status_code == 200
    assert world.ask("DELETE", "/api/v1/account/totp", token=hers).status_code == 200


def test_a_role_forces_it(database: Database) -> None:
    world = World(database, second_factor_roles=("admin",))
    token = world.first_admin()
    for method, path in (("GET", "/users"), ("GET", "/host"), ("GET", f"/users/{ADMIN}"), ("POST", "/users")):
        assert (
            world.ask(method, f"/api/v1{path}", token=token, json={} if method == "POST" else None).status_code == 403
        )
    assert world.ask("GET", "/api/v1/users").status_code == 200, "the host's own root is not asked"
    phone, _ = enrol(world, token)
    again = login(world, code=phone.code()).json()["token"]
    assert world.ask("GET", "/api/v1/users", token=again).status_code == 200


def test_who_must_enrol_acts_for_nobody_and_their_api_tokens_stop(world: World, token: str) -> None:
    ada(world, token)
    made = world.ask("POST", f"/api/v1/users/{ADMIN}/tokens", token=token, json={"label": "script", "scopes": ["all"]})
    secret = made.json()["secret"]
    assert world.ask("GET", "/api/v1/users", token=secret).status_code == 200
    world.ask("PATCH", "/api/v1/policies/default", json={"second_factor": True})
    for who, headers in ((token, {"X-On-Behalf-Of": "ada"}), (secret, {}), (secret, {"X-On-Behalf-Of": "ada"})):
        answer = world.ask("GET", "/api/v1/users/ada", token=who, headers=headers)
        assert answer.status_code == 403 and "second factor" in answer.json()["detail"]
    assert world.ask("GET", f"/api/v1/users/{ADMIN}/second-factor", token=secret).status_code == 403
    enrol(world, token)
    assert world.ask("GET", "/api/v1/users", token=secret).status_code == 200


def test_the_password_comes_first(world: World, token: str) -> None:
    world.ask("PATCH", "/api/v1/policies/default", json={"second_factor": True})
    made = world.ask("POST", "/api/v1/users", json={"username": "ada"}).json()
    begun = login(world, "ada", made["password"]).json()
    assert begun["must_change_password"] and begun["must_enrol"]
    refused = world.ask("POST", "/api/v1/account/totp", token=begun["token"])
    assert "password must be changed" in refused.json()["detail"]


# -- taken away


def test_an_administrator_takes_it_away_and_the_person_is_told(world: World, token: str) -> None:
    hers = ada(world, token)
    enrol(world, hers)
    assert world.ask("DELETE", "/api/v1/users/ada/second-factor", token=token).status_code == 200
    assert world.ask("GET", "/api/v1/users/ada", token=hers).status_code == 401, "sessions end"
    assert world.ask("DELETE", "/api/v1/users/ada/second-factor", token=token).status_code == 409
    assert world.ask("DELETE", f"/api/v1/users/{ADMIN}/second-factor", token=token).status_code == 409
    (entry,) = [e for e in entries(world, "factor.reset") if e["outcome"] == "done"]
    assert (entry["actor"], entry["target"], entry["changes"]["app"]) == (ADMIN, "ada", [1, 0])
    browser = Browser(world)
    browser.post("/sign-in", username="ada", password=ADA)
    assert f"{ADMIN} removed your second factor" in browser.get("/").text
    browser.post("/notices/read")
    assert "removed your second factor" not in browser.get("/").text


def test_people_are_told_what_others_did_to_their_sign_in(world: World, token: str) -> None:
    ada(world, token)
    for method, path, body in (
        ("DELETE", "sessions", None), ("DELETE", "throttle", None), ("PUT", "password", {"password": PASSWORD}),
    ):  # fmt: skip
        assert world.ask(method, f"/api/v1/users/ada/{path}", token=token, json=body).status_code in (200, 204)
    assert world.ask("DELETE", f"/api/v1/users/{ADMIN}/sessions", token=token).status_code == 204
    for name, password, told in (("ada", PASSWORD, True), (ADMIN, PASSWORD, False)):
        browser = Browser(world)
        browser.post("/sign-in", username=name, password=password)
        if name == "ada":
            browser.get("/account")
        page = browser.get("/").text
        for words in ("signed you out everywhere", "let you try again at once", "set a new password for you"):
            assert (f"{ADMIN} {words}" in page) is told, (name, words)


def test_who_looks_after_a_domain_reaches_its_people_only(world: World, token: str) -> None:
    for name in ("physics", "maths"):
        world.ask("POST", "/api/v1/domains", json={"name": name})
    people = {
        "head": ("physics", "domain-admin"),
        "ada": ("physics", "user"),
        "eve": ("maths", "user"),
        "watch": ("physics", "monitor"),
    }
    tokens = {}
    for name, (domain, role) in people.items():
        sent = {"username": name, "password": ADA, "domain": domain, "role": role}
        assert world.ask("POST", "/api/v1/users", json=sent).status_code == 201
        tokens[name] = world.token(name, ADA)
        if name != "head":
            enrol(world, tokens[name])
    head = tokens["head"]
    told = {name: world.ask("DELETE", f"/api/v1/users/{name}/second-factor", token=head).status_code for name in people}
    assert told == {"head": 409, "ada": 200, "eve": 403, "watch": 403}
    assert world.ask("GET", "/api/v1/users/ada/second-factor", token=tokens["watch"]).status_code == 200
    assert world.ask("DELETE", "/api/v1/users/eve/second-factor", token=tokens["watch"]).status_code == 403


def test_an_administrator_of_the_host_is_helped_by_its_root_alone(world: World, token: str) -> None:
    hers = ada(world, token)
    enrol(world, hers)
    asyncio.run(world.database.write(repository.note, 2, {"sudo": 1}))
    assert world.ask("DELETE", "/api/v1/users/ada/second-factor", token=token).status_code == 403
    assert world.ask("DELETE", "/api/v1/users/ada/second-factor").status_code == 200


def test_a_damaged_secret_is_no_way_in_and_recovery_codes_still_are(world: World, token: str) -> None:
    phone, codes = enrol(world, token)
    asyncio.run(world.database.write(lambda c: c.execute(update(totps).values(secret=b"no secret"))))
    broken = login(world, code=phone.code())
    assert broken.status_code == 500 and "does not open" in broken.json()["detail"]
    assert login(world, code=codes[0]).status_code == 200
