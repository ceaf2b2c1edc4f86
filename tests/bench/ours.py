"""Drive DIY Cloud as it really runs: agent as root, server without privileges, CLI and REST over the Unix socket.

Everything lies under a private prefix; the slices under a cgroup parent of the bench's own.
"""

from __future__ import annotations

import http.client
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from tests.bench.fill import PASSWORD, name_of
from tests.bench.harness import cpu_seconds, stop, wait_for
from tests.waiting import free_port

from diycloud.config import Paths

ROOT = Path(__file__).parents[2]
SERVER_USER, BENCH_USER = "diycloud", "dtbsrv"
PAGE, WHOLE = 50, 1_000


class Refused(RuntimeError):
    """The server answered with an error."""


class Platform:
    """An agent and a server over a prefix.

    users: rows put into the database before the start. They are portal-only: the host is not asked to follow them.
    tcp: the server listens on a loopback port instead of its Unix socket (wrk speaks no other), and an administrator's
    token is sent; else requests are root's, over the socket. watched: with a watch on its event loop (watched.py).
    """

    health = "/api/v1/health"

    def __init__(self, prefix: Path, cgroup: str, *, users: int = 0, tcp: bool = False, watched: bool = False) -> None:
        self.prefix, self.cgroup, self.users = prefix, cgroup, users
        self.paths = Paths(str(prefix))
        self.account, self._made_account = _server_account()
        self.python, self.environment = _python_for(self.account)
        self.tcp, self.port = tcp, free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.token = ""
        self.headers: dict[str, str] = {}
        self.module = "tests.bench.watched" if watched else "diycloud.web.main"
        self.agent: subprocess.Popen[bytes] | None = None
        self.server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make folders, settings and database, start both processes, sign the administrator in."""
        self._make_folders()
        as_server: dict[str, Any] = {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}
        migrate = ["diycloud.db.migrate", "--prefix", str(self.prefix)]
        fill = ["tests.bench.fill", str(self.paths.database), str(self.users)]
        for module in (migrate, fill):
            subprocess.run([self.python, "-m", *module], env=self.environment, cwd=ROOT, check=True, **as_server)
        self.agent = self._run("diycloud.agent.main")
        wait_for(self.paths.agent_socket.exists, self.agent, "the agent")
        port = ("--port", str(self.port)) if self.tcp else ()
        self.server = self._run(self.module, *port, **as_server)
        wait_for(lambda: bool(self.call("GET", self.health)), self.server, "the server")
        if self.tcp:
            signed_in = self.call("POST", "/api/v1/auth/login", {"username": "benchadmin", "password": PASSWORD})
            self.token = signed_in["token"]

    def close(self) -> None:
        """End both processes; remove the account if the bench made it."""
        for process in (self.server, self.agent):
            if process is not None:
                stop(process)
        if self._made_account:
            subprocess.run(["userdel", self.account.pw_name], check=True)

    def pids(self) -> dict[str, int]:
        """Return the pids of server and agent."""
        if self.server is None or self.agent is None:
            raise RuntimeError("the platform is not running")
        return {"server": self.server.pid, "agent": self.agent.pid}

    def cpu(self) -> dict[str, float]:
        """Return the CPU time that server and agent, with the programs it ran, have used, in seconds."""
        return {name: cpu_seconds(pid) for name, pid in self.pids().items()}

    def create(self, name: str) -> None:
        limits = {"cpu": 0.5, "memory": "512M", "disk": "1G"}
        person = {"username": name, "password": PASSWORD, "email": f"{name}@example.org"}
        self.call("POST", "/api/v1/users", person | limits)

    def set_limits(self, name: str, *, cores: str) -> None:
        self.call("PATCH", f"/api/v1/users/{name}/limits", {"cpu": float(cores)})

    def import_csv(self, listing: Path) -> None:
        self.cli("user", "import", str(listing))

    def create_by_cli(self, name: str) -> None:
        limits = ("--cpu", "0.5", "--memory", "512M", "--disk", "1G")
        self.cli("user", "create", name, "--password", "-", "--email", f"{name}@example.org", *limits, text=PASSWORD)

    def set_limits_by_cli(self, name: str, *, cores: str) -> None:
        self.cli("limits", "set", name, "--cpu", cores)

    def cli(self, *words: str, text: str = "") -> str:
        """Run the command line as root. Raises Refused with what it said."""
        command = [*command_line(), "--prefix", str(self.prefix), *words]
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        if done.returncode:
            raise Refused(f"{' '.join(words)}: status {done.returncode}: {done.stderr[-500:]}")
        return done.stdout

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send one request, on a connection of its own. Raises Refused with the server's words."""
        if self.tcp:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        else:
            connection = _UnixConnection(self.paths.server_socket)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise Refused(f"{method} {path}: {answer.status} {text[:500].decode(errors='replace')}")
        return json.loads(text) if text else None

    def user_path(self, n: int) -> str:
        return f"/api/v1/users/{name_of(n)}"

    def page_paths(self) -> list[str]:
        """Return every tenth page of fifty, each by the cursor that the one before it gave."""
        found = [f"/api/v1/users?limit={PAGE}"]
        for _ in range(1, self.users // PAGE):
            page = self.call("GET", found[-1])
            if len(page["users"]) != PAGE:
                raise RuntimeError(f"a page of {PAGE} has {len(page['users'])} users")
            found.append(f"/api/v1/users?limit={PAGE}&cursor={page['next']}")
        return found[::10]

    def walk_paths(self) -> list[str]:
        """Return every page of the largest size, each by the cursor that the one before it gave."""
        found = [f"/api/v1/users?limit={WHOLE}"]
        while following := self.call("GET", found[-1])["next"]:
            found.append(f"/api/v1/users?limit={WHOLE}&cursor={following}")
        return found

    def export_path(self) -> str:
        """Return the path of the whole list in one answer; empty where there is none."""
        from diycloud.core.routes import PREFIX, ROUTES

        return next((f"{PREFIX}{r.path}?format=json" for r in ROUTES if r.action.action_name == "user.export"), "")

    def lateness(self) -> list[float]:
        """Return how late the event loop woke a sleeper, in ms, each time since this was last asked (watched.py)."""
        found: list[float] = self.call("GET", "/bench/lateness")
        return found

    def _make_folders(self) -> None:
        paths, server = self.paths, self.account.pw_name
        for folder in (self.prefix, paths.run, paths.state.parent, paths.config_dir, paths.logs, self.prefix / "home"):
            folder.mkdir(parents=True, exist_ok=True)
        for folder, owner, group, mode in (
            (paths.state, server, server, 0o700),
            (paths.agent_state, "root", "root", 0o700),
            (paths.agent_socket.parent, "root", server, 0o750),
            (paths.server_socket.parent, server, server, 0o750),
        ):
            folder.mkdir()
            folder.chmod(mode)
            shutil.chown(folder, owner, group)
        settings = (
            f"cgroup: {self.cgroup}, home: {self.prefix}/home, server_user: {server}, uid_min: 50000, uid_max: 59999"
        )
        free = "requests_per_minute: 0, strangers_per_minute: 0"
        paths.config.write_text(f"agent: {{{settings}}}\nserver: {{{free}}}\n")

    def _run(self, module: str, *options: str, **rights: Any) -> subprocess.Popen[bytes]:
        command = [self.python, "-m", module, "--prefix", str(self.prefix), *options]
        with (self.prefix / f"{module}.log").open("wb") as log:
            return subprocess.Popen(command, env=self.environment, cwd="/", stdout=log, stderr=log, **rights)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=600)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def command_line() -> list[str]:
    """Return the words that start the installed `diycloud`, or the module where it is not installed."""
    script = Path(sys.executable).with_name("diycloud")
    return [str(script)] if script.exists() else [sys.executable, "-m", "diycloud.cli.main"]


