"""Three people and two groups on the real host, in ranges, cgroups and folders of these tests' own."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import TypeVar

import pytest

from diycloud.agent.protocol import Limits, Message, Wish
from diycloud.agent.state import Caller, Role
from tests.host.agent_process import AgentProcess, as_user, remove_groups

NEEDED = [pytest.mark.slow, pytest.mark.skipif(os.getuid() != 0, reason="groups can be made by root only")]
T = TypeVar("T")
PREFIX, CGROUP = "dtgrp", "dtgrp"
UID_MIN, UID_MAX, GID_MIN, GID_MAX = 56_000, 56_499, 56_500, 56_999
ANNA, BERT, CLEO = (f"{PREFIX}{name}" for name in ("anna", "bert", "cleo"))
CHEM, BIO = f"{PREFIX}-chem", f"{PREFIX}-bio"
SERVER_USER, SERVER_UID = "nobody", pwd.getpwnam("nobody").pw_uid
"""An account that every host has plays the server."""
SERVER = Caller(SERVER_UID, 1, Role.SERVER)


def clean_up() -> None:
    """Remove every account, group, home and slice that these tests make."""
    for account in [a for a in pwd.getpwall() if UID_MIN <= a.pw_uid <= UID_MAX]:
        subprocess.run(["userdel", "-f", account.pw_name], check=False, capture_output=True)
    for group in [g for g in grp.getgrall() if UID_MIN <= g.gr_gid <= GID_MAX or g.gr_name.startswith(PREFIX)]:
        subprocess.run(["groupdel", group.gr_name], check=False, capture_output=True)
    for folder in (Path("/home"), Path("/home/.diycloud-trash"), Path("/home/.diycloud-new")):
        for path in folder.glob(f"{PREFIX}*"):
            shutil.rmtree(path)
    for folder in (Path("/home/.diycloud-trash"), Path("/home/.diycloud-new")):
        with contextlib.suppress(OSError):
            folder.rmdir()
    for top in Path("/sys/fs/cgroup").glob(f"*/{CGROUP}"):
        remove_groups(top)


class GroupsAgent(AgentProcess):
    """An agent with ranges, cgroup and shared folder of these tests' own."""

    def __init__(self) -> None:
        super().__init__()
        self.paths.config.write_text(
            f"agent:\n  uid_min: {UID_MIN}\n  uid_max: {UID_MAX}\n  gid_min: {GID_MIN}\n  gid_max: {GID_MAX}\n"
            f"  server_user: {SERVER_USER}\n  cgroup: {CGROUP}\n  shared: {self.prefix}/srv/shared\n"
        )

    def call_as_server(self, message: Message, answer: type[T]) -> T:
        return as_user(SERVER_UID, lambda: self.call(message, answer))


def wish(name: str, *wanted: str, generation: int = 1) -> Wish:
    return Wish(name, generation, Limits(0.5, 64 << 20, 50), groups=list(wanted))


def members(group: str) -> set[str]:
    """The members by group(5) and, which must be the same, gshadow(5)."""
    lists = []
    for path in ("/etc/group", "/etc/gshadow"):
        (line,) = (line for line in Path(path).read_text().splitlines() if line.startswith(f"{group}:"))
        lists.append(set(filter(None, line.split(":")[3].split(","))))
    assert lists[0] == lists[1]
    return lists[0]
