"""The site with notebooks in a real Nginx: the portal that guards them, the hub and users' servers, all of the tests' own."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from diycloud.core.nginx import Notebooks
from tests.host.nginx_bed import Bed, Handler, UnixServer

T = TypeVar("T", bound="Site")
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


class Recorder(Handler):
    """Answers with the request's head as JSON, under the name of its server; takes up WebSockets and echoes what they say."""

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


class Behind(UnixServer):
    """The portal, the hub or a user's own server. answer: status and headers for a request."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.reads = True
        self.seen: list[Recorder] = []
        self.answer: Callable[[Recorder], tuple[int, dict[str, str]]] = lambda _: (200, {})
        super().__init__(path, Recorder)


class Portal:
    """What the guard says: the cookie names who is signed in. asked: owner and cookie of each time."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.status: int | None = None

    def answer(self, request: Recorder) -> tuple[int, dict[str, str]]:
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


def running(make: Callable[[Path], T]) -> Iterator[T]:
    """The body of a fixture: such a site, with the portal and the hub behind it."""
    with tempfile.TemporaryDirectory(prefix="dtnc-", dir="/var/tmp") as folder:  # other runs of pytest close theirs
        found = make(Path(folder))
        with found.stack:
            found.behind_portal = found.behind(found.site.socket, "portal")
            found.behind_portal.answer = found.portal.answer
            found.hub = found.behind(found.notebooks.hub_socket, "hub")
            found.nginx.ensure(found.site)
            found.start()
            yield found
            found.stop()
