"""What every bench gets: where and how often to measure, and the services it may start."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench.harness import SERVER_CORE, Report, pin
from tests.bench.older.ways import Flask
from tests.bench.ours import Platform
from tests.bench.peers.hub import Hub

CGROUP = "dtbench"
USERS = 10_000
Service = Flask | Hub | Platform
"""Something that answers: base, token, headers, pids(), user_path(n), page_paths()."""


@dataclass(frozen=True)
class Setting:
    """Where and how often to measure. ours: False measures the others alone. hub_venv: where JupyterHub is installed."""

    place: Path
    rounds: int
    seconds: float
    ours: bool
    hub_venv: Path | None
    report: Report
    stack: ExitStack

    def platform(
        self, name: str, *, users: int = 0, tcp: bool = False, watched: bool = False, pinned: bool = False
    ) -> Platform | None:
        """Start the platform with so many rows in its database, and see that it ends with the run."""
        if not self.ours:
            return None
        platform = Platform(self.place / name, CGROUP, users=users, tcp=tcp, watched=watched)
        self.stack.callback(platform.close)
        platform.start()
        for pid in platform.pids().values() if pinned else ():
            pin(pid, SERVER_CORE)
        return platform

    def flask(self, place: Path, *, index: bool) -> Flask:
        """Start the Flask service over a filled database, and see that it ends with the run."""
        place.mkdir(exist_ok=True)
        flask = Flask(place, users=USERS, index=index)
        self.stack.callback(flask.close)
        return flask

    def hub(self, place: Path) -> Hub | None:
        """Start JupyterHub over a filled database, if it is installed, and see that it ends with the run."""
        if self.hub_venv is None:
            return None
        hub = Hub(place, self.hub_venv, users=USERS)
        self.stack.callback(hub.close)
        hub.start()
        return hub
