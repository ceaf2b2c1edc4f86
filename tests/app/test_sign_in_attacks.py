"""Attacks on signing in: who has a password, a session or a token that was stolen; an application, an administrator of a
domain and strangers with many addresses. The whole application on a real database.

Others of their kind stand beside what they attack: docs/explanation/security-checklist.md names them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from diycloud.actions.waiting import Waiting
from diycloud.auth import totp
from diycloud.auth.outside.linking import candidate
from diycloud.auth.outside.person import Person
from diycloud.auth.signin import SignIn, Visit
from diycloud.config_sign_in import ProviderSettings
from diycloud.db.engine import Database
from diycloud.users.models import Row
from tests.app import openid
from tests.app.factors import clock, enrol, login, second  # noqa: F401 - a fixture
from tests.app.openid import OpenId, told
from tests.app.restful import FAR, PASSWORD, PlainHasher, World
from tests.app.test_account_pages import SITE
from tests.app.test_account_pages import Browser as Tab
from tests.app.town import SSH, Town
from tests.unit.test_throttle import Clock

NEW = "another long phrase of hers"
AGO = "UPDATE sessions SET proved_at = proved_at - 3600"
"""A session that was left open: everybody's proof is an hour old."""


def together(world: World, requests: Sequence[tuple[str, str, dict[str, Any]]]) -> list[httpx.Response]:
    """Send requests all at once."""

    async def send() -> list[httpx.Response]:
        return list(await asyncio.gather(*(world.send(method, path, **more) for method, path, more in requests)))

    return asyncio.run(send())


# -- who is there? by answers, and by work instead of time: what is not done differently takes no other time


