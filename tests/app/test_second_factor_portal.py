"""Second factors in the portal, the whole application in one process: the second step, its cookie, its forms."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import httpx
import pytest

from diycloud.db.engine import Database

from .factors import ADA, Browser, Phone, ada, enrol, login, second
from .factors import clock as standing  # noqa: F401 - a fixture
from .restful import ADMIN, PASSWORD, World


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


@pytest.fixture
def token(world: World) -> str:
    return world.first_admin()


@pytest.fixture
def browser(world: World, token: str) -> Iterator[Browser]:
    yield Browser(world)


def sign_in(browser: Browser, **more: str) -> httpx.Response:
    return browser.post("/sign-in", username=ADMIN, password=PASSWORD, **more)


def test_the_second_step_in_the_portal(browser: Browser, world: World, token: str) -> None:
    phone, codes = enrol(world, token)
    first = sign_in(browser, next="/users")
    assert (first.status_code, first.headers["location"]) == (303, "/sign-in/second?next=%2Fusers")
    cookie = next(line for line in first.headers.get_list("set-cookie") if line.startswith("__Host-diycloud-second="))
    assert all(word in cookie for word in ("HttpOnly", "Secure", "Path=/", "Max-Age=300")) and "Domain" not in cookie
    assert "__Host-diycloud=" not in str(first.headers)
    assert browser.get("/").status_code == 303, "half a sign-in opens nothing"
    page = browser.get(first.headers["location"]).text
    assert 'autocomplete="one-time-code"' in page and 'inputmode="numeric"' in page and "Use a recovery code" in page
    wrong = browser.post("/sign-in/second", code="000000", next="/users")
    assert wrong.status_code == 401 and "wrong" in wrong.text
    done = browser.post("/sign-in/second", code=phone.code(), next="/users")
    assert (done.status_code, done.headers["location"]) == (303, "/users")
    assert browser.get("/users").status_code == 200
    other = Browser(world)
    sign_in(other)
    assert other.post("/sign-in/second", code=codes[0]).headers["location"] == "/"


@pytest.mark.parametrize("target", ["//evil.test", "https://evil.test/", "/\\evil.test", "/sign-out", "\x00"])
def test_signing_in_leads_nowhere_else(browser: Browser, world: World, token: str, target: str) -> None:
    phone, _ = enrol(world, token)
    assert sign_in(browser, next=target).headers["location"] == "/sign-in/second"
    assert browser.post("/sign-in/second", code=phone.code(), next=target).headers["location"] == "/"


def test_without_a_ticket_one_begins_again(browser: Browser, world: World, token: str) -> None:
    enrol(world, token)
    for answer in (browser.get("/sign-in/second"), browser.post("/sign-in/second", code="123456")):
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert browser.post("/sign-in/passkey", second="yes").status_code == 401


def test_who_has_no_second_factor_any_more_begins_again(browser: Browser, world: World, token: str) -> None:
    enrol(world, ada(world, token))
    browser.post("/sign-in", username="ada", password=ADA)
    assert browser.get("/sign-in/second").status_code == 200
    assert world.ask("DELETE", "/api/v1/users/ada/second-factor").status_code == 200
    assert browser.get("/sign-in/second").headers["location"] == "/sign-in"
    assert browser.post("/sign-in", username="ada", password=ADA).headers["location"] == "/"


def test_forms_of_signing_in_from_elsewhere_are_refused(browser: Browser, world: World, token: str) -> None:
    enrol(world, token)
    sign_in(browser)
    for path in ("/sign-in", "/sign-in/second", "/sign-in/passkey"):
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.test"}):
            answer = browser._ask("POST", path, data={"code": "123456"}, headers=headers)
            assert answer.status_code == 403


def test_the_page_of_ones_own(browser: Browser, world: World, token: str) -> None:
    sign_in(browser)
    assert "Set up an app" in browser.get("/account/second-factor").text
    page = browser.get("/account/second-factor/app")
    picture = re.search(r'<img class="qr" src="(data:image/svg\+xml[^"]+)"', page.text)
    key = re.search(r'aria-label="the key">([^<]+)<', page.text)
    assert picture and key and "img-src 'self' data:" in page.headers["content-security-policy"]
    phone = Phone(html.unescape(key[1]).replace(" ", ""))
    assert browser.post("/account/second-factor/app", code="000000").status_code == 422
    shown = browser.post("/account/second-factor/app", code=phone.code())
    codes = re.findall(r"(?:[a-z2-9]{6}-){3}[a-z2-9]{6}", shown.text)
    assert shown.status_code == 200 and len(set(codes)) == 10 and shown.headers["cache-control"] == "no-store"
    assert "10 left" in browser.get("/account/second-factor").text
    assert login(world, code=codes[0]).status_code == 200
    again = browser.post("/account/second-factor/codes")
    assert codes[1] not in again.text and "The old ones hold no more" in again.text
    assert browser.post("/account/second-factor/app/remove").status_code == 303
    assert login(world).status_code == 200


def test_forced_in_the_portal(browser: Browser, world: World, token: str) -> None:
    world.ask("PATCH", "/api/v1/policies/default", json={"second_factor": True})
    assert sign_in(browser).headers["location"] == "/account/second-factor"
    for path in ("/", "/users", "/account", "/account/tokens", "/events/usage", "/audit"):
        answer = browser.get(path)
        assert (answer.status_code, answer.headers.get("location")) == (303, "/account/second-factor"), path
    assert "One more thing" in browser.get("/account/second-factor").text
    key = re.search(r'aria-label="the key">([^<]+)<', browser.get("/account/second-factor/app").text)
    assert key
    shown = browser.post("/account/second-factor/app", code=Phone(key[1].replace(" ", "")).code())
    assert "Keep these recovery codes" in shown.text
    assert browser.get("/users").status_code == 200


def test_an_administrators_button(browser: Browser, world: World, token: str) -> None:
    enrol(world, ada(world, token))
    sign_in(browser)
    page = browser.get("/users/ada").text
    assert "Remove the second factor" in page
    browser.post("/users/ada/second-factor/reset")
    page = browser.get("/users/ada").text
    assert "has no second factor now" in page and "Remove the second factor" not in page
    assert login(world, "ada", ADA).status_code == 200


def test_a_policys_page_asks_for_one(browser: Browser, world: World, token: str) -> None:
    sign_in(browser)
    browser.get("/new-policy")
    sent = {"name": "strict", "cpu": "1", "memory": "2G", "disk": "5G", "tasks": "512", "max_gpu": "true"}
    assert browser.post("/new-policy", **sent, second_factor="true").status_code == 303
    assert world.ask("GET", "/api/v1/policies/strict").json()["second_factor"] is True
    browser.post("/policies/strict", **{name: value for name, value in sent.items() if name != "name"})
    assert world.ask("GET", "/api/v1/policies/strict").json()["second_factor"] is False


def test_a_ticket_holds_only_where_it_was_given(browser: Browser, world: World, token: str) -> None:
    """A browser's session has a cookie and its guards, one of REST a bearer's token: neither is made into the other."""
    phone, _ = enrol(world, token)
    sign_in(browser)
    cookie = next(c.value for c in browser.cookies.jar if c.name == "__Host-diycloud-second")
    assert cookie and second(world, cookie, code=phone.code()).json()["code"] == "unauthenticated"
    asked = login(world).json()["ticket"]
    browser.cookies.set("__Host-diycloud-second", asked)
    refused = browser.post("/sign-in/second", code=phone.code())
    assert refused.headers["location"] == "/sign-in" and browser.get("/users").status_code == 303