def _server_account() -> tuple[pwd.struct_passwd, bool]:
    """Return the server's account, and whether it was made here because there was none."""
    for name in (SERVER_USER, BENCH_USER):
        try:
            return pwd.getpwnam(name), name == BENCH_USER
        except KeyError:
            continue
    subprocess.run(["useradd", "-r", "-M", "-d", "/nonexistent", "-s", "/usr/sbin/nologin", BENCH_USER], check=True)
    return pwd.getpwnam(BENCH_USER), True


def _python_for(account: pwd.struct_passwd) -> tuple[str, dict[str, str]]:
    """Return a Python that an unprivileged account can run, and an environment with this one's packages.

    Raises RuntimeError if there is none: an interpreter in root's home cannot be run by others.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}/src:{sysconfig.get_path('purelib')}:{ROOT}"}
    for python in (sys.executable, shutil.which(version, path="/usr/local/bin:/usr/bin")):
        if python is None:
            continue
        try:
            subprocess.run(
                [python, "-c", "import msgspec, sqlalchemy"], env=environment, check=True, capture_output=True,
                user=account.pw_uid, group=account.pw_gid, extra_groups=[],
            )  # fmt: skip
        except (OSError, subprocess.CalledProcessError):
            continue
        return python, environment
    raise RuntimeError(f"no {version} that {account.pw_name} can run with this environment's packages")
