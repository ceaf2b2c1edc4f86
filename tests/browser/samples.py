"""People, readings and audit entries to look at: made here, with the real models, the same each time."""

from __future__ import annotations

import math
import time
from typing import Any

from diycloud.actions.audit import Entry
from diycloud.actions.roles import Role
from diycloud.users.models import Limits, Reading, Status, Usage, User

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
        "full_name": f"{first} {last}",
        "email": f"{first.lower()}{i}@example.org",
        "description": "",
        "limits": LIMITS[i % 7 % 3],
        "uid": 20000 + i,
        "uuid": f"{i:032x}",
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
)
USERS = sorted((LONG, *(make_user(i) for i in range(9_999))), key=lambda user: user.username)
ADMIN = make_user(2, username="alan", portal_only=True)
MONITOR = make_user(13)
ADA = make_user(0, description="Master’s thesis, until March")


def entry(
    i: int, action: str, target: str, outcome: str = "done", changes: dict[str, Any] | None = None, message: str = ""
) -> Entry:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time.time() - 4000 * i * i - 90))
    return Entry(
        900 - i,
        at,
        "alan" if i % 3 else "root",
        "portal" if i % 3 else "cli",
        "192.0.2.7" if i % 3 else "",
        f"r{i}",
        action,
        target,
        outcome,
        "",
        message,
        41.0,
        changes or {},
    )


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
]


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
