"""A real Nginx with our site, in a folder of a test's own, and servers on Unix sockets behind it."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from diycloud.core.certificates import ensure_certificates
from diycloud.core.nginx import Nginx, Site
from diycloud.distro.tables import NginxLayout
from diycloud.system import Local
from tests.waiting import free_port

BINARY = shutil.which("nginx", path="/usr/sbin:/usr/bin")
NEEDED = [
    pytest.mark.skipif(BINARY is None, reason="there is no nginx on this machine"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: Nginx changes to its own user"),
]

CONFIG = """\
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    types {{ text/css css; text/javascript js; }}
    include {folder}/enabled/*;
}}
"""


class Bed:
    """A private Nginx with our site in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        os.chmod(folder, 0o755)
        for name in ("sites", "enabled", "tls", "static", "run"):
            (folder / name).mkdir()
        (folder / "nginx.conf").write_text(CONFIG.format(folder=folder))
        (folder / "static/app.css").write_text("body { color: red }\n")
        self.layout = NginxLayout(
            binary=str(BINARY),
            config=str(folder / "nginx.conf"),
            user="www-data",
            group="www-data",
            sites=str(folder / "sites"),
            enabled=str(folder / "enabled"),
            default_site=str(folder / "enabled/default"),
        )
        self.untouched: set[str] = set()
        self.nginx = Nginx(Local(), self.layout, untouched=self.untouched.__contains__)
        self.site = Site(
            names=("cloud.test", "127.0.0.1"),
            https_port=free_port(),
            http_port=free_port(),
            socket=folder / "run/server.sock",
            certificates=folder / "tls",
            static=folder / "static",
            folder=folder / "pages",
        )
        ensure_certificates(Local(), self.site.certificates, self.site.names, datetime.now(UTC))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [str(BINARY), "-c", self.layout.config, "-g", "daemon off;"], stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 5
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.site.https_port), 1):
                return
            assert time.monotonic() < deadline, (self.folder / "error.log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "tls/ca.crt"))

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection over HTTPS that may be used for many requests."""
        plain = socket.create_connection(("127.0.0.1", self.site.https_port), 5)
        connection = http.client.HTTPConnection("cloud.test", self.site.https_port)
        connection.sock = self.tls().wrap_socket(plain, server_hostname="cloud.test")
        return connection

    def ask(
        self, path: str, *, method: str = "GET", body: bytes | None = None, name: str = "cloud.test",
        server_name: str = "cloud.test", **headers,
    ):  # fmt: skip
        """Ask over HTTPS. Returns status, headers (lower case), body.

        name: what the request calls the host; server_name: for whom the certificate is checked.
        """
        plain = socket.create_connection(("127.0.0.1", self.site.https_port), 5)
        connection = http.client.HTTPConnection(name, self.site.https_port)
        connection.sock = self.tls().wrap_socket(plain, server_hostname=server_name)
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, path, body, {"Host": name, **sent})
        answer = connection.getresponse()
        with contextlib.closing(connection):
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()

    def ask_plain(self, path: str):
        connection = http.client.HTTPConnection("127.0.0.1", self.site.http_port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Host": "cloud.test"})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()


class UnixServer(socketserver.ThreadingUnixStreamServer):
    """A server on a Unix socket that everybody may connect to, in threads of its own."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, path: Path, handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        super().__init__(str(path), handler)
        os.chmod(path, 0o666)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join(5)
        self.server_close()
        Path(str(self.server_address)).unlink(missing_ok=True)


class Handler(http.server.BaseHTTPRequestHandler):
    """What every server here does."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Tests read no log of it."""
