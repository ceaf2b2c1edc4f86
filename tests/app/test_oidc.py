"""The OpenID Connect provider, whole: how it should go, and everything that must not."""

from __future__ import annotations

import base64
import hmac
import json
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest
from joserfc import jwk, jwt

from diycloud.auth.oidc import keys
from diycloud.db.engine import Database
from diycloud.db.vault import Vault
from tests.app.openid import BACK, CHALLENGE, ISSUER, VERIFIER, OpenId, asked, goes_on_to, new_verifier, told

MADE = keys._make()


@pytest.fixture(autouse=True)
def quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the first key of each server from one that is there: RSA takes its time."""
    monkeypatch.setattr(keys, "_make", lambda: MADE)


@pytest.fixture
def site(database: Database) -> Iterator[OpenId]:
    made = OpenId(database)
    made.user("root_admin", role="admin")
    made.app_of()
    yield made


@pytest.fixture
def ada(site: OpenId) -> int:
    return site.user("ada", full_name="Ada Lovelace", email="ada@example.org")


@pytest.fixture
def cookie(site: OpenId, ada: int) -> str:
    return site.signed_in(ada)


# -- how it goes


def test_discovery_names_what_is_there(site: OpenId) -> None:
    answer = site.get("/.well-known/openid-configuration")
    found = answer.json()
    assert found["issuer"] == ISSUER and answer.headers["access-control-allow-origin"] == "*"
    for name, url in found.items():
        if name.endswith(("_endpoint", "_uri")):
            assert url.startswith(f"{ISSUER}/oidc/")
            assert site.get(url.removeprefix(ISSUER)).status_code != 404, name
    assert found["response_types_supported"] == ["code"] and found["code_challenge_methods_supported"] == ["S256"]
    assert found["authorization_response_iss_parameter_supported"] is True
    assert found["request_uri_parameter_supported"] is False, "the default would be true"


def test_a_sign_in_from_beginning_to_end(site: OpenId, cookie: str) -> None:
    answer = site.authorize(cookie)
    assert answer.status_code == 303 and answer.headers["location"].startswith(f"{BACK}?code=")
    assert (told(answer)["state"], told(answer)["iss"]) == ("a state", ISSUER)
    assert answer.headers["cache-control"] == "no-store" and answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    given = site.redeem(told(answer)["code"])
    assert given.headers["cache-control"] == "no-store" and given.headers["pragma"] == "no-cache"
    assert "access-control-allow-origin" not in given.headers
    body = given.json()
    assert (body["token_type"], body["expires_in"], body["scope"]) == ("Bearer", 600, "openid profile email")
    assert "refresh_token" not in body
    claims = site.claims(body["id_token"])
    assert (
        claims["aud"] == "wiki" and claims["nonce"] == "a nonce" and claims["acr"] == "1" and claims["amr"] == ["pwd"]
    )
    assert claims["exp"] - claims["iat"] == 600 and abs(claims["auth_time"] - time.time()) < 10
    person = site.userinfo(body["access_token"]).json()
    assert person == {
        "sub": claims["sub"], "preferred_username": "ada", "name": "Ada Lovelace", "email": "ada@example.org",
        "email_verified": False,
    }  # fmt: skip
    ((uuid,),) = site.by_hand("SELECT uuid FROM users WHERE username = 'ada'")
    assert person["sub"] == uuid != "ada"


def test_scopes_decide_what_is_told(site: OpenId, cookie: str) -> None:
    site.app_of("board", scopes=["openid", "groups"])
    person = site.userinfo(site.tokens(cookie, client_id="board", scope="openid groups email")["access_token"]).json()
    assert set(person) == {"sub", "groups", "role", "domain"} and person["role"] == "user"
    bare = site.tokens(cookie, scope="profile")
    assert "id_token" not in bare, "without openid it is OAuth alone"
    refused = site.userinfo(bare["access_token"])
    assert refused.status_code == 403 and 'error="insufficient_scope"' in refused.headers["www-authenticate"]
    assert told(site.authorize(cookie, scope="groups"))["error"] == "invalid_scope"


def test_two_factors_are_told(site: OpenId, ada: int) -> None:
    claims = site.claims(site.tokens(site.signed_in(ada, methods=("pwd", "otp")))["id_token"])
    assert (claims["acr"], claims["amr"]) == ("2", ["pwd", "otp", "mfa"])


def test_the_secret_may_come_in_the_body_but_not_twice(site: OpenId, cookie: str) -> None:
    form = {"grant_type": "authorization_code", "redirect_uri": BACK, "code_verifier": VERIFIER}
    body = {**form, "code": site.code(cookie), "client_id": "wiki", "client_secret": site.secrets["wiki"]}
    assert site.ask("POST", "/oidc/token", token="", data=body).status_code == 200
    twice = site.ask("POST", "/oidc/token", token="", data={**body, "code": site.code(cookie)}, auth=("wiki", "x"))
    assert (twice.status_code, twice.json()["error"]) == (400, "invalid_request")


def test_a_stranger_signs_in_first_and_comes_back_by_a_page(site: OpenId, ada: int) -> None:
    answer = site.authorize(login_hint="ada")
    first = urlsplit(answer.headers["location"])
    assert (answer.status_code, first.path) == (303, "/sign-in") and "ada" in parse_qs(first.query)["username"]
    there = parse_qs(first.query)["next"][0]
    page = site.get(there, site.signed_in(ada))
    assert page.status_code == 200, "a redirect would be held against the sign-in form's form-action"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert told(site.get(goes_on_to(page), site.signed_in(ada)))["state"] == "a state"


def test_a_form_is_as_good_as_an_address(site: OpenId, cookie: str) -> None:
    answer = site.ask("POST", "/oidc/authorize", token="", data=dict(asked()), headers={"origin": "https://app.test"})
    assert answer.status_code == 303
    assert told(site.get(answer.headers["location"], cookie))["state"] == "a state"


def test_a_public_client_needs_no_secret_but_pkce(site: OpenId, cookie: str) -> None:
    site.app_of("phone", public=True, redirect_uris=["org.example.phone:/back", "http://127.0.0.1/back"])
    public = {"client_id": "phone", "prompt": None}
    assert told(site.authorize(cookie, **public, redirect_uri="http://127.0.0.1/back", code_challenge=None))["error"]
    page = site.authorize(cookie, **public, redirect_uri="http://127.0.0.1:51234/back")
    assert page.status_code == 200 and "asks to know you" in page.text, "never trusted"
    allow(site, cookie, page)
    answer = site.authorize(cookie, **public, redirect_uri="http://127.0.0.1:51234/back")
    form = {
        "grant_type": "authorization_code", "code": told(answer)["code"], "redirect_uri": "http://127.0.0.1:51234/back",
        "code_verifier": VERIFIER, "client_id": "phone",
    }  # fmt: skip
    assert site.ask("POST", "/oidc/token", token="", data=form).status_code == 200
    with_secret = {**form, "client_secret": "anything"}
    assert site.ask("POST", "/oidc/token", token="", data=with_secret).json()["error"] == "invalid_client"
    assert site.ask("POST", "/oidc/introspect", token="", data={"client_id": "phone", "token": "x"}).status_code == 401


def test_without_pkce_only_where_it_is_off(site: OpenId, cookie: str) -> None:
    none = {"code_challenge": None, "code_challenge_method": None}
    assert told(site.authorize(cookie, **none))["error"] == "invalid_request"
    site.app_of("portainer", pkce=False)
    code = site.code(cookie, client_id="portainer", **none)
    assert site.redeem(code, as_="portainer", code_verifier=None).status_code == 200
    code = site.code(cookie, client_id="portainer", **none)
    refused = site.redeem(code, as_="portainer")
    assert refused.json()["error"] == "invalid_grant", "PKCE was taken out of the request on its way"
    refused = site.redeem(site.code(cookie, client_id="portainer"), as_="portainer", code_verifier=None)
    assert refused.json()["error"] == "invalid_grant"


# -- where people are sent


ELSEWHERE = (
    f"{BACK}/", f"{BACK}x", f"{BACK}?x=1", f"{BACK}#", f"{BACK}#x", BACK[:-1], BACK.upper(), BACK.replace("app", "App"),
    "http://app.test/callback", "https://app.test:443/callback", "https://app.test:8443/callback",
    "https://app.test@evil.test/callback", "https://evil.test/?https://app.test/callback",
    "https://app.test.evil.test/callback", "https://evil.test\\@app.test/callback", "//app.test/callback",
    "https:app.test/callback", "https://app.test//callback", "https://app.test/./callback",
    "https://app.test/x/../callback", "https://app.test/%63allback", "https://app.test/callback%00",
    "https://app.test/callback%0d%0aset-cookie:x=1", "https://app.test/callback\r\nx: y", " " + BACK, BACK + " ",
    "javascript:alert(1)", "data:text/html,x", "", "/", BACK + "\n" + BACK,
)  # fmt: skip


@pytest.mark.parametrize("more", [{}, {"response_type": "token"}, {"prompt": "none"}, {"scope": "nothing"}])
def test_nobody_is_sent_to_an_address_that_is_not_registered(site: OpenId, cookie: str, more: dict[str, str]) -> None:
    for uri in ELSEWHERE:
        for who in ("", cookie):
            answer = site.authorize(who, redirect_uri=uri, **more)
            assert answer.status_code == 422 and "location" not in answer.headers, uri
            assert answer.headers["x-frame-options"] == "DENY"


def test_an_unknown_application_sends_nobody_anywhere(site: OpenId, cookie: str) -> None:
    for changes in ({"client_id": "evil"}, {"client_id": None}, {"client_id": ["wiki", "evil"]}, {"redirect_uri": None},
                    {"redirect_uri": [BACK, "https://evil.test/"]}, {"client_id": "wiki'--"}, {"client_id": "\0"}):  # fmt: skip
        answer = site.authorize(cookie, **changes)
        assert answer.status_code == 422 and "location" not in answer.headers
    site.ask("PATCH", "/api/v1/apps/wiki", json={"enabled": False})
    assert site.authorize(cookie).status_code == 422


@pytest.mark.parametrize("known", ["http://127.0.0.1/back", "http://127.0.0.1:8000/back", "http://[::1]:9/back"])
def test_a_port_is_free_on_the_users_own_device_alone(site: OpenId, cookie: str, known: str) -> None:
    site.app_of("tool", redirect_uris=[known])
    host = (
        known.partition("//")[2].partition("/")[0].rpartition(":8000")[0] or known.partition("//")[2].partition("/")[0]
    )
    host = "[::1]" if host.startswith("[") else "127.0.0.1"
    for uri, fine in (
        (f"http://{host}:51000/back", True),
        (f"http://{host}/back", True),
        (f"http://{host}:51000/back/", False),
        (f"http://{host}:51000/backx", False),
        (f"https://{host}:51000/back", False),
        (f"http://{host}:51000@evil.test/back", False),
        (f"http://{host}:510000000/back", False),
        (f"http://{host}.evil.test/back", False),
        ("http://localhost:51000/back", False),
        ("http://127.0.0.2:51000/back", False),
    ):
        answer = site.authorize(cookie, client_id="tool", redirect_uri=uri)
        assert ("location" in answer.headers) is fine, uri


def test_what_may_never_be_registered(site: OpenId) -> None:
    for uri in ("http://app.test/x", "https://app.test/#x", "https://a@app.test/", "javascript:alert(1)", "data:text/html,x",
                "https://*.test/", "ftp://app.test/", "https://", "app:/x", "https://[::1/x", "https://a.test/\\x"):  # fmt: skip
        for field in ("redirect_uris", "logout_uris"):
            sent = {"name": "other", "redirect_uris": [BACK], field: [uri]}
            answer = site.ask("POST", "/api/v1/apps", json=sent)
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field), uri
    for sent in ({"redirect_uris": []}, {"public": True, "pkce": False}, {"public": True, "trusted": True}):
        assert site.ask("POST", "/api/v1/apps", json={"name": "x", "redirect_uris": [BACK], **sent}).status_code == 422


# -- errors that the application is told


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "id_token token"}, "unsupported_response_type"),
        ({"response_type": "code id_token"}, "unsupported_response_type"),
        ({"response_type": "none"}, "unsupported_response_type"),
        ({"response_type": None}, "invalid_request"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"response_mode": "form_post"}, "invalid_request"),
        ({"scope": None}, "invalid_scope"),
        ({"scope": "everything"}, "invalid_scope"),
        ({"code_challenge": None, "code_challenge_method": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge": VERIFIER + "x"}, "invalid_request"),
        ({"code_challenge": "x"}, "invalid_request"),
        ({"request": "eyJhbGciOiJub25lIn0.e30."}, "request_not_supported"),
        ({"request_uri": "https://evil.test/"}, "request_uri_not_supported"),
        ({"registration": "{}"}, "registration_not_supported"),
        ({"prompt": "none login"}, "invalid_request"),
        ({"max_age": "soon"}, "invalid_request"),
        ({"max_age": "-1"}, "invalid_request"),
        ({"max_age": "٣"}, "invalid_request"),
        ({"nonce": ["a", "b"]}, "invalid_request"),
        ({"scope": ["openid", "openid email"]}, "invalid_request"),
        ({"code_challenge": [CHALLENGE, CHALLENGE]}, "invalid_request"),
        ({"nonce": "n" * 2100}, "invalid_request"),
        ({"nonce": "\0"}, "invalid_request"),
    ],
)
def test_errors_go_back_to_the_application(site: OpenId, cookie: str, changes: dict[str, Any], error: str) -> None:
    for who in ("", cookie):
        found = told(site.authorize(who, **changes))
        assert (found["error"], found["state"], found["iss"]) == (error, "a state", ISSUER) and "code" not in found
        assert re.fullmatch(r"[\x20\x21\x23-\x5b\x5d-\x7e]*", found.get("error_description", ""))


def test_what_is_sent_twice_is_not_sent_back(site: OpenId, cookie: str) -> None:
    found = told(site.authorize(cookie, state=["a", "b"]))
    assert found == {"error": "invalid_request", "error_description": found["error_description"], "iss": ISSUER}


def test_a_huge_request_is_refused_as_it_is(site: OpenId, cookie: str) -> None:
    assert site.authorize(cookie, state="s" * 5000).status_code == 422
    assert site.get("/oidc/authorize?" + "&".join(f"a{n}=1" for n in range(500)), cookie).status_code == 422
    big = site.ask("POST", "/oidc/token", token="", data={"code": "x" * 100_000}, auth=("wiki", site.secrets["wiki"]))
    assert (big.status_code, big.json()["error"]) == (400, "invalid_request")


def test_an_address_with_a_query_keeps_it(site: OpenId, cookie: str) -> None:
    site.app_of("old", redirect_uris=["https://old.test/?page=back"])
    answer = site.authorize(cookie, client_id="old", redirect_uri="https://old.test/?page=back", state="1&code=x")
    assert answer.headers["location"].startswith("https://old.test/?page=back&code=")
    assert told(answer)["state"] == "1&code=x"


# -- whether people are asked


def test_silent_requests_show_nothing(site: OpenId, ada: int) -> None:
    site.app_of("news", trusted=False)
    assert told(site.authorize("", prompt="none"))["error"] == "login_required"
    cookie = site.signed_in(ada, ago=100)
    assert told(site.authorize(cookie, prompt="none", max_age="50"))["error"] == "login_required"
    assert told(site.authorize(cookie, prompt="none", client_id="news"))["error"] == "consent_required"
    assert "code" in told(site.authorize(cookie, prompt="none"))
    site.by_hand("UPDATE users SET must_change_password = 1 WHERE username = 'ada'")
    assert told(site.authorize(cookie, prompt="none"))["error"] == "interaction_required"
    assert site.authorize(cookie).headers["location"] == "/account"


def test_who_must_set_up_a_second_factor_does_that_first(database: Database) -> None:
    site = OpenId(database, second_factor_roles=("user",))
    site.app_of()
    cookie = site.signed_in(site.user("ada"))
    assert site.authorize(cookie).headers["location"] == "/account/second-factor"
    assert told(site.authorize(cookie, prompt="none"))["error"] == "interaction_required"
    query = {"query": urlencode(asked(prompt="consent")), "do": "allow"}
    assert site.post("/oidc/consent", cookie, query).status_code == 403


@pytest.mark.parametrize(
    "changes", [{"prompt": "login"}, {"max_age": "0"}, {"max_age": "50"}, {"prompt": "login consent"}]
)
def test_a_proof_that_is_too_old_is_asked_for_anew(site: OpenId, ada: int, changes: dict[str, str]) -> None:
    cookie = site.signed_in(ada, ago=100)
    answer = site.authorize(cookie, **changes)
    confirm = urlsplit(answer.headers["location"])
    assert confirm.path == "/confirm"
    there = goes_on_to(site.get(parse_qs(confirm.query)["next"][0], cookie))
    assert urlsplit(site.get(there, cookie).headers["location"]).path == "/confirm", "nothing was proved yet"
    site.by_hand(f"UPDATE sessions SET proved_at = {int(time.time())}")
    after = site.get(there, cookie)
    if "consent" in changes.get("prompt", ""):
        assert after.status_code == 200 and "asks to know you" in after.text
        return
    claims = site.claims(site.redeem(told(after)["code"]).json()["id_token"])
    assert abs(claims["auth_time"] - time.time()) < 10
    assert urlsplit(site.authorize(cookie, prompt="login").headers["location"]).path == "/confirm", "each time"


def test_nobody_says_for_themselves_that_they_proved_it(site: OpenId, ada: int) -> None:
    cookie = site.signed_in(ada, ago=1000)
    vault = site.services.vault
    old = vault.seal(str(int(time.time()) - 900).encode(), purpose="oidc again")
    for marker in (
        b"0",
        Vault.of_this_process().seal(b"0", purpose="oidc again"),
        vault.seal(b"0", purpose="else"),
        old,
    ):
        sent = base64.urlsafe_b64encode(marker).decode()
        for changes in ({"prompt": "login"}, {"max_age": "0"}):
            answer = site.authorize(cookie, **changes, again=sent)
            assert urlsplit(answer.headers["location"]).path == "/confirm", marker
    for broken in ("é", "=", "x" * 999):
        assert urlsplit(site.authorize(cookie, prompt="login", again=broken).headers["location"]).path == "/confirm"


def allow(site: OpenId, cookie: str, page: Any) -> Any:
    query = re.search(r'name="query" value="([^"]*)"', page.text)
    assert query
    return site.post("/oidc/consent", cookie, {"query": query[1].replace("&amp;", "&"), "do": "allow"})


def test_people_are_asked_once_and_for_what_is_new(site: OpenId, cookie: str) -> None:
    site.app_of("news", trusted=False, title="News <b>", scopes=["openid", "profile", "email"])
    request = {"client_id": "news", "scope": "openid profile"}
    page = site.authorize(cookie, **request)
    assert page.status_code == 200 and "News &lt;b&gt;" in page.text and "app.test" in page.text
    assert page.headers["x-frame-options"] == "DENY" and "your e-mail" not in page.text
    refuse = re.search(r'href="(https://app.test[^"]*)"', page.text)
    assert refuse and "error=access_denied" in refuse[1] and "state=a+state" in refuse[1]
    on = allow(site, cookie, page)
    assert on.status_code == 303 and urlsplit(on.headers["location"]).path == "/oidc/resume"
    done = site.get(goes_on_to(site.get(on.headers["location"], cookie)), cookie)
    assert site.redeem(told(done)["code"], as_="news").status_code == 200
    assert "code" in told(site.authorize(cookie, **request)), "remembered"
    assert "code" in told(site.authorize(cookie, client_id="news", scope="openid")), "less than that too"
    more = site.authorize(cookie, client_id="news", scope="openid email")
    assert more.status_code == 200 and "your e-mail" in more.text
    allow(site, cookie, more)
    assert "code" in told(site.authorize(cookie, client_id="news", scope="openid profile email"))
    assert site.authorize(cookie, **request, prompt="consent").status_code == 200
    bob = site.signed_in(site.user("bob"))
    assert site.authorize(bob, **request).status_code == 200, "ada's word is not bob's"


def test_nobody_else_allows_for_one(site: OpenId, cookie: str) -> None:
    site.app_of("news", trusted=False)
    query = urlencode(asked(client_id="news"))
    headers = {"cookie": f"__Host-diycloud={cookie}"}
    for given, origin in (
        ({}, {"sec-fetch-site": "same-origin"}),
        ({"csrf": "x"}, {"sec-fetch-site": "same-origin"}),
        ({}, {"sec-fetch-site": "cross-site"}),
        ({}, {"origin": "https://evil.test"}),
    ):
        data = {"query": query, "do": "allow", **given}
        answer = site.ask("POST", "/oidc/consent", token="", data=data, headers={**headers, **origin})
        assert answer.status_code == 403
    evil = site.post(
        "/oidc/consent", cookie, {"query": urlencode(asked(redirect_uri="https://evil.test/")), "do": "allow"}
    )
    assert evil.status_code == 422
    assert site.authorize(cookie, client_id="news").status_code == 200, "still to be asked"


def test_another_account_can_be_chosen(site: OpenId, cookie: str) -> None:
    page = site.authorize(cookie, prompt="select_account")
    assert page.status_code == 200 and "ada" in page.text
    switched = site.post("/oidc/consent", cookie, {"query": urlencode(asked(prompt="select_account")), "do": "switch"})
    assert urlsplit(switched.headers["location"]).path == "/sign-in"
    assert site.authorize(cookie).headers["location"].startswith("/sign-in"), "the session has ended"


def test_people_see_and_take_back_what_they_allowed(site: OpenId, ada: int, cookie: str) -> None:
    site.app_of("news", trusted=False)
    allow(site, cookie, site.authorize(cookie, client_id="news"))
    access = site.tokens(cookie, client_id="news")["access_token"]
    token = site.signed_in(ada, kind="api")
    apps = site.ask("GET", "/api/v1/account/apps", token=token).json()["apps"]
    assert [(a["name"], a["sign_ins"], a["scopes"]) for a in apps] == [("news", 1, ["openid", "profile", "email"])]
    assert site.ask("DELETE", "/api/v1/account/apps/news", token=token).status_code == 204
    assert site.userinfo(access).status_code == 401
    assert site.authorize(cookie, client_id="news").status_code == 200
    assert site.ask("GET", "/api/v1/account/apps", token=token).json()["apps"] == []


# -- codes


def test_a_code_is_taken_once_and_a_second_try_ends_everything(site: OpenId, cookie: str) -> None:
    code = site.code(cookie)
    access = site.redeem(code).json()["access_token"]
    assert site.userinfo(access).status_code == 200
    again = site.redeem(code)
    assert (again.status_code, again.json()) == (400, {"error": "invalid_grant"})
    assert site.userinfo(access).status_code == 401, "one of the two had stolen it"
    rows = site.by_hand("SELECT actor, target, code FROM audit WHERE action = 'app.token'")
    assert rows == [("wiki", "ada", "reused")]


@pytest.mark.parametrize(
    "changes",
    [
        {"code_verifier": "w" * 43}, {"code_verifier": None}, {"code_verifier": CHALLENGE}, {"code_verifier": VERIFIER + "v"},
        {"code_verifier": "v" * 42}, {"code_verifier": "v" * 129}, {"redirect_uri": BACK + "/"}, {"redirect_uri": "https://evil.test/"},
    ],
)  # fmt: skip
def test_a_wrong_try_spends_the_code(site: OpenId, cookie: str, changes: dict[str, str | None]) -> None:
    code = site.code(cookie)
    assert site.redeem(code, **changes).json() == {"error": "invalid_grant"}
    assert site.redeem(code).json() == {"error": "invalid_grant"}, "there is no second guess"


def test_a_code_of_another_application_is_worth_nothing(site: OpenId, cookie: str) -> None:
    site.app_of("evil", redirect_uris=[BACK])
    assert site.redeem(site.code(cookie), as_="evil").json() == {"error": "invalid_grant"}
    assert site.redeem("x" * 43).json() == {"error": "invalid_grant"}
    assert site.redeem("").json()["error"] == "invalid_request"


def test_a_code_ends_after_a_minute(site: OpenId, cookie: str) -> None:
    code = site.code(cookie)
    site.by_hand("UPDATE oidc_grants SET code_expires_at = code_expires_at - 60")
    assert site.redeem(code).json() == {"error": "invalid_grant"}


def test_nothing_of_codes_and_tokens_is_kept(site: OpenId, cookie: str) -> None:
    site.app_of("nightly", scopes=["openid", "offline_access"])
    code = site.code(cookie, client_id="nightly", scope="openid offline_access")
    given = site.redeem(code, as_="nightly").json()
    secret_texts = [
        code,
        given["access_token"],
        given["refresh_token"],
        given["refresh_token"].partition(".")[2],
        site.secrets["wiki"],
    ]
    for table in ("oidc_clients", "oidc_grants", "oidc_tokens", "oidc_keys", "audit", "idempotency_keys"):
        text = "".join(
            value.decode("latin-1") if isinstance(value, bytes) else str(value)
            for row in site.by_hand(f"SELECT * FROM {table}")
            for value in row
        )
        assert not [secret for secret in secret_texts if secret in text], table
        assert "PRIVATE KEY" not in text


# -- who asks


@pytest.mark.parametrize("path", ["/oidc/token", "/oidc/revoke", "/oidc/introspect"])
def test_wrong_credentials_are_all_the_same(site: OpenId, path: str) -> None:
    site.app_of("off")
    site.ask("PATCH", "/api/v1/apps/off", json={"enabled": False})
    for auth in (("wiki", "x"), ("nobody", "x"), ("", ""), ("wiki", ""), ("off", site.secrets["off"])):
        answer = site.ask("POST", path, token="", data={"grant_type": "refresh_token", "token": "x"}, auth=auth)
        assert (answer.status_code, answer.json()) == (401, {"error": "invalid_client"})
        assert answer.headers["www-authenticate"].startswith("Basic ")
    for data in ({"a": "b"}, {"client_id": "wiki"}, {"client_id": "wiki", "client_secret": "x"}):
        answer = site.ask("POST", path, token="", data=data)
        assert (answer.status_code, answer.json()) == (401, {"error": "invalid_client"})
    for header in ("Basic", "Basic !!!", "Bearer x", "Basic " + base64.b64encode(b"no colon").decode()):
        assert site.ask("POST", path, token="", data={"a": "b"}, headers={"authorization": header}).status_code == 401


def test_secrets_in_the_address_are_refused(site: OpenId) -> None:
    query = urlencode({"client_id": "wiki", "client_secret": site.secrets["wiki"], "grant_type": "refresh_token"})
    assert site.ask("POST", f"/oidc/token?{query}", token="", data={}).json()["error"] == "invalid_request"


def test_only_forms_each_parameter_once(site: OpenId) -> None:
    auth = ("wiki", site.secrets["wiki"])
    as_json = site.ask("POST", "/oidc/token", token="", json={"grant_type": "refresh_token"}, auth=auth)
    assert as_json.json()["error"] == "invalid_request"
    form = {"content-type": "application/x-www-form-urlencoded"}
    for body in (b"grant_type=a&grant_type=b", b"\xff\xfe=1", b"a=%ff", b"&".join(b"a%d=1" % n for n in range(100))):
        answer = site.ask("POST", "/oidc/token", token="", content=body, headers=form, auth=auth)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert site.form("/oidc/token").json()["error"] == "invalid_request"
    assert site.form("/oidc/token", grant_type="password", username="ada").json()["error"] == "unsupported_grant_type"
    assert site.form("/oidc/token", grant_type="client_credentials").json()["error"] == "unsupported_grant_type"


def test_methods(site: OpenId) -> None:
    for path in ("/oidc/token", "/oidc/revoke", "/oidc/introspect"):
        answer = site.get(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST, OPTIONS")
    answer = site.ask("DELETE", "/oidc/userinfo", token="")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST, HEAD, OPTIONS")
    preflight = site.ask("OPTIONS", "/oidc/token", token="", headers={"origin": "https://evil.test"})
    assert "access-control-allow-origin" not in preflight.headers


def test_a_new_secret_ends_the_old_one(site: OpenId, cookie: str) -> None:
    old = site.secrets["wiki"]
    site.secrets["wiki"] = site.ask("POST", "/api/v1/apps/wiki/secret", json={}).json()["secret"]
    assert site.secrets["wiki"] != old and site.tokens(cookie)
    site.secrets["wiki"] = old
    assert site.redeem(site.code(cookie)).status_code == 401


def test_the_secret_is_shown_once_even_when_asked_again(site: OpenId) -> None:
    sent = {"json": {"name": "once", "redirect_uris": [BACK]}, "headers": {"Idempotency-Key": "k" * 32}}
    secret = site.ask("POST", "/api/v1/apps", **sent).json()["secret"]
    site.restart()
    again = site.ask("POST", "/api/v1/apps", **sent)
    assert again.status_code == 201 and again.json()["secret"] is None and secret not in again.text
    shown = site.ask("GET", "/api/v1/apps/once").text + site.ask("GET", "/api/v1/apps").text
    assert secret not in shown and "secret" not in json.loads(site.ask("GET", "/api/v1/apps/once").text)["app"]


def test_guessing_is_slowed_and_applications_are_not(database: Database) -> None:
    site = OpenId(database, strangers_per_minute=5, requests_per_minute=600)
    site.app_of()
    tries = [site.ask("POST", "/oidc/token", token="", data={"a": "b"}, auth=("wiki", "x")) for _ in range(8)]
    assert [t.status_code for t in tries].count(401) == 5 and tries[-1].status_code == 429
    assert int(tries[-1].headers["retry-after"]) > 0
    assert site.form("/oidc/token", grant_type="refresh_token", refresh_token="x").json() == {"error": "invalid_grant"}
    assert site.userinfo("x" * 43).status_code == 429


# -- refreshing


@pytest.fixture
def nightly(site: OpenId) -> str:
    return site.app_of("nightly", scopes=["openid", "profile", "offline_access"])


OFFLINE = {"client_id": "nightly", "scope": "openid profile offline_access"}


def test_a_refresh_token_is_for_once(site: OpenId, cookie: str, nightly: str) -> None:
    first = site.tokens(cookie, **OFFLINE)
    second = site.refresh(first["refresh_token"], nightly).json()
    assert second["refresh_token"] != first["refresh_token"] and second["access_token"] != first["access_token"]
    claims, before = site.claims(second["id_token"]), site.claims(first["id_token"])
    assert "nonce" not in claims and [claims[n] for n in ("iss", "sub", "aud", "auth_time")] == [
        before[n] for n in ("iss", "sub", "aud", "auth_time")
    ]
    third = site.refresh(second["refresh_token"], nightly).json()
    assert site.userinfo(third["access_token"]).status_code == 200
    stolen = site.refresh(first["refresh_token"], nightly)
    assert (stolen.status_code, stolen.json()) == (400, {"error": "invalid_grant"})
    for access in (first, second, third):
        assert site.userinfo(access["access_token"]).status_code == 401
    assert site.refresh(third["refresh_token"], nightly).json() == {"error": "invalid_grant"}
    assert site.by_hand("SELECT code FROM audit WHERE action = 'app.token'") == [("reused",)]


def test_a_refresh_may_ask_for_less_but_never_for_more(site: OpenId, cookie: str, nightly: str) -> None:
    refresh = site.tokens(cookie, client_id=nightly, scope="openid offline_access")["refresh_token"]
    assert site.refresh(refresh, nightly, scope="openid profile").json() == {"error": "invalid_scope"}
    less = site.refresh(refresh, nightly, scope="openid").json()
    assert less["scope"] == "openid"
    assert site.refresh(less["refresh_token"], nightly).json()["scope"] == "openid offline_access"


def test_refresh_tokens_only_where_they_are_for(site: OpenId, cookie: str, nightly: str) -> None:
    assert "refresh_token" not in site.tokens(cookie)
    assert "refresh_token" not in site.tokens(cookie, scope="openid offline_access"), "not allowed to ask for it"
    assert "refresh_token" not in site.tokens(cookie, client_id=nightly, scope="openid")
    site.app_of("hub", refresh=True)
    assert site.tokens(cookie, client_id="hub")["refresh_token"]


def test_another_applications_refresh_token_ends_it(site: OpenId, cookie: str, nightly: str) -> None:
    site.app_of("evil")
    given = site.tokens(cookie, **OFFLINE)
    assert site.refresh(given["refresh_token"], "evil").json() == {"error": "invalid_grant"}
    assert site.userinfo(given["access_token"]).status_code == 401


def test_a_refresh_token_ends_when_it_is_not_used(site: OpenId, cookie: str, nightly: str) -> None:
    given = site.tokens(cookie, **OFFLINE)
    ((until,),) = site.by_hand("SELECT expires_at FROM oidc_tokens WHERE kind = 'refresh'")
    assert abs(until - time.time() - 30 * 86_400) < 10
    site.by_hand("UPDATE oidc_tokens SET expires_at = expires_at - 2592000 WHERE kind = 'refresh'")
    assert site.refresh(given["refresh_token"], nightly).json() == {"error": "invalid_grant"}


def test_what_an_application_may_no_more_ask_for_ends_with_the_next_refresh(
    site: OpenId, cookie: str, nightly: str
) -> None:
    given = site.tokens(cookie, **OFFLINE)
    site.ask("PATCH", f"/api/v1/apps/{nightly}", json={"scopes": ["openid", "offline_access"]})
    less = site.refresh(given["refresh_token"], nightly).json()
    assert less["scope"] == "openid offline_access"
    assert "name" not in site.userinfo(less["access_token"]).json()
    site.ask("PATCH", f"/api/v1/apps/{nightly}", json={"scopes": ["openid"]})
    assert site.refresh(less["refresh_token"], nightly).json() == {"error": "invalid_grant"}


def test_kinds_of_tokens_are_not_mixed_up(site: OpenId, cookie: str, nightly: str) -> None:
    given = site.tokens(cookie, **OFFLINE)
    for wrong in (given["refresh_token"], given["id_token"], given["refresh_token"].partition(".")[0], cookie):
        assert site.userinfo(wrong).status_code == 401
    for wrong in (given["access_token"], given["id_token"], given["access_token"] + ".x"):
        assert site.refresh(wrong, nightly).json() == {"error": "invalid_grant"}
    assert site.redeem(given["access_token"], as_=nightly).json() == {"error": "invalid_grant"}
    assert site.ask("GET", "/api/v1/users/ada", token=given["access_token"]).status_code == 401, "it opens nothing here"
    assert site.get("/", given["access_token"]).headers["location"] == "/sign-in"
    assert site.ask("GET", f"/oidc/userinfo?access_token={given['access_token']}", token="").status_code == 401


def test_tokens_of_one_sign_in_stay_few(site: OpenId, cookie: str, nightly: str) -> None:
    refresh = site.tokens(cookie, **OFFLINE)["refresh_token"]
    for _ in range(30):
        refresh = site.refresh(refresh, nightly).json()["refresh_token"]
    ((rows,),) = site.by_hand("SELECT count(*) FROM oidc_tokens")
    assert rows <= 21
    for _ in range(40):
        site.code(cookie)
    ((rows,),) = site.by_hand("SELECT count(*) FROM oidc_grants")
    assert rows <= 31


# -- out at once


ENDS = {
    "disabled": "UPDATE users SET status = 'inactive' WHERE username = 'ada'",
    "disabled by hand": "UPDATE users SET is_active = 0 WHERE username = 'ada'",
    "deleted": "UPDATE users SET status = 'deleted' WHERE username = 'ada'",
    "gone": "DELETE FROM users WHERE username = 'ada'",
    "must change the password": "UPDATE users SET must_change_password = 1 WHERE username = 'ada'",
    "not from there any more": "UPDATE users SET allowed_client_ip = '10.0.0.0/8' WHERE username = 'ada'",
    "application off": "UPDATE oidc_clients SET enabled = 0",
    "application gone": "DELETE FROM oidc_clients",
}


@pytest.mark.parametrize("how", ENDS.values(), ids=ENDS)
def test_who_may_no_more_is_out_at_once(site: OpenId, cookie: str, nightly: str, how: str) -> None:
    given, code = site.tokens(cookie, **OFFLINE), site.code(cookie, **OFFLINE)
    site.by_hand(how)
    assert site.userinfo(given["access_token"]).status_code == 401
    assert site.refresh(given["refresh_token"], nightly).status_code in (400, 401)
    assert site.redeem(code, as_=nightly).status_code in (400, 401)
    answer = site.form("/oidc/introspect", nightly, token=given["access_token"])
    assert answer.status_code == 401 or answer.json() == {"active": False}
    assert "code=" not in site.authorize(cookie, **OFFLINE).headers.get("location", "")


SESSION_ENDS = {
    "ended": "DELETE FROM sessions",
    "expired": "UPDATE sessions SET expires_at = 1",
    "idle": "UPDATE sessions SET last_seen = last_seen - 7200",
}


@pytest.mark.parametrize("how", SESSION_ENDS.values(), ids=SESSION_ENDS)
def test_with_the_session_ends_what_was_given_but_for_offline_access(
    site: OpenId, cookie: str, nightly: str, how: str
) -> None:
    site.app_of("hub", refresh=True)
    online, offline = site.tokens(cookie, client_id="hub"), site.tokens(cookie, **OFFLINE)
    code = site.code(cookie)
    site.by_hand(how)
    assert site.userinfo(online["access_token"]).status_code == 401
    assert site.refresh(online["refresh_token"], "hub").json() == {"error": "invalid_grant"}
    assert site.redeem(code).json() == {"error": "invalid_grant"}
    assert site.userinfo(offline["access_token"]).status_code == 200
    assert site.refresh(offline["refresh_token"], nightly).status_code == 200


def test_a_new_password_ends_everything(site: OpenId, ada: int, cookie: str, nightly: str) -> None:
    online, offline = site.tokens(cookie), site.tokens(cookie, **OFFLINE)
    sent = {"current": "x", "password": "another good phrase"}
    changed = site.ask("PUT", "/api/v1/account/password", token=site.signed_in(ada, kind="api"), json=sent)
    assert changed.status_code == 200, changed.text
    for given in (online, offline):
        assert site.userinfo(given["access_token"]).status_code == 401
    assert site.refresh(offline["refresh_token"], nightly).json() == {"error": "invalid_grant"}


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/v1/users/ada/disable"), ("DELETE", "/api/v1/users/ada"), ("DELETE", "/api/v1/users/ada/sessions")],
)
def test_what_an_administrator_does_ends_offline_access_for_good(
    site: OpenId, cookie: str, nightly: str, method: str, path: str
) -> None:
    given = site.tokens(cookie, **OFFLINE)
    assert site.ask(method, path, json={}).status_code in (200, 204)
    site.by_hand("UPDATE users SET status = 'active' WHERE username = 'ada'")
    assert site.userinfo(given["access_token"]).status_code == 401
    assert site.refresh(given["refresh_token"], nightly).json() == {"error": "invalid_grant"}


def test_access_tokens_end_after_ten_minutes(site: OpenId, cookie: str) -> None:
    access = site.tokens(cookie)["access_token"]
    site.by_hand("UPDATE oidc_tokens SET expires_at = expires_at - 600")
    answer = site.userinfo(access)
    assert answer.status_code == 401 and 'error="invalid_token"' in answer.headers["www-authenticate"]


# -- revocation and introspection


def test_revoking(site: OpenId, cookie: str, nightly: str) -> None:
    site.app_of("evil")
    given = site.tokens(cookie, **OFFLINE)
    theirs = site.form("/oidc/revoke", "evil", token=given["refresh_token"])
    assert (theirs.status_code, theirs.json()["error"]) == (400, "unauthorized_client")
    assert site.userinfo(given["access_token"]).status_code == 200
    for token in (given["access_token"], given["access_token"], "never was"):
        answer = site.form("/oidc/revoke", nightly, token=token, token_type_hint="refresh_token")
        assert (answer.status_code, answer.content) == (200, b"")
    assert site.userinfo(given["access_token"]).status_code == 401
    fresh = site.refresh(given["refresh_token"], nightly).json()
    assert site.form("/oidc/revoke", nightly, token=fresh["refresh_token"]).status_code == 200
    assert site.userinfo(fresh["access_token"]).status_code == 401, "with a refresh token all of it ends"
    assert site.refresh(fresh["refresh_token"], nightly).json() == {"error": "invalid_grant"}
    assert site.form("/oidc/revoke", nightly).json()["error"] == "invalid_request"


def test_introspection_tells_an_application_of_its_own_tokens(site: OpenId, cookie: str, nightly: str) -> None:
    site.app_of("evil")
    given = site.tokens(cookie, **OFFLINE)
    found = site.form("/oidc/introspect", nightly, token=given["access_token"]).json()
    assert found["active"] and found["username"] == "ada" and found["client_id"] == found["aud"] == nightly
    assert found["iss"] == ISSUER and found["exp"] - found["iat"] == 600 and found["token_type"] == "Bearer"
    assert site.form("/oidc/introspect", nightly, token=given["refresh_token"]).json()["active"] is True
    for token in (given["access_token"], given["refresh_token"], given["id_token"], "x"):
        assert site.form("/oidc/introspect", "evil", token=token).json() == {"active": False}
    used = given["refresh_token"]
    site.refresh(used, nightly)
    assert site.form("/oidc/introspect", nightly, token=used).json() == {"active": False}


# -- signing out


def log_out(site: OpenId, cookie: str, **query: str) -> Any:
    return site.get(f"/oidc/logout?{urlencode(query)}", cookie)


def test_an_application_signs_its_user_out(site: OpenId, cookie: str) -> None:
    site.ask("PATCH", "/api/v1/apps/wiki", json={"logout_uris": ["https://app.test/bye"]})
    given = site.tokens(cookie)
    out = log_out(
        site, cookie, id_token_hint=given["id_token"], post_logout_redirect_uri="https://app.test/bye", state="s"
    )
    assert (out.status_code, out.headers["location"]) == (303, "https://app.test/bye?state=s")
    assert '__Host-diycloud=""' in out.headers["set-cookie"]
    assert site.authorize(cookie).headers["location"].startswith("/sign-in")
    assert site.userinfo(given["access_token"]).status_code == 401


def test_signing_out_is_asked_for_without_a_hint_of_ones_own(site: OpenId, ada: int, cookie: str) -> None:
    site.ask("PATCH", "/api/v1/apps/wiki", json={"logout_uris": ["https://app.test/bye"]})
    bobs = site.tokens(site.signed_in(site.user("bob")))["id_token"]
    there = {"post_logout_redirect_uri": "https://app.test/bye"}
    for query in (
        {},
        {"client_id": "wiki", **there},
        {"id_token_hint": "x.y.z", **there},
        {"id_token_hint": bobs, **there},
    ):
        page = log_out(site, cookie, **query)
        assert page.status_code == 200 and "Sign out here too?" in page.text, query
    assert site.authorize(cookie).headers["location"].startswith(BACK), "still signed in"
    done = site.post("/oidc/sign-out", cookie, {"query": urlencode({"client_id": "wiki", **there})})
    assert goes_on_to(done) == "https://app.test/bye"
    assert site.authorize(cookie).headers["location"].startswith("/sign-in")


@pytest.mark.parametrize(
    "uri", ["https://app.test/bye/", "https://app.test/bye?x", "https://evil.test/", "//evil.test", BACK]
)
def test_after_signing_out_nobody_is_sent_elsewhere(site: OpenId, cookie: str, uri: str) -> None:
    site.ask("PATCH", "/api/v1/apps/wiki", json={"logout_uris": ["https://app.test/bye"]})
    hint = site.tokens(cookie)["id_token"]
    out = log_out(site, cookie, id_token_hint=hint, post_logout_redirect_uri=uri)
    assert out.headers["location"] == "/sign-in"
    assert log_out(site, "", client_id="wiki", post_logout_redirect_uri=uri).headers["location"] == "/sign-in"


def forged(kind: str, claims: dict[str, Any], public: jwk.RSAKey) -> str:
    """Return an ID token that somebody else made."""

    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    kid = public.kid
    if kind == "none":
        return f"{part({'alg': 'none', 'kid': kid})}.{part(claims)}."
    if kind == "no signature":
        return f"{part({'alg': 'RS256', 'kid': kid})}.{part(claims)}."
    if kind == "public key as secret":
        text = f"{part({'alg': 'HS256', 'kid': kid})}.{part(claims)}"
        made = hmac.digest(public.as_pem(private=False), text.encode(), "sha256")
        return f"{text}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"
    other = jwk.RSAKey.generate_key(2048)
    header = {"alg": "RS256", "kid": kid}
    if kind == "its own key in the header":
        header |= {"jwk": other.as_dict(private=False), "jku": "https://evil.test/jwks"}
    return jwt.encode(header, claims, other, algorithms=["RS256"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", ["none", "no signature", "public key as secret", "another key", "its own key in the header"]
)
def test_a_forged_hint_signs_nobody_out(site: OpenId, cookie: str, kind: str) -> None:
    claims = site.claims(site.tokens(cookie)["id_token"])
    public = jwk.RSAKey.import_key(site.get("/oidc/jwks").json()["keys"][0])
    page = log_out(site, cookie, id_token_hint=forged(kind, claims, public))
    assert page.status_code == 200 and "Sign out here too?" in page.text
    assert site.authorize(cookie).headers["location"].startswith(BACK)


def test_a_hint_of_another_issuer_or_application(site: OpenId, cookie: str) -> None:
    site.app_of("other", logout_uris=["https://other.test/"])
    claims = site.claims(site.tokens(cookie)["id_token"])
    private = jwk.RSAKey.import_key(MADE[1], {"kid": MADE[0]})
    mixed_up = jwt.encode({"alg": "RS256", "kid": MADE[0]}, {**claims, "iss": "https://evil.test"}, private)
    assert log_out(site, cookie, id_token_hint=mixed_up).status_code == 200
    assert log_out(site, cookie, id_token_hint=site.tokens(cookie)["id_token"], client_id="other").status_code == 422
    expired = jwt.encode({"alg": "RS256", "kid": MADE[0]}, {**claims, "exp": 1}, private)
    assert log_out(site, cookie, id_token_hint=expired).status_code == 303, "a hint may be old"


# -- keys


def test_keys_follow_each_other(site: OpenId, cookie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = site.tokens(cookie)["id_token"]
    fresh = ("second", jwk.RSAKey.generate_key(2048).as_pem(private=True))
    monkeypatch.setattr(keys, "_make", lambda: fresh)
    done = site.ask("POST", "/api/v1/signing-keys", json={}).json()
    assert done == {"kid": "second", "kept": [MADE[0]]}
    shown = site.get("/oidc/jwks").json()["keys"]
    assert [key["kid"] for key in shown] == ["second", MADE[0]] and all(
        "d" not in key and "p" not in key for key in shown
    )
    assert site.claims(old)["aud"] == "wiki", "still checked"
    new = site.tokens(cookie)["id_token"]
    assert json.loads(base64.urlsafe_b64decode(new.partition(".")[0] + "=="))["kid"] == "second" and site.claims(new)
    site.by_hand("UPDATE oidc_keys SET retired_at = 1 WHERE retired_at IS NOT NULL")
    assert [key["kid"] for key in site.get("/oidc/jwks").json()["keys"]] == ["second"]


def test_a_key_is_followed_by_age(site: OpenId, cookie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    site.tokens(cookie)
    monkeypatch.setattr(keys, "_make", lambda: ("next", MADE[1]))
    site.by_hand("UPDATE oidc_keys SET created_at = created_at - 91 * 86400")
    assert [key["kid"] for key in site.get("/oidc/jwks").json()["keys"]] == ["next", MADE[0]]
    assert [key["kid"] for key in site.get("/oidc/jwks").json()["keys"]] == ["next", MADE[0]], "once"


# -- who manages


def test_only_administrators_manage_and_monitors_look(site: OpenId, ada: int) -> None:
    boss = site.signed_in(site.user("boss", role="admin"), kind="api")
    watcher = site.signed_in(site.user("watcher", role="monitor"), kind="api")
    head = site.signed_in(site.user("head", role="domain-admin"), kind="api")
    plain = site.signed_in(ada, kind="api")
    looks = {boss: 200, watcher: 200, head: 403, plain: 403}
    for who, status in looks.items():
        assert site.ask("GET", "/api/v1/apps", token=who).status_code == status
        may = 200 if who == boss else 403
        assert site.ask("PATCH", "/api/v1/apps/wiki", token=who, json={"title": "Wiki"}).status_code == may
        assert site.ask("POST", "/api/v1/signing-keys", token=who, json={}).status_code == may
    stale = site.signed_in(1, ago=3600, kind="api")
    refused = site.ask("POST", "/api/v1/apps/wiki/secret", token=stale, json={})
    assert (refused.status_code, refused.json()["code"]) == (403, "proof-needed")


def test_the_portals_pages(site: OpenId, cookie: str) -> None:
    boss = site.signed_in(1)
    sent = {
        "name": "grafana",
        "title": "Grafana",
        "redirect_uris": "https://g.test/a\nhttps://g.test/b",
        "scopes": "openid",
        "pkce": "true",
    }
    made = site.post("/new-application", boss, sent)
    assert made.status_code == 200 and "Client secret" in made.text and f"{ISSUER}/oidc/token" in made.text
    listed = site.get("/applications", boss)
    assert "Grafana" in listed.text and "Client secret" not in listed.text
    page = site.get("/applications/grafana", boss)
    assert "https://g.test/a\nhttps://g.test/b" in page.text and "GenericOAuthenticator" in page.text
    wrong = site.post("/applications/grafana", boss, {**sent, "redirect_uris": "http://g.test/"})
    assert wrong.status_code == 422 and "must begin with https://" in wrong.text
    assert site.post("/applications/grafana", boss, {**sent, "enabled": "true", "title": "G"}).status_code == 303
    assert "Client secret" in site.post("/applications/grafana/secret", boss, {}).text
    assert site.post("/applications/grafana/remove", boss, {}).headers["location"] == "/applications"
    assert site.get("/applications", cookie).status_code == 403
    assert "/applications" not in site.get("/", cookie).text
    assert site.post("/rotate-signing-keys", boss, {}).status_code in (303, 409)


def test_what_ended_is_forgotten(site: OpenId, cookie: str, nightly: str) -> None:
    import asyncio

    from diycloud.auth.oidc import grants

    site.tokens(cookie)
    kept = site.tokens(cookie, **OFFLINE)
    site.code(cookie)
    later = int(time.time()) + 700
    assert asyncio.run(site.database.write(grants.forget, later)) == 2
    assert site.by_hand("SELECT kind FROM oidc_tokens") == [("refresh",)]
    assert site.refresh(kept["refresh_token"], nightly).status_code == 200


def test_names_are_quoted_in_addresses(site: OpenId, cookie: str) -> None:
    answer = site.get(f"/oidc/authorize?{urlencode(asked())}&state2={quote('<script>')}", cookie)
    assert "<script>" not in answer.headers["location"]
    assert new_verifier()[0] != new_verifier()[0]