class Counting(PlainHasher):
    """Counts hashes."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def hash(self, password: str) -> str:
        self.done.append("hash")
        return await super().hash(password)

    async def verify(self, password: str, hashed: str | None) -> bool:
        self.done.append("verify")
        return await super().verify(password, hashed)


@pytest.mark.parametrize("how", ["rest", "old form", "portal"])
@pytest.mark.parametrize(
    "change",
    [
        "id = id", "status = 'inactive'", "status = 'deleted'", "status = 'pending'", "portal_only = 1", "password_hash = ''",
        "password_hash = 'sha256$x'", "allowed_client_ip = '10.0.0.0/8'", "allowed_client_ip = '?'", "must_change_password = 1",
        "must_change_password = 1, password_changed_at = '2001-01-01 00:00:00'", "role = 'admin'",
    ],
)  # fmt: skip
def test_a_wrong_password_is_the_same_answer_and_work_for_everybody(town: Town, change: str, how: str) -> None:
    town.sql(f"UPDATE users SET {change} WHERE username = 'ada'")
    hasher = town.services.hasher = Counting()

    def guess(name: str) -> tuple[Any, ...]:
        hasher.done.clear()
        town.host.asked.clear()
        sent = {"username": name, "password": "a wrong one"}
        if how == "portal":
            answer = town.ask("POST", "/sign-in", token="", data=sent)
        else:
            answer = town.ask(
                "POST", "/api/auth/login" if how == "old form" else "/api/v1/auth/login", token="", json=sent
            )
        body = answer.text.replace(name, "NAME").replace(answer.headers.get("x-request-id", "-"), "ID")
        body = body.partition('"request_id"')[0]
        asked = [type(message).__name__ for message in town.host.asked]
        return answer.status_code, body, sorted(set(answer.headers) - {"content-length"}), list(hasher.done), asked

    known, unknown = guess("ada"), guess("eve")
    assert known == unknown
    assert known[3:] == (["verify"], ["IsPasswordForeign"]), "one hash, and one question to the agent"


# -- guessing


@pytest.mark.parametrize("many", [False, True], ids=["one address", "many addresses"])
def test_guessing_is_slowed_while_the_real_user_gets_in(town: Town, many: bool) -> None:
    """ada signed in from FAR before. Somebody guesses, from one address or from 300, all the while."""
    hasher = town.services.hasher = Counting()
    ticks = Clock()
    town.services.throttle._clock = ticks  # type: ignore[attr-defined]
    statuses = []
    for number in range(300):
        address = f"198.51.{number % 250}.{number // 250 + 1}" if many else "198.51.100.1"
        statuses.append(login(town, "ada", f"guess {number}", address=address).status_code)
        ticks.now += 1.0
    tried = len(hasher.done)
    assert set(statuses) == {401, 429} and tried == statuses.count(401)
    assert tried < 50, "5 minutes of guessing are a few dozen tries, whatever the number of addresses"
    assert login(town, "ada", PASSWORD, address=FAR).status_code == 200, "from where she was before, at once"
    elsewhere = login(town, "ada", PASSWORD, address="203.0.113.5")
    if elsewhere.status_code == 429:
        assert int(elsewhere.headers["retry-after"]) <= 16
        ticks.now += 16.0
        elsewhere = login(town, "ada", PASSWORD, address="203.0.113.5")
    assert elsewhere.status_code == 200, "from elsewhere within seconds"


def test_strangers_crowd_out_only_each_others_passkeys(database: Database) -> None:
    """Whoever has many addresses asks for challenges without end; who is signed in, or has shown a password, keeps theirs."""
    world = World(database, host_name="cloud.test")
    token = world.first_admin()
    world.services.challenges_of_strangers = Waiting(seconds=300, most=40, each=4)
    begun = world.ask("POST", "/api/v1/account/passkeys/begin", token=token)
    assert begun.status_code == 200
    for number in range(60):
        asked = world.ask("POST", "/sign-in/passkey", token="", data={}, address=f"2001:db8:0:{number % 3}::{number:x}")
        assert asked.status_code == 200
    assert len(world.services.challenges) == 1, "the registration waits"
    assert len(world.services.challenges_of_strangers) <= 12, "a customer's network of IPv6 is one visitor"


# -- one thing used by many at once


def test_a_recovery_code_used_on_many_tickets_at_once_opens_one_session(town: Town) -> None:
    _, codes = enrol(town, town.tokens["ada"])
    tickets = [login(town, "ada", PASSWORD).json()["ticket"] for _ in range(8)]
    sent = [
        ("POST", "/api/v1/auth/login/second", {"token": "", "json": {"ticket": t, "code": codes[0]}}) for t in tickets
    ]
    assert [answer.status_code for answer in together(town, sent)].count(200) == 1
    assert login(town, "ada", PASSWORD, code=codes[0]).status_code in (401, 429)


@pytest.mark.parametrize("what", ["code", "refresh token"])
def test_what_an_application_may_use_once_used_at_once_ends_it_all(
    site: OpenId, cookie: str, nightly: str, what: str
) -> None:
    if what == "code":
        form = {"grant_type": "authorization_code", "code": site.code(cookie, **openid.OFFLINE), "redirect_uri": openid.BACK,
                "code_verifier": openid.VERIFIER}  # fmt: skip
    else:
        given = site.tokens(cookie, **openid.OFFLINE)["refresh_token"]
        form = {"grant_type": "refresh_token", "refresh_token": given}
    sent = ("POST", "/oidc/token", {"token": "", "data": form, "auth": (nightly, site.secrets[nightly])})
    answers = together(site, [sent] * 6)
    (won,) = [answer.json() for answer in answers if answer.status_code == 200]
    assert {answer.json()["error"] for answer in answers if answer.status_code != 200} == {"invalid_grant"}
    assert site.userinfo(won["access_token"]).status_code == 401, "one of them was a thief's, and nobody knows which"
    assert site.refresh(won["refresh_token"], as_=nightly).status_code == 400


def test_a_sign_in_that_began_before_there_was_a_second_factor_does_not_end_after(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thief has the password; ada sets up her app between the thief's proof and the session."""
    begin = SignIn.begin

    async def late(self: SignIn, row: Row, methods: Sequence[str], visit: Visit, **more: Any) -> Any:
        secret = totp.generate_secret()
        await town.database.write(lambda c: totp.store(c, town.services.vault, row.id, secret, step=1))
        return await begin(self, row, methods, visit, **more)

    monkeypatch.setattr(SignIn, "begin", late)
    assert login(town, "ada", PASSWORD).status_code == 401
    assert town.sql("SELECT count(*) FROM sessions JOIN users ON users.id = user_id WHERE username = 'ada'") == [(1,)]


