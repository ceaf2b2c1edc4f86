"""The portal's pages of one's account and of signing in; forms that other sites send; sessions that others have chosen."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from html import unescape
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from diycloud.auth import refusals
from diycloud.db.engine import Database
from diycloud.web.identity import COOKIE, UNIX_PEER
from diycloud.web.pages import safe_next
from tests.app.restful import ADMIN, PASSWORD, World
from tests.app.test_sessions_seen import holds

NEW = "another long phrase of hers"
SITE = "https://cloud.test"


class Browser:
    """A browser that keeps its cookies and sends what browsers send."""

    def __init__(self, world: World) -> None:
        self._app = world.app
        self.cookies: dict[str, str] = {}

    def get(self, path: str) -> httpx.Response:
        return self.send("GET", path)

    def post(
        self, path: str, fields: dict[str, str | list[str]], *, page: str = "/account", csrf: str | None = None
    ) -> httpx.Response:
        given = self.csrf() if csrf is None else csrf
        return self.send("POST", path, {"csrf": given, **fields}, {"Referer": SITE + page, "Origin": SITE})

    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]*)"', self.get("/account").text)
        return found[1] if found else ""

    def send(
        self,
        method: str,
        path: str,
        data: dict[str, str | list[str]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        answer = asyncio.run(self._send(method, path, data, headers or {}))
        for name, value in answer.cookies.items():
            self.cookies[name] = value
        return answer

    async def _send(
        self, method: str, path: str, data: dict[str, str | list[str]] | None, headers: dict[str, str]
    ) -> httpx.Response:
        transport = httpx.ASGITransport(self._app, client=(UNIX_PEER, 33), raise_app_exceptions=False)
        sent = {"X-Forwarded-For": "192.0.2.7", "Sec-Fetch-Site": "same-origin", **headers}
        sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        async with httpx.AsyncClient(transport=transport, base_url=SITE, headers=sent) as client:
            return await client.request(method, path, data=data)

    def sign_in(self, name: str, password: str) -> httpx.Response:
        return self.send("POST", "/sign-in", {"username": name, "password": password, "next": "/"})


@pytest.fixture
def world(database: Database) -> World:
    made = World(database)
    made.first_admin()
    assert made.ask("POST", "/api/v1/users", json={"username": "ada", "password": PASSWORD}).status_code == 201
    return made


@pytest.fixture
def ada(world: World) -> Browser:
    browser = Browser(world)
    assert browser.sign_in("ada", PASSWORD).status_code == 303
    return browser


@pytest.fixture
def admin(world: World) -> Browser:
    browser = Browser(world)
    assert browser.sign_in(ADMIN, PASSWORD).status_code == 303
    return browser


def test_every_page_of_the_account_is_there(ada: Browser, admin: Browser) -> None:
    for path in ("/account", "/account/keys", "/account/tokens", "/account/tokens/new", "/account/sessions"):
        page = ada.get(path)
        assert page.status_code == 200, path
        assert f'href="{path.removesuffix("/new")}" aria-current="page"' in page.text
    assert ada.get("/confirm").status_code == 200
    assert ada.get("/sessions").status_code == ada.get("/attempts").status_code == 403
    for path in (
        "/sessions",
        "/sessions?user=ada",
        "/attempts",
        "/attempts?outcome=refused",
        "/account",
        "/account/tokens",
    ):
        assert admin.get(path).status_code == 200, path
    assert "/account/keys" not in admin.get("/account").text, "a portal account has no SSH"


def test_a_token_is_made_shown_once_and_ended(world: World, ada: Browser) -> None:
    made = ada.post(
        "/account/tokens/new",
        {"label": "backup <script>", "days": "7", "what": "some", "scope": ["users:read", "keys:read"]},
    )
    assert made.status_code == 201
    secret = re.search(r"dct_[a-z2-7]{12}_[0-9A-Za-z]{49}", made.text)
    assert secret and holds(world, secret[0]) and "backup &lt;script&gt;" in made.text
    listed = ada.get("/account/tokens").text
    assert secret[0] not in listed and secret[0][:16] in listed and "keys:read, users:read" in listed
    assert ada.post("/account/tokens/revoke", {"key_id": secret[0][4:16]}).status_code == 303
    assert not holds(world, secret[0]) and "No tokens yet" in ada.get("/account/tokens").text


def test_a_token_form_at_fault_keeps_what_was_typed(ada: Browser) -> None:
    answer = ada.post("/account/tokens/new", {"label": "", "days": "30", "what": "some", "scope": ["users:read"]})
    assert answer.status_code == 422 and 'value="30" selected' in answer.text
    assert re.search(r'value="users:read" checked', answer.text) and "1–60 printable" in answer.text
    nothing = ada.post("/account/tokens/new", {"label": "x", "days": "30", "what": "some"})
    assert nothing.status_code == 422


def test_sessions_are_seen_and_ended(world: World, ada: Browser) -> None:
    other = world.token("ada", PASSWORD)
    page = ada.get("/account/sessions").text
    assert "this one" in page and "Python" in page
    (number,) = re.findall(r'name="session" value="(\d+)"', page)
    assert ada.post("/account/sessions/end", {"session": number}).status_code == 303
    assert not holds(world, other) and ada.get("/account").status_code == 200
    third = world.token("ada", PASSWORD)
    assert ada.post("/account/sessions/end-others", {}).status_code == 303
    assert not holds(world, third) and ada.get("/account").status_code == 200


def test_an_administrator_signs_others_out(world: World, admin: Browser) -> None:
    one, two = world.token("ada", PASSWORD), world.token("ada", PASSWORD)
    page = admin.get("/sessions?user=ada").text
    number = re.findall(r'name="session" value="(\d+)"', page)[0]
    assert admin.post("/sessions/end", {"username": "ada", "session": number}).status_code == 303
    assert [holds(world, one), holds(world, two)].count(True) == 1
    assert admin.post("/sessions/end-all", {"username": "ada"}).status_code == 303
    assert not holds(world, one) and not holds(world, two)


def test_an_administrator_sees_and_ends_somebodys_tokens(world: World, ada: Browser, admin: Browser) -> None:
    made = ada.post("/account/tokens/new", {"label": "backup", "days": "7", "what": "read"})
    secret = re.search(r"dct_[a-z2-7]{12}_[0-9A-Za-z]{49}", made.text)
    assert secret and ada.get("/users/bob/tokens").status_code == 403
    page = admin.get("/users/ada/tokens").text
    assert "backup" in page and secret[0] not in page
    assert admin.post("/users/ada/tokens/revoke", {"key_id": secret[0][4:16]}).status_code == 303
    assert not holds(world, secret[0]) and "has no API tokens" in admin.get("/users/ada/tokens").text


def test_attempts_are_told_in_plain_words(world: World, admin: Browser) -> None:
    for n in range(7):
        world.ask("POST", "/api/v1/auth/login", json={"username": "ada", "password": f"wrong {n}"}, token="")
    page = unescape(admin.get("/attempts").text)
    assert "wrong name, password or network" in page and "Has to wait now" in page and "had to wait" in page
    assert "wrong 1" not in page
    assert "signed in" in admin.get("/attempts?outcome=done").text
    assert admin.post("/attempts/clear", {"username": "ada"}).status_code == 303
    assert "Has to wait now" not in admin.get("/attempts").text


def test_a_flood_of_attempts_is_told_by_its_number(
    world: World, admin: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "AT_ONCE", 2)
    for n in range(6):
        sent = {"username": f"nobody{n}", "password": "wrong"}
        world.ask("POST", "/api/v1/auth/login", json=sent, token="", address=f"198.51.100.{n}")
    page = unescape(admin.get("/attempts").text)
    assert "4 more were refused within a minute, of names that are nobody's here" in page
    assert page.count("wrong name, password or network") == 2


# -- proof


def stale(world: World) -> None:
    world.sql("UPDATE sessions SET proved_at = proved_at - 1000")


def test_a_proof_is_asked_for_and_leads_back(world: World, ada: Browser) -> None:
    stale(world)
    asked = ada.get("/account/tokens/new")
    assert asked.status_code == 303
    there = urlsplit(asked.headers["location"])
    assert there.path == "/confirm" and parse_qs(there.query) == {"next": ["/account/tokens/new"]}
    before = ada.cookies[COOKIE]
    wrong = ada.post("/confirm", {"password": "not it", "next": "/account/tokens/new"})
    assert wrong.status_code == 422 and "wrong" in wrong.text and 'value="/account/tokens/new"' in wrong.text
    right = ada.post("/confirm", {"password": PASSWORD, "next": "/account/tokens/new"})
    assert (right.status_code, right.headers["location"]) == (303, "/account/tokens/new")
    assert ada.cookies[COOKIE] != before and not holds(world, before), "the session goes on under another token"
    assert ada.get("/account/tokens/new").status_code == 200


def test_a_form_that_needs_a_proof_leads_back_to_its_page(world: World, ada: Browser) -> None:
    stale(world)
    sent = {"label": "x", "days": "7", "what": "read"}
    asked = ada.post("/account/tokens/new", dict(sent), page="/account/tokens/new?x=1")
    query = parse_qs(urlsplit(asked.headers["location"]).query)
    assert query == {"next": ["/account/tokens/new?x=1"], "again": ["1"]}
    right = ada.post("/confirm", {"password": PASSWORD, "next": query["next"][0], "again": "1"})
    assert right.headers["location"] == "/account/tokens/new?x=1"
    assert ada.post("/account/tokens/new", dict(sent)).status_code == 201


@pytest.mark.parametrize(
    "referer", ["https://evil.test/account", "javascript:alert(1)", "https://cloud.test.evil.test/x", "//evil.test", ""]
)
def test_no_other_site_is_led_back_to(world: World, ada: Browser, referer: str) -> None:
    stale(world)
    csrf = ada.csrf()
    form: dict[str, str | list[str]] = {"csrf": csrf, "label": "x", "days": "7", "what": "read"}
    asked = ada.send("POST", "/account/tokens/new", form, {"Referer": referer})
    assert parse_qs(urlsplit(asked.headers["location"]).query)["next"] == ["/account"]


@pytest.mark.parametrize(
    "target",
    ["https://evil.test/", "//evil.test", "/\\evil.test", "\\\\evil.test", "javascript:alert(1)", "/sign-out",
     "", "evil", "/%0d%0aX: y\r\nX: y",
     "/\t/evil.test", "///evil.test", "http:evil.test"],
)  # fmt: skip
def test_a_proof_leads_to_no_other_site(ada: Browser, target: str) -> None:
    there = ada.post("/confirm", {"password": PASSWORD, "next": target}).headers["location"]
    assert there == "/" == safe_next(target)


def test_guesses_at_a_proof_are_slowed(ada: Browser) -> None:
    found = [ada.post("/confirm", {"password": f"guess {n}"}).status_code for n in range(7)]
    assert found == [422] * 5 + [429] * 2


# -- password


def test_a_new_password_renews_this_browsers_session(world: World, ada: Browser) -> None:
    other, before = world.token("ada", PASSWORD), ada.cookies[COOKIE]
    done = ada.post("/account", {"current": PASSWORD, "password": NEW, "again": NEW})
    assert (done.status_code, done.headers["location"]) == (303, "/")
    assert not holds(world, other) and not holds(world, before)
    assert ada.cookies[COOKIE] != before and ada.get("/account").status_code == 200


def test_a_forced_change_is_the_only_page(world: World) -> None:
    made = world.ask("PUT", "/api/v1/users/ada/password", json={}).json()["password"]
    browser = Browser(world)
    assert browser.sign_in("ada", made).headers["location"] == "/account"
    for path in ("/", "/account/tokens", "/account/sessions", "/confirm", "/account/keys"):
        assert browser.get(path).headers.get("location") == "/account", path
    assert "Choose your password" in browser.get("/account").text
    assert browser.post("/account", {"current": made, "password": NEW, "again": NEW}).status_code == 303
    assert browser.get("/account/tokens").status_code == 200


# -- attacks


def routes(world: World) -> Iterator[str]:
    """Yield the path of every form of the portal, from the table that the portal itself is made of."""
    for route in world.app.routes:
        of_portal = "Portal._endpoint" in getattr(getattr(route, "endpoint", None), "__qualname__", "")
        if of_portal and "POST" in route.methods:  # type: ignore[attr-defined]
            yield re.sub(r"{(\w+)(:\w+)?}", "ada", route.path)  # type: ignore[attr-defined]


def state(world: World) -> list[list[tuple[object, ...]]]:
    return [
        world.sql(f"SELECT * FROM {table}")
        for table in (
            "users",
            "groups",
            "domains",
            "policies",
            "api_tokens",
            "totps",
            "passkeys",
            "oidc_clients",
            "oidc_consents",
        )
    ]


SIGNING_IN = ("/sign-in",)
"""Before there is a session there is nothing to protect but the sign-in itself: another site's is refused."""


