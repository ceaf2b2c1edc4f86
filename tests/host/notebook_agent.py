"""The real agent and the real launcher under a folder of their own, with a few people; for the tests of notebooks."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from diycloud.agent.client import call_blocking
from diycloud.agent.protocol import (
    Account,
    EnsureAccounts,
    Limits,
    Message,
    Notebook,
    Outcome,
    Ping,
    Pong,
    ReadNotebooks,
    StartNotebook,
    State,
    StopNotebook,
    Wish,
)
from diycloud.config import Paths
from diycloud.errors import Unavailable
from tests.host.agent_process import as_user

T = TypeVar("T")
PREFIX = "dtna"
CGROUP = "dtnotea"
UID_MIN, UID_MAX = 58_100, 58_179
HUB, HUB_UID = f"{PREFIX}-hub", 58_190
SERVER, SERVER_UID = f"{PREFIX}-server", 58_191
ROOT = Path(__file__).parents[2]
CONTROLLERS = ("cpu", "cpuacct", "memory", "pids")


class NotebookHost:
    """An agent and a launcher. lab: the environment of servers; settings: more lines of config.yaml."""

    def __init__(self, lab: Path, settings: str = "") -> None:
        self.lab = lab
        self.prefix = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-", dir="/var/tmp"))
        self.prefix.chmod(0o755)
        self.paths = Paths(str(self.prefix))
        self.paths.config_dir.mkdir(parents=True)
        self.paths.config.write_text(
            f"agent:\n  uid_min: {UID_MIN}\n  uid_max: {UID_MAX}\n  server_user: {SERVER}\n  cgroup: {CGROUP}\n"
            f"notebooks:\n  hub_user: {HUB}\n{settings}"
        )
        self.agent: subprocess.Popen[bytes] | None = None
        self.launcher: subprocess.Popen[bytes] | None = None
        self._generation = 0

    # -- life

    def start_agent(self) -> None:
        self.agent = self._start("agent", [sys.executable, "-m", "diycloud.agent.main", "--prefix", str(self.prefix)])
        self._wait("agent", lambda: self.call(Ping(), Pong))

    def start_launcher(self) -> None:
        log = self.prefix / "launcher.log"
        before = log.read_text().count('"ready"') if log.exists() else 0
        python = str(self.lab / "bin" / "python")
        self.launcher = self._start("launcher", [python, "-I", "-m", "diycloud.launcher", "--prefix", str(self.prefix)])

        def connect() -> None:
            if log.read_text().count('"ready"') == before:
                raise OSError

        self._wait("launcher", connect)

    def _start(self, name: str, argv: list[str]) -> subprocess.Popen[bytes]:
        with (self.prefix / f"{name}.log").open("ab") as log:
            return subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/")

    def _wait(self, name: str, ask: Callable[[], object]) -> None:
        process = getattr(self, name)
        for _ in range(600):
            with contextlib.suppress(Unavailable, OSError):
                ask()
                return
            if process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"the {name} did not start:\n{self.log(name)}")

    def kill(self, name: str, sig: int = signal.SIGKILL) -> None:
        process = getattr(self, name)
        if process is not None:
            process.send_signal(sig)
            process.wait(30)

    def log(self, name: str) -> str:
        return (self.prefix / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        remove_cgroups()
        for process in (self.agent, self.launcher):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait(30)
        shutil.rmtree(self.prefix, ignore_errors=True)

    # -- use

    def call(self, message: Message, answer: type[T], *, deadline: float = 100.0) -> T:
        return call_blocking(self.paths.agent_socket, message, answer, deadline=deadline)

    def call_as(self, uid: int, message: Message, answer: type[T]) -> T:
        group = pwd.getpwnam(SERVER).pw_gid
        return as_user(uid, lambda: self.call(message, answer), group)

    def ensure(
        self, name: str, *, cpu: float = 1.0, memory: int = 1 << 30, tasks: int = 200, state: str = "active"
    ) -> int:
        self._generation += 1
        wish = Wish(name, self._generation, Limits(cpu, memory, tasks), State(state))
        (outcome,) = self.call(EnsureAccounts([Account(wish, create=True)]), list[Outcome])
        assert outcome.code == "", outcome
        assert outcome.uid is not None
        return outcome.uid

    def environment(self, name: str, server: str = "") -> dict[str, str]:
        """What a hub would tell its server."""
        prefix = f"/jupyter/user/{name}/{f'{server}/' if server else ''}"
        return {
            "JUPYTERHUB_SERVICE_PREFIX": prefix, "JUPYTERHUB_API_TOKEN": "0" * 32, "JUPYTERHUB_USER": name,
            "JUPYTERHUB_API_URL": "http://127.0.0.1:9/jupyter/hub/api", "JUPYTERHUB_BASE_URL": "/jupyter/",
            "JUPYTERHUB_CLIENT_ID": f"jupyterhub-user-{name}", "JUPYTERHUB_HOST": "",
            "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{prefix}oauth_callback", "JUPYTERHUB_SERVER_NAME": server,
            "JUPYTERHUB_ACTIVITY_URL": f"http://127.0.0.1:9/jupyter/hub/api/users/{name}/activity",
            "JUPYTERHUB_OAUTH_SCOPES": '["access:servers"]', "JUPYTERHUB_OAUTH_ACCESS_SCOPES": '["access:servers"]',
            "JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES": "[]",
            "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:0{prefix}",
        }  # fmt: skip

    def start(self, name: str, server: str = "", *, profile: str = "") -> Notebook:
        return self.call(StartNotebook(name, server, profile, self.environment(name, server)), Notebook)

    def stop(self, name: str, server: str = "") -> Notebook:
        return self.call(StopNotebook(name, server), Notebook)

    def read(self, name: str = "", server: str | None = None) -> list[Notebook]:
        return self.call(ReadNotebooks(name, server), list[Notebook])

    def get(self, notebook: Notebook, path: str = "api") -> tuple[int, Any]:
        """Ask a server as Nginx would, over its socket."""
        connection = http.client.HTTPConnection("localhost", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(20)
        connection.sock.connect(notebook.socket)
        place = f"{notebook.name}/{f'{notebook.server}/' if notebook.server else ''}"
        try:
            connection.request("GET", f"/jupyter/user/{place}{path}")
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        is_json = "json" in response.headers.get("content-type", "")
        return response.status, json.loads(text) if is_json else text


def part(controller: str, name: str, server: str = "") -> Path:
    """The folder of a server's own cgroup."""
    slice_ = Path("/sys/fs/cgroup", controller, CGROUP, name, "main" if controller == "pids" else "")
    return slice_ / (f"notebook-{server}" if server else "notebook")


