"""What must hold of database and host together once nothing is on its way any more."""

from __future__ import annotations

import contextlib
import ctypes
import grp
import os
import pwd
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from diycloud.errors import InvalidInput
from diycloud.host.slices import RESERVED_TASKS
from diycloud.units import cpu_quota_us, parse_size
from tests.stack import Stack

CGROUPS = Path("/sys/fs/cgroup")
_QUERY = """SELECT u.*, a.cpu_limit, a.mem_limit, a.tasks_limit FROM users AS u
LEFT JOIN resource_allocations AS a ON a.user_id = u.id WHERE u.portal_only = 0 ORDER BY u.id"""


class Shadow(NamedTuple):
    password: str
    expires: str


def rows(stack: Stack) -> list[dict[str, Any]]:
    """Return every user's row with its allocation, read by a connection of our own."""
    names, found = stack.by_hand(_QUERY)
    return [dict(zip(names, row, strict=True)) for row in found]


def query(stack: Stack, statement: str, *values: object) -> list[tuple]:
    return stack.by_hand(statement, *values)[1]


def shadows() -> dict[str, Shadow]:
    """Return the host's passwords by account."""
    lines = [line.split(":") for line in Path("/etc/shadow").read_text().splitlines()]
    return {fields[0]: Shadow(fields[1], fields[7]) for fields in lines}


def shadow_of(name: str) -> Shadow:
    return shadows()[name]


@cache
def matches(stored: str, password: str) -> bool:
    """Tell whether the host's own crypt(3) makes this hash of a password."""
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    return library.crypt(password.encode(), stored.encode()) == stored.encode()


def verifies(name: str, password: str) -> bool:
    """Tell whether the host takes this password for an account."""
    return matches(shadow_of(name).password, password)


def limits_of(stack: Stack, name: str) -> tuple[int, int, int]:
    """Return a slice's CPU quota (µs of each 100,000), memory (bytes) and processes, by the kernel's own files (v1)."""
    values = []
    for controller, file in (("cpu", "cpu.cfs_quota_us"), ("memory", "memory.limit_in_bytes"), ("pids", "pids.max")):
        values.append(int((CGROUPS / controller / stack.cgroup / name / file).read_text()))
    return values[0], values[1], values[2] - RESERVED_TASKS  # for a sign-in while the rest is full


def faults(stack: Stack, passwords: dict[str, str] | None = None) -> list[str]:
    """Return everything in which database and host disagree. passwords: those known; an account has it or none yet."""
    found: list[str] = []
    users = rows(stack)
    managed = _managed(stack)
    known = _known(stack) | {row["username"] for row in users} | set(managed) | set(passwords or {})
    accounts = {a.pw_name: a for a in pwd.getpwall() if a.pw_name in known and a.pw_uid >= 1000}
    fields = shadows()
    for row in users:
        name, field = row["username"], fields.get(row["username"], Shadow("", ""))
        found += _faults_of(stack, row, managed.pop(name, None), accounts.pop(name, None), field)
        password = (passwords or {}).get(name) if row["shadow_set"] and row["status"] == "active" else None
        if password is not None and not matches(field.password, password):
            found.append(f"{name}: the host does not take the password")
    found += [f"{name} is managed and no user" for name in managed]
    found += [f"{name} is an account and no user" for name in accounts]
    names = {row["username"] for row in users}
    found += [f"/home/{name} is left over" for name in known - names if os.path.lexists(f"/home/{name}")]
    for folder in CGROUPS.glob(f"*/{stack.cgroup}/*/"):
        if folder.name not in names:
            found.append(f"{folder} is left over")
    found += _group_faults(stack)
    found += [
        f"the audit says {action} of {target} goes on"
        for action, target in query(stack, "SELECT action, target FROM audit WHERE outcome = 'started'")
    ]
    return found