def test_there_are_forms_to_try(world: World) -> None:
    assert len(list(routes(world))) > 35


def test_no_form_is_taken_from_another_site(world: World, admin: Browser) -> None:
    """Every form there is, with the victim's cookie: without the token, with a wrong one, with a right one from elsewhere."""
    csrf, before, there = admin.csrf(), state(world), 0
    for path in routes(world):
        there += 1
        for fields, headers in (
            ({}, {}),
            ({"csrf": ""}, {}),
            ({"csrf": "x" * 32}, {}),
            ({"csrf": csrf}, {"Sec-Fetch-Site": "cross-site"}),
            ({"csrf": csrf}, {"Sec-Fetch-Site": "same-site"}),
            ({"csrf": csrf}, {"Sec-Fetch-Site": "", "Origin": "https://evil.test"}),
        ):
            sent: dict[str, str | list[str]] = {**fields, "username": ADMIN, "password": PASSWORD, "confirm": "ada"}
            answer = admin.send("POST", path, sent, headers)
            assert answer.status_code == 403, (path, fields, headers, answer.status_code)
    assert there > 35
    assert state(world) == before and admin.get("/account").status_code == 200


def test_a_form_of_a_stranger_changes_nothing(world: World) -> None:
    before = state(world)
    for path in routes(world):
        if path.startswith(SIGNING_IN):
            continue
        answer = Browser(world).send("POST", path, {"username": "ada", "csrf": "x"})
        assert answer.status_code in (303, 403), path
        assert answer.headers.get("location", "/sign-in").startswith("/sign-in"), path
    assert state(world) == before


