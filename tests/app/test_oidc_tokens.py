"""The OpenID Connect provider, whole: codes, tokens, keys and signing out, and everything that must not work with them."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from typing import Any
from urllib.parse import urlencode

import pytest
from joserfc import jwk, jwt

from diycloud.auth.oidc import grants, keys
from diycloud.db.engine import Database
from tests.app.openid import BACK, CHALLENGE, ISSUER, MADE, OFFLINE, VERIFIER, OpenId, goes_on_to

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


@pytest.mark.parametrize("may", [{}, {"scopes": ["openid", "offline_access"]}, {"refresh": True}], ids=str)
def test_another_applications_refresh_token_ends_it(
    site: OpenId, cookie: str, nightly: str, may: dict[str, Any]
) -> None:
    site.app_of("evil", **may)
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


# -- cleaning up


def test_what_ended_is_forgotten(site: OpenId, cookie: str, nightly: str) -> None:
    site.tokens(cookie)
    kept = site.tokens(cookie, **OFFLINE)
    site.code(cookie)
    later = int(time.time()) + 700
    assert asyncio.run(site.database.write(grants.forget, later)) == 2
    assert site.by_hand("SELECT kind FROM oidc_tokens") == [("refresh",)]
    assert site.refresh(kept["refresh_token"], nightly).status_code == 200
