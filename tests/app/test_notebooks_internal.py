"""What the notebooks' hub and Nginx ask the server: who may work, whose session it is, what was run; and who may ask."""

from __future__ import annotations

from typing import Any

import pytest

from diycloud.auth import sessions
from diycloud.web.identity import COOKIE, UNIX_PEER
from tests.app.openid import OpenId
from tests.app.peers import FAR, HUB, NGINX, ROOT, come, events, guard


def standing(site: OpenId, name: str = "ada", **query: str) -> tuple[int, dict[str, Any]]:
    found = come(site, HUB, "GET", f"/internal/hub/users/{name}", params=query)
    return found.status_code, found.json()


@pytest.fixture
def ada(site: OpenId) -> int:
    return site.user("ada", full_name="Ada Lovelace", portal_only=0, uid=20_001)


# -- who may ask


@pytest.mark.parametrize(
    "path",
    ["/", "/sign-in", "/account", "/api/v1/users", "/api/v1/health", "/api/v1/auth/login", "/oidc/authorize", "/oidc/logout",
     "/static/x/app.css", "/internal/notebooks/guard", "/internal/", "/internal/hub/", "/internal/hub/users",
     "//internal/hub/events",
     "/oidc/token/", "/nothing"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_hub_reaches_its_own_endpoints_only(site: OpenId, cookie: str, path: str, method: str) -> None:
    sent = {"cookie": f"{COOKIE}={cookie}", "x-forwarded-for": FAR, "x-notebook-owner": "ada"}
    assert come(site, HUB, method, path, headers=sent).status_code == 404


def test_the_hub_is_an_application_of_the_provider(site: OpenId, cookie: str) -> None:
    assert come(site, HUB, "GET", "/.well-known/openid-configuration").json()["issuer"] == "https://cloud.test"
    assert come(site, HUB, "GET", "/oidc/jwks").status_code == 200
    form = {
        "grant_type": "authorization_code", "code": site.code(cookie), "redirect_uri": "https://app.test/callback",
        "code_verifier": "v" * 43,
    }  # fmt: skip
    told = come(site, HUB, "POST", "/oidc/token", data=form, auth=("wiki", site.secrets["wiki"]))
    assert told.status_code == 200
    bearer = {"authorization": f"Bearer {told.json()['access_token']}"}
    assert come(site, HUB, "GET", "/oidc/userinfo", headers=bearer).json()["preferred_username"] == "ada"
    assert come(site, HUB, "GET", "/api/v1/auth/whoami", headers=bearer).status_code == 404


@pytest.mark.parametrize("peer", [NGINX, ROOT, (UNIX_PEER, 1000), ("127.0.0.1", 4711)])
@pytest.mark.parametrize("headers", [{}, {"x-forwarded-for": FAR}])
def test_nobody_else_reaches_the_hub_s(site: OpenId, ada: int, peer: tuple[str, int], headers: dict[str, str]) -> None:
    assert come(site, peer, "GET", "/internal/hub/users/ada", headers=headers).status_code == 404
    assert come(site, peer, "POST", "/internal/hub/events", json={"events": []}, headers=headers).status_code == 404
    assert come(site, peer, "GET", "/internal/other", headers=headers).status_code == 404


def test_the_hub_s_word_on_where_it_comes_from_is_nothing(site: OpenId, cookie: str) -> None:
    for _ in range(3):
        wrong = come(
            site, HUB, "POST", "/oidc/token", data={"grant_type": "authorization_code", "code": "x"},
            auth=("nobody", "x"), headers={"x-forwarded-for": "198.51.100.9"},
        )  # fmt: skip
        assert wrong.status_code == 401
    assert site.by_hand("SELECT count(*) FROM audit WHERE address = '198.51.100.9'") == [(0,)]


# -- who may work


def test_what_the_hub_learns_of_a_user(site: OpenId, ada: int) -> None:
    for name in ("physics", "team"):
        made = site.ask("POST", "/api/v1/groups", json={"name": name, "members": ["ada"]})
        assert made.status_code in (201, 202), made.text
    status, told = standing(site)
    assert sorted(told.pop("groups")) == ["physics", "team"]
    expected = {"name": "ada", "full_name": "Ada Lovelace", "role": "user", "admin": False, "domain": "default"}
    assert (status, told) == (200, {**expected, "active": True, "reason": ""})
    site.by_hand("UPDATE users SET role = 'admin' WHERE username = 'ada'")
    assert standing(site)[1]["admin"] is True


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("status = 'inactive'", "inactive"),
        ("status = 'deleted'", "deleted"),
        ("status = 'purging'", "purging"),
        ("status = 'pending'", "being made"),
        ("is_active = 0", "inactive"),
        ("portal_only = 1", "for the portal only"),
        ("must_change_password = 1", "password must be changed"),
        ("allowed_client_ip = '10.0.0.0/8'", "may not come from 192.0.2.7"),
        ("allowed_client_ip = 'nonsense'", "may not come from 192.0.2.7"),
    ],
)
def test_who_may_not_work(site: OpenId, ada: int, change: str, reason: str) -> None:
    assert standing(site, address=FAR)[0] == 200
    site.by_hand(f"UPDATE users SET {change} WHERE username = 'ada'")
    status, told = standing(site, address=FAR)
    assert (status, told["active"]) == (403, False) and reason in told["reason"]
    assert "groups" not in told or not told["groups"]