@pytest.mark.parametrize("chosen", ["fixed-by-the-attacker", "", "A" * 43])
def test_a_session_that_an_attacker_chose_is_not_kept(world: World, chosen: str) -> None:
    """Session fixation: whatever cookie the browser came with, signing in makes another."""
    browser = Browser(world)
    browser.cookies[COOKIE] = chosen
    assert browser.sign_in("ada", PASSWORD).status_code == 303
    assert browser.cookies[COOKIE] not in ("", chosen) and len(browser.cookies[COOKIE]) >= 43
    assert not holds(world, chosen or "x")


def test_the_attackers_own_session_does_not_become_the_victims(world: World, ada: Browser) -> None:
    """Handed the attacker's live cookie (and form), the victim signs in over it: another session, and the attacker's ends."""
    assert world.ask("POST", "/api/v1/users", json={"username": "mallory", "password": PASSWORD}).status_code == 201
    attacker = Browser(world)
    attacker.sign_in("mallory", PASSWORD)
    handed = attacker.cookies[COOKIE]
    victim = Browser(world)
    victim.cookies[COOKIE] = handed
    assert victim.sign_in("ada", PASSWORD).status_code == 403, "without the form's token not at all"
    form: dict[str, str | list[str]] = {"username": "ada", "password": PASSWORD, "csrf": attacker.csrf()}
    assert victim.send("POST", "/sign-in", form).status_code == 303
    assert victim.cookies[COOKIE] != handed
    who = world.ask("GET", "/api/v1/auth/whoami", token=victim.cookies[COOKIE]).json()["username"]
    assert who == "ada" and not holds(world, handed)


