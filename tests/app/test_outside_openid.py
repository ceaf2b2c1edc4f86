"""Signing in with an outside OpenID Connect provider: a small one of our own, over HTTP, that can also misbehave."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from diycloud.auth.outside.gateway import Outside
from tests.app.provider import (
    CLIENT,
    COOKIE,
    EC,
    RSA,
    SECRET,
    SESSION,
    Make,
    Provider,
    users,
)


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