def test_a_second_factor_that_is_asked_for_and_missing(site: OpenId, ada: int) -> None:
    site.by_hand("UPDATE policies SET second_factor = 1")
    assert standing(site)[0] == 403


def test_networks_are_looked_at_where_there_is_an_address(site: OpenId, ada: int) -> None:
    site.by_hand("UPDATE users SET allowed_client_ip = '192.0.2.0/24' WHERE username = 'ada'")
    assert [standing(site, **asked)[0] for asked in ({"address": FAR}, {}, {"address": ""})] == [200, 200, 403]


@pytest.mark.parametrize("name", ["nobody", "", "ada%2F..", "%27%20OR%201=1--", "a" * 3000, "%00"])
def test_a_name_that_is_nobody_s(site: OpenId, ada: int, name: str) -> None:
    status, told = standing(site, name)
    assert (status, told["active"]) == (404, False)


# -- the guard


def test_only_the_owner_s_own_session_passes(site: OpenId, ada: int, cookie: str) -> None:
    passed = guard(site, cookie, "ada")
    assert (passed.status_code, passed.headers["x-notebook-user"], passed.content) == (204, "ada", b"")
    ((session,),) = site.by_hand("SELECT max(id) FROM sessions")
    assert passed.headers["x-notebook-session"] == str(session)
    assert guard(site, "", "ada").status_code == 401
    assert guard(site, "x" * 43, "ada").status_code == 401
    assert guard(site, cookie, "bob").status_code == 403
    admin = site.signed_in(1)
    assert guard(site, admin, "ada").status_code == 403, "administrators visit nobody"
    assert guard(site, admin).headers["x-notebook-user"] == "root_admin"


def test_the_hubs_own_pages_refuse_nobody_and_are_told_who_it_is(site: OpenId, ada: int, cookie: str) -> None:
    assert guard(site, cookie).headers["x-notebook-user"] == "ada"
    site.by_hand("UPDATE users SET must_change_password = 1 WHERE username = 'ada'")
    for nobody in ("", "x" * 43, cookie):
        told = guard(site, nobody)
        assert told.status_code == 204 and "x-notebook-user" not in told.headers


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("status = 'inactive'", 401),
        ("status = 'deleted'", 401),
        ("allowed_client_ip = '10.0.0.0/8'", 401),
        ("must_change_password = 1", 403),
        ("username = 'eve'", 403),
    ],
)
def test_a_session_that_may_not_pass(site: OpenId, ada: int, cookie: str, change: str, status: int) -> None:
    assert guard(site, cookie, "ada").status_code == 204
    site.by_hand(f"UPDATE users SET {change} WHERE username = 'ada'")
    assert guard(site, cookie, "ada").status_code == status


