"""Signing in with an outside OpenID Connect provider: a small one of our own, over HTTP, that can also misbehave."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from diycloud.auth.outside.gateway import Outside
from diycloud.config_sign_in import ProviderSettings, SignInSettings
from diycloud.db.engine import Database
from tests.app.restful import ADMIN, PASSWORD, World

CLIENT, SECRET = "portal & co", "s+ecret/of the:client"
COOKIE, SESSION = "__Host-diycloud-outside", "__Host-diycloud"
RSA = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "two", "use": "sig"})


class Provider:
    """What a provider does. Tests change claims, header, keys, answers and meta before somebody signs in."""

    def __init__(self) -> None:
        self.keys: list[Any] = [RSA]
        self.signs: Any = RSA
        self.algorithm = "RS256"
        self.claims: dict[str, Any] = {"sub": "s-1", "preferred_username": "dtouada", "name": "Ada"}
        self.userinfo: dict[str, Any] | None = None
        self.meta: dict[str, Any] = {}
        self.sign: Callable[[dict[str, Any]], str] = self._sign
        self.codes: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        self.tokens: dict[str, Any] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                self.answer(*outer.get(self.path, self.headers.get("authorization", "")))

            def do_POST(self) -> None:
                outer.asked.append(self.path)
                sent = self.rfile.read(int(self.headers["content-length"])).decode()
                form = {name: values[0] for name, values in parse_qs(sent).items()}
                self.answer(*outer.redeem(form, self.headers.get("authorization", "")))

            def answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in (headers or {"content-type": "application/json"}).items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.issuer = f"http://127.0.0.1:{self.server.server_port}/realm"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def get(self, path: str, authorization: str) -> tuple[Any, ...]:
        if path == "/realm/.well-known/openid-configuration":
            told = {
                "issuer": self.issuer, "authorization_endpoint": f"{self.issuer}/authorize?tenant=1",
                "token_endpoint": f"{self.issuer}/token", "jwks_uri": f"{self.issuer}/keys",
                **({"userinfo_endpoint": f"{self.issuer}/userinfo"} if self.userinfo is not None else {}),
            }  # fmt: skip
            return 200, {**told, **self.meta}
        if path == "/realm/keys":
            return 200, {"keys": [key.as_dict(private=False) for key in self.keys]}
        if path == "/realm/userinfo" and authorization.startswith("Bearer at-"):
            return 200, self.userinfo
        return 404, {}

    def redeem(self, form: dict[str, str], authorization: str) -> tuple[Any, ...]:
        asked = self.codes.pop(form.get("code", ""), None)
        if asked is None or form["redirect_uri"] != asked["redirect_uri"] or form["grant_type"] != "authorization_code":
            return 400, {"error": "invalid_grant"}
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        if challenge.decode() != asked["code_challenge"] or asked["code_challenge_method"] != "S256":
            return 400, {"error": "invalid_grant"}
        user, _, password = base64.b64decode(authorization.partition(" ")[2]).decode().partition(":")
        if (unquote(user), unquote(password)) != (CLIENT, SECRET):
            return 401, {"error": "invalid_client"}
        access, now = f"at-{secrets.token_hex(8)}", int(time.time())
        half = hashlib.sha256(access.encode()).digest()[:16]
        claims = {
            "iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": asked["nonce"], "auth_time": now,
            "at_hash": base64.urlsafe_b64encode(half).rstrip(b"=").decode(), **self.claims,
        }  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        return 200, {"token_type": "Bearer", "access_token": access, "id_token": self.sign(claims), **self.tokens}

    def _sign(self, claims: dict[str, Any]) -> str:
        return jwt.encode(
            {"alg": self.algorithm, "kid": self.signs.kid}, claims, self.signs, algorithms=[self.algorithm]
        )

    def sign_in(self, url: str) -> dict[str, str]:
        """Do what a person does there; returns the query they come back with."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert asked["response_type"] == "code" and asked["client_id"] == CLIENT and asked["tenant"] == "1"
        code = secrets.token_hex(8)
        self.codes[code] = asked
        return {"code": code, "state": asked["state"]}


