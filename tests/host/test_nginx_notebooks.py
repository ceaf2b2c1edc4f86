"""Notebooks' addresses in a real Nginx: whose server each leads to, what passes on the way and back, Lab's own files."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import socket
import stat
from collections.abc import Iterator

import pytest

from tests.host.nginx_bed import NEEDED
from tests.host.nginx_notebook_site import ALICE, BOB, HARMFUL, HASHED, Site, running

pytestmark = NEEDED


@pytest.fixture
def site() -> Iterator[Site]:
    yield from running(Site)


# -- where an address leads


def test_the_address_says_whose_server_it_is(site):
    site.server("alice")
    status, _, answer = site.get("/jupyter/user/alice/lab/tree/a%20b.ipynb?x=1&y=%2F")
    assert (status, answer["server"]) == (200, "alice")
    assert answer["line"] == "GET /jupyter/user/alice/lab/tree/a%20b.ipynb?x=1&y=%2F HTTP/1.1", "as it was asked"


def test_a_named_server_is_found_before_the_first_one(site):
    site.server("alice")
    site.server("alice", "gpu")
    assert site.get("/jupyter/user/alice/gpu/lab")[2]["server"] == "alice+gpu"
    assert site.get("/jupyter/user/alice/api/contents")[2]["server"] == "alice"
    assert site.get("/jupyter/user/alice/")[2]["server"] == "alice"


def test_a_named_server_that_ended_is_the_hubs_to_explain(site):
    site.server("alice")
    (site.runtime / "alice+gpu").mkdir()
    assert site.get("/jupyter/user/alice/gpu/lab")[2]["server"] == "hub"


def test_what_has_no_server_is_the_hubs(site):
    for path in ("/jupyter/", "/jupyter/hub/home", "/jupyter/user/alice/lab", "/jupyter/user/alice", "/jupyter/x"):
        assert site.get(path)[2]["server"] == "hub", path
    status, headers, _ = site.get("/jupyter")
    assert (status, headers["location"].endswith("/jupyter/")) == (308, True)


def test_a_server_that_died_without_taking_its_socket_along_is_the_hubs(site):
    with site.server("alice"):
        pass
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(site.sockets / "alice.sock"))
    listener.close()
    assert site.get("/jupyter/user/alice/lab")[2]["server"] == "hub"


def test_the_portal_keeps_its_own_addresses(site):
    for path in ("/", "/jupyterx", "/users/alice", "/sign-in"):
        assert site.get(path)[2]["server"] == "portal", path


@pytest.mark.parametrize(
    "path",
    [
        "/jupyter/user/ALICE/lab",
        "/jupyter/user/Alice/lab",
        "/jupyter/user/alice%00/lab",
        "/jupyter/user/alice+gpu/lab",
        "/jupyter/user/alice.sock/lab",
        "/jupyter/user/%2e%2e/sockets/alice/lab",
        "/jupyter/user/..%2f..%2fhub/hub/lab",
        "/jupyter/user/alice%2b/lab",
        "/jupyter/user/alice%0a/lab",
        "/jupyter/user/-alice/lab",
        "/jupyter/user//alice//",
        "/jupyter//user/alice/..//bob/lab",
        "//jupyter/user/bob/lab",
        "/jupyter/user/alice/%2e%2e/bob/lab",
        "/jupyter/user/alice/..%2fbob/lab",
        "/jupyter/user/b%6fb/lab",
        "/x/../jupyter/user/bob/lab",
        "/jupyter/hub/%2e%2e/user/bob/lab",
    ],
)
def test_no_odd_address_leads_to_a_server_that_is_not_the_visitors(site, path):
    bob, named = site.server("bob"), site.server("alice", "gpu")
    status, _, answer = site.get(path)
    assert not bob.seen and not named.seen
    assert status in (200, 303, 400, 403, 404) and answer.get("server", "hub") in ("hub", "alice", "portal")
    assert all(owner in ("", "alice", "bob") for owner, _ in site.portal.asked)


def test_encoded_letters_of_ones_own_name_are_ones_own(site):
    site.server("alice")
    assert site.get("/jupyter/user/al%69ce/lab")[2]["server"] == "alice"


def test_nobody_can_put_a_link_where_the_sockets_are(site):
    """Nginx would follow it: so the folder is root's, and passing through is all that others may do there."""
    os.chmod(site.sockets, 0o711)
    other = os.fork()
    if other == 0:
        os.setgroups([])
        os.setresgid(58300, 58300, 58300)
        os.setresuid(58300, 58300, 58300)
        with contextlib.suppress(OSError):
            os.symlink(site.sockets / "bob.sock", site.sockets / "mallory.sock")
            os._exit(1)
        with contextlib.suppress(OSError):
            os.listdir(site.sockets)
            os._exit(2)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 0


# -- what passes