def test_a_second_factor_comes_first(site: OpenId, ada: int, cookie: str) -> None:
    site.by_hand("UPDATE policies SET second_factor = 1")
    assert guard(site, cookie, "ada").status_code == 403


def test_signing_out_closes_the_door(site: OpenId, ada: int, cookie: str) -> None:
    assert site.post("/sign-out", cookie, {}).status_code == 303
    assert guard(site, cookie, "ada").status_code == 401


def test_tokens_and_acting_for_others_do_not_pass(site: OpenId, ada: int, cookie: str) -> None:
    sent = {"label": "x", "scopes": ["users:read"]}
    made = site.ask("POST", "/api/v1/users/ada/tokens", token=cookie, json=sent)
    assert made.status_code == 201, made.text
    for secret in (made.json()["token"], cookie):
        assert guard(site, "", "ada", authorization=f"Bearer {secret}").status_code == 401
    assert guard(site, made.json()["token"], "ada").status_code == 401, "not in the cookie's place either"
    admin = site.signed_in(1)
    assert guard(site, admin, "ada", **{"x-on-behalf-of": "ada"}).status_code == 403


def test_work_in_a_notebook_is_use_of_the_session(site: OpenId, ada: int) -> None:
    cookie = site.signed_in(ada, ago=3600)
    asked = sessions.token_hash(cookie).hex()
    before = site.by_hand(f"SELECT last_seen FROM sessions WHERE token_hash = x'{asked}'")[0][0]
    assert guard(site, cookie, "ada").status_code == 204
    assert site.by_hand(f"SELECT last_seen FROM sessions WHERE token_hash = x'{asked}'")[0][0] >= before + 3600
    assert site.by_hand("SELECT count(*) FROM audit WHERE action = 'session.begin'") == [(0,)]


def test_what_was_run_is_written_down(site: OpenId, ada: int) -> None:
    started = {"kind": "started", "name": "ada", "at": 1_700_000_000.5, "seconds": 1.2345, "profile": "small"}
    failed = {
        "kind": "failed", "name": "ada", "server": "big", "at": 1e11, "seconds": 60, "reason": "killed for memory: limit 2G",
    }  # fmt: skip
    assert events(site, started, failed, {"kind": "started", "name": "nobody", "at": 1}).status_code == 204
    found = site.by_hand("SELECT user_id, kind, server, profile, outcome, seconds, reason FROM activity ORDER BY id")
    assert found == [
        (ada, "notebook", "", "small", "started", 1.234, ""),
        (ada, "notebook", "big", "", "failed", 60.0, "killed for memory: limit 2G"),
    ]
    assert site.by_hand("SELECT at FROM activity ORDER BY id")[0] == ("2023-11-14 22:13:20",)
    assert site.by_hand("SELECT count(*) FROM activity WHERE at > datetime('now', '+2 seconds')") == [(0,)]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"events": [{}]}', b'{"events": [{"kind": "x", "name": "ada", "at": 1}]}',
     b'{"events": [{"kind": "started", "name": "ada", "at": -1}]}', b'{"events": [], "more": 1}',
     b'{"events": [{"kind": "failed", "name": "ada", "at": 1, "reason": "' + b"x" * 501 + b'"}]}',
     b'{"events": [{"kind": "started", "name": "ada", "at": 1, "server": "../x"}]}'],
)  # fmt: skip
def test_events_that_are_none(site: OpenId, ada: int, body: bytes) -> None:
    assert come(site, HUB, "POST", "/internal/hub/events", content=body).status_code == 422
    assert site.by_hand("SELECT count(*) FROM activity") == [(0,)]


def test_too_much_at_once(site: OpenId, ada: int) -> None:
    one = {"kind": "started", "name": "ada", "at": 1}
    assert events(site, *[one] * 101).status_code == 422
    assert come(site, HUB, "POST", "/internal/hub/events", content=b" " * 70_000).status_code == 413