def test_the_cookie_is_one_that_scripts_and_other_sites_do_not_get(world: World) -> None:
    answer = Browser(world).sign_in("ada", PASSWORD)
    (cookie,) = [c for c in answer.headers.get_list("set-cookie") if c.startswith(f"{COOKIE}=")]
    parts = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "secure", "samesite=lax", "path=/"} <= parts and not any(p.startswith("domain") for p in parts)


def test_an_address_is_believed_from_nginx_only(world: World) -> None:
    """X-Forwarded-For of strangers: only what Nginx has put last counts, and a peer that is not Nginx's socket is its own."""
    world.ask("PATCH", "/api/v1/users/ada", json={"allowed_client_ip": ["198.51.100.0/24"]})

    def sign_in(peer: tuple[str, int], forwarded: str) -> int:
        async def send() -> int:
            transport = httpx.ASGITransport(world.app, client=peer, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=SITE) as client:
                sent = {"username": "ada", "password": PASSWORD}
                headers = {"X-Forwarded-For": forwarded}
                return (await client.post("/api/v1/auth/login", json=sent, headers=headers)).status_code

        return asyncio.run(send())

    nginx = (UNIX_PEER, 33)
    assert sign_in(nginx, "198.51.100.9") == 200
    assert sign_in(nginx, "203.0.113.9, 198.51.100.9") == 200, "what Nginx saw is last"
    assert sign_in(nginx, "198.51.100.9, 203.0.113.9") == 401
    assert sign_in(("203.0.113.9", 4711), "198.51.100.9") == 401
    assert sign_in(("198.51.100.9", 4711), "203.0.113.9") == 200
    assert sign_in((UNIX_PEER, 0), "203.0.113.9") == 401, "root that forwards for others is not root"