# -- a session that was left open, or stolen


@pytest.mark.parametrize(
    ("who", "method", "path", "body"),
    [
        ("ada", "POST", "/users/ada/keys", {"key": SSH}), ("ada", "POST", "/users/ada/tokens", {"label": "x"}),
        ("ada", "POST", "/account/totp", {}), ("ada", "PUT", "/account/totp", {"code": "123456"}),
        ("ada", "DELETE", "/account/totp", None), ("ada", "POST", "/account/recovery-codes", {}),
        ("ada", "POST", "/account/passkeys/begin", {}), ("ada", "DELETE", "/account/passkeys/1", None),
        ("ada", "POST", "/account/passkeys", {"credential": "{}", "label": "x"}),
        ("head", "PUT", "/users/ada/password", {"password": NEW}), ("head", "POST", "/users/ada/keys", {"key": SSH}),
        ("admin", "PUT", "/users/chief/password", {"password": NEW}), ("admin", "PUT", "/users/chief/password", {}),
        ("admin", "DELETE", "/users/ada/second-factor", None),
        ("admin", "POST", "/users/ada/identities", {"provider": "corp", "subject": "s-1"}),
        ("admin", "DELETE", "/users/ada/identities", {"provider": "corp"}),
        ("admin", "PATCH", "/users/ada", {"external_id": "corp:s-1"}), ("admin", "PATCH", "/users/ada", {"role": "monitor"}),
        ("admin", "POST", "/users", {"username": "eve", "password": NEW, "role": "admin"}),
        ("admin", "POST", "/apps", {"name": "evil", "redirect_uris": ["https://evil.test/"], "trusted": True}),
    ],
)  # fmt: skip
def test_what_changes_who_gets_in_asks_for_a_fresh_proof(
    town: Town, who: str, method: str, path: str, body: dict[str, Any] | None
) -> None:
    town.sql(AGO)
    before = everything(town)
    answer = town.by(who, method, path, **({} if body is None else {"json": body}))
    assert (answer.status_code, answer.json()["code"]) == (403, "proof-needed"), answer.text
    assert everything(town) == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("import", {"users": [{"username": "eve", "role": "admin", "password": NEW}]}),
        ("import", {"csv": "username,role\nada,admin\n", "update": True}),
        ("import", {"csv": "username,external_id\nada,corp:1\n", "update": True}),
        ("bulk", {"changes": [{"action": "set-password", "username": "chief", "password": NEW}]}),
        ("bulk", {"changes": [{"action": "modify", "username": "ada", "role": "admin"}]}),
    ],
)
def test_nor_is_it_got_around_by_a_list(town: Town, path: str, body: dict[str, Any]) -> None:
    town.sql(AGO)
    before = everything(town)
    answer = town.by("admin", "POST", f"/users/{path}", json=body)
    assert answer.status_code == 422 and "fresh proof" in answer.text
    assert everything(town) == before


def test_codes_are_guessed_no_faster_by_proving_than_by_signing_in(town: Town) -> None:
    """A thief has ada's password and a session of hers, and many addresses, but not her phone."""
    phone, _ = enrol(town, town.tokens["ada"])
    ticks = Clock()
    town.services.throttle._clock = town.services.throttle.codes._clock = ticks  # type: ignore[attr-defined]
    town.sql("UPDATE users SET last_login_ip = '192.0.2.99'")
    tried = 0
    for number in range(200):
        body = {"password": PASSWORD, "code": "000000"}
        address = f"198.51.{number}.1"
        answer = town.ask("POST", "/api/v1/account/proof", token=town.tokens["ada"], json=body, address=address)
        tried += answer.status_code != 429
        ticks.now += 20.0
    assert tried < 25, "an hour of guessing; without this 200"
    body = {"password": PASSWORD, "code": phone.code()}
    proved = town.ask("POST", "/api/v1/account/proof", token=town.tokens["ada"], json=body, address="192.0.2.99")
    assert proved.status_code == 200, "ada, where she was before, need not wait"


