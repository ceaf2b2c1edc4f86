"""Accounts, archives and an agent of these tests, and what root and the server ask."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from diycloud.agent import reconcile
from diycloud.agent.client import call_blocking
from diycloud.agent.registry import Registry
from diycloud.agent.state import Agent, Caller, Role
from diycloud.config import AgentSettings
from diycloud.errors import Unsupported
from diycloud.host import sudo
from diycloud.host.slices import detect_slices
from diycloud.system import System
from tests.host.agent_process import as_user
from tests.stack import SERVER_USER, Stack

UID_MIN, UID_MAX, CGROUP = 57_000, 57_099, "dtroot"
KILLED = "dtrootk"
ARCHIVES = Path("/var/tmp/dtroot-archives")
OUTSIDE = 57_950
"""A number above the range."""
NEEDED = [pytest.mark.slow, pytest.mark.skipif(os.getuid() != 0, reason="accounts can be made by root only")]


def clean() -> None:
    for account in list(pwd.getpwall()):
        if account.pw_name.startswith("dtroot"):
            subprocess.run(["userdel", "-f", account.pw_name], capture_output=True, check=False)
            shutil.rmtree(account.pw_dir, ignore_errors=True)
    shutil.rmtree(ARCHIVES, ignore_errors=True)
    for path in (sudo.DROP_IN, sudo.STAGED):
        path.unlink(missing_ok=True)


def socket_of(stack: Stack) -> Path:
    return stack.prefix / "run/diycloud/agent/agent.sock"


def as_root(stack: Stack, message, answer):
    return call_blocking(socket_of(stack), message, answer)


def as_server(stack: Stack, message, answer):
    server = pwd.getpwnam(SERVER_USER)
    return as_user(server.pw_uid, lambda: call_blocking(socket_of(stack), message, answer), server.pw_gid)


def free_uid(stack: Stack) -> int:
    """A number of the range that neither an account has nor the agent will give before it was adopted."""
    following = int((stack.prefix / "var/lib/diycloud/agent/managed").read_text().split()[2])
    return max([following, *(a.pw_uid + 1 for a in pwd.getpwall() if UID_MIN <= a.pw_uid <= UID_MAX)])


def make_account(name: str, uid: int, *options: str) -> Path:
    subprocess.run(["useradd", "-m", "-U", "-u", str(uid), "-s", "/bin/bash", *options, name], check=True)
    home = Path(f"/home/{name}")
    (home / "thesis.txt").write_text("years of work")
    (home / "odd").mkdir(mode=0o2775)
    (home / "link").symlink_to("/etc/passwd")
    for path in (home / "thesis.txt", home / "odd", home / "link"):
        os.chown(path, uid, uid, follow_symlinks=False)
    (home / "odd").chmod(0o2775)
    home.chmod(0o711)
    return home


def tree(folder: Path) -> list[tuple]:
    """Everything about a folder that a look at it can tell, but the times of access."""
    found = []
    for path in [folder, *sorted(folder.rglob("*"))]:
        info = path.lstat()
        text = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(info.st_mode) else ""
        found.append((str(path), info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_ctime_ns, text))
    return found


def host_lines(name: str) -> list[str]:
    files = ("passwd", "shadow", "group", "gshadow")
    return [line for file in files for line in Path("/etc", file).read_text().splitlines() if f"{name}:" in line]


def row(stack: Stack, name: str) -> dict:
    return stack.json("user", "show", name)


def only_archive(name: str) -> Path:
    (found,) = [path for path in ARCHIVES.iterdir() if path.name.startswith(f"{name}-")]
    return found


def names_in(path: Path) -> list[str]:
    done = subprocess.run(["tar", "-tf", str(path)], capture_output=True, text=True, check=True)
    return [line.rstrip("/") for line in done.stdout.splitlines()]


def fresh_agent(system: System, state: Path) -> Agent:
    """The agent as its start makes it, with what is on disk."""
    registry = Registry(system, state / "managed", uid_min=57_060, uid_max=UID_MAX)
    slices = detect_slices(system, KILLED)
    settings = AgentSettings(uid_min=57_060, uid_max=UID_MAX, cgroup=KILLED, archive=str(ARCHIVES), allow_sudo=True)
    agent = Agent(system, settings, registry, None if isinstance(slices, Unsupported) else slices, grace_s=0)
    for _ in reconcile.restore_limits(agent):
        pass
    return agent


ROOT = Caller(0, 1, Role.ROOT)
