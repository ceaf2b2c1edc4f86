"""Drive JupyterHub's user API, as the peer that most institutions know.

It is installed by hand, in an environment of its own outside the repository, and only used if it is there:

    python3 -m venv PATH && PATH/bin/pip install jupyterhub==5.5.4
    python -m tests.bench.run --jupyterhub-venv PATH

Its database is SQLite, filled through its own models. A user there is a row: no password, no account on the host.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import subprocess
from pathlib import Path
from typing import Any

from tests.bench.fill import name_of
from tests.bench.harness import SERVER_CORE, stop, wait_for
from tests.waiting import free_port

HERE = Path(__file__).parent
PAGE = 50
PAGINATED = {"Accept": "application/jupyterhub-pagination+json"}


class Hub:
    """A hub on one core, over a database with so many users.

    token: made by the hub, which checks it with one hash; config_token: from its configuration, checked with 16,384.
    """

    health = "/hub/api/"

    def __init__(self, place: Path, venv: Path, *, users: int) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.place, self.python, self.users = place, venv / "bin/python", users
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.headers = PAGINATED
        self.config_token = secrets.token_hex(32)
        self.token = self.config_token
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Fill the database, start the hub, have it make a token."""
        database = f"sqlite:///{self.place}/hub.sqlite"
        subprocess.run([self.python, HERE / "hub_fill.py", database, str(self.users)], check=True)
        environment = os.environ | {
            "BENCH_HUB": f"{self.base}/hub/",
            "BENCH_DB": database,
            "BENCH_TOKEN": self.config_token,
        }
        with (self.place / "hub.log").open("wb") as log:
            self.process = subprocess.Popen(
                ["taskset", "-c", str(SERVER_CORE), self.python, "-m", "jupyterhub", "-f", HERE / "hub_config.py"],
                env=environment, cwd=self.place, stdout=log, stderr=log,
            )  # fmt: skip
        wait_for(lambda: bool(self.call("GET", self.health)), self.process, "JupyterHub", seconds=180)
        self.token = self.call("POST", "/hub/api/users/benchadmin/tokens")["token"]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request, on a connection of its own. Raises RuntimeError with the hub's words."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Authorization": f"Bearer {self.token}", **self.headers})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:500].decode(errors='replace')}")
        return json.loads(text) if text else None

    def pids(self) -> dict[str, int]:
        if self.process is None:
            raise RuntimeError("the hub is not running")
        return {"server": self.process.pid}

    def user_path(self, n: int) -> str:
        return f"/hub/api/users/{name_of(n)}"

    def page_paths(self) -> list[str]:
        """Return every tenth page of fifty."""
        return [f"/hub/api/users?limit={PAGE}&offset={start}" for start in range(0, self.users, 10 * PAGE)]

    def walk_paths(self) -> list[str]:
        """Return every page of the largest size the hub gives."""
        return [f"/hub/api/users?limit=200&offset={start}" for start in range(0, self.users, 200)]

    def create(self, name: str) -> None:
        self.call("POST", f"/hub/api/users/{name}")

    def close(self) -> None:
        if self.process is not None:
            stop(self.process)