def everything(town: Town) -> list[list[tuple[Any, ...]]]:
    tables = ("users", "totps", "passkeys", "recovery_codes", "api_tokens", "identities", "oidc_clients", "sessions")
    return [town.sql(f"SELECT * FROM {table}") for table in tables]


def test_who_administers_a_domain_makes_nobody_else_one_of_its_people(town: Town) -> None:
    """A trap: an account whose password is known, linked to an administrator's person at a provider; with their next sign-in
    it would get what their groups there give."""
    answer = town.by("head", "POST", "/users/ada/identities", json={"provider": "corp", "subject": "the boss"})
    assert answer.status_code == 403 and town.sql("SELECT * FROM identities") == []


@pytest.mark.parametrize(
    ("more", "linked"),
    [
        ({}, True), ({"roles": {"staff": "user"}}, True), ({"roles": {"boss": "domain-admin"}}, False),
        ({"roles": {"boss": "admin"}, "allow_admin": True}, False), ({"domains": {"boss": "biology"}}, False),
        ({"domains": {"boss": "physics"}}, True),
    ],
)  # fmt: skip
def test_nor_by_the_name_or_address_of_somebody_who_gets_rights(town: Town, more: dict[str, Any], linked: bool) -> None:
    """The same trap without a link: an account of the boss's name, made before the boss came the first time."""
    town.sql("UPDATE users SET email = 'boss@example.org' WHERE username = 'ada'")
    boss = Person("corp", "s-1", "ada", "boss@example.org", True, "", frozenset({"boss", "staff"}))
    for by in ("username", "email"):
        rules = ProviderSettings(name="corp", issuer="https://corp.test", client_id="x", link=by, **more)  # type: ignore[arg-type]
        found = asyncio.run(town.database.read(candidate, boss, rules))
        assert (found is not None) is linked


# -- who must set up a second factor first


def test_applications_lose_whoever_must_set_up_a_second_factor_first(site: OpenId, cookie: str, nightly: str) -> None:
    given = site.tokens(cookie, **openid.OFFLINE)
    assert site.userinfo(given["access_token"]).status_code == 200
    code = site.code(cookie)
    site.by_hand("UPDATE policies SET second_factor = 1")
    assert site.userinfo(given["access_token"]).status_code == 401
    assert site.form("/oidc/introspect", nightly, token=given["access_token"]).json() == {"active": False}
    assert site.redeem(code).status_code == 400
    assert site.refresh(given["refresh_token"], as_=nightly).status_code == 400


def test_applications_lose_a_role_that_must_set_one_up(database: Database) -> None:
    site = OpenId(database)
    site.app_of()
    given = site.tokens(site.signed_in(site.user("ada")))["access_token"]
    strict = OpenId(database, second_factor_roles=("user",))
    assert (site.userinfo(given).status_code, strict.userinfo(given).status_code) == (200, 401)


def test_an_administrator_without_one_sees_nothing_of_others(database: Database) -> None:
    town = Town(database, second_factor_roles=("admin",))
    token = town.first_admin()
    assert town.ask("POST", "/api/v1/users", json={"username": "ada", "password": PASSWORD}).status_code == 201
    for path in ("second-factor", "identities", "sessions", "tokens", "keys"):
        assert town.ask("GET", f"/api/v1/users/ada/{path}", token=token).status_code == 403, path
    assert town.ask("GET", "/api/v1/users/admin/second-factor", token=token).status_code == 200


def test_who_must_set_one_up_can_prove_who_they_are(town: Town) -> None:
    tab = Tab(town)
    assert tab.sign_in("ada", PASSWORD).status_code == 303
    town.sql("UPDATE policies SET second_factor = 1")
    town.sql(AGO)
    app = tab.get("/account/second-factor/app")
    assert app.headers["location"].startswith("/confirm?")
    page = tab.get(app.headers["location"])
    assert page.status_code == 200 and 'name="password"' in page.text
    csrf = page.text.partition('name="csrf" value="')[2].partition('"')[0]
    form: dict[str, str | list[str]] = {"password": PASSWORD, "next": "/account/second-factor/app"}
    assert tab.post("/confirm", form, csrf=csrf).headers["location"] == "/account/second-factor/app"