class Browser:
    """Somebody at the portal, with cookies."""

    def __init__(self, world: World, run: asyncio.Runner) -> None:
        self.world, self._run = world, run
        self.cookies: dict[str, str] = {}

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items()), **more.pop("headers", {})}
        found = self._run.run(self.world.send(method, path, token="", headers=headers, **more))
        for line in found.headers.get_list("set-cookie"):
            name, _, rest = line.partition("=")
            value = rest.partition(";")[0].strip('"')
            if value and "Max-Age=0" not in line:
                self.cookies[name] = value
            else:
                self.cookies.pop(name, None)
        return found

    def by_hand(self, statement: str) -> None:
        async def run() -> None:
            await self.world.database.write(lambda connection: connection.exec_driver_sql(statement) and None)

        self._run.run(run())

    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]*)"', self.ask("GET", "/account/sessions").text)
        return found[1] if found else ""

    def start(self, path: str = "/sign-in/with/uni", **form: str) -> str:
        """Press the button; returns where it leads."""
        page = self.ask("POST", path, data={"csrf": "", "next": "/groups", **form})
        assert page.status_code == 200, page.text
        found = re.search(r'content="0;url=([^"]+)"', page.text)
        assert found, page.text
        return found[1].replace("&amp;", "&")

    def back(self, query: dict[str, str], name: str = "uni") -> httpx.Response:
        return self.ask("GET", f"/sign-in/with/{name}/back", params=query)

    def refusal(self) -> str:
        """Return what the page says to which somebody was sent."""
        text = self.ask("GET", "/sign-in").text
        assert 'role="alert"' in text or "note-error" in text or "flash" in text, text
        return text


@pytest.fixture
def provider() -> Iterator[Provider]:
    found = Provider()
    yield found
    found.close()


Make = Callable[..., Browser]


@pytest.fixture
def make(database: Database, provider: Provider, tmp_path: Path) -> Iterator[Make]:
    """Make a server that knows the provider, by these settings, and a browser before it."""
    (tmp_path / "secret").write_text(f"{SECRET}\nnot this\n")
    runner, made = asyncio.Runner(), list[World]()

    def browser(**more: Any) -> Browser:
        given = {
            "name": "uni", "label": "The University", "issuer": provider.issuer, "client_id": CLIENT,
            "client_secret_file": str(tmp_path / "secret"), "create": True, **more,
        }  # fmt: skip
        if not made:
            world = World(
                database, sign_in=SignInSettings(providers=(ProviderSettings(**given),)), host_name="cloud.test"
            )
            world.first_admin()
            made.append(world)
        return Browser(made[0], runner)

    yield browser
    for world in made:
        assert isinstance(world.services.outside, Outside)
        runner.run(world.services.outside.close())
    runner.close()


def users(world: World) -> int:
    return int(world.ask("GET", "/api/v1/users").json()["total"])


def create(world: World, name: str, **more: Any) -> None:
    sent = {"username": name, "password": "their own good phrase", "must_change_password": False, **more}
    assert world.ask("POST", "/api/v1/users", json=sent).status_code == 201


def test_a_button_leads_there_and_back_into_a_session(make: Make, provider: Provider) -> None:
    browser = make()
    page = browser.ask("GET", "/sign-in").text
    assert "Sign in with The University" in page and 'action="/sign-in/with/uni"' in page
    url = browser.start()
    assert url.startswith(f"{provider.issuer}/authorize?tenant=1&response_type=code")
    assert "redirect_uri=https%3A%2F%2Fcloud.test%2Fsign-in%2Fwith%2Funi%2Fback" in url
    done = browser.back(provider.sign_in(url))
    assert done.status_code == 303 and done.headers["location"] == "/groups", done.headers
    assert SESSION in browser.cookies and COOKIE not in browser.cookies
    assert "dtouada" in browser.ask("GET", "/").text
    session = browser.world.ask("GET", "/api/v1/users/dtouada/sessions").json()["sessions"][0]
    assert "fed" in json.dumps(session)


