"""Notebooks at a host name of their own, in a real Nginx: what is at which name, and what passes between them."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from diycloud.core.certificates import ensure_certificates
from diycloud.core.probe import probe
from diycloud.system import Local
from tests.host.nginx_bed import NEEDED
from tests.host.nginx_notebook_site import HARMFUL, HASHED, Recorder, Site, running

pytestmark = NEEDED

PORTAL, OWN = "cloud.test", "notebooks.test"
ALICE, BOB = "__Host-diycloud-notebooks=alice", "__Host-diycloud-notebooks=bob"
PAGE = {"Sec_Fetch_Mode": "navigate"}


class OwnName(Site):
    """The site with notebooks at a name of their own; the certificate names both."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.notebooks = msgspec.structs.replace(self.notebooks, host=OWN)
        self.site = msgspec.structs.replace(self.site, notebooks=self.notebooks)
        ensure_certificates(Local(), self.site.certificates, [*self.site.names, OWN], datetime.now(UTC))
        self.portal.answer = self.answer  # type: ignore[method-assign]

    def answer(self, request: Recorder) -> tuple[int, dict[str, str]]:
        """Answer the guard as the server does for notebooks with a name of their own."""
        if request.path != "/internal/notebooks/guard":
            return 200, {}
        owner, cookie = request.headers.get("X-Notebook-Owner", ""), request.headers.get("Cookie", "")
        self.portal.asked.append((owner, cookie))
        match = re.search(r"__Host-diycloud-notebooks=(\w+)", cookie)
        if match is None:
            return 401 if owner or request.headers.get("X-Notebook-Enters") else 204, {}
        return (204 if owner in ("", match[1]) else 403), {"X-Notebook-User": match[1]}

    def ask(self, path: str, *, name: str = OWN, **more):
        """Ask as a browser does that found the name."""
        return super().ask(path, name=name, server_name=name, **more)

    def get(self, path: str, cookie: str = ALICE, **headers: str) -> tuple[int, dict[str, str], dict]:
        return super().get(path, cookie, **headers)

    def at_portal(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        return self.ask(path, method=method, name=PORTAL, **headers)


@pytest.fixture
def site() -> Iterator[OwnName]:
    yield from running(OwnName)


# -- the portal's name


MOVED = [
    "/jupyter", "/jupyter/", "/jupyter/user/alice/lab?x=1&y=%2F", "/jupyter/hub/login", "/jupyter/_enter?code=x",
    "/jupyter//evil.test/", "//jupyter/user/alice/lab", "/x/../jupyter/user/alice/",
]  # fmt: skip


def test_the_portals_name_sends_pages_on_and_serves_none(site: OwnName) -> None:
    alice = site.server("alice")
    for path in MOVED:
        for method in ("GET", "HEAD"):
            status, headers, _ = site.at_portal(path, method, Cookie=f"__Host-diycloud=alice; {ALICE}")
            assert (status, headers["location"]) == (307, f"https://{OWN}:{site.site.https_port}{path}")
    assert not alice.seen and not site.hub.seen and not site.behind_portal.seen


def test_what_would_change_something_is_not_sent_on(site: OwnName) -> None:
    alice = site.server("alice")
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        status, headers, _ = site.at_portal("/jupyter/user/alice/api/contents", method, Cookie=ALICE)
        assert status == 421 and "location" not in headers, method
    assert not alice.seen and not site.behind_portal.seen


def test_a_websocket_is_not_sent_on_either(site: OwnName) -> None:
    alice = site.server("alice")
    fields = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
              "Sec_WebSocket_Version": "13"}  # fmt: skip
    assert site.at_portal("/jupyter/user/alice/api/kernels/1/channels", Cookie=ALICE, **fields)[0] == 307
    assert not alice.seen


def test_the_portal_keeps_everything_else(site: OwnName) -> None:
    for path in ("/", "/jupyterx", "/notebooks", "/notebooks/enter?bound=x", "/api/v1/users", "/oidc/authorize"):
        assert site.at_portal(path)[0] == 200, path
        assert site.behind_portal.seen[-1].path == path
    for path in ("/internal/notebooks/guard", "/internal/notebooks/enter?code=x", "/internal%2fnotebooks/enter"):
        assert site.at_portal(path)[0] == 404, path


def test_an_unknown_name_is_the_portals(site: OwnName) -> None:
    """Nobody gets to users' servers by a name that browsers keep apart from notebooks'."""
    alice = site.server("alice")
    assert site.at_portal("/jupyter/user/alice/lab", Host="elsewhere.test", Cookie=ALICE)[0] == 307
    assert not alice.seen


