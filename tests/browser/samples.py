"""People, readings and audit entries to look at: made here, with the real models, the same each time."""

from __future__ import annotations

import math
import time
from typing import Any

from diycloud.actions.entry import Entry
from diycloud.actions.roles import Role
from diycloud.auth.models import Key
from diycloud.domains.models import Domain
from diycloud.groups.models import Group
from diycloud.policies.models import Defaults, Maxima, Policy
from diycloud.users.models import BulkReport, BulkRow, Limits, PurgePlan, Reading, Status, Usage, User

G = 1 << 30
HOST = "lab.example.org"
FIRST = [
    "Ada",
    "Grace",
    "Alan",
    "Barbara",
    "Edsger",
    "Frances",
    "Katherine",
    "Donald",
    "Margaret",
    "Dennis",
    "Radia",
    "Leslie",
    "Hedy",
    "Niklaus",
    "Adele",
    "Tony",
]
LAST = [
    "Lovelace",
    "Hopper",
    "Turing",
    "Liskov",
    "Dijkstra",
    "Allen",
    "Johnson",
    "Knuth",
    "Hamilton",
    "Ritchie",
    "Perlman",
    "Lamport",
    "Lamarr",
    "Wirth",
    "Goldberg",
    "Hoare",
]
LIMITS = (
    Limits(1, "2G", "5G", "10G", 512, False),
    Limits(0.5, "512M", "2G", "4G", 256, False),
    Limits(4, "16G", "100G", "200G", 2048, True),
)


def make_user(i: int, **changes: Any) -> User:
    """Make the i-th sample person; the same each time."""
    first, last = FIRST[i % 16], LAST[(i // 16 + i) % 16]
    values: dict[str, Any] = {
        "username": first.lower() if i < 16 else f"{first.lower()}{i}",
        "status": Status.ACTIVE,
        "role": Role.USER,
        "domain": ("default", "physics", "chemistry")[i % 5 % 3],
        "groups": ("optics",) if i % 5 == 1 else (),
        "policy": "students" if i % 5 == 1 else "default",
        "full_name": f"{first} {last}",
        "email": f"{first.lower()}{i}@example.org",
        "description": "",
        "limits": LIMITS[i % 7 % 3],
        "shell": "/bin/bash",
        "uid": 20000 + i,
        "uuid": f"{i:032x}",
        "external_id": None,
        "allowed_client_ip": (),
        "container_uid": None,
        "container_gid": None,
        "container_gids": (),
        "sudo": False,
        "portal_only": False,
        "must_change_password": i % 5 == 0,
        "settled": True,
        "host_problem": "",
        "created_at": "2026-09-14 08:00:00",
        "updated_at": "2026-11-20 10:00:00",
        "last_login": time.time() - 700 * (i + 1) ** 1.6 if i % 6 != 4 else None,
        "last_login_ip": f"192.0.2.{i % 250}",
        "version": 3,
    }
    values["status"] = {7: Status.INACTIVE, 11: Status.PENDING}.get(i % 20, Status.ACTIVE)
    values["role"] = {2: Role.ADMIN, 13: Role.MONITOR}.get(i, Role.USER)
    return User(**(values | changes))


LONG = make_user(
    5,
    username="l" * 32,
    full_name="W" * 100,
    email=f"{'w' * 64}@{'w' * 60}.example.org",
    description="m" * 500,
    host_problem="useradd: " + "x" * 300,
    groups=tuple(f"{'g' * 30}{i:02}" for i in range(20)),
    allowed_client_ip=("2001:db8:1234:5678:9abc:def0:1234:0/112", "192.0.2.0/24"),
    external_id="uid=" + "e" * 190,
)
USERS = sorted((LONG, *(make_user(i) for i in range(9_999))), key=lambda user: user.username)
ADMIN = make_user(2, username="alan", portal_only=True)
MONITOR = make_user(13)
HEAD = make_user(9, username="marie", full_name="Marie Curie", role=Role.DOMAIN_ADMIN, domain="physics")
ADA = make_user(0, description="Master’s thesis, until March", groups=("optics", "course-2026"), domain="physics")
KEYS = [
    Key("SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDT9YzK5k1VnZt3hYw", "ssh-ed25519", "ada@laptop", ""),
    Key("SHA256:" + "k" * 43, "ssh-rsa", "c" * 200, ""),
]


def entry(
    i: int, action: str, target: str, outcome: str = "done", changes: dict[str, Any] | None = None, message: str = ""
) -> Entry:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time.time() - 4000 * i * i - 90))
    person = i % 3
    return Entry(
        900 - i, at, "alan" if person else "root", "marie" if i == 3 else "", "default", "portal" if person else "cli",
        "192.0.2.7" if person else "", f"r{i}", action, target, outcome, "", message, 41.0, changes or {},
    )  # fmt: skip


