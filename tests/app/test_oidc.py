"""The OpenID Connect provider, whole: how it should go, where people are sent, what they are asked, and who manages it."""

from __future__ import annotations

import base64
import re
import time
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from diycloud.db.engine import Database
from diycloud.db.vault import Vault
from tests.app.openid import BACK, CHALLENGE, ISSUER, VERIFIER, OpenId, asked, goes_on_to, told

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
    on = allow(site, cookie, page)
    answer = site.get(goes_on_to(site.get(on.headers["location"], cookie)), cookie)
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