def test_the_second_time_it_is_the_same_user_under_whatever_name(make: Make, provider: Provider) -> None:
    browser = make()
    browser.back(provider.sign_in(browser.start()))
    provider.claims |= {"preferred_username": "renamed", "email": "new@example.org"}
    again = make()
    again.back(provider.sign_in(again.start()))
    assert "dtouada" in again.ask("GET", "/").text and users(again.world) == 2


def tamper(**claims: Any) -> Callable[[Provider], None]:
    return lambda provider: provider.claims.update(claims)


def unsigned(provider: Provider) -> None:
    def sign(claims: dict[str, Any]) -> str:
        parts = (json.dumps(part).encode() for part in ({"alg": "none"}, claims))
        return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."

    provider.sign = sign


def public_key_as_secret(provider: Provider) -> None:
    def sign(claims: dict[str, Any]) -> str:
        parts = (json.dumps(part).encode() for part in ({"alg": "HS256", "kid": "one"}, claims))
        signed = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
        mac = hmac.digest(RSA.as_pem(private=False), signed.encode(), "sha256")
        return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"

    provider.sign = sign


def clients_secret_as_key(provider: Provider) -> None:
    secret = OctKey.import_key(SECRET.encode().ljust(32))
    provider.sign = lambda claims: jwt.encode({"alg": "HS256"}, claims, secret, algorithms=["HS256"])


def strangers_key(provider: Provider) -> None:
    provider.signs = RSAKey.generate_key(2048, {"kid": "one"})


def strangers_key_of_another_name(provider: Provider) -> None:
    provider.signs = RSAKey.generate_key(2048, {"kid": "three"})


def key_in_the_header(provider: Provider) -> None:
    own = RSAKey.generate_key(2048, {"kid": "own"})
    header = {"alg": "RS256", "jwk": own.as_dict(private=False)}
    provider.sign = lambda claims: jwt.encode(header, claims, own, algorithms=["RS256"])


def changed_after_signing(provider: Provider) -> None:
    def sign(claims: dict[str, Any]) -> str:
        head, body, signature = provider._sign(claims).split(".")
        found = json.loads(base64.urlsafe_b64decode(body + "=="))
        body = base64.urlsafe_b64encode(json.dumps({**found, "sub": "s-2"}).encode()).rstrip(b"=").decode()
        return f"{head}.{body}.{signature}"

    provider.sign = sign


def no_token(provider: Provider) -> None:
    provider.tokens = {"id_token": None}


def other_type(provider: Provider) -> None:
    provider.tokens = {"token_type": "mac"}


def other_userinfo(provider: Provider) -> None:
    provider.userinfo = {"sub": "somebody else", "email": "x@example.org"}


NOW = int(time.time())


@pytest.mark.parametrize(
    "misbehave",
    [
        tamper(nonce="another"), tamper(nonce=None), tamper(aud="another"), tamper(aud=[]), tamper(aud=None),
        tamper(aud=[CLIENT, "another"]), tamper(azp="another"), tamper(iss="https://evil.example"), tamper(iss=None),
        tamper(exp=NOW - 3600), tamper(exp=None), tamper(exp="9999999999"), tamper(exp=True), tamper(iat=NOW + 3600),
        tamper(iat=NOW - 7200), tamper(iat=None), tamper(nbf=NOW + 3600), tamper(sub=None), tamper(sub=""), tamper(sub=5),
        tamper(sub="a\nb"), tamper(sub="x" * 256), tamper(at_hash="another"), tamper(at_hash=7),
        unsigned, public_key_as_secret, clients_secret_as_key, strangers_key, strangers_key_of_another_name,
        key_in_the_header, changed_after_signing, no_token, other_type, other_userinfo,
    ],
)  # fmt: skip
def test_a_token_that_does_not_hold_signs_nobody_in(
    make: Make, provider: Provider, misbehave: Callable[[Provider], None]
) -> None:
    browser = make()
    misbehave(provider)
    done = browser.back(provider.sign_in(browser.start()))
    assert done.status_code == 303 and done.headers["location"] == "/sign-in"
    assert SESSION not in browser.cookies and users(browser.world) == 1
    assert "did not work" in browser.refusal()