AUDIT = [
    entry(0, "limits.set", "ada", changes={"cpu": [0.5, 1.0], "memory": ["1G", "2G"]}),
    entry(1, "user.set-password", "ada", changes={"password": "(secret)"}),
    entry(2, "user.modify", "ada", "refused", message="email: another user has this address."),
    entry(3, "user.enable", "ada", changes={"status": ["inactive", "active"]}),
    entry(4, "user.disable", "ada", changes={"status": ["active", "inactive"]}),
    entry(5, "user.create", "ada", changes={"full_name": "Ada Lovelace", "email": "ada0@example.org", "cpu": 0.5}),
]
CAPACITY = {"cores": 8, "memory": 32 * G, "disk": 1000 * G, "promised": {"cpu": 5.5, "memory": 22 * G}}
COLUMNS = [
    ("username", "needed; a–z, 0–9, _ and -"),
    ("full_name", "name for people"),
    ("email", "unique"),
    ("role", "user, monitor or admin"),
    ("cpu", "cores, such as 0.5"),
    ("memory", "such as 512M, 2G"),
    ("disk", "such as 5G"),
    ("tasks", "processes"),
    ("password", "made if left out"),
    ("groups", "names of groups, with commas between"),
    ("policy", "name of a policy"),
    ("external_id", "the user's id in an outside directory"),
]
SINCE = ("2026-09-14 08:00:00", "2026-11-20 10:00:00")
FOLDER = "/srv/diycloud/groups"
GROUPS = [
    Group(
        "course-2026",
        "default",
        "Practical course, winter",
        10001,
        f"{FOLDER}/course-2026",
        "100G",
        28,
        False,
        "",
        *SINCE,
    ),
    Group("g" * 32, "d" * 32, "m" * 500, None, "", None, 0, False, "groupadd: " + "x" * 200, *SINCE),
    Group("optics", "physics", "", 10002, f"{FOLDER}/optics", None, 1, False, "", *SINCE),
]
DOMAINS = [
    Domain("chemistry", "", "default", 0, 0, (), *SINCE),
    Domain("d" * 32, "m" * 500, "p" * 32, 1, 1, tuple("a" * 30 + f"{i:02}" for i in range(8)), *SINCE),
    Domain("default", "Everybody who belongs nowhere else", "default", 9_120, 1, (), *SINCE),
    Domain("physics", "Department of physics", "students", 880, 1, ("marie",), *SINCE),
]


def _policy(name: str, about: str, given: Defaults, most: Maxima, users: int, *domains: str) -> Policy:
    return Policy(name, about, given, most, users, domains, *SINCE)


USUAL, FEW, ODD = (
    Defaults(1, "2G", "5G", 512, False),
    Defaults(0.5, "1G", "2G", 256, False),
    Defaults(0.25, "1536M", "1.5T", 32, True),
)
POLICIES = [
    _policy(
        "default", "For all without another", USUAL, Maxima(None, None, None, None, True), 9_120, "chemistry", "default"
    ),
    _policy("p" * 32, "m" * 500, ODD, Maxima(0.5, "3G", "2T", 64, True), 1, "d" * 32),
    _policy("students", "Enough for the exercises", FEW, Maxima(1, "2G", "10G", 512, False), 880, "physics"),
]
PLAN = PurgePlan("ada", Status.DELETED, 20000, "/home/ada", "3.2G", 18422, 4, ("optics", "course-2026"), 37)


def bulk(names: list[str], verb: str, *, dry_run: bool) -> BulkReport:
    """A report where every fifth change, and the last, is refused."""
    refused = (
        ("row", "A user who is disabled cannot be disabled. `diycloud user show ada` shows where the account is."),
    )
    rows = []
    for i, name in enumerate(names, 1):
        outcome = "refused" if i % 5 == 0 else "possible" if dry_run else "done"
        warnings = ("Memory: 34G promised on a host of 32G.",) if i == 1 else ()
        rows.append(BulkRow(i, name, verb, outcome, warnings=warnings, errors=refused if i % 5 == 0 else ()))
    bad = sum(bool(row.errors) for row in rows)
    return BulkReport(dry_run, rows, done=0 if dry_run else len(rows) - bad, failed=bad)


def usage(user: User, now: float) -> Usage:
    """A reading that breathes: CPU in waves, memory slowly growing and falling."""
    wave = 0.42 + 0.25 * math.sin(now / 5) + 0.12 * math.sin(now / 1.7)
    size = {"2G": 2 * G, "512M": G // 2, "16G": 16 * G}[user.limits.memory]
    return Usage(
        user.username,
        now,
        Reading(max(0.02, wave) * user.limits.cpu, user.limits.cpu),
        Reading(size * (0.66 + 0.08 * math.sin(now / 9)), size),
        Reading(round(37 + 6 * math.sin(now / 4)), user.limits.tasks),
        1,
    )


SAMPLE = """username,full_name,email,cpu,memory,disk
ada,Ada Lovelace,ada@example.org,1,2G,5G
Grace H,Grace Hopper,grace@example,12,512,2G
alan,Alan Turing,alan@example.org,0.5,lots,2G
barbara,Barbara Liskov,barbara@example.org,2,4G,20G
"""