def _group_faults(stack: Stack) -> list[str]:
    """Return in what the groups of the database and of the host differ: number, folder, members."""
    members: dict[str, set[str]] = {}
    for group, name in query(
        stack,
        "SELECT g.name, u.username FROM group_members AS m JOIN groups AS g ON g.id = m.group_id"
        " JOIN users AS u ON u.id = m.user_id",
    ):
        members.setdefault(group, set()).add(name)
    found = []
    for group, gid, problem in query(stack, "SELECT name, gid, host_problem FROM groups"):
        try:
            there = grp.getgrnam(group)
        except KeyError:
            found.append(f"the group {group} is not on the host: {problem}")
            continue
        folder = stack.prefix / "shared" / group
        if there.gr_gid != gid or not folder.is_dir() or folder.stat().st_gid != gid:
            found.append(f"the group {group} is number {there.gr_gid}, wished {gid}; its folder is {folder}")
        if set(there.gr_mem) != members.get(group, set()):
            found.append(f"the group {group} has {sorted(there.gr_mem)}, wished {sorted(members.get(group, ()))}")
    return found


def _known(stack: Stack) -> set[str]:
    """Return every name that this stack was ever asked about: others may have users on this machine too."""
    return {name for (name,) in query(stack, "SELECT DISTINCT target FROM audit WHERE target <> ''")}


def _managed(stack: Stack) -> dict[str, list[str]]:
    lines = (stack.prefix / "var/lib/diycloud/agent/managed").read_text().splitlines()[1:]
    return {line.split()[0]: line.split()[1:] for line in lines}


def _faults_of(
    stack: Stack, row: dict[str, Any], entry: list[str] | None, account: pwd.struct_passwd | None, field: Shadow
) -> list[str]:
    name, status = row["username"], row["status"]
    if status not in ("active", "inactive", "deleted"):
        return [f"{name} is {status}"]
    if row["generation"] != row["host_generation"]:
        return [f"{name}: generation {row['generation']}, on the host {row['host_generation']}: {row['host_problem']}"]
    if entry is None or account is None:
        return [f"{name} is {status} without {'a line' if entry is None else 'an account'}"]
    found = []
    if not (row["uid"] == int(entry[0]) == account.pw_uid and int(entry[1]) == row["generation"]):
        found.append(f"{name}: uid {row['uid']}, {account.pw_uid}; line {entry}; generation {row['generation']}")
    home = Path(account.pw_dir)
    if not home.is_dir() or home.stat().st_uid != account.pw_uid or home.stat().st_mode & 0o777 != 0o750:
        found.append(f"{name}: no good home")
    wanted = _wanted(row)
    if limits_of(stack, name) != wanted:
        found.append(f"{name}: limits {limits_of(stack, name)}, wished {wanted}")
    if (field.expires == "1") != (status != "active"):
        found.append(f"{name} is {status} and expires {field.expires!r}")
    if row["shadow_hash"] is not None:
        found.append(f"{name}: a password still waits for the host")
    if row["shadow_set"] and not field.password.startswith("$" if status == "active" else "!$"):
        found.append(f"{name} has {field.password[:4]!r} for a password, said to be set")
    return found


def _wanted(row: dict[str, Any]) -> tuple[int, int, int]:
    """Return the limits that a row asks for; what is missing or cannot be means the default."""
    cpu, memory = row["cpu_limit"], 2 << 30
    with contextlib.suppress(InvalidInput):
        memory = parse_size(str(row["mem_limit"]), bare="M")
    good = isinstance(cpu, float) and 0.01 <= cpu <= 4096
    return cpu_quota_us(cpu if good else 1.0), memory if memory >= 16 << 20 else 2 << 30, row["tasks_limit"] or 512


def settled(stack: Stack, passwords: dict[str, str] | None = None, *, within_s: float = 15.0) -> None:
    """Wait until database and host agree; fail with what they differ in if they do not come to it."""
    deadline = time.monotonic() + within_s
    while found := faults(stack, passwords):
        assert time.monotonic() < deadline, "\n".join(found)
        time.sleep(0.05)