# -- the notebooks' name


NOT_THERE = [
    "/sign-in", "/account", "/api/v1/users", "/api/v1/health", "/oidc/authorize?client_id=x", "/oidc/token", "/notebooks",
    "/.well-known/openid-configuration", "/users", "/ca.crt", "/internal/notebooks/guard", "/internal/notebooks/enter",
    "/internal/hub/users/alice", "/_away/away.html", "/_notebook_guard", "/events/notebooks", "/jupyter/../api/v1/users",
    "/jupyter/user/../../api/v1/users", "/jupyter/_enter/../../api/v1/users", "/static/x", "//api/v1/users",
]  # fmt: skip


def test_nothing_of_the_portals_is_there(site: OwnName) -> None:
    for method in ("GET", "POST"):
        for path in NOT_THERE:
            status, _, _ = site.ask(path, method=method, Cookie=f"__Host-diycloud=alice; {ALICE}")
            assert status == 404 and not site.behind_portal.seen, (method, path)


def test_what_is_there(site: OwnName) -> None:
    site.server("alice")
    site.server("alice", "gpu")
    assert site.get("/jupyter/user/alice/lab")[2]["server"] == "alice"
    assert site.get("/jupyter/user/alice/gpu/lab", ALICE)[2]["server"] == "alice+gpu"
    assert site.get("/jupyter/hub/home", ALICE)[2]["server"] == "hub"
    assert site.ask(f"/jupyter/user/alice/static/lab/{HASHED}", Cookie=ALICE)[0] == 200
    assert site.ask("/static/00ff/app.css")[0] == 200, "the hub's pages look like the portal's"
    status, headers, _ = site.ask("/")
    assert (status, headers["location"].endswith(f"{OWN}:{site.site.https_port}/jupyter/")) == (303, True)


