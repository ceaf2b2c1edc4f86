"""Notebooks' addresses in a real Nginx: who is asked, what passes and what does not, with servers of the tests' own behind."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.server
import json
import os
import re
import socket
import socketserver
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diycloud.core.nginx import Notebooks
from tests.host.test_nginx import BINARY, Bed

pytestmark = [
    pytest.mark.skipif(BINARY is None, reason="there is no nginx on this machine"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: Nginx changes to its own user"),
]

ALICE = "__Host-diycloud=alice"
BOB = "__Host-diycloud=bob"
HASHED = "main.6d69ea3ffd340c2c.js"
HARMFUL = {
    "Set-Cookie": "__Host-diycloud=evil; Path=/; Secure; HttpOnly",
    "Service-Worker-Allowed": "/",
    "Clear-Site-Data": '"*"',
    "Alt-Svc": 'h3="evil.test:443"',
    "Strict-Transport-Security": "max-age=0",
    "Refresh": "0; url=https://evil.test/",
    "Link": "<https://evil.test/>; rel=preload",
    "NEL": '{"report_to":"x","max_age":1}',
    "Report-To": '{"group":"x"}',
    "Set-Login": "logged-out",
    "Reporting-Endpoints": 'x="https://evil.test/"',
    "X-Accel-Redirect": "/static/00/app.css",
    "X-Accel-Limit-Rate": "1",
}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the request's head as JSON, under the name of its server; takes up WebSockets and echoes what they say."""

    protocol_version = "HTTP/1.1"
    server: Behind

    def do_GET(self) -> None:
        self.server.seen.append(self)
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self._websocket()
            return
        length = int(self.headers.get("content-length", 0))
        size = len(self.rfile.read(length)) if self.server.reads else 0
        status, headers = self.server.answer(self)
        body = json.dumps(
            {"server": self.server.name, "line": self.requestline, "fields": self.headers.items(), "size": size}
        ).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_GET

    def _websocket(self) -> None:
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 4.2.2
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.wfile.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept.encode() + b"\r\n\r\n"
        )
        while data := self.connection.recv(4096):
            self.wfile.write(data)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Tests read no log of it."""


class Behind(socketserver.ThreadingUnixStreamServer):
    """A server on a Unix socket: the portal, the hub or a user's own. answer: status and headers for a request."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(str(path), Handler)
        os.chmod(path, 0o666)
        self.name = name
        self.reads = True
        self.seen: list[Handler] = []
        self.answer: Callable[[Handler], tuple[int, dict[str, str]]] = lambda _: (200, {})
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join(5)
        self.server_close()
        Path(str(self.server_address)).unlink(missing_ok=True)


class Portal:
    """What the guard says: the cookie names who is signed in. asked: owner and cookie of each time."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.status: int | None = None

    def answer(self, request: Handler) -> tuple[int, dict[str, str]]:
        if request.path != "/internal/notebooks/guard":
            return 200, {}
        owner, cookie = request.headers.get("X-Notebook-Owner", ""), request.headers.get("Cookie", "")
        self.asked.append((owner, cookie))
        if self.status is not None:
            return self.status, {}
        match = re.search(r"__Host-diycloud=(\w+)", cookie)
        if not owner:
            return 204, {"X-Notebook-User": match[1]} if match else {}
        told = {"Cache-Control": "no-store", "X-Notebook-Session": "7"}
        return (401 if not match else 204 if match[1] == owner else 403), told


class Site(Bed):
    """The bed of the site's own tests with notebooks in it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        run = folder / "run"
        for name in ("notebooks/sockets", "notebooks/runtime", "hub"):
            (run / name).mkdir(parents=True)
        self.sockets, self.runtime = run / "notebooks/sockets", run / "notebooks/runtime"
        self.lab = folder / "lab"
        self.notebooks = Notebooks(run / "hub/hub.sock", self.sockets, self.runtime, self.lab, folder / "run/guard")
        static = self.lab / "share/jupyter/lab/static"
        extension = self.lab / "share/jupyter/labextensions/@team/tool/static"
        static.mkdir(parents=True)
        extension.mkdir(parents=True)
        (static / HASHED).write_text("lab();" * 400)
        (static / f"{HASHED}.gz").write_bytes(gzip.compress(b"lab();" * 400))
        (static / "index.html").write_text("template")
        (extension / "remoteEntry.5cbb9d2323598fbda535.js").write_text("tool()")
        self.site = type(self.site)(
            **{name: getattr(self.site, name) for name in self.site.__struct_fields__} | {"notebooks": self.notebooks}
        )
        self.portal = Portal()
        self.stack = contextlib.ExitStack()

    def behind(self, path: Path, name: str) -> Behind:
        return self.stack.enter_context(Behind(path, name))

    def server(self, name: str, server: str = "") -> Behind:
        """A user's server, as the agent and the launcher leave one behind."""
        stem = f"{name}+{server}" if server else name
        (self.runtime / stem).mkdir(mode=0o700, exist_ok=True)
        return self.behind(self.sockets / f"{stem}.sock", stem)

    def get(self, path: str, cookie: str = ALICE, **headers: str) -> tuple[int, dict[str, str], dict]:
        """Ask; the answer's body as JSON, or under `text`."""
        given = {"Cookie": cookie} if cookie else {}
        status, fields, body = self.ask(path, **given, **headers)
        try:
            return status, fields, json.loads(body)
        except ValueError:
            return status, fields, {"text": body.decode()}

    def asked_by(self, behind: Behind) -> dict[str, str]:
        return {key.lower(): value for key, value in behind.seen[-1].headers.items()}


@pytest.fixture
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="dtnc-", dir="/var/tmp") as folder:  # other runs of pytest close theirs
        yield from _running(Site(Path(folder)))


def _running(found: Site) -> Iterator[Site]:
    with found.stack:
        found.behind_portal = found.behind(found.site.socket, "portal")
        found.behind_portal.answer = found.portal.answer
        found.hub = found.behind(found.notebooks.hub_socket, "hub")
        found.nginx.ensure(found.site)
        found.start()
        yield found
        found.stop()


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


# -- the guard


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
