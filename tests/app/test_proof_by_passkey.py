"""A passkey as the fresh proof that changing a sign-in asks for: /confirm and POST /account/proof, with a device that can lie."""

from __future__ import annotations

import json
from typing import Any

import pytest

from diycloud.db.engine import Database
from diycloud.users.adopting import NO_PASSWORD
from tests.authenticator import PRESENT, Authenticator

from .restful import PASSWORD, World
from .test_account_pages import Browser, stale
from .test_passkeys import LIES, add, shown_id

BACK = "/account/tokens/new"


@pytest.fixture
def world(database: Database) -> World:
    made = World(database, host_name="cloud.test")
    made.first_admin()
    assert made.ask("POST", "/api/v1/users", json={"username": "ada", "password": PASSWORD}).status_code == 201
    return made


@pytest.fixture
def device(world: World) -> Authenticator:
    """A passkey of ada's."""
    made, answer = add(world, world.token("ada", PASSWORD))
    assert answer.status_code == 200
    return made


def by_passkey(world: World, device: Authenticator) -> Browser:
    """Sign in by the passkey alone, then leave the session open for long."""
    browser = Browser(world)
    asked = browser.send("POST", "/sign-in/passkey", {})
    done = browser.send("POST", "/sign-in", {"passkey": device.sign(asked.text), "next": "/"})
    assert done.status_code == 303, done.text
    stale(world)
    return browser


def asked(browser: Browser) -> str:
    answer = browser.post("/confirm/passkey", {})
    assert answer.status_code == 200, answer.text
    return answer.text


def confirm(browser: Browser, answer: str) -> Any:
    return browser.post("/confirm", {"passkey": answer, "next": BACK})


def test_who_has_a_passkey_only_proves_it_and_goes_on(world: World, device: Authenticator) -> None:
    world.sql(f"UPDATE users SET password_hash = '{NO_PASSWORD}' WHERE username = 'ada'")
    ada = by_passkey(world, device)
    there = ada.get(BACK).headers["location"]
    page = ada.get(there).text
    assert (
        'data-options="/confirm/passkey"' in page and 'name="password"' not in page and "have no password" not in page
    )
    before = dict(ada.cookies)
    options = asked(ada)
    told = json.loads(options)
    assert told["userVerification"] == "required" and [one["id"] for one in told["allowCredentials"]] == [
        shown_id(device)
    ]
    done = confirm(ada, device.sign(options))
    assert (done.status_code, done.headers["location"]) == (303, BACK), done.text
    assert ada.cookies != before, "the session goes on under another token"
    assert ada.get(BACK).status_code == 200
    assert ada.post(BACK, {"label": "x", "days": "7", "what": "read"}).status_code == 201


def test_by_rest_the_answer_is_of_the_same_user_whichever_session(world: World, device: Authenticator) -> None:
    ada = by_passkey(world, device)
    answer = device.sign(asked(ada))
    admins = world.token("admin", PASSWORD)
    sent = {"passkey": answer}
    assert world.ask("POST", "/api/v1/account/proof", token=admins, json=sent).status_code == 422
    refused = world.ask("POST", "/api/v1/account/proof", token=admins, json={})
    assert refused.status_code == 422 and "passkey" in refused.text


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_what_is_not_true_proves_nothing(world: World, device: Authenticator, lie: dict[str, Any]) -> None:
    ada = by_passkey(world, device)
    refused = confirm(ada, device.sign(asked(ada), **lie))
    assert refused.status_code == 422 and "does not prove who you are" in refused.text
    assert ada.get(BACK).status_code == 303, "still asked for"


def test_a_touch_alone_is_not_enough(world: World, device: Authenticator) -> None:
    """As a second factor it is, beside the password; here nothing else is shown."""
    ada = by_passkey(world, device)
    assert confirm(ada, device.sign(asked(ada), flags=PRESENT)).status_code == 422


def test_a_challenge_is_for_once_and_for_this_alone(world: World, device: Authenticator) -> None:
    ada = by_passkey(world, device)
    answer = device.sign(asked(ada))
    assert confirm(ada, answer).status_code == 303
    stale(world)
    assert confirm(ada, answer).status_code == 422, "used up"
    for_sign_in = Browser(world).send("POST", "/sign-in/passkey", {}).text
    assert confirm(ada, device.sign(for_sign_in)).status_code == 422, "asked for to sign in"
    stranger = Browser(world)
    signed = device.sign(asked(ada))
    assert stranger.send("POST", "/sign-in", {"passkey": signed, "next": "/"}).status_code == 401, "asked for to prove"


def test_somebody_elses_passkey_and_challenge_prove_nothing(world: World, device: Authenticator) -> None:
    admin = Browser(world)
    theirs, _ = add(world, world.token("admin", PASSWORD))
    admin = by_passkey(world, theirs)
    ada = by_passkey(world, device)
    assert confirm(ada, theirs.sign(asked(ada))).status_code == 422
    assert confirm(ada, device.sign(asked(admin))).status_code == 422
    assert confirm(ada, theirs.sign(asked(admin))).status_code == 422


def test_a_copy_that_counts_backwards_proves_nothing(world: World, device: Authenticator) -> None:
    ada = by_passkey(world, device)
    assert confirm(ada, device.sign(asked(ada), counter=1)).status_code == 422


def test_strangers_and_scripts_get_no_challenge(world: World, device: Authenticator) -> None:
    stranger = Browser(world)
    assert stranger.send("POST", "/confirm/passkey", {}).status_code == 303, "to sign in"
    ada = by_passkey(world, device)
    assert ada.send("POST", "/confirm/passkey", {"csrf": "x"}).status_code == 403


def test_one_of_both_is_needed(world: World, device: Authenticator) -> None:
    ada = by_passkey(world, device)
    both = ada.post("/confirm", {"passkey": device.sign(asked(ada)), "password": PASSWORD})
    neither = ada.post("/confirm", {"password": ""})
    assert (both.status_code, neither.status_code) == (422, 422)


def test_who_has_a_password_is_offered_both_and_others_neither(world: World, device: Authenticator) -> None:
    ada = by_passkey(world, device)
    page = ada.get("/confirm").text
    assert 'name="password"' in page and 'data-options="/confirm/passkey"' in page
    admin = Browser(world)
    admin.sign_in("admin", PASSWORD)
    assert "data-passkey" not in admin.get("/confirm").text