def test_several_audiences_hold_with_the_right_party(make: Make, provider: Provider) -> None:
    browser = make()
    provider.claims |= {"aud": ["another", CLIENT], "azp": CLIENT}
    assert browser.back(provider.sign_in(browser.start())).headers["location"] == "/groups"


@pytest.mark.parametrize("algorithm", ["ES256", "PS256", "RS512"])
def test_new_keys_are_fetched_once_they_are_used(
    make: Make, provider: Provider, algorithm: str, monkeypatch: Any
) -> None:
    browser = make()
    assert browser.back(provider.sign_in(browser.start())).headers["location"] == "/groups"
    asked = provider.asked.count("/realm/keys")
    provider.signs = EC if algorithm == "ES256" else RSAKey.generate_key(2048, {"kid": "next", "use": "sig"})
    provider.keys, provider.algorithm, provider.claims["at_hash"] = [provider.signs], algorithm, None
    second = make()
    assert second.back(provider.sign_in(second.start())).headers["location"] == "/sign-in", "within half a minute"
    monkeypatch.setattr("diycloud.auth.outside.openid.LEAST_KEYS_S", -1)
    third = make()
    assert third.back(provider.sign_in(third.start())).headers["location"] == "/groups"
    assert provider.asked.count("/realm/keys") == asked + 1


def test_invented_key_names_make_no_requests(make: Make, provider: Provider) -> None:
    browser = make()
    strangers_key_of_another_name(provider)
    for _ in range(3):
        browser.back(provider.sign_in(browser.start()))
    assert provider.asked.count("/realm/keys") == 1


def test_the_answer_must_be_of_this_browser_once_and_soon(make: Make, provider: Provider, monkeypatch: Any) -> None:
    mine, other = make(), make()
    answer = provider.sign_in(mine.start())
    assert other.back(answer).headers["location"] == "/sign-in", "a link sent to somebody else: login CSRF"
    other.start()
    assert other.back(answer).headers["location"] == "/sign-in", "with a journey of their own"
    assert SESSION not in other.cookies and users(mine.world) == 1
    kept = dict(mine.cookies)
    assert mine.back(answer).headers["location"] == "/groups"
    again = make()
    again.cookies = kept
    assert again.back(answer).headers["location"] == "/sign-in" and "used before" in again.refusal()
    late = make()
    answer = provider.sign_in(late.start())
    then = time.time() + 700
    monkeypatch.setattr("diycloud.auth.outside.journey.time.time", lambda: then)
    assert late.back(answer).headers["location"] == "/sign-in" and SESSION not in late.cookies


@pytest.mark.parametrize("broken", ["", "x", "A" * 200, "===="])
def test_a_cookie_of_somebodys_own_making_is_none(make: Make, provider: Provider, broken: str) -> None:
    browser = make()
    answer = provider.sign_in(browser.start())
    browser.cookies[COOKIE] = broken
    assert browser.back(answer).headers["location"] == "/sign-in" and "/realm/token" not in provider.asked


def test_an_answer_of_another_provider_is_refused(make: Make, provider: Provider) -> None:
    """Mix-up (RFC 9207): the code must go to nobody else than who gave it."""
    browser = make()
    answer = provider.sign_in(browser.start())
    assert browser.back({**answer, "iss": "https://evil.example"}).headers["location"] == "/sign-in"
    assert "/realm/token" not in provider.asked
    provider.meta = {"authorization_response_iss_parameter_supported": True}
    other = make()
    assert isinstance(other.world.services.outside, Outside)
    other.world.services.outside.providers["uni"]._endpoints = None
    assert other.back(provider.sign_in(other.start())).headers["location"] == "/sign-in", "iss was promised"
    answer = provider.sign_in(other.start())
    assert other.back({**answer, "iss": provider.issuer}).headers["location"] == "/groups"


