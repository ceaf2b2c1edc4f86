"""The launcher as the agent meets it: a service of its own under a prefix, users, slices, and the agent's side of the talk."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.notebooks import environment

PARENT = "dtlaunch"
CONTROLLERS = ("cpu", "memory", "pids")
ALICE, BOB = "dtlnalice", "dtlnbob"
UIDS = {ALICE: 58_001, BOB: 58_002}
TEAM, TEAM_GID = "dtlnteam", 58_090
MEMORY = 700 << 20
CLIENT = Path(__file__).with_name("kernel_client.py")


def why_not() -> str:
    """Return why this machine cannot run the launcher's tests; empty if it can."""
    if os.geteuid() != 0:
        return "needs root: servers run as other users"
    missing = [c for c in CONTROLLERS if not os.access(Path("/sys/fs/cgroup") / c, os.W_OK)]
    if missing:
        return f"no cgroup v1 controller {', '.join(missing)}"
    try:
        environment("lab")
    except RuntimeError as error:
        return str(error)
    return ""


NEEDED = [pytest.mark.skipif(bool(why := why_not()), reason=why), pytest.mark.slow]


def folders(*parts: str) -> list[Path]:
    return [Path("/sys/fs/cgroup") / controller / PARENT / Path(*parts) for controller in CONTROLLERS]


@contextlib.contextmanager
def users() -> Iterator[None]:
    """Two users, both in a team, with slices of 700 MiB."""
    remove_users()
    subprocess.run(["groupadd", "-g", str(TEAM_GID), TEAM], check=True)
    for name, uid in UIDS.items():
        subprocess.run(["useradd", "-m", "-u", str(uid), "-G", TEAM, "-s", "/bin/bash", name], check=True)
        os.chmod(f"/home/{name}", 0o700)
        for folder in folders(name):
            folder.mkdir(parents=True)
        (folders(name)[1] / "memory.limit_in_bytes").write_text(str(MEMORY))
    try:
        yield
    finally:
        remove_users()


def remove_users() -> None:
    for name in UIDS:
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            subprocess.run(["userdel", "-r", name], check=True, capture_output=True)
    subprocess.run(["groupdel", TEAM], check=False, capture_output=True)
    for base in folders():
        for folder, _, _ in os.walk(base, topdown=False):
            remove_cgroup(Path(folder))


def remove_cgroup(folder: Path) -> None:
    for _ in range(100):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"{folder} is in use")


