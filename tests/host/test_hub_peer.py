"""Who is at the other end of the server's socket, by the kernel's word: root, the notebooks' hub, Nginx.

A real server on a real socket; the requests come from processes of other accounts.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from diycloud.config_notebooks import NotebookSettings
from diycloud.db.engine import Database
from diycloud.web import identity, main
from tests.app.openid import OpenId

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to be other accounts")
HUB, NGINX, ROOT = "nobody", "daemon", "root"
"""Accounts that every host has; the hub is one of them here."""
ASK = """
import http.client, socket, sys
class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[1])
line = Unix("cloud.test", timeout=30)
for path in sys.argv[3:]:
    line.request("GET", path, headers=dict(field.split(": ", 1) for field in sys.argv[2].splitlines()))
    answer = line.getresponse()
    answer.read()
    print(answer.status)
"""


class Served(OpenId):
    """The application behind a real socket."""

    socket: Path

    def ask_as(self, account: str, *paths: str, **headers: str) -> list[int]:
        """Ask for paths, one after another on one connection, as a process of an account; returns the statuses."""
        user = pwd.getpwnam(account)
        fields = "\n".join(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())
        told = subprocess.run(
            [sys.executable, "-I", "-c", ASK, str(self.socket), fields, *paths], capture_output=True, text=True,
            check=True, user=user.pw_uid, group=user.pw_gid, extra_groups=[], cwd="/",
        )  # fmt: skip
        return [int(status) for status in told.stdout.split()]


@pytest.fixture
def served(database: Database) -> Iterator[Served]:
    site = Served(database)
    site.user("root_admin", role="admin")
    site.user("ada", portal_only=0, uid=20_001)
    with tempfile.TemporaryDirectory(prefix="dtnp") as folder:
        Path(folder).chmod(0o711)
        site.socket = Path(folder, "server.sock")
        listener = main.listen(site.socket)
        site.socket.chmod(0o666)
        protocol = identity.protocol(HUB)
        server = uvicorn.Server(
            uvicorn.Config(site.app, http=protocol, log_config=None, lifespan="off", proxy_headers=False)
        )
        running = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        running.start()
        try:
            yield site
        finally:
            server.should_exit = True
            running.join(30)
            listener.close()


def test_the_hub_is_known_by_its_account(served: Served) -> None:
    far = {"x_forwarded_for": "192.0.2.7", "x_notebook_owner": "ada"}
    paths = ("/internal/hub/users/ada", "/internal/hub/users/nobody-else", "/oidc/jwks")
    assert served.ask_as(HUB, *paths, **far) == [200, 404, 200]
    assert served.ask_as(HUB, "/sign-in", "/api/v1/health", "/internal/notebooks/guard", **far) == [404, 404, 404]
    assert served.ask_as(HUB, "/api/v1/users") == [404]


def test_nobody_else_is_the_hub(served: Served) -> None:
    far = {"x_forwarded_for": "192.0.2.7"}
    for account, headers in ((NGINX, far), (NGINX, {}), (ROOT, far), (ROOT, {})):
        assert served.ask_as(account, "/internal/hub/users/ada", "/internal/hub/events", **headers) == [404, 404]
    paths = ("/sign-in", "/api/v1/users", "/internal/notebooks/guard")
    assert served.ask_as(NGINX, *paths, **far, x_notebook_owner="ada") == [200, 401, 401]
    assert served.ask_as(ROOT, "/api/v1/users") == [200]


def test_the_guard_over_the_socket(served: Served) -> None:
    cookie = served.signed_in(2)
    sent = {"cookie": f"{identity.COOKIE}={cookie}", "x_forwarded_for": "192.0.2.7"}
    guard = "/internal/notebooks/guard"
    assert served.ask_as(NGINX, guard, guard, **sent, x_notebook_owner="ada") == [204, 204]
    assert served.ask_as(NGINX, guard, **sent, x_notebook_owner="bob") == [403]
    served.by_hand("UPDATE users SET allowed_client_ip = '10.0.0.0/8' WHERE username = 'ada'")
    assert served.ask_as(NGINX, guard, **sent, x_notebook_owner="ada") == [401]


def test_root_is_never_taken_for_the_hub() -> None:
    protocol = identity.protocol("root")
    assert not protocol._is_hub(protocol, 0)  # type: ignore[arg-type]  # nothing of a connection is looked at
    assert NotebookSettings().hub_user != "root"