@pytest.mark.parametrize(
    "meta",
    [
        {"issuer": "https://evil.example"}, {"token_endpoint": "http://192.0.2.1/token"}, {"jwks_uri": None},
        {"authorization_endpoint": "javascript:alert(1)"}, {"authorization_endpoint": ""}, {"jwks_uri": "file:///etc/passwd"},
    ],
)  # fmt: skip
def test_a_discovery_that_does_not_hold_is_no_provider(make: Make, provider: Provider, meta: dict[str, Any]) -> None:
    browser = make()
    provider.meta = meta
    done = browser.ask("POST", "/sign-in/with/uni", data={"csrf": "", "next": ""})
    assert done.status_code == 303 and done.headers["location"] == "/sign-in"
    assert "does not answer as it should" in browser.refusal()


def test_redirects_and_endless_answers_are_not_followed(make: Make, provider: Provider, monkeypatch: Any) -> None:
    browser = make()
    real = provider.get
    monkeypatch.setattr(provider, "get", lambda path, _: (302, b"", {"location": f"{provider.issuer}/elsewhere"}))
    assert browser.ask("POST", "/sign-in/with/uni", data={"csrf": ""}).headers["location"] == "/sign-in"
    assert provider.asked == ["/realm/.well-known/openid-configuration"]
    monkeypatch.setattr(provider, "get", lambda path, _: (200, b" " * (1 << 20)))
    assert browser.ask("POST", "/sign-in/with/uni", data={"csrf": ""}).headers["location"] == "/sign-in"
    monkeypatch.setattr(provider, "get", real)
    browser.start()


def test_the_start_takes_no_other_sites_form(make: Make) -> None:
    browser = make()
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example", "host": "cloud.test"}):
        assert browser.ask("POST", "/sign-in/with/uni", data={"csrf": ""}, headers=headers).status_code == 403
    assert COOKIE not in browser.cookies
    assert browser.ask("GET", "/sign-in/with/uni").status_code == 405
    assert browser.ask("POST", "/sign-in/with/none", data={"csrf": ""}).status_code == 404


@pytest.mark.parametrize(
    "target", ["https://evil.example", "//evil.example", "/\\evil.example", "/sign-out", "javascript:1"]
)
def test_the_way_on_stays_here(make: Make, provider: Provider, target: str) -> None:
    browser = make()
    assert browser.back(provider.sign_in(browser.start(next=target))).headers["location"] == "/"


def test_saying_no_there_is_no_error_here(make: Make, provider: Provider) -> None:
    browser = make()
    state = provider.sign_in(browser.start())["state"]
    assert browser.back({"error": "access_denied", "state": state}).headers["location"] == "/sign-in"
    assert "did not let you in" in browser.refusal()


# -- who it is here


@pytest.mark.parametrize("role", ["admin", "domain-admin", "monitor"])
@pytest.mark.parametrize("rule", ["username", "email"])
def test_nobody_becomes_an_administrator_by_a_name_or_address(
    make: Make, provider: Provider, role: str, rule: str
) -> None:
    """The attacker registers at the provider with the victim's name and address."""
    browser = make(link=rule)
    create(browser.world, "dtouboss", role=role, email="boss@example.org")
    provider.claims |= {"preferred_username": "dtouboss", "email": "boss@example.org", "email_verified": True}
    browser.back(provider.sign_in(browser.start()))
    found = browser.world.ask("GET", "/api/v1/users/dtouboss/identities").json()["identities"]
    assert found == [] and SESSION not in browser.cookies