@pytest.mark.parametrize(
    ("sent", "passed"),
    [
        (ALICE, None),
        (f"{ALICE}; _xsrf=1", "_xsrf=1"),
        (f"_xsrf=1; {ALICE}; jupyterhub-user-alice=x", "_xsrf=1; jupyterhub-user-alice=x"),
        (f"a=1; {ALICE}; __Host-diycloud-flash=f; b=2; __Host-diycloud-second=s; c=3", "a=1; b=2; c=3"),
        ("a=1;__Host-diycloud=alice;b=2", "a=1;b=2"),
        ("__host-diycloud=alice; __Host-diycloud=alice; b=2", "b=2"),
        ("; ".join([ALICE, *(f"__Host-{n}=1; k{n}=v" for n in range(5))]), "k0=v; k1=v; k2=v; k3=v; k4=v"),
        ("; ".join([ALICE, *(f"__Host-{n}=1" for n in range(20)), "k=v"]), None),
        (f"my__Host-x=1; {ALICE}", "my__Host-x=1"),
    ],
)
def test_the_portals_cookies_go_to_the_portal_only(site, sent, passed):
    alice = site.server("alice")
    for path, behind in (
        ("/jupyter/user/alice/x", alice),
        ("/jupyter/hub/x", site.hub),
        ("/jupyter/user/alice/y/z", alice),
    ):
        assert site.get(path, sent)[0] == 200
        found = site.asked_by(behind).get("cookie")
        assert (found.strip("; ") if found else None) == passed


def test_cookies_in_several_fields_are_stripped_too(site):
    alice = site.server("alice")
    plain = socket.create_connection(("127.0.0.1", site.site.https_port), 5)
    with site.tls().wrap_socket(plain, server_hostname="cloud.test") as tls:
        tls.sendall(
            f"GET /jupyter/user/alice/x HTTP/1.1\r\nHost: cloud.test\r\nCookie: a=1\r\nCookie: {ALICE}\r\n"
            "Cookie: b=2\r\nConnection: close\r\n\r\n".encode()
        )
        while tls.recv(4096):
            pass
    assert "__Host-" not in str(alice.seen[-1].headers)


def test_what_a_client_claims_about_where_it_comes_from_ends_here(site):
    alice = site.server("alice")
    site.get(
        "/jupyter/user/alice/x",
        X_Forwarded_For="203.0.113.9",
        X_Forwarded_Host="evil",
        Forwarded="for=x",
        X_Real_IP="1",
    )
    asked = site.asked_by(alice)
    assert (asked["x-forwarded-for"], asked["x-forwarded-proto"], asked["host"]) == ("127.0.0.1", "https", "cloud.test")
    assert not {"x-forwarded-host", "forwarded", "x-real-ip", "x-notebook-owner", "upgrade"} & asked.keys()


@pytest.mark.parametrize("named", ["", "gpu"])
def test_what_a_users_server_answers_binds_its_own_addresses(site, named):
    base = f"/jupyter/user/alice/{named}{'/' if named else ''}"
    alice = site.server("alice", named)
    alice.answer = lambda _: (200, HARMFUL)
    status, headers, answer = site.get(f"{base}x")
    assert (status, answer["server"]) == (200, alice.name), "X-Accel-Redirect is not obeyed"
    assert headers["set-cookie"].split("; ")[1] == f"Path={base}", "of a __Host- one only / counts"
    assert headers["strict-transport-security"] == "max-age=31536000"
    assert not {name.lower() for name in HARMFUL} - {"set-cookie", "strict-transport-security"} & headers.keys()


@pytest.mark.parametrize("cookie", ["a=1; Path=/", "a=1; path=/jupyter/", "a=1; Path=/x; Path=/", "a=1; Path="])
def test_cookies_of_a_users_server_stay_with_it(site, cookie):
    alice = site.server("alice", "gpu")
    alice.answer = lambda _: (200, {"Set-Cookie": cookie})
    found = site.get("/jupyter/user/alice/gpu/x")[1]["set-cookie"]
    paths = [part.partition("=")[2] for part in found.split("; ") if part.lower().startswith("path=")]
    assert set(paths) <= {"/jupyter/user/alice/gpu/", ""}


def test_the_hubs_own_cookies_pass_as_they_are(site):
    site.hub.answer = lambda _: (200, {"Set-Cookie": "jupyterhub-session-id=x; Path=/jupyter/"})
    assert site.get("/jupyter/hub/x")[1]["set-cookie"] == "jupyterhub-session-id=x; Path=/jupyter/"


@pytest.mark.parametrize("named", ["", "gpu"])
def test_websockets(site, named):
    site.server("alice", named)
    plain = socket.create_connection(("127.0.0.1", site.site.https_port), 5)
    with site.tls().wrap_socket(plain, server_hostname="cloud.test") as tls:
        base = f"/jupyter/user/alice/{named}{'/' if named else ''}"
        tls.sendall(_upgrade(f"{base}api/kernels/1/channels", ALICE))
        head = tls.recv(4096)
        assert head.startswith(b"HTTP/1.1 101") and b"websocket" in head
        for turn in range(3):
            tls.sendall(b"hello %d" % turn)
            assert tls.recv(4096) == b"hello %d" % turn


