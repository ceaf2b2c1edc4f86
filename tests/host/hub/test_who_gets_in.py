"""Who gets in at the hub: from the portal's sign-in to a cell, and who is kept or put out, by name, network, role and state."""

from __future__ import annotations

import os
import pwd
import socket
import time
from pathlib import Path
from urllib.parse import urljoin

import httpx

from tests import notebooks
from tests.host.hub_support import (
    ALICE,
    BOB,
    CAROL,
    CLASS,
    NEEDED,
    as_user,
    by_nginx,
    make_token,
    processes,
    shown,
    start,
    stop,
)
from tests.notebooks import HUB_USER, Notebooks
from tests.visitor import Browser, Kernel
from tests.waiting import until

pytestmark = NEEDED


def test_from_the_portal_to_a_cell_without_a_second_sign_in(bed: Notebooks, alice: Browser) -> None:
    form = alice.open("/jupyter/")
    assert form.status_code == 200 and "Small &lt;b&gt;one&lt;/b&gt;" in form.text, form.text
    assert "boxed" not in form.text
    lab = alice.submit(form, {"profile": "whole"})
    lab = alice.open(str(lab.url))
    assert lab.status_code == 200 and lab.url.path == f"/jupyter/user/{ALICE}/lab", (lab.url, lab.text[:500])
    kernel = Kernel(alice, f"/jupyter/user/{ALICE}/")
    assert kernel.run("import os; print(os.getuid(), 6 * 7)").split() == [f"{pwd.getpwnam(ALICE).pw_uid}", "42"]
    assert kernel.run("import os; [k for k in os.environ if 'TOKEN' in k]") == "[]"
    kernel.close()


def test_an_address_asked_for_first_is_where_one_ends(bed: Notebooks) -> None:
    start(bed, BOB)
    with bed.browser() as bob:
        page = bob.open(f"/jupyter/user/{BOB}/tree")
        assert page.url.path == "/sign-in", page.url
        page = bob.submit(page, {"username": BOB, "password": notebooks.PASSWORD})
        assert page.url.path == f"/jupyter/user/{BOB}/tree", page.url
    stop(bed, BOB)


def test_people_stay_at_the_name_they_came_by(bed: Notebooks) -> None:
    """A host has several names, and an address: signing in at one and being sent to another would be signed out there."""
    start(bed, BOB)
    with bed.browser() as bob:
        bob.url = bed.other_url
        bob.sign_in(BOB, notebooks.PASSWORD)
        page = bob.open("/jupyter/")
        assert str(page.url).startswith(f"{bed.other_url}/jupyter/user/{BOB}/lab"), page.url
        hub = [cookie for cookie in bob.client.cookies.jar if cookie.path == "/jupyter/hub/"]
        plain = [cookie.name for cookie in hub if not cookie.secure]
        assert hub and not plain, plain
        away = bob.client.get(f"{bed.url}/jupyter/hub/oauth_login", headers={"Host": "elsewhere.example"})
        assert away.headers["location"].startswith("/oidc/authorize?"), away.headers
        refused = bob.client.get(urljoin(bed.url, away.headers["location"]))
        assert 400 <= refused.status_code < 500 and not refused.is_redirect, "only names of the platform's"
    stop(bed, BOB)


def test_nobody_gets_into_somebody_elses_server(bed: Notebooks, alice: Browser) -> None:
    start(bed, BOB)
    start(bed, ALICE)
    alice.open(f"/jupyter/user/{ALICE}/lab")
    assert alice.open(f"/jupyter/user/{BOB}/lab").status_code in (403, 404)
    assert alice.open(f"/jupyter/hub/user/{BOB}/lab").status_code == 404
    assert alice.open(f"/jupyter/hub/spawn/{BOB}").status_code in (403, 404)
    for path in (f"/users/{BOB}", f"/users/{BOB}/server"):
        method = "DELETE" if path.endswith("server") else "GET"
        assert alice.ask(method, f"/jupyter/hub/api{path}").status_code in (403, 404)
    stop(bed, BOB)


def test_an_administrator_sees_and_stops_servers_and_enters_none(bed: Notebooks) -> None:
    bed.stack.cli("user", "modify", CAROL, "--role", "admin")
    start(bed, BOB)
    with bed.browser() as carol:
        carol.sign_in(CAROL, notebooks.PASSWORD)
        carol.open("/jupyter/hub/token")
        me = carol.ask("GET", "/jupyter/hub/api/user").json()
        assert "portal:administrators" in me["groups"] and not me["admin"], me
        assert not [scope for scope in me["scopes"] if scope.startswith("access:servers") and CAROL not in scope]
        users = carol.ask("GET", "/jupyter/hub/api/users").json()
        assert BOB in [user["name"] for user in users]
        assert carol.open(f"/jupyter/user/{BOB}/lab").status_code == 403
        assert carol.ask("DELETE", f"/jupyter/hub/api/users/{BOB}/server").status_code in (202, 204)
        until(lambda: not processes(BOB))
        bed.stack.cli("user", "modify", CAROL, "--role", "user")
        until(lambda: carol.ask("GET", "/jupyter/hub/api/users").status_code == 403, 5)