@pytest.mark.parametrize("verified", [None, False, "true", 1])
def test_an_address_that_is_not_confirmed_links_nobody(make: Make, provider: Provider, verified: object) -> None:
    browser = make(link="email", create=False)
    create(browser.world, "dtouvictim", email="victim@example.org")
    provider.claims |= {"email": "victim@example.org", "email_verified": verified}
    assert browser.back(provider.sign_in(browser.start())).headers["location"] == "/sign-in"
    assert "no account here" in browser.refusal()


def test_a_confirmed_address_links_a_plain_user_once(make: Make, provider: Provider) -> None:
    browser = make(link="email", create=False)
    create(browser.world, "dtoucarol", email="Carol@example.org")
    provider.claims |= {"email": "carol@EXAMPLE.org", "email_verified": True}
    assert browser.back(provider.sign_in(browser.start())).headers["location"] == "/groups"
    provider.claims["sub"] = "s-2"  # somebody else has the address now
    other = make()
    assert other.back(provider.sign_in(other.start())).headers["location"] == "/sign-in"


def test_confirmed_elsewhere_is_not_confirmed(make: Make, provider: Provider) -> None:
    """email of the ID token, email_verified of userinfo, about another address."""
    browser = make(link="email", create=False)
    create(browser.world, "dtouvictim", email="victim@example.org")
    provider.claims |= {"email": "victim@example.org", "name": None}
    provider.userinfo = {"sub": "s-1", "email": "evil@example.org", "email_verified": True}
    assert browser.back(provider.sign_in(browser.start())).headers["location"] == "/sign-in"


def test_a_user_who_was_made_has_no_password(make: Make, provider: Provider) -> None:
    browser = make()
    browser.back(provider.sign_in(browser.start()))
    for guess in ("", "PLACEHOLDER", "plain "):
        sent = {"username": "dtouada", "password": guess}
        assert browser.world.ask("POST", "/api/v1/auth/login", json=sent, token="").status_code == 401


def test_who_is_disabled_or_comes_from_elsewhere_stays_out(make: Make, provider: Provider) -> None:
    browser = make()
    browser.back(provider.sign_in(browser.start()))
    world = browser.world
    world.ask("POST", "/api/v1/users/dtouada/disable", json={})
    other = make()
    assert other.back(provider.sign_in(other.start())).headers["location"] == "/sign-in"
    assert "does not let you in" in other.refusal()
    world.ask("POST", "/api/v1/users/dtouada/enable")
    world.ask("PATCH", "/api/v1/users/dtouada", json={"allowed_client_ip": ["10.0.0.0/8"]})
    assert (
        other.back(provider.sign_in(other.start())).headers["location"] == "/sign-in" and SESSION not in other.cookies
    )


def test_groups_of_the_token_and_of_userinfo(make: Make, provider: Provider) -> None:
    browser = make(groups={"students": ("dtougrp",)}, roles={"staff": "monitor"}, only=("students",))
    browser.world.ask("POST", "/api/v1/groups", json={"name": "dtougrp"})
    provider.claims["groups"] = ["students", 7, None]
    assert browser.back(provider.sign_in(browser.start())).headers["location"] == "/groups"
    found = browser.world.ask("GET", "/api/v1/users/dtouada").json()
    assert (found["groups"], found["role"]) == (["dtougrp"], "user")
    provider.claims["groups"] = ["staff"]
    other = make()
    assert other.back(provider.sign_in(other.start())).headers["location"] == "/sign-in", "no student any more"


def raised(make: Make, provider: Provider, **rules: Any) -> tuple[World, Browser]:
    """Have dtouada come as a plain user, and once more after the provider has made her a head."""
    rules = {"roles": {"heads": "domain-admin"}, "domains": {"heads": "physics"}, **rules}
    browser = make(**rules)
    browser.world.ask("POST", "/api/v1/domains", json={"name": "physics", "policy": "default"})
    if not rules.get("create", True):
        create(browser.world, "dtouada")
    assert browser.back(provider.sign_in(browser.start())).headers["location"] == "/groups"
    provider.claims["groups"] = ["heads"]
    again = make()
    again.back(provider.sign_in(again.start()))
    return browser.world, again


