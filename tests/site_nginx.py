"""Nginx with the platform's site and TLS on free loopback ports: what a browser really meets."""

from __future__ import annotations

import re
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from diycloud.core import certificates, nginx
from diycloud.system.local import Local
from diycloud.web.templating import STATIC
from tests.waiting import free_port, until_it_listens

MAIN = """daemon off; user {user} {group}; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    include /etc/nginx/mime.types; access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    include {folder}/site.conf;
}}
"""


class SiteNginx:
    """One Nginx in a folder of its own. port: of HTTPS, a free one if none is given."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder, self.port, self._plain_port = folder, port or free_port(), free_port()
        self.log = folder.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | None = None

    def write(
        self,
        socket: Path,
        user: str,
        group: str,
        *,
        names: tuple[str, ...] = (),
        notebooks: nginx.Notebooks | None = None,
    ) -> None:
        """Write what it reads. socket: the server's; user and group: its workers'; names: the certificate's, beside 127.0.0.1."""
        self.folder.mkdir()
        self.folder.chmod(0o755)
        certificates.ensure_certificates(Local(), self.folder, ["127.0.0.1", *names], datetime.now(UTC))
        site = nginx.Site(
            names=("127.0.0.1",), https_port=self.port, http_port=self._plain_port, certificates=self.folder,
            static=STATIC, socket=socket, folder=self.folder, notebooks=notebooks,
        )  # fmt: skip
        text = nginx.render_site(site, default=True, ipv6=False, http2_directive=False)
        (self.folder / "site.conf").write_text(re.sub(r"listen (\d+)", r"listen 127.0.0.1:\1", text))
        site.away_page.write_text(nginx.render_away_page())
        (self.folder / "main.conf").write_text(MAIN.format(user=user, group=group, folder=self.folder))

    def start(self) -> None:
        main, errors = self.folder / "main.conf", self.folder / "error.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["nginx", "-p", str(self.folder), "-c", str(main), "-e", str(errors)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        until_it_listens(self.port, self.process, lambda: self.log.read_text() + errors.read_text(), seconds=10)

    def stop(self, sig: int = signal.SIGTERM) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(sig)
            self.process.wait(timeout=30)
            self.process = None
