"""The platform behind its own Nginx site with TLS, on a free loopback port: what a browser really meets."""

from __future__ import annotations

import contextlib
import json
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import cannot_run
from tests.site_nginx import SiteNginx
from tests.stack import ROOT, SERVER_USER, Stack

ADMIN, ADMIN_ONE_TIME, ADMIN_PASSWORD = "admin", "one-time-for-dtp", "violet comet marble otter"


class Front:
    """A stack with its first administrator, and Nginx before it. port: of HTTPS, a free one if none is given."""

    def __init__(self, stack: Stack, port: int = 0) -> None:
        self.stack = stack
        self._nginx = SiteNginx(stack.prefix / "nginx", port)
        self.folder, self.port = self._nginx.folder, self._nginx.port
        self.url = f"https://127.0.0.1:{self.port}"
        self._nginx.write(stack.prefix / "run/diycloud/server/server.sock", SERVER_USER, SERVER_USER)

    def __enter__(self) -> Front:
        self._make_admin()
        self._nginx.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._nginx.stop()

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


@contextlib.contextmanager
def running_front(uid_min: int, uid_max: int, cgroup: str) -> Iterator[Front]:
    """Run the platform behind Nginx. Skips the tests of a fixture where one of them cannot be run."""
    if reason := cannot_run() or can_run():
        pytest.skip(reason)
    with Stack(uid_min=uid_min, uid_max=uid_max, cgroup=cgroup) as stack, Front(stack) as front:
        yield front


def can_run() -> str:
    """Return why Nginx cannot be run here, empty if it can."""
    return "" if shutil.which("nginx") else "Nginx is not installed"
