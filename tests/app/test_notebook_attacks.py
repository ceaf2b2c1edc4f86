"""Attacks on what the notebooks' own parts ask the server: by a stolen hub, and by whoever comes through Nginx."""

from __future__ import annotations

import pytest

from tests.app.openid import OpenId
from tests.app.peers import FAR, HUB, NGINX, come, guard

EVENT = {"kind": "started", "name": "ada", "at": 1.0}


@pytest.fixture
def ada(site: OpenId) -> int:
    return site.user("ada", full_name="Ada Lovelace", portal_only=0, uid=20_001)


@pytest.mark.parametrize(
    "path",
    ["/internal/hub/users/ada", "/internal/hub/events", "/internal/hub/password", "/internal/../internal/hub/users/ada",
     "/internal/%2e%2e/internal/hub/users/ada", "/internal/hub/users/..%2fada", "//internal/hub/users/ada",
     "/internal/notebooks/guard/", "/internal/notebooks/guard%00", "/internal/notebooks/../hub/users/ada"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nobody_comes_to_the_hubs_endpoints_by_nginx(site: OpenId, ada: int, path: str, method: str) -> None:
    answer = come(site, NGINX, method, path, headers={"x-forwarded-for": FAR, "x-forwarded-user": "diycloud-hub"})
    assert answer.status_code in (404, 405)
    assert "Lovelace" not in answer.text


@pytest.mark.parametrize(
    "path",
    ["/oidc/token/../../api/v1/users", "/oidc/token%2f..%2f..%2fapi/v1/users", "/oidc/token;/x", "/OIDC/TOKEN", "/oidc//token",
     "/oidc/jwks/../authorize", "/.well-known/../api/v1/users", "/internal/hub/../../api/v1/users", "/api/v1/users/ada%00"],
)  # fmt: skip
def test_a_stolen_hub_comes_nowhere_else(site: OpenId, ada: int, cookie: str, path: str) -> None:
    for headers in ({}, {"cookie": f"__Host-diycloud={cookie}"}, {"authorization": f"Bearer {cookie}"}):
        assert come(site, HUB, "GET", path, headers=headers).status_code == 404


@pytest.mark.parametrize(
    "changed",
    [{"at": -1.0}, {"at": 1e300}, {"seconds": 1e300}, {"name": "x" * 65}, {"server": "../x"}, {"server": "x\n"},
     {"kind": "deleted"}, {"reason": "x" * 100_000}, {"by": "y" * 65}, {"user_id": 1}],
)  # fmt: skip
def test_events_of_a_stolen_hub_are_bounded(site: OpenId, ada: int, changed: dict[str, object]) -> None:
    answer = come(site, HUB, "POST", "/internal/hub/events", json={"events": [{**EVENT, **changed}]})
    assert 400 <= answer.status_code < 500, answer.text


@pytest.mark.parametrize("at", [0, 1e11])
def test_events_of_any_time_are_taken(site: OpenId, ada: int, at: float) -> None:
    assert come(site, HUB, "POST", "/internal/hub/events", json={"events": [{**EVENT, "at": at}]}).status_code == 204


@pytest.mark.parametrize("owner", ["ada2", "Ada", "ad", "ada ", "ada+x", "ada/", "../ada", "ada,bob", "%61da"])
def test_a_guard_takes_no_other_name_for_the_owners(site: OpenId, ada: int, cookie: str, owner: str) -> None:
    assert guard(site, cookie, owner).status_code in (401, 403)