def test_who_is_disabled_is_out_within_five_seconds(bed: Notebooks) -> None:
    start(bed, BOB)
    with bed.browser() as bob:
        bob.sign_in(BOB, notebooks.PASSWORD)
        bob.open(f"/jupyter/user/{BOB}/lab")
        token = make_token(bob, BOB)
        assert bed.hub_api("GET", "/user", token=token).status_code == 200
        kernel = Kernel(bob, f"/jupyter/user/{BOB}/")
        bed.stack.cli("user", "disable", BOB)
        began = time.monotonic()
        try:
            until(lambda: bed.hub_api("GET", "/user", token=token).status_code == 403, 5)
            until(lambda: bob.ask("GET", "/jupyter/hub/api/user").status_code == 403, 5)
            until(lambda: bob.ask("GET", f"/jupyter/user/{BOB}/api/status").status_code in (401, 403), 5)
            assert not kernel.is_open(5.0 - (time.monotonic() - began))
            refused = bed.hub_api("POST", f"/users/{BOB}/server")
            assert refused.status_code in (400, 403), refused.text
        finally:
            bed.stack.cli("user", "enable", BOB)
            kernel.close()
    until(lambda: not processes(BOB))
    until(lambda: not shown(bed, BOB))


def test_who_signs_out_or_another_who_signs_in_is_not_taken_for_the_first(bed: Notebooks, alice: Browser) -> None:
    alice.open("/jupyter/hub/token")
    assert alice.ask("GET", "/jupyter/hub/api/user").json()["name"] == ALICE
    kept = [cookie for cookie in alice.client.cookies.jar if cookie.name.startswith("__Host-")]
    for cookie in kept:
        alice.client.cookies.jar.clear(cookie.domain, cookie.path, cookie.name)
    assert alice.open("/jupyter/hub/token").url.path == "/sign-in"
    assert alice.ask("GET", "/jupyter/hub/api/user").status_code == 403
    alice.sign_in(CLASS[0], notebooks.PASSWORD)
    alice.open("/jupyter/hub/token")
    assert alice.ask("GET", "/jupyter/hub/api/user").json()["name"] == CLASS[0]


def test_networks_hold_at_the_hub_and_only_nginx_is_believed(bed: Notebooks) -> None:
    with bed.browser() as bob, httpx.Client(verify=False) as client:
        bob.sign_in(BOB, notebooks.PASSWORD)
        first = make_token(bob, BOB)
        assert by_nginx(bed, client, first) == 200
        bed.stack.cli("user", "modify", BOB, "--allowed-client-ip", "192.0.2.0/24")
        try:
            # Each by its own way, within five seconds in all: the first is revoked, a cookie's browser is asked about by
            # Nginx, and the second token is a new one, while the hub may still keep what it heard a second ago.
            began = time.monotonic()
            second = bed.hub_api("POST", f"/users/{BOB}/tokens", {"note": "made since"}).json()["token"]
            until(lambda: by_nginx(bed, client, first) == 403, 5)
            until(lambda: bob.ask("GET", "/jupyter/hub/api/user").status_code == 403, began + 5 - time.monotonic())
            until(lambda: by_nginx(bed, client, second) == 403, began + 5 - time.monotonic())
            assert by_nginx(bed, client, second, **{"X-Forwarded-For": "192.0.2.1"}) == 403
            # What is on the host already is no browser, wherever it says that it is.
            assert as_user(bed, "nobody", f"Authorization: token {second}", "198.51.100.9") == 200
        finally:
            bed.stack.cli("user", "modify", BOB, "--allowed-client-ip", "")


def test_cookies_count_only_by_nginx(bed: Notebooks) -> None:
    with bed.browser() as bob:
        bob.sign_in(BOB, notebooks.PASSWORD)
        until(lambda: bob.open("/jupyter/hub/token").status_code == 200)
        cookie = f"Cookie: jupyterhub-hub-login={bob.cookie('jupyterhub-hub-login', '/jupyter/hub/')}"
        assert as_user(bed, "root", cookie, "127.0.0.1", BOB) == 200  # root speaks as Nginx may
        assert as_user(bed, "nobody", cookie, "127.0.0.1", BOB) == 403


def test_the_hub_has_no_privileges_and_no_port(bed: Notebooks) -> None:
    assert bed.hub is not None
    status = Path(f"/proc/{bed.hub.pid}/status").read_text()
    assert f"Uid:\t{pwd.getpwnam(HUB_USER).pw_uid}" in status and "CapEff:\t0000000000000000" in status
    inodes = {os.readlink(entry) for entry in Path(f"/proc/{bed.hub.pid}/fd").iterdir()}
    listening = [
        line.split()[9] for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    ]  # fmt: skip
    assert not [inode for inode in listening if f"socket:[{inode}]" in inodes]
    assert bed.paths.hub_state.joinpath("jupyterhub.sqlite").stat().st_mode & 0o077 == 0
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(bed.paths.hub_socket))