class Hub(socketserver.ThreadingUnixStreamServer):
    """Stands in for the hub: says of each user's token whose it is. What servers ask is kept in `asked`."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.tokens: dict[str, str] = {}
        self.asked: list[str] = []
        super().__init__(str(path), _Answer)
        path.chmod(0o666)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        name = self.server.tokens.get(self.headers.get("Authorization", "").removeprefix("token "))
        model = {"name": name, "kind": "user", "admin": False, "groups": [], "scopes": [f"access:servers!user={name}"]}
        body = json.dumps(model if name else {}).encode()
        self.send_response(200 if name or self.path.endswith("/hub/api") else 403)
        self.send_header("X-JupyterHub-Version", "6.1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        pass


class Answered:
    """A server that was asked for. shim, pid: 0 where it was not started; lines: what the launcher said."""

    def __init__(self, bed: Bed, request: dict[str, Any]) -> None:
        self.bed, self.request, self.lines = bed, request, []
        self.shim = self.pid = 0
        self.folder_name = f"notebook-{request['server']}" if request["server"] else "notebook"
        self.seconds = 0.0

    @property
    def failed(self) -> dict[str, Any]:
        return self.lines[-1] if self.lines and "failed" in self.lines[-1] else {}

    @property
    def record(self) -> dict[str, Any]:
        return json.loads(Path(self.request["record"]).read_text())

    @property
    def log(self) -> str:
        return Path(self.request["log"]).read_text(errors="replace")

    def wait_for_end(self, seconds: float = 15) -> dict[str, Any]:
        """Return the record once it tells that the server ended and the shim is gone."""
        deadline = time.monotonic() + seconds
        while "ended" not in self.record or alive(self.shim):
            assert time.monotonic() < deadline, (self.record, self.log[-2000:])
            time.sleep(0.02)
        return self.record

    def stop(self) -> dict[str, Any]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid or self.shim, signal.SIGTERM)
        return self.wait_for_end()

    def get(self, path: str, token: str = "") -> tuple[int, dict[str, str], bytes]:
        """Ask the server over its socket."""
        connection = http.client.HTTPConnection("unix", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection):
            connection.sock.connect(self.request["socket"])
            prefix = self.request["environment"]["JUPYTERHUB_SERVICE_PREFIX"]
            headers = {"Authorization": f"token {token}"} if token else {}
            connection.request("GET", prefix + path, headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()

    def run(self, *cells: str, seconds: float = 60) -> list[str]:
        """Run cells in a kernel of the server's, over its REST interface and a WebSocket; return what each printed."""
        told = {
            "socket": self.request["socket"],
            "prefix": self.request["environment"]["JUPYTERHUB_SERVICE_PREFIX"],
            "token": self.request["environment"]["JUPYTERHUB_API_TOKEN"],
            "cells": cells,
        }
        client = [str(self.bed.lab / "bin/python"), "-I", str(CLIENT)]
        done = subprocess.run(
            client, input=json.dumps(told), capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == 0, done.stderr + self.log[-3000:]
        return json.loads(done.stdout)


class Bed:
    """A launcher that runs, with a hub beside it."""

    def __init__(self) -> None:
        self.lab = environment("lab")
        self.prefix = Path(tempfile.mkdtemp(prefix="dtln-", dir="/var/tmp"))
        self.prefix.chmod(0o755)
        self.notebooks = self.prefix / "run/diycloud/notebooks"
        for folder in ("sockets", "runtime", "records"):
            (self.notebooks / folder).mkdir(parents=True)
        self.tmp = self.prefix / "tmp"
        self.tmp.mkdir(mode=0o711)
        for name, uid in UIDS.items():
            (self.tmp / str(uid)).mkdir(mode=0o700)
            os.chown(self.tmp / str(uid), uid, pwd.getpwnam(name).pw_gid)
        self.hub = Hub(self.prefix / "hub.sock")
        self.socket = self.prefix / "run/diycloud/launcher/launcher.sock"
        self.servers: list[Answered] = []
        self.start_launcher()

    def start_launcher(self) -> None:
        with (self.prefix / "launcher.log").open("ab") as log:
            self.launcher = subprocess.Popen(
                [str(self.lab / "bin/python"), "-I", "-u", "-m", "diycloud.launcher", "--prefix", str(self.prefix)],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, "DTLN_SECRET": "of-the-launchers-environment"},
            )
        deadline = time.monotonic() + 60
        while '"ready"' not in self.said():
            assert self.launcher.poll() is None and time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def said(self) -> str:
        return (self.prefix / "launcher.log").read_text()

    def close(self) -> None:
        for server in self.servers:
            for pid in (server.pid, server.shim):
                if pid and alive(pid):
                    os.kill(pid, signal.SIGKILL)
            for base in folders(server.request["name"], server.folder_name):
                if base.exists():
                    for pid in (base / "cgroup.procs").read_text().split():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(int(pid), signal.SIGKILL)
                    remove_cgroup(base)
        self.launcher.kill()
        self.launcher.wait()
        self.hub.shutdown()
        self.hub.server_close()
        shutil.rmtree(self.prefix)

    def request(self, name: str, server: str = "", **changes: Any) -> dict[str, Any]:
        """Return what the agent would ask, with the slice's sub-cgroup made."""
        account = pwd.getpwnam(name)
        place = f"{name}+{server}" if server else name
        token = f"token-of-{place}-{os.urandom(8).hex()}"
        self.hub.tokens[token] = name
        leaf = f"notebook-{server}" if server else "notebook"
        for folder in folders(name, leaf):
            folder.mkdir(exist_ok=True)
        memory = folders(name)[1]
        return {
            "name": name,
            "server": server,
            "profile": "small",
            "uid": account.pw_uid,
            "gid": account.pw_gid,
            "groups": [account.pw_gid, TEAM_GID],
            "home": account.pw_dir,
            "shell": account.pw_shell,
            "environment": {
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "JUPYTERHUB_API_TOKEN": token,
                "JUPYTERHUB_API_URL": f"http+unix://{str(self.prefix / 'hub.sock').replace('/', '%2F')}/jupyter/hub/api",
                "JUPYTERHUB_BASE_URL": "/jupyter/",
                "JUPYTERHUB_CLIENT_ID": f"jupyterhub-user-{place}",
                "JUPYTERHUB_OAUTH_ACCESS_SCOPES": json.dumps([f"access:servers!user={name}"]),
                "JUPYTERHUB_SERVER_NAME": server,
                "JUPYTERHUB_SERVICE_PREFIX": f"/jupyter/user/{name}/" + (f"{server}/" if server else ""),
                "JUPYTERHUB_SERVICE_URL": f"http+unix://%2Frun%2F{place}.sock/",
                "JUPYTERHUB_USER": name,
            },
            "tmp": str(self.tmp / str(account.pw_uid)),
            "runtime": str(self.notebooks / "runtime" / place),
            "record": str(self.notebooks / "records" / f"{place}.json"),
            "log": str(self.notebooks / "records" / f"{place}.log"),
            "socket": str(self.notebooks / "sockets" / f"{place}.sock"),
            "groups_of_processes": [str(folder) for folder in folders(name, leaf)],
            "kills": {"file": str(memory / leaf / "memory.oom_control"), "key": "oom_kill"},
            "slice": {"memory": str(memory / "memory.usage_in_bytes"), "memory_limit": MEMORY, "cpu_limit": 2},
            "templates": [],
            **changes,
        }

    def start(self, name: str, server: str = "", **changes: Any) -> Answered:
        """Have a server started, as the agent does; wait for the launcher's last word."""
        request = self.request(name, server, **changes)
        answered = Answered(self, request)
        self.servers.append(answered)
        Path(request["socket"]).unlink(missing_ok=True)
        began = time.monotonic()
        with socket.socket(socket.AF_UNIX) as listener, self.connect() as connection:
            listener.bind(request["socket"])
            listener.listen(64)
            socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], [listener.fileno()])
            with connection.makefile("r") as answers:
                self._hear(answered, answers)
                if answered.shim:
                    for folder in request["groups_of_processes"]:
                        (Path(folder) / "cgroup.procs").write_text(str(answered.shim))
                    connection.sendall(b'{"go": true}\n')
                    self._hear(answered, answers)
        answered.seconds = time.monotonic() - began
        return answered

    def _hear(self, answered: Answered, answers: Any) -> None:
        line = answers.readline()
        if line:
            answered.lines.append(json.loads(line))
            if answered.lines[-1].get("ready"):
                answered.pid = answered.lines[-1]["pid"]
            elif "pid" in answered.lines[-1]:
                answered.shim = answered.lines[-1]["pid"]

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(str(self.socket))
        return connection


def alive(pid: int) -> bool:
    """Return whether a process runs; one that ended and was not collected yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def status(pid: int) -> dict[str, str]:
    """Return /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def private(pid: int) -> int:
    """Return the bytes of memory that a process has to itself: what one more of its kind costs."""
    lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line[1]) << 10 for line in lines if line[0] in ("Private_Clean:", "Private_Dirty:"))