def pids(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def make_accounts() -> None:
    for name, uid in ((SERVER, SERVER_UID), (HUB, HUB_UID)):
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            continue
        subprocess.run(["useradd", "-M", "-U", "-u", str(uid), "-s", "/usr/sbin/nologin", name], check=True)


def remove_cgroups() -> None:
    """End what runs in these tests' cgroups, and remove them."""
    for controller in CONTROLLERS:
        top = Path("/sys/fs/cgroup", controller, CGROUP)
        for folder in sorted(top.glob("**/"), key=lambda path: -len(path.parts)) if top.exists() else ():
            for _ in range(100):
                for pid in pids(folder):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    break
                time.sleep(0.02)


def clean_up() -> None:
    remove_cgroups()
    for account in list(pwd.getpwall()):
        if account.pw_name.startswith(PREFIX):
            subprocess.run(["userdel", "-f", account.pw_name], check=False, capture_output=True)
    for folder in (Path("/home"), Path("/home/.diycloud-trash")):
        for path in folder.glob(f"{PREFIX}*"):
            shutil.rmtree(path, ignore_errors=True)


def running_host(lab: Path, settings: str = "") -> Iterator[NotebookHost]:
    clean_up()
    make_accounts()
    host = NotebookHost(lab, settings)
    try:
        host.start_agent()
        host.start_launcher()
        yield host
    finally:
        host.close()
        clean_up()