def test_a_websocket_of_somebody_else_is_refused(site):
    alice = site.server("alice")
    for cookie, status in ((BOB, b"403"), ("x=1", b"401")):
        plain = socket.create_connection(("127.0.0.1", site.site.https_port), 5)
        with site.tls().wrap_socket(plain, server_hostname="cloud.test") as tls:
            tls.sendall(_upgrade("/jupyter/user/alice/api/kernels/1/channels", cookie))
            assert tls.recv(4096).split()[1] == status
    assert not alice.seen


def _upgrade(path: str, cookie: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: cloud.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nCookie: {cookie}\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def test_large_uploads_are_handed_on_as_they_come(site):
    alice = site.server("alice")
    status, _, body = site.ask("/jupyter/user/alice/upload", method="PUT", body=bytes(40 << 20), Cookie=ALICE)
    assert (status, json.loads(body)["size"]) == (200, 40 << 20), "the portal's own limit is 16 MiB"
    assert not [path for path in (site.folder / "body").rglob("*") if path.is_file()]
    assert site.asked_by(alice)["content-length"] == str(40 << 20)


@pytest.mark.parametrize("size", [5, 5 << 20])
def test_what_is_sent_to_a_server_that_is_not_there_is_the_hubs_without_the_body(site, size):
    status, _, body = site.ask("/jupyter/user/alice/api/x", method="POST", body=bytes(size), Cookie=ALICE)
    assert (status, json.loads(body)["server"], json.loads(body)["line"].split()[0]) == (200, "hub", "POST")
    assert json.loads(body)["size"] == 0
    status, _, body = site.ask("/jupyter/hub/api/x", method="POST", body=b"12345", Cookie=ALICE)
    assert (status, json.loads(body)["size"]) == (200, 5)


def test_a_server_that_is_away_is_told_in_words(site):
    site.hub.__exit__()
    status, headers, answer = site.get("/jupyter/hub/home")
    assert (status, headers["retry-after"]) == (503, "5")
    assert "what runs goes on" in answer["text"]
    site.hub = site.behind(site.notebooks.hub_socket, "hub")


# -- JupyterLab's own files


def test_labs_files_come_from_the_environment_and_stay_in_the_browser(site):
    alice = site.server("alice")
    for base in ("/jupyter/user/alice/", "/jupyter/user/alice/gpu/"):
        status, headers, answer = site.get(f"{base}static/lab/{HASHED}?v=6d69ea3ffd340c2c")
        assert (status, answer["text"][:6]) == (200, "lab();")
        assert headers["cache-control"] == "private, max-age=31536000, immutable"
        assert headers["strict-transport-security"] == "max-age=31536000"
    status, _, body = site.ask(f"/jupyter/user/alice/static/lab/{HASHED}", Cookie=ALICE, Accept_Encoding="gzip")
    assert gzip.decompress(body) == b"lab();" * 400
    extension = "@team/tool/static/remoteEntry.5cbb9d2323598fbda535.js"
    assert site.get(f"/jupyter/user/alice/lab/extensions/{extension}")[2]["text"] == "tool()"
    assert not alice.seen


def test_files_that_are_not_the_environments_are_the_servers(site):
    site.server("alice")
    site.server("alice", "gpu")
    own = "lab/extensions/mine/static/remoteEntry.aaaaaaaaaaaaaaaaaaaa.js"
    assert site.get(f"/jupyter/user/alice/{own}")[2]["server"] == "alice"
    assert site.get(f"/jupyter/user/alice/gpu/{own}")[2]["server"] == "alice+gpu"
    assert site.get("/jupyter/user/alice/static/lab/index.html")[2]["server"] == "alice", "it has no hash in its name"
    assert site.get("/jupyter/user/alice/static/favicon.ico")[2]["server"] == "alice"


def test_labs_files_are_the_owners_too(site):
    assert site.get(f"/jupyter/user/alice/static/lab/{HASHED}", BOB)[0] == 403
    assert site.get(f"/jupyter/user/alice/static/lab/{HASHED}", "")[0] == 401


@pytest.mark.parametrize(
    "path", ["..%2f..%2f..%2f..%2f0123456789abcdef.js", "%2e%2e/%2e%2e/0123456789abcdef.js", "/etc/passwd"]
)
def test_no_other_file_is_served(site, path):
    (site.lab / "share/0123456789abcdef.js").write_text("secret")
    site.server("alice")
    answer = site.get(f"/jupyter/user/alice/static/lab/{path}")[2]
    assert "secret" not in answer.get("text", "")


def test_keys_with_cookies_are_root_and_nginxs_alone(site):
    site.server("alice")
    site.get("/jupyter/user/alice/x")
    mode = stat.S_IMODE(site.notebooks.guard_cache.stat().st_mode)
    assert mode & 0o077 == 0


def test_a_site_without_notebooks_has_none_of_it(site):
    plain = type(site.site)(
        **{name: getattr(site.site, name) for name in site.site.__struct_fields__} | {"notebooks": None}
    )
    assert site.nginx.ensure(plain).changed
    assert "jupyter" not in site.nginx.file.read_text()