def rights(world: World, name: str = "dtouada") -> tuple[str, str]:
    found = world.ask("GET", f"/api/v1/users/{name}").json()
    return found["role"], found["domain"]


def test_who_was_made_by_coming_is_raised_by_their_groups(make: Make, provider: Provider) -> None:
    world, browser = raised(make, provider)
    assert rights(world) == ("domain-admin", "physics") and SESSION in browser.cookies


def test_an_account_with_a_password_of_somebody_elses_is_not_raised(make: Make, provider: Provider) -> None:
    """Whoever made it knows the password that it had then, and waits for the provider to make its owner a head."""
    world, browser = raised(make, provider, link="username", create=False)
    assert rights(world) == ("user", "default") and SESSION in browser.cookies, "let in, as what they were"
    body = {"provider": "uni", "subject": str(provider.claims["sub"])}
    assert world.ask("POST", "/api/v1/users/dtouada/identities", json=body).status_code in (200, 201)
    vouched = make()
    vouched.back(provider.sign_in(vouched.start()))
    assert rights(world) == ("domain-admin", "physics"), "an administrator has said who that is"
    provider.claims["groups"] = []
    less = make()
    less.back(provider.sign_in(less.start()))
    assert rights(world)[0] == "user", "less is always given"


def test_nobody_is_raised_to_administrator_without_the_setting(make: Make, provider: Provider) -> None:
    with pytest.raises(ValueError, match="allow_admin"):
        ProviderSettings(
            name="uni", issuer="https://x", client_id="c", client_secret_file="/x", roles={"heads": "admin"}
        ).check()
    world, _ = raised(make, provider, roles={"heads": "admin"}, domains={})
    assert rights(world)[0] == "user", "even if the settings were not checked"


@pytest.mark.parametrize(("told", "asked"), [({"amr": ["pwd", "otp"]}, False), ({"amr": ["pwd"]}, True), ({}, True)])
def test_a_second_factor_here_is_asked_unless_the_provider_is_trusted_with_it(
    make: Make, provider: Provider, told: dict[str, Any], asked: bool
) -> None:
    browser = make(trust_mfa=True)
    browser.back(provider.sign_in(browser.start()))
    add = "INSERT INTO totps (user_id, secret, active) SELECT id, x'00', 1 FROM users WHERE username = 'dtouada'"
    browser.by_hand(add)
    provider.claims |= told
    other = make()
    went = other.back(provider.sign_in(other.start())).headers["location"]
    assert went.startswith("/sign-in/second") is asked and (SESSION in other.cookies) is not asked


# -- one's own links


def local(make: Make, name: str = ADMIN, password: str = PASSWORD, **more: Any) -> Browser:
    browser = make(**more)
    sent = {"username": name, "password": password, "next": "/", "csrf": ""}
    assert browser.ask("POST", "/sign-in", data=sent).status_code == 303
    return browser


def test_an_administrator_links_and_unlinks_their_own(make: Make, provider: Provider) -> None:
    browser = local(make, create=False)
    assert "The University" in browser.ask("GET", "/account/identities").text
    url = browser.start("/account/identities/link", provider="uni", csrf=browser.csrf())
    assert browser.back(provider.sign_in(url)).headers["location"] == "/account/identities"
    other = make()
    assert other.back(provider.sign_in(other.start())).headers["location"] == "/groups"
    assert ADMIN in other.ask("GET", "/").text
    form = {"provider": "uni", "csrf": browser.csrf()}
    assert browser.ask("POST", "/account/identities/unlink", data=form).headers["location"] == "/account/identities"
    last = make()
    assert last.back(provider.sign_in(last.start())).headers["location"] == "/sign-in"


