"""Our site in a real Nginx: a private prefix, high ports on loopback, and a small server behind it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import stat
import time
from pathlib import Path

import pytest

from diycloud.core.nginx import Site
from diycloud.errors import HostError
from tests.host.nginx_bed import NEEDED, Bed, Handler, UnixServer

pytestmark = NEEDED


@pytest.fixture
def bed(tmp_path_factory):
    found = Bed(Path(tmp_path_factory.mktemp("nginx")))
    for parent in (found.folder, *found.folder.parents):
        # Nginx's workers run as www-data and must be let through to the socket and the static files.
        if not parent.stat().st_mode & stat.S_IXOTH:
            os.chmod(parent, parent.stat().st_mode | stat.S_IXOTH)
    yield found
    found.stop()


class EchoHandler(Handler):
    """Answers with the request's head as JSON; what is below /events/ is streamed."""

    server: Echo

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.startswith("/events/"):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
            time.sleep(1)
            with contextlib.suppress(BrokenPipeError):
                self.wfile.write(b"data: 2\n\n")
            self.close_connection = True
            return
        body = json.dumps({"line": self.requestline, "fields": self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET


class Echo(UnixServer):
    """The platform's server. connections: how often Nginx connected."""

    connections = 0


@pytest.fixture
def running(bed):
    bed.nginx.ensure(bed.site)
    bed.start()
    with Echo(bed.site.socket, EchoHandler) as echo:
        bed.echo = echo
        yield bed


def test_the_site_is_written_once(bed):
    assert bed.nginx.ensure(bed.site).changed
    assert not bed.nginx.ensure(bed.site).changed


def test_what_a_client_claims_about_where_it_comes_from_ends_here(running):
    status, headers, body = running.ask(
        "/api/v1/x?y=1",
        X_Forwarded_For="203.0.113.9",
        X_Forwarded_Proto="http",
        X_Forwarded_Host="evil",
        Forwarded="for=203.0.113.9",
        X_Real_IP="203.0.113.9",
        X_Request_ID="mine",
    )
    seen = json.loads(body)
    fields = {key.lower(): value for key, value in seen["fields"]}
    assert status == 200
    assert seen["line"] == "GET /api/v1/x?y=1 HTTP/1.1"
    assert fields["x-forwarded-for"] == "127.0.0.1"
    assert fields["x-forwarded-proto"] == "https"
    assert fields["host"] == "cloud.test"
    assert fields["x-request-id"] == headers["x-request-id"] != "mine"
    assert not {"forwarded", "x-forwarded-host", "x-real-ip"} & fields.keys()
    assert headers["strict-transport-security"] == "max-age=31536000"


def test_connections_to_the_server_are_kept(running):
    for _ in range(5):
        running.ask("/")
    assert running.echo.connections == 1


def test_plain_http_serves_a_redirect_and_nothing_else(running):
    for path in ("/", "/api/v1/x?y=1", "/static/00/app.css", "/ca.crt"):
        status, headers, _ = running.ask_plain(path)
        assert (status, headers["Location"]) == (308, f"https://cloud.test:{running.site.https_port}{path}")
    assert running.echo.connections == 0


def test_events_arrive_as_they_are_sent(running):
    plain = socket.create_connection(("127.0.0.1", running.site.https_port), 5)
    with running.tls().wrap_socket(plain, server_hostname="cloud.test") as tls:
        tls.sendall(b"GET /events/usage HTTP/1.1\r\nHost: cloud.test\r\n\r\n")
        begun, seen = time.monotonic(), b""
        while b"data: 1" not in seen:
            seen += tls.recv(4096)
        assert time.monotonic() - begun < 0.8
        assert b"data: 2" not in seen


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_http2_and_tls(running):
    context = running.tls()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", running.site.https_port), 5) as plain,
        context.wrap_socket(plain, server_hostname="cloud.test") as tls,
    ):
        assert tls.selected_alpn_protocol() == "h2"
        assert tls.version() == "TLSv1.3"
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", running.site.https_port), 5) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain)


def test_static_files_come_from_nginx(running):
    status, headers, body = running.ask("/static/0123abcdef/app.css")
    assert (status, body) == (200, b"body { color: red }\n")
    assert headers["cache-control"] == "public, max-age=31536000, immutable"
    assert headers["content-type"] == "text/css"
    assert running.echo.connections == 0


@pytest.mark.parametrize(
    "path",
    [
        "/static/00/../nginx.conf",
        "/static/00/%2e%2e/nginx.conf",
        "/static/00/..%2fnginx.conf",
        "/static/00//../../tls/server.key",
        "/static/00/link",
        "/static/00/.hidden",
        "/_away/away.html",
    ],
)
def test_nothing_else_comes_from_the_disk(running, path):
    (running.folder / "static/link").symlink_to(running.folder / "nginx.conf")
    (running.folder / "static/.hidden").write_text("secret")
    status, _, body = running.ask(path)
    # Either refused by Nginx, or passed on to the server, which only echoes here.
    assert status in (400, 403, 404) or b'"line"' in body
    assert b"error_log" not in body and b"PRIVATE" not in body and b"secret" not in body


def test_the_authority_can_be_fetched(running):
    status, headers, body = running.ask("/ca.crt")
    assert (status, body) == (200, (running.folder / "tls/ca.crt").read_bytes())
    assert headers["content-type"] == "application/x-x509-ca-cert"


def test_what_signing_in_carries_in_an_address_is_in_no_log(running):
    """Codes, hints of who signs out and an application's whole request stand in addresses; what is logged is kept."""
    for path in ("oidc/authorize", "oidc/resume", "oidc/logout", "sign-in/with/uni/back"):
        assert running.ask(f"/{path}?code=s3cr3t&state=s3cr3t")[0] == 200
    assert running.ask("/users?page=plain")[0] == 200
    deadline = time.monotonic() + 5
    while "page=plain" not in (text := (running.folder / "access.log").read_text()):
        assert time.monotonic() < deadline, text
        time.sleep(0.02)
    assert "s3cr3t" not in text


def test_a_class_signs_in_from_one_address_and_a_flood_is_bounded(running):
    with contextlib.closing(running.connect()) as line:

        def send(method: str, path: str) -> int:
            line.request(method, path, b"" if method == "POST" else None, {"Host": "cloud.test"})
            with line.getresponse() as answer:
                answer.read()
                return answer.status

        assert {send("GET", "/sign-in") for _ in range(450)} == {200}, "who only looks is not counted"
        begun, passed = time.monotonic(), 400
        for _ in range(200):
            assert [send("POST", path) for path in ("/sign-in", "/sign-in/second")] == [200, 200]
        while (status := send("POST", "/api/v1/auth/login")) == 200:
            passed += 1
        # Ten a second beside the class's; one is always let through, and the clock is the kernel's tick.
        assert status == 429 and passed <= 400 + 10 * (time.monotonic() - begun) + 2
        assert send("POST", "/sign-in") == 429, "it is one limit for all ways in"
        assert send("GET", "/sign-in") == 200


def test_bodies_have_a_limit(running):
    assert running.ask("/import", method="POST", body=b"x" * (15 << 20))[0] == 200
    assert running.ask("/import", method="POST", body=b"x", Content_Length=str(17 << 20))[0] == 413


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_while_the_server_is_away_a_page_names_it(bed, method):
    bed.nginx.ensure(bed.site)
    bed.start()
    status, headers, body = bed.ask("/", method=method)
    assert status == 503
    assert b"diycloud-server" in body
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["retry-after"] == "5"
    assert "unsafe" not in headers["content-security-policy"]
    status, headers, body = bed.ask("/api/v1/users", method=method)
    assert (status, headers["content-type"]) == (503, "application/problem+json")
    assert json.loads(body)["code"] == "unavailable"


def test_other_names_are_answered_too_when_nobody_else_does(running):
    assert running.ask("/", name="other.test")[0] == 200


OTHER = """\
server {{
    listen {port} {ssl} default_server;
    server_name other.test;
    ssl_certificate {folder}/tls/server.crt;
    ssl_certificate_key {folder}/tls/server.key;
    return 200 "somebody else's";
}}
"""


def test_another_default_server_keeps_its_place(bed):
    other = bed.folder / "enabled/other"
    text = OTHER.format(port=bed.site.https_port, ssl="ssl", folder=bed.folder)
    other.write_text(text)
    (note,) = bed.nginx.ensure(bed.site).notes
    assert str(other) in note
    bed.start()
    with Echo(bed.site.socket, EchoHandler):
        assert bed.ask("/", name="unknown.test")[2] == b"somebody else's"
        assert json.loads(bed.ask("/")[2])["line"] == "GET / HTTP/1.1"
    assert other.read_text() == text


def distribution_default(bed: Bed) -> Path:
    original = bed.folder / "sites/default"
    original.write_text(f"server {{ listen {bed.site.http_port} default_server; return 200 welcome; }}\n")
    (bed.folder / "enabled/default").symlink_to(original)
    return original


def test_the_untouched_default_site_makes_room_and_comes_back(bed):
    original = distribution_default(bed)
    bed.untouched.add(str(original))
    report = bed.nginx.ensure(bed.site)
    assert "uninstall puts it back" in report.notes[0]
    assert not (bed.folder / "enabled/default").is_symlink()
    bed.start()
    assert bed.ask_plain("/")[0] == 308
    assert bed.nginx.remove(bed.site)
    assert os.readlink(bed.folder / "enabled/default") == str(original)
    assert sorted(path.name for path in (bed.folder / "sites").iterdir()) == ["default"]
    assert not bed.site.folder.exists()
    assert not bed.nginx.remove(bed.site)


def test_a_default_site_that_somebody_changed_stays(bed):
    distribution_default(bed)
    report = bed.nginx.ensure(bed.site)
    assert "stays it" in report.notes[0]
    assert (bed.folder / "enabled/default").is_symlink()


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
        if path.name not in ("error.log", "nginx.pid")
    }


