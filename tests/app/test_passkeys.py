"""Passkeys against the whole application, by a device in software that can also lie (a browser's own: tests/browser)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import text

from diycloud.db.engine import Database
from diycloud.users import repository
from tests.authenticator import BACKUP, PRESENT, VERIFIED, Authenticator

from .factors import ADA, Browser, ada, clock, enrol, entries, login, second  # noqa: F401 - a fixture
from .restful import ADMIN, PASSWORD, World


@pytest.fixture
def world(database: Database) -> World:
    return World(database, host_name="cloud.test")


@pytest.fixture
def token(world: World) -> str:
    return world.first_admin()


def add(world: World, token: str, device: Authenticator | None = None, **changed: Any) -> tuple[Authenticator, Any]:
    """Register a device; returns it and the answer."""
    device = device or Authenticator()
    begun = world.ask("POST", "/api/v1/account/passkeys/begin", token=token)
    assert begun.status_code == 200, begun.text
    made = device.register(begun.json()["options"], **changed)
    return device, world.ask(
        "POST", "/api/v1/account/passkeys", token=token, json={"credential": made, "label": "blue key"}
    )


def options(browser: Browser, *, second: bool = False) -> str:
    answer = browser.post("/sign-in/passkey", second="yes" if second else "")
    assert answer.status_code == 200, answer.text
    return answer.text


def alone(world: World, device: Authenticator, **changed: Any) -> Browser:
    """Sign in by a passkey alone, in a browser of its own."""
    browser = Browser(world)
    browser.answer = browser.post("/sign-in", passkey=device.sign(options(browser), **changed))
    return browser


def test_from_registering_to_signing_in_both_ways(world: World, token: str) -> None:
    device, added = add(world, token)
    assert added.status_code == 200, added.text
    assert len(added.json()["codes"]) == 10, "the first second factor brings recovery codes"
    (shown,) = added.json()["factors"]["passkeys"]
    assert (shown["name"], shown["backed_up"], shown["last_used"]) == ("blue key", False, None)
    browser = alone(world, device)
    assert browser.answer.headers["location"] == "/" and browser.get("/users").status_code == 200
    other = Browser(world)
    first = other.post("/sign-in", username=ADMIN, password=PASSWORD)
    assert first.headers["location"] == "/sign-in/second"
    asked = options(other, second=True)
    assert [one["id"] for one in json.loads(asked)["allowCredentials"]] == [shown_id(device)]
    done = other.post("/sign-in/second", passkey=device.sign(asked, flags=PRESENT))
    assert done.headers["location"] == "/", "beside the password presence is enough"
    (kept,) = world.ask("GET", f"/api/v1/users/{ADMIN}/second-factor", token=token).json()["passkeys"]
    assert kept["last_used"]
    begun = asyncio.run(
        world.database.read(lambda c: c.execute(text("SELECT methods FROM sessions ORDER BY id")).scalars().all())
    )
    assert begun[-2:] == ["hwk user", "pwd hwk"]


def shown_id(device: Authenticator) -> str:
    return str(json.loads(device.sign(json.dumps({"challenge": "", "rpId": ""})))["id"])


def test_by_rest_as_the_second_step(world: World, token: str) -> None:
    device, _ = add(world, token)
    asked = login(world).json()
    assert asked["ways"] == ["passkey", "recovery"]
    browser = Browser(world)
    browser.post("/sign-in", username=ADMIN, password=PASSWORD)
    answer = device.sign(options(browser, second=True))
    assert second(world, asked["ticket"], passkey=answer).status_code == 200
    assert second(world, login(world).json()["ticket"], passkey=answer).status_code == 401, "a challenge is for once"


LIES = {
    "another origin": {"origin": "https://evil.test"},
    "http": {"origin": "http://cloud.test"},
    "a subdomain": {"origin": "https://x.cloud.test"},
    "another relying party": {"rp_id": "evil.test"},
    "a made-up challenge": {"challenge": "A" * 43},
    "no challenge": {"challenge": ""},
    "a challenge that is no text": {"challenge": 5},
    "a registration": {"type": "webauthn.create"},
    "nobody there": {"flags": 0},
    "nobody looked at": {"flags": PRESENT},
    "another's key": {"key": ec.generate_private_key(ec.SECP256R1())},
    "another's handle": {"handle": "bm9ib2R5"},
    "a handle that is no text": {"handle": "////"},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_what_is_not_true_opens_nothing(world: World, token: str, lie: dict[str, Any]) -> None:
    device, _ = add(world, token)
    browser = alone(world, device, **lie)
    assert browser.answer.status_code == 401 and "opens nothing here" in browser.answer.text
    assert alone(world, device).answer.status_code == 303


@pytest.mark.parametrize(
    "answer",
    ["x", "{}", "[]", "null", '{"id": 1}', '{"response": {"clientDataJSON": "bm8"}}', "[" * 4_000,
     '{"response": {"clientDataJSON": "\\u0000"}}', '{"id": "AA", "response": {"clientDataJSON": 5}}'],
)  # fmt: skip
def test_what_is_no_answer_of_a_browser(world: World, token: str, answer: str) -> None:
    assert Browser(world).post("/sign-in", passkey=answer).status_code == 401


@pytest.mark.parametrize(
    "lie",
    [
        {"origin": "https://evil.test"},
        {"rp_id": "evil.test"},
        {"challenge": "A" * 43},
        {"type": "webauthn.get"},
        {"flags": 0},
    ],
    ids=lambda lie: next(iter(lie)),
)
def test_no_passkey_is_registered_by_a_lie(world: World, token: str, lie: dict[str, Any]) -> None:
    _, refused = add(world, token, **lie)
    assert refused.status_code in (409, 422)
    assert world.ask("GET", f"/api/v1/users/{ADMIN}/second-factor", token=token).json()["passkeys"] == []


def test_a_registration_counts_once_and_for_its_user_only(world: World, token: str) -> None:
    hers = ada(world, token)
    device = Authenticator()
    begun = world.ask("POST", "/api/v1/account/passkeys/begin", token=token).json()["options"]
    made = {"credential": device.register(begun)}
    assert world.ask("POST", "/api/v1/account/passkeys", token=hers, json=made).status_code == 409, "not hers"
    assert world.ask("POST", "/api/v1/account/passkeys", token=token, json=made).status_code == 409, "and used up"
    add(world, token, device)
    _, twice = add(world, hers, device)
    assert twice.status_code == 409, "one credential is one user's"


def test_a_challenge_of_one_purpose_is_of_no_other(world: World, token: str) -> None:
    device, _ = add(world, token)
    browser = Browser(world)
    browser.post("/sign-in", username=ADMIN, password=PASSWORD)
    for_second, for_alone = options(browser, second=True), options(browser)
    for answer, path in ((for_second, "/sign-in"), (for_alone, "/sign-in/second")):
        refused = browser.post(path, passkey=device.sign(answer))
        assert refused.status_code == 401


def test_one_users_passkey_is_no_second_factor_of_another(world: World, token: str) -> None:
    hers = ada(world, token)
    mine, _ = add(world, token)
    add(world, hers)
    browser = Browser(world)
    browser.post("/sign-in", username="ada", password=ADA)
    assert browser.post("/sign-in/second", passkey=mine.sign(options(browser, second=True))).status_code == 401


@pytest.mark.parametrize("handle", ["bm9ib2R5", "////"])
def test_nor_one_that_says_to_be_of_another(world: World, token: str, handle: str) -> None:
    device, _ = add(world, token)
    browser = Browser(world)
    browser.post("/sign-in", username=ADMIN, password=PASSWORD)
    refused = browser.post("/sign-in/second", passkey=device.sign(options(browser, second=True), handle=handle))
    assert refused.status_code == 401
    unnamed = device.sign(options(browser, second=True), handle="")
    assert browser.post("/sign-in/second", passkey=unnamed).status_code == 303, "not every device names one"


def test_a_counter_that_runs_backwards_is_refused_and_told(world: World, token: str) -> None:
    device, _ = add(world, token)
    assert alone(world, device, counter=50).answer.status_code == 303
    assert alone(world, device, counter=50).answer.status_code == 401
    assert alone(world, device, counter=7).answer.status_code == 401
    told = [entry["message"] for entry in entries(world, "session.begin") if entry["outcome"] == "refused"]
    assert len([message for message in told if "ran backwards" in message]) >= 1
    assert alone(world, device, counter=51).answer.status_code == 303


def test_a_device_that_counts_nothing(world: World, token: str) -> None:
    device, _ = add(world, token, Authenticator(counter=0))
    for _ in range(3):
        assert alone(world, device).answer.status_code == 303


@pytest.mark.parametrize("change", ["disable", "network", "delete"])
def test_a_passkey_opens_no_account_that_may_not_sign_in(world: World, token: str, change: str) -> None:
    device, _ = add(world, ada(world, token))
    assert alone(world, device).answer.status_code == 303
    if change == "network":
        sent = {"allowed_client_ip": ["198.51.100.0/24"]}
        assert world.ask("PATCH", "/api/v1/users/ada", token=token, json=sent).status_code == 200
    else:
        method, path = ("POST", "/disable") if change == "disable" else ("DELETE", "")
        assert world.ask(method, f"/api/v1/users/ada{path}", token=token).status_code == 200
    refused = alone(world, device)
    assert refused.answer.status_code == 401 and "ada" not in refused.answer.text


def test_a_password_that_must_change_still_must(world: World, token: str) -> None:
    device, _ = add(world, ada(world, token))
    asyncio.run(world.database.write(repository.note, 2, {"must_change_password": 1}))
    assert alone(world, device).answer.headers["location"] == "/account"


def test_renaming_and_removing(world: World, token: str) -> None:
    device, added = add(world, token)
    number = added.json()["factors"]["passkeys"][0]["id"]
    hers = ada(world, token)
    for method, sent in (("PATCH", {"label": "mine now"}), ("DELETE", None)):
        path = f"/api/v1/account/passkeys/{number}"
        assert world.ask(method, path, token=hers, json=sent).status_code == 404, "another's"
    renamed = world.ask("PATCH", f"/api/v1/account/passkeys/{number}", token=token, json={"label": "red key"})
    assert renamed.json()["factors"]["passkeys"][0]["name"] == "red key"
    assert world.ask("DELETE", f"/api/v1/account/passkeys/{number}", token=token).status_code == 200
    assert alone(world, device).answer.status_code == 401
    assert login(world).status_code == 200


def test_an_app_beside_it_is_asked_first(world: World, token: str) -> None:
    phone, _ = enrol(world, token)
    device, added = add(world, token)
    assert added.json()["codes"] == [], "the recovery codes stay"
    assert login(world).json()["ways"] == ["totp", "passkey", "recovery"]
    assert login(world, code=phone.code()).status_code == 200
    assert alone(world, device).answer.status_code == 303


def test_a_portal_without_a_name_says_so(database: Database) -> None:
    world = World(database, host_name="192.0.2.1")
    token = world.first_admin()
    refused = world.ask("POST", "/api/v1/account/passkeys/begin", token=token)
    assert refused.status_code == 501 and "server.host_name" in refused.json()["hint"]
    browser = Browser(world)
    assert "passkey" not in browser.get("/sign-in").text
    assert browser.post("/sign-in/passkey").status_code == 501
    browser.post("/sign-in", username=ADMIN, password=PASSWORD)
    assert "Passkeys need a portal with a name" in browser.get("/account/second-factor").text


def test_twenty_and_no_more(world: World, token: str) -> None:
    for _ in range(20):
        assert add(world, token)[1].status_code == 200
    assert add(world, token)[1].status_code == 422


def test_what_a_device_says_about_itself_is_kept_only_if_it_is_known(world: World, token: str) -> None:
    add(world, token, flags=PRESENT | VERIFIED | BACKUP)
    read = text("SELECT transports, backed_up FROM passkeys")
    assert asyncio.run(world.database.read(lambda c: tuple(c.execute(read).one()))) == ("internal", 1)
