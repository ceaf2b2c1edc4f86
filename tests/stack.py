"""The platform itself, on this machine, under a prefix: real agent, real server, own names, UIDs and cgroups.

    with Stack() as stack:
        stack.cli("user", "create", "dtalice", "--cpu", "0.5")

Everything it made is gone afterwards: accounts and groups (found by their numbers), homes, cgroups, processes (by pid).
"""

from __future__ import annotations

import grp
import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cluster import Cluster

ROOT = Path(__file__).parents[1]
SERVER_USER = "dtserver"
NAME_IN_USE = 9
"""An exit status of useradd."""
FREE = {"DIYCLOUD_SERVER__REQUESTS_PER_MINUTE": "0", "DIYCLOUD_SERVER__STRANGERS_PER_MINUTE": "0"}
"""Tests ask more than people do."""
CONTROLLERS = ("cpu", "cpuacct", "memory", "pids")


class Stack:
    """uid_min..uid_max: the range of this stack's users; cgroup: the folder of its slices.

    Its groups have GIDs of the same range 20,000 higher, and their shared folders are in `prefix/shared`.
    """

    def __init__(
        self,
        *,
        uid_min: int = 50_000,
        uid_max: int = 52_999,
        cgroup: str = "dtstack",
        settings: str = "",
        cluster: Cluster | None = None,
    ) -> None:
        self.uid_min, self.uid_max, self.cgroup = uid_min, uid_max, cgroup
        self.gid_min, self.gid_max = uid_min + 20_000, uid_max + 20_000
        self._settings = settings
        self._cluster, self._database = cluster, "dtstack"
        self.prefix = Path(tempfile.mkdtemp(prefix="dtstack-", dir="/var/tmp"))
        self.agent: subprocess.Popen[bytes] | None = None
        self.server: subprocess.Popen[bytes] | None = None

    # -- life

    def __enter__(self) -> Stack:
        self.prefix.chmod(0o755)
        ensure_account(SERVER_USER)
        server = pwd.getpwnam(SERVER_USER)
        for folder in ("etc/diycloud", "var/lib/diycloud", "var/log/diycloud", "run/diycloud"):
            (self.prefix / folder).mkdir(parents=True)
        for folder, owner, mode in (
            ("var/lib/diycloud/server", (server.pw_uid, server.pw_gid), 0o700),
            ("run/diycloud/server", (server.pw_uid, server.pw_gid), 0o2750),
        ):
            path = self.prefix / folder
            path.mkdir()
            os.chown(path, *owner)
            path.chmod(mode)
        (self.prefix / "etc/diycloud/config.yaml").write_text(
            f"agent:\n  server_user: {SERVER_USER}\n  uid_min: {self.uid_min}\n  uid_max: {self.uid_max}\n"
            f"  gid_min: {self.gid_min}\n  gid_max: {self.gid_max}\n  shared: {self.prefix}/shared\n"
            f"  cgroup: {self.cgroup}\n{self._settings}"
        )
        try:
            if self._cluster is not None:
                self._use(self._cluster)
            self.start_agent()
            self.start_server()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_server()
        self.stop_agent()
        for account in list(pwd.getpwall()):
            if self.uid_min <= account.pw_uid <= self.uid_max:
                subprocess.run(["userdel", "-f", account.pw_name], capture_output=True, check=False)
                shutil.rmtree(account.pw_dir, ignore_errors=True)
        for group in [found for found in grp.getgrall() if self.gid_min <= found.gr_gid <= self.gid_max]:
            subprocess.run(["groupdel", group.gr_name], capture_output=True, check=False)
        self._remove_trash()
        remove_cgroups(self.cgroup)
        shutil.rmtree(self.prefix, ignore_errors=True)

    def _remove_trash(self) -> None:
        trash = Path("/home/.diycloud-trash")
        for entry in trash.glob("*") if trash.exists() else ():
            uid = entry.name.split(".")[1] if entry.name.count(".") >= 2 else ""
            if uid.isdigit() and self.uid_min <= int(uid) <= self.uid_max:
                shutil.rmtree(entry, ignore_errors=True)
        if trash.exists() and not any(trash.iterdir()):
            trash.rmdir()

    def start_agent(self, module: str = "diycloud.agent.main", *more: str) -> None:
        self.agent = self._start(module, "agent", None, *more)
        self._wait(self.prefix / "run/diycloud/agent/agent.sock", self.agent, "agent")

    def start_server(self, module: str = "diycloud.web.main", *more: str) -> None:
        self.server = self._start(module, "server", pwd.getpwnam(SERVER_USER), *more)
        self._wait(self.prefix / "run/diycloud/server/server.sock", self.server, "server")

    def stop_agent(self, sig: int = signal.SIGTERM) -> None:
        self.agent = _stop(self.agent, sig)

    def stop_server(self, sig: int = signal.SIGTERM) -> None:
        self.server = _stop(self.server, sig)

    def _start(self, module: str, name: str, account: pwd.struct_passwd | None, *more: str) -> subprocess.Popen[bytes]:
        identity = {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        with (self.prefix / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, "--prefix", str(self.prefix), *more],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/", **identity,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": f"{ROOT}/src:{ROOT}", **FREE},
            )  # fmt: skip

    def _wait(self, path: Path, process: subprocess.Popen[bytes], name: str) -> None:
        for _ in range(1200):
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(path))
                    return
                except OSError:
                    pass
            if process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"the {name} did not start:\n{self.log(name)}")

    def log(self, name: str) -> str:
        return (self.prefix / f"{name}.log").read_text(errors="replace")

    # -- use

    def cli(self, *words: str, input: str | None = None, ok: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run `diycloud` as root. ok: the exit status that must come, None for any."""
        done = subprocess.run(
            [sys.executable, "-m", "diycloud.cli.main", "--prefix", str(self.prefix), *words],
            input=input, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL if input is None else None,
        )  # fmt: skip
        if ok is not None and done.returncode != ok:
            raise AssertionError(f"diycloud {' '.join(words)}: {done.returncode}, not {ok}\n{done.stdout}{done.stderr}")
        return done

    def json(self, *words: str, input: str | None = None, ok: int | None = 0) -> dict:
        return json.loads(self.cli(*words, "--json", input=input, ok=ok).stdout)

    def http(
        self, method: str, path: str, body: object = None, *, headers: dict[str, str] | None = None
    ) -> tuple[int, dict, dict]:
        """Send a request over the server's socket as root, or as Nginx would for a stranger if headers name one."""
        connection = http.client.HTTPConnection("localhost", timeout=120)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(120)
        connection.sock.connect(str(self.prefix / "run/diycloud/server/server.sock"))
        data = body if isinstance(body, bytes | str) or body is None else json.dumps(body)
        given = {"Content-Type": "application/json", **(headers or {})} if data is not None else headers or {}
        try:
            connection.request(method, path, data, given)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        kind = response.headers.get("content-type", "")
        decoded = json.loads(text) if "json" in kind and "ndjson" not in kind and text else text
        return response.status, dict(response.headers), decoded

    def token(self, username: str, password: str, address: str = "192.0.2.7") -> str:
        status, _, body = self.http(
            "POST",
            "/api/v1/auth/login",
            {"username": username, "password": password},
            headers={"X-Forwarded-For": address},
        )
        assert status == 200, body
        return body["token"]

    def _use(self, cluster: Cluster) -> None:
        """Have the server use a PostgreSQL database of its own, where it signs in as its account."""
        cluster.drop("dtstack")
        cluster.ensure_role(SERVER_USER)
        cluster.database("dtstack", owner=SERVER_USER)
        with (self.prefix / "etc/diycloud/config.yaml").open("a") as settings:
            settings.write(f"server:\n  database: postgresql:///dtstack?host={cluster.folder}\n")

    def by_hand(self, statement: str, *values: object) -> tuple[list[str], list[tuple]]:
        """Run a statement as people do, by a connection of our own; returns the columns' names and the rows."""
        if self._cluster is not None:
            statement = statement.replace("%", "%%").replace("?", "%s")
            return self._cluster.run(self._cluster.url(self._database), statement, values)
        connection = sqlite3.connect(self.database())
        try:
            with connection:
                cursor = connection.execute(statement, values)
                return [column[0] for column in cursor.description or ()], cursor.fetchall()
        finally:
            connection.close()

    def database(self) -> Path:
        return self.prefix / "var/lib/diycloud/server/users.db"


def ensure_account(name: str) -> None:
    """Make an account of a service's, with a group of its own; the runs beside this one may have the same wish."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        argv = ["useradd", "--system", "-U", "-M", "-d", "/nonexistent", "-s", "/usr/sbin/nologin", name]
        assert subprocess.run(argv, check=False).returncode in (0, NAME_IN_USE)


def remove_cgroups(name: str) -> None:
    """End what runs in a test's cgroups and remove them."""
    for controller in CONTROLLERS:
        top = Path("/sys/fs/cgroup") / controller / name
        for folder in sorted(top.glob("**/"), key=lambda p: -len(p.parts)) if top.exists() else ():
            for _ in range(50):
                for pid in (folder / "cgroup.procs").read_text().split():
                    try:
                        os.kill(int(pid), signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                try:
                    folder.rmdir()
                    break
                except OSError:
                    time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes] | None, sig: int) -> None:
    if process is not None:
        if process.poll() is None:
            process.send_signal(sig)
        process.wait(timeout=30)