def test_the_plain_port_leads_to_either_name(site: OwnName) -> None:
    for name in (PORTAL, OWN):
        connection = http.client.HTTPConnection("127.0.0.1", site.site.http_port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", "/jupyter/", headers={"Host": name})
            answer = connection.getresponse()
            assert answer.status == 308
            assert answer.headers["location"] == f"https://{name}:{site.site.https_port}/jupyter/"


def test_the_installations_check_asks_at_both_names(site: OwnName) -> None:
    def said(name: str) -> str:
        """Return what the check says of notebooks at a name, empty if all is well."""
        authority = site.site.certificates / "ca.crt"
        place = site.site.socket, PORTAL, site.site.https_port, authority
        fault = probe(*place, wait=0, hub="/jupyter/hub/health", hub_name=name)
        assert fault is None or (fault.part == "notebooks" and fault.hint)
        return fault.message if fault else ""

    assert said(OWN) == ""
    assert "307" in said(PORTAL) and said("elsewhere.test").endswith("does not name elsewhere.test.")


# -- the way in


def test_pages_without_a_cookie_go_in_by_the_portal_and_nothing_else_does(site: OwnName) -> None:
    alice = site.server("alice")
    for path in ("/jupyter/user/alice/lab/tree/a%20b", "/jupyter/hub/home", "/jupyter/"):
        status, headers, _ = site.get(path + "?token=x", "", **PAGE)
        there = headers["location"].split("/", 3)
        assert (status, there[2].split(":")[0], there[3]) == (303, OWN, f"jupyter/_enter?next={path}")
        site.get(path, "__Host-diycloud=alice", **PAGE)
    assert site.get("/jupyter/user/alice/api/contents", "")[0] == 401
    assert site.get("/jupyter/hub/api/user", "", Authorization="token x")[2]["server"] == "hub"
    assert site.get("/jupyter/hub/api/user", "", Authorization="token x", Accept="text/html", **PAGE)[0] == 303
    assert not alice.seen


def test_what_was_said_of_a_program_is_not_said_of_a_page(site: OwnName) -> None:
    """The guard's answers are kept for a second."""
    assert site.get("/jupyter/hub/x", "a=1")[2]["server"] == "hub"
    assert site.get("/jupyter/hub/x", "a=1", **PAGE)[0] == 303
    assert site.get("/jupyter/hub/x", ALICE, **PAGE)[2]["server"] == "hub"
    assert site.asked_by(site.hub)["x-notebook-user"] == "alice"


def test_the_server_is_asked_for_the_way_in_with_the_halfs_cookie(site: OwnName) -> None:
    site.behind_portal.answer = lambda _: (
        303,
        {"Location": "https://cloud.test/notebooks/enter", "Set-Cookie": "__Host-x=1"},
    )
    status, headers, _ = site.get(
        "/jupyter/_enter?code=SECRET&next=/jupyter/", "__Host-diycloud-entering=h", X_Forwarded_For="203.0.113.9",
        X_Notebook_Owner="bob",
    )  # fmt: skip
    assert (status, headers["set-cookie"]) == (303, "__Host-x=1")
    asked, seen = site.asked_by(site.behind_portal), site.behind_portal.seen[-1]
    assert seen.path == "/internal/notebooks/enter?code=SECRET&next=/jupyter/"
    assert (asked["cookie"], asked["x-forwarded-for"]) == ("__Host-diycloud-entering=h", "127.0.0.1")
    site.ask("/jupyter/hub/y", Cookie=ALICE)
    log, deadline = site.folder / "access.log", time.monotonic() + 10
    while "/jupyter/hub/y" not in log.read_text():  # written once the answer is on its way
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "SECRET" not in log.read_text()


def test_only_that_one_address_is_the_servers(site: OwnName) -> None:
    for path in ("/jupyter/_enter/", "/jupyter/_enter/x", "/jupyter/_enterx", "/jupyter/user/_enter"):
        assert site.get(path)[2]["server"] == "hub", path
    assert {seen.path for seen in site.behind_portal.seen} <= {"/internal/notebooks/guard"}


# -- the guard, and what passes


def test_only_the_owner_passes(site: OwnName) -> None:
    alice = site.server("alice")
    assert site.get("/jupyter/user/alice/lab", ALICE)[0] == 200
    status, _, answer = site.get("/jupyter/user/alice/lab", BOB)
    assert (status, "/jupyter/_enter" in answer["text"]) == (403, True)
    assert site.get("/jupyter/user/alice/api", "__Host-diycloud=alice")[0] == 401, "the portal's cookie"
    assert len(alice.seen) == 1


def test_neither_cookie_goes_to_what_a_user_owns(site: OwnName) -> None:
    alice = site.server("alice")
    for sent, passed in (
        (ALICE, ""),
        (f"{ALICE}; __Host-diycloud-entering=h; _xsrf=1", "_xsrf=1"),
        (f"a=1; {ALICE}; __host-diycloud-notebooks=x; b=2", "a=1; b=2"),
    ):
        for path, behind in (("/jupyter/user/alice/x", alice), ("/jupyter/hub/x", site.hub)):
            assert site.get(path, sent)[0] == 200
            assert site.asked_by(behind).get("cookie", "").strip("; ") == passed


def test_what_a_users_server_answers_binds_the_name_to_nothing(site: OwnName) -> None:
    alice = site.server("alice")
    evil = {"Set-Cookie": "__Host-diycloud-notebooks=evil; Path=/; Secure; Domain=test"}
    alice.answer = lambda _: (200, {**HARMFUL, **evil})
    _, headers, _ = site.get("/jupyter/user/alice/x")
    assert {"Path=/jupyter/user/alice/", f"Domain={OWN}"} <= set(headers["set-cookie"].split("; "))
    assert not {name.lower() for name in HARMFUL} - {"set-cookie", "strict-transport-security"} & headers.keys()


def test_websockets(site: OwnName) -> None:
    site.server("alice")
    plain = socket.create_connection(("127.0.0.1", site.site.https_port), 5)
    with site.tls().wrap_socket(plain, server_hostname=OWN) as tls:
        tls.sendall(
            f"GET /jupyter/user/alice/api/kernels/1/channels HTTP/1.1\r\nHost: {OWN}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nCookie: {ALICE}\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert tls.recv(4096).startswith(b"HTTP/1.1 101")
        tls.sendall(b"hello")
        assert tls.recv(4096) == b"hello"


def test_a_cookie_that_nginx_takes_for_another_is_not_the_portals_to_have(site: OwnName) -> None:
    """A tab before `Path`, which browsers skip and Nginx does not: at the portal's own name it would be the portal's cookie."""
    alice = site.server("alice")
    alice.answer = lambda _: (200, {"Set-Cookie": "__Host-diycloud=evil; Secure;\tPath=/"})
    found = site.get("/jupyter/user/alice/x")[1]["set-cookie"]
    assert "\tPath=/" in found, (
        "Nginx keeps it by now: the comment in notebooks.conf and docs/explanation/notebooks.md say else"
    )
    assert site.at_portal("/jupyter/user/alice/x", Cookie=ALICE)[0] == 307 and len(alice.seen) == 1