def test_a_refused_site_is_taken_back(bed):
    bed.untouched.add(str(distribution_default(bed)))
    (bed.site.certificates / "server.key").write_text("broken")
    before = tree(bed.folder)
    with pytest.raises(HostError, match=r"server\.key"):
        bed.nginx.ensure(bed.site)
    assert tree(bed.folder) == before


def test_a_refused_change_leaves_the_site_that_worked(running):
    before = tree(running.folder / "sites")
    broken = Site(**{name: getattr(running.site, name) for name in Site.__struct_fields__} | {"https_port": 70000})
    with pytest.raises(HostError):
        running.nginx.ensure(broken)
    assert tree(running.folder / "sites") == before
    assert running.ask("/")[0] == 200


def test_settings_that_were_broken_before_are_not_ours_to_hide(bed):
    (bed.folder / "enabled/other").write_text("server { listen nonsense here; }\n")
    with pytest.raises(HostError, match=r"refuses its settings.*enabled/other"):
        bed.nginx.ensure(bed.site)
    assert not bed.nginx.file.exists()


def test_nginx_own_warnings_are_passed_on(bed):
    (bed.folder / "enabled/other").write_text(
        f"server {{ listen {bed.site.http_port}; server_name cloud.test; return 200 x; }}\n"
    )
    notes = bed.nginx.ensure(bed.site).notes
    assert any("conflicting server name" in note for note in notes)