def test_what_is_somebodys_is_nobody_elses(make: Make, provider: Provider) -> None:
    first = make()
    first.back(provider.sign_in(first.start()))  # the provider's s-1 is dtouada from now on
    admin = local(make)
    url = admin.start("/account/identities/link", provider="uni", csrf=admin.csrf())
    assert admin.back(provider.sign_in(url)).headers["location"] == "/account/identities"
    assert admin.world.ask("GET", f"/api/v1/users/{ADMIN}/identities").json()["identities"] == []
    form = {"provider": "uni", "csrf": first.csrf()}
    first.ask("POST", "/account/identities/unlink", data=form)
    assert len(first.world.ask("GET", "/api/v1/users/dtouada/identities").json()["identities"]) == 1, (
        "their only way in"
    )


def test_a_link_begun_by_one_is_not_ended_by_another(make: Make, provider: Provider) -> None:
    """A stranger's answer brought into an administrator's browser links nothing."""
    admin, stranger = local(make, create=False), make()
    answer = provider.sign_in(stranger.start())
    admin.cookies[COOKIE] = stranger.cookies[COOKIE]
    assert admin.back(answer).status_code == 303
    assert admin.world.ask("GET", f"/api/v1/users/{ADMIN}/identities").json()["identities"] == []


def test_linking_asks_for_a_fresh_proof(make: Make) -> None:
    browser = local(make)
    old = "UPDATE sessions SET proved_at = proved_at - 3600"
    browser.by_hand(old)
    form = {"provider": "uni", "csrf": browser.csrf()}
    for path in ("/account/identities/link", "/account/identities/unlink"):
        done = browser.ask("POST", path, data=form)
        assert done.status_code == 303 and done.headers["location"].startswith("/confirm"), done.headers


def test_proving_anew_must_be_the_same_person_and_now(make: Make, provider: Provider) -> None:
    browser = make()
    browser.back(provider.sign_in(browser.start()))
    url = browser.start(csrf=browser.csrf())
    assert "prompt=login" in url
    provider.claims["auth_time"] = int(time.time()) - 7200
    assert browser.back(provider.sign_in(url)).headers["location"] == "/account/identities"
    provider.claims["auth_time"] = int(time.time())
    before = browser.cookies[SESSION]
    assert browser.back(provider.sign_in(browser.start(csrf=browser.csrf()))).headers["location"] == "/groups"
    assert browser.cookies[SESSION] != before
    provider.claims["sub"] = "s-2"
    url = browser.start(csrf=browser.csrf())
    assert browser.back(provider.sign_in(url)).headers["location"] == "/account/identities"
    assert "dtouada" in browser.ask("GET", "/").text


def test_who_has_no_password_proves_it_there_and_chooses_a_first_one(make: Make, provider: Provider) -> None:
    browser = make()
    browser.back(provider.sign_in(browser.start()))
    page = browser.ask("GET", "/account").text
    assert "Choose a password" in page and 'name="current" value="none"' in page
    browser.by_hand("UPDATE sessions SET proved_at = proved_at - 3600")
    phrase = "a first one of their own"
    form = {"csrf": browser.csrf(), "current": "none", "password": phrase, "again": phrase}
    done = browser.ask("POST", "/account", data=form)
    assert done.headers["location"].startswith("/confirm")
    confirm = browser.ask("GET", "/confirm?next=/account").text
    assert "Sign in with The University" in confirm and 'name="password"' not in confirm
    assert (
        browser.back(provider.sign_in(browser.start(csrf=browser.csrf(), next="/account"))).headers["location"]
        == "/account"
    )
    form["csrf"] = browser.csrf()
    assert browser.ask("POST", "/account", data=form).headers["location"] == "/"
    sent = {"username": "dtouada", "password": phrase}
    assert browser.world.ask("POST", "/api/v1/auth/login", json=sent, token="").status_code == 200
    form |= {"csrf": browser.csrf(), "password": "another of their own", "again": "another of their own"}
    assert "is not your present password" in browser.ask("POST", "/account", data=form).text
