"""Who passes to notebooks in a real Nginx: whom the server is asked about, how often, and what is kept of its answers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from tests.host.nginx_bed import NEEDED
from tests.host.nginx_notebook_site import ALICE, BOB, Site, running

pytestmark = NEEDED


@pytest.fixture
def site() -> Iterator[Site]:
    yield from running(Site)


@pytest.mark.parametrize("named", ["", "gpu"])
def test_only_the_owner_passes(site, named):
    alice = site.server("alice", named)
    path = f"/jupyter/user/alice/{named}{'/' if named else ''}lab"
    status, _, answer = site.get(path, BOB)
    assert (status, "somebody else" in answer["text"]) == (403, True)
    assert not alice.seen
    assert site.get(path, ALICE)[0] == 200


def test_pages_send_people_to_sign_in_and_nothing_else_does(site):
    site.server("alice")
    status, headers, _ = site.get("/jupyter/user/alice/lab/tree/a%20b?x=1", "", Sec_Fetch_Mode="navigate")
    assert (status, headers["location"].split("/", 3)[3]) == (303, "sign-in?next=/jupyter/user/alice/lab/tree/a%20b")
    status, headers, _ = site.get("/jupyter/user/alice/lab", "", Accept="text/html,application/xhtml+xml")
    assert status == 303
    assert site.get("/jupyter/user/alice/api/contents", "")[0] == 401
    assert site.get("/jupyter/user/alice/api/contents", "", Sec_Fetch_Mode="cors", Accept="text/html")[0] == 401
    assert site.ask("/jupyter/user/alice/lab", method="POST", body=b"x", Accept="text/html")[0] == 401


@pytest.mark.parametrize(
    "path", ["//evil.test/jupyter/user/alice/", "//jupyter/user/alice/lab", "/jupyter/user/alice/;x"]
)
def test_signing_in_leads_back_to_this_host_only(site, path):
    _, headers, _ = site.get(path, "", Sec_Fetch_Mode="navigate")
    if "location" in headers:
        assert re.fullmatch(r"https://[^/]+/sign-in\?next=/jupyter/[a-z/]*", headers["location"])


def test_the_guard_is_asked_once_a_second_for_a_visitor(site):
    site.server("alice")
    begun = time.monotonic()
    for _ in range(20):
        assert site.get("/jupyter/user/alice/api")[0] == 200
    assert time.monotonic() - begun < 2
    assert 1 <= len(site.portal.asked) <= 3
    assert {owner for owner, _ in site.portal.asked} == {"alice"}


def test_what_the_guard_said_of_one_is_not_said_of_another(site):
    site.server("alice")
    assert site.get("/jupyter/user/alice/api", ALICE)[0] == 200
    assert site.get("/jupyter/user/alice/api", BOB)[0] == 403
    assert site.get("/jupyter/user/alice/api", "")[0] == 401
    assert site.get("/jupyter/user/bob/api", ALICE)[0] == 403


def test_somebody_who_is_disabled_is_out_within_two_seconds(site):
    site.server("alice")
    assert site.get("/jupyter/user/alice/api")[0] == 200
    site.portal.status = 401
    begun = time.monotonic()
    while site.get("/jupyter/user/alice/api")[0] == 200:
        assert time.monotonic() - begun < 2.5
        time.sleep(0.05)


def test_a_refusal_is_not_kept(site):
    site.server("alice")
    assert site.get("/jupyter/user/alice/api", BOB)[0] == 403
    site.portal.status = 204
    assert site.get("/jupyter/user/alice/api", BOB)[0] == 200


def test_nothing_a_user_owns_is_ever_kept(site):
    alice = site.server("alice")
    alice.answer = lambda _: (200, {"Cache-Control": "public, max-age=600", "Expires": "Thu, 31 Dec 2099 00:00:00 GMT"})
    for _ in range(3):
        site.get("/jupyter/user/alice/same")
    assert len(alice.seen) == 3


def test_without_the_portal_nobody_passes(site):
    alice = site.server("alice")
    site.portal.status = 500
    status, headers, _ = site.get("/jupyter/user/alice/lab")
    assert (status, headers["retry-after"]) == (503, "5")
    assert not alice.seen


def test_the_guard_is_told_what_it_needs_and_nothing_a_client_made_up(site):
    site.server("alice")
    site.get(
        "/jupyter/user/alice/api",
        X_Notebook_Owner="bob",
        X_Forwarded_For="203.0.113.9",
        Authorization="Bearer abc",
        Upgrade="h2c",
    )
    asked = site.asked_by(site.behind_portal)
    assert asked["x-notebook-owner"] == "alice"
    assert asked["x-forwarded-for"] == "127.0.0.1"
    assert asked["cookie"] == ALICE
    assert not {"authorization", "upgrade", "content-length"} & asked.keys()


def test_the_hub_is_told_who_is_signed_in(site):
    site.get("/jupyter/hub/home", ALICE, X_Notebook_User="bob")
    assert site.asked_by(site.hub)["x-notebook-user"] == "alice"
    site.get("/jupyter/hub/home", "", X_Notebook_User="bob")
    assert "x-notebook-user" not in site.asked_by(site.hub)


def test_a_users_server_is_told_in_which_session_it_is_asked(site):
    server = site.server("alice")
    site.get("/jupyter/user/alice/api", ALICE, X_Notebook_Session="8")
    assert site.asked_by(server)["x-notebook-session"] == "7"
    site.get("/jupyter/hub/home", ALICE, X_Notebook_Session="8")
    assert "x-notebook-session" not in site.asked_by(site.hub)


def test_what_nginx_asks_the_server_nobody_asks_from_outside(site):
    for path in ("/internal/notebooks/guard", "/internal/hub/users/alice", "/_notebook_guard", "/internal%2fhub"):
        assert site.get(path, X_Notebook_Owner="alice")[0] == 404, path
