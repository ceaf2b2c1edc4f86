"""The platform behind its own Nginx site with TLS, on a free loopback port: what a browser really meets."""

from __future__ import annotations

import json
import pwd
import re
import shutil
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from diycloud.core import certificates, nginx
from diycloud.system.local import Local
from diycloud.web.templating import STATIC
from tests.stack import ROOT, SERVER_USER, Stack

ADMIN, ADMIN_ONE_TIME, ADMIN_PASSWORD = "admin", "one-time-for-dtp", "violet comet marble otter"
MAIN = """daemon off; user {user}; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    include /etc/nginx/mime.types; access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    include {folder}/site.conf;
}}
"""


class Front:
    """A stack with its first administrator, and Nginx before it. port: of HTTPS, a free one if none is given."""

    def __init__(self, stack: Stack, port: int = 0) -> None:
        self.stack = stack
        self.folder = stack.prefix / "nginx"
        self.port, plain = port or free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.folder.mkdir()
        self.folder.chmod(0o755)
        certificates.ensure_certificates(Local(), self.folder, ["127.0.0.1"], datetime.now(UTC))
        site = nginx.Site(
            names=("127.0.0.1",), https_port=self.port, http_port=plain, certificates=self.folder, static=STATIC,
            socket=stack.prefix / "run/diycloud/server/server.sock", folder=self.folder,
        )  # fmt: skip
        text = nginx.render_site(site, default=True, ipv6=False, http2_directive=False)
        (self.folder / "site.conf").write_text(re.sub(r"listen (\d+)", r"listen 127.0.0.1:\1", text))
        site.away_page.write_text(nginx.render_away_page())
        (self.folder / "main.conf").write_text(MAIN.format(user=SERVER_USER, folder=self.folder))
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Front:
        self._make_admin()
        self.process = subprocess.Popen(
            ["nginx", "-p", str(self.folder), "-c", str(self.folder / "main.conf"), "-e", str(self.folder / "error.log")],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError((self.folder / "error.log").read_text())

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)

    def _make_admin(self) -> None:
        account = pwd.getpwnam(SERVER_USER)
        asked = {"username": ADMIN, "password": ADMIN_ONE_TIME, "one_time": True}
        subprocess.run(
            [sys.executable, "-m", "diycloud.users.first_admin", "--prefix", str(self.stack.prefix)],
            input=json.dumps(asked), text=True, check=True, capture_output=True, cwd="/",
            user=account.pw_uid, group=account.pw_gid, extra_groups=[], env={"PYTHONPATH": f"{ROOT}/src"},
        )  # fmt: skip

    def cgroup(self, controller: str, username: str, name: str) -> str:
        """Return what the kernel holds for a user's slice."""
        return (Path("/sys/fs/cgroup") / controller / self.stack.cgroup / username / name).read_text().strip()


def can_run() -> str:
    """Return why Nginx cannot be run here, empty if it can."""
    return "" if shutil.which("nginx") else "Nginx is not installed"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
