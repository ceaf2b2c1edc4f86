"""A real agent in a process of its own, its places under a folder in /tmp, the homes in the real /home."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from diycloud.agent.client import Client, call_blocking
from diycloud.agent.protocol import Limits, Message, Ping, Pong, State, SyncReport, Wish
from diycloud.config import AgentSettings, Paths
from diycloud.errors import Unavailable

T = TypeVar("T")
PREFIX = "dtag"
"""What every account of these tests begins with."""
UID_MIN, UID_MAX = 57_100, 57_899
SERVER, SERVER_UID = f"{PREFIX}-server", 57_990
STRANGER_UID = 57_991
CGROUP = f"{PREFIX}-slices"
SETTINGS = AgentSettings(uid_min=UID_MIN, uid_max=UID_MAX, server_user=SERVER, cgroup=CGROUP)


def wish(name: str, generation: int = 1, state: State = State.ACTIVE, *, cpu: float = 0.5, **others: Any) -> Wish:
    return Wish(name, generation, Limits(cpu, 64 << 20, 50), state, **others)


class AgentProcess:
    """The agent and where to reach it."""

    def __init__(self, settings: str = "") -> None:
        self.prefix = Path(tempfile.mkdtemp(prefix="diycloud-agent-"))
        self.prefix.chmod(0o755)
        self.paths = Paths(str(self.prefix))
        self.paths.config_dir.mkdir(parents=True)
        self.paths.config.write_text(
            f"agent:\n  uid_min: {UID_MIN}\n  uid_max: {UID_MAX}\n  server_user: {SERVER}\n"
            f"  cgroup: {CGROUP}\n{settings}"
        )
        self._log = self.prefix / "log"

    @property
    def socket(self) -> Path:
        return self.paths.agent_socket

    def start(self) -> AgentProcess:
        restored = self._log.read_text().count("limits restored") if self._log.exists() else 0
        with self._log.open("ab") as log:
            argv = [sys.executable, "-m", "diycloud.agent.main", "--prefix", str(self.prefix)]
            self.process = subprocess.Popen(argv, stderr=log, stdout=log)
        for _ in range(200):
            with contextlib.suppress(Unavailable):
                self.call(Ping(), Pong)
                if self._log.read_text().count("limits restored") > restored:
                    return self
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(self._log.read_text())

    def stop(self, sig: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(20)

    def call(self, message: Message, answer: type[T], *, deadline: float = 60.0) -> T:
        return call_blocking(self.socket, message, answer, deadline=deadline)

    def call_as_server(self, message: Message, answer: type[T]) -> T:
        return as_user(SERVER_UID, lambda: self.call(message, answer))

    def sync(self, wishes: Sequence[Wish]) -> SyncReport:
        async def run() -> SyncReport:
            client = Client(self.socket)
            try:
                return await client.sync(wishes)
            finally:
                await client.close()

        return asyncio.run(run())

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]

    def logged(self, **fields: object) -> bool:
        return any(all(line.get(key) == value for key, value in fields.items()) for line in self.log())

    def raw_log(self) -> str:
        return self._log.read_text()

    def close(self) -> None:
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.prefix)


def as_user(uid: int, act: Callable[[], T], gid: int | None = None) -> T:
    """Run a function in a child with this UID and GID (the same number) and no other rights; return or raise what it did."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            os.setgroups([])
            os.setgid(uid if gid is None else gid)
            os.setuid(uid)
            answer: tuple[bool, object] = (True, act())
        except BaseException as error:
            answer = (False, error)
        with os.fdopen(write, "wb") as pipe:
            try:
                pickle.dump(answer, pipe)
            except Exception:
                pickle.dump((False, RuntimeError(repr(answer))), pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        done, value = pickle.load(pipe)
    os.waitpid(pid, 0)
    if not done:
        raise value
    return value


def make_server_account() -> None:
    if not _exists(SERVER):
        subprocess.run(["useradd", "-M", "-U", "-u", str(SERVER_UID), "-s", "/usr/sbin/nologin", SERVER], check=True)


def account_files() -> list[str]:
    """The lines of the account files, without those of test accounts that another run on this host may make."""
    lines = [
        line
        for name in ("passwd", "shadow", "group", "gshadow")
        for line in Path("/etc", name).read_text().splitlines()
    ]
    return [line for line in lines if not re.match(rf"dt(?!{PREFIX[2:]})", line)]


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def clean_up() -> None:
    """Remove every account, group, home, trash and slice that these tests make."""
    for name in [line.split(":")[0] for line in Path("/etc/passwd").read_text().splitlines()]:
        if name.startswith(PREFIX):
            subprocess.run(["userdel", "-f", name], check=False, capture_output=True)
    for name in [line.split(":")[0] for line in Path("/etc/group").read_text().splitlines()]:
        if name.startswith(PREFIX):
            subprocess.run(["groupdel", name], check=False, capture_output=True)
    for folder in (Path("/home"), Path("/home/.diycloud-trash"), Path("/home/.diycloud-new")):
        for path in folder.glob(f"{PREFIX}*"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()
    for folder in (Path("/home/.diycloud-trash"), Path("/home/.diycloud-new")):
        with contextlib.suppress(OSError):
            folder.rmdir()
    for top in Path("/sys/fs/cgroup").glob(f"*/{CGROUP}"):
        remove_groups(top)


def remove_groups(top: Path) -> None:
    """Remove a cgroup of these tests and all below, which must be empty."""
    for group in sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True):
        group.rmdir()
    top.rmdir()


def running_agent(settings: str = "") -> Iterator[AgentProcess]:
    """The body of a fixture: an agent that is there, and everything gone afterwards."""
    clean_up()
    make_server_account()
    agent = AgentProcess(settings)
    try:
        yield agent.start()
    finally:
        agent.close()
        clean_up()