# -- applications


def test_refreshing_has_an_end(site: OpenId, cookie: str, nightly: str) -> None:
    """However often a stolen refresh token is used: after a year the person signs in anew."""
    given = site.tokens(cookie, **openid.OFFLINE)["refresh_token"]
    site.by_hand("UPDATE oidc_grants SET code_expires_at = code_expires_at - 31535000")
    given = site.refresh(given, as_=nightly).json()["refresh_token"]
    site.by_hand("UPDATE oidc_grants SET code_expires_at = code_expires_at - 1100")
    assert site.refresh(given, as_=nightly).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    ("methods", "two"),
    [("pwd", False), ("pwd fed", False), ("fed", False), ("hwk user", True), ("pwd otp", True), ("pwd fed otp", True),
     ("fed otp", True), ("fed mfa", True)],
)  # fmt: skip
def test_an_application_is_told_of_two_factors_only_where_two_were_shown(
    site: OpenId, ada: int, methods: str, two: bool
) -> None:
    claims = site.claims(site.tokens(site.signed_in(ada, methods=tuple(methods.split())))["id_token"])
    assert (claims["acr"] == "2", "mfa" in claims["amr"]) == (two, two)


def test_a_program_that_anybody_can_be_is_allowed_each_time(site: OpenId, cookie: str) -> None:
    """A public client on the user's own device proves nothing about itself (RFC 8252, 8.6): consent is not remembered for it."""
    back = "http://127.0.0.1/back"
    site.app_of("shell", public=True, redirect_uris=[back, "https://shell.test/back"])
    request = {"client_id": "shell", "redirect_uri": "http://127.0.0.1:5123/back"}
    page = site.authorize(cookie, **request)
    assert page.status_code == 200
    query = page.text.partition('name="query" value="')[2].partition('"')[0].replace("&amp;", "&")
    on = site.post("/oidc/consent", cookie, {"query": query, "do": "allow"})
    done = site.get(openid.goes_on_to(site.get(on.headers["location"], cookie)), cookie)
    assert done.headers["location"].startswith("http://127.0.0.1:5123/back?") and "code" in told(done)
    assert site.authorize(cookie, **request).status_code == 200, "asked again"
    assert told(site.authorize(cookie, **request, prompt="none"))["error"] == "consent_required"
    resumed = urlsplit(on.headers["location"]).query
    other = resumed.replace("state=a+state", "state=another")
    assert site.get(f"/oidc/authorize?{other}", cookie).status_code == 200, "what was allowed was that one request"
    bob = site.signed_in(site.user("bob"))
    assert site.get(f"/oidc/authorize?{resumed}", bob).status_code == 200, "and ada's"
    assert "code" in told(site.authorize(cookie, client_id="shell", redirect_uri="https://shell.test/back"))


# -- redirects

ELSEWHERE = (
    "//evil.test", "///evil.test", "/\\evil.test", "\\\\evil.test", "https://evil.test", "https:evil.test", "javascript:alert(1)",
    "/\t/evil.test", "/\n/evil.test", "\n//evil.test", "/%0a/evil.test", "/%2f/evil.test", "/%5cevil.test", " //evil.test",
    "/.//evil.test", "/..//evil.test", "data:text/html,x", "/x\r\nSet-Cookie: a=b", "@evil.test", ".evil.test",
    "/\u2028/evil.test",
)  # fmt: skip


@pytest.mark.parametrize("target", ELSEWHERE)
def test_nobody_is_led_elsewhere_by_signing_in_or_proving(town: Town, target: str) -> None:
    tab = Tab(town)
    form: dict[str, str | list[str]] = {"username": "ada", "password": PASSWORD, "next": target}
    answers = [tab.send("POST", "/sign-in", form)]
    answers += [tab.post("/confirm", {"password": PASSWORD, "next": target})]
    for answer in answers:
        assert answer.status_code == 303, answer.text
        there = urljoin(SITE, answer.headers["location"])
        assert urlsplit(there)[:2] == urlsplit(SITE)[:2] and "\n" not in answer.headers["location"], there
