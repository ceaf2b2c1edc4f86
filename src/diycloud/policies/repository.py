"""All SQL about policies. Functions over a Connection; services decide when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from diycloud.db.tables import domains, policies, users
from diycloud.errors import InvalidInput
from diycloud.policies.models import Defaults, Maxima, Policy
from diycloud.units import format_size, parse_size
from diycloud.users import repository as users_repository
from diycloud.users.models import Allocation
from diycloud.users.repository import LEAST_MEMORY

N = TypeVar("N", int, float)
LEAST_DISK = 1 << 20
LIMITS = ("cpu", "memory", "disk", "tasks", "gpu")
SIZES = frozenset({"memory", "disk", "max_memory", "max_disk"})


class Rules(msgspec.Struct, frozen=True):
    """A policy's limits as numbers: what a new user gets, and the most that can be given (None: no maximum)."""

    name: str
    description: str
    defaults: Allocation
    max_cpu: float | None
    max_memory: int | None
    max_disk: int | None
    max_tasks: int | None
    max_gpu: bool
    max_sessions: int | None
    second_factor: bool


def rules(connection: Connection, name: str) -> Rules | None:
    """Return a policy's limits, None if there is no such policy."""
    row = connection.execute(select(policies).where(policies.c.name == name)).mappings().first()
    return to_rules(row) if row else None


def to_rules(row: RowMapping) -> Rules:
    """Return a row's limits. What somebody wrote by hand and cannot be gives way to the usual; a maximum to the default."""
    usual = Allocation()
    disk = _bytes(row["disk"], LEAST_DISK) or usual.disk
    given = Allocation(
        cpu=_number(row["cpu"], 0.01, 4096) or usual.cpu,
        memory=_bytes(row["memory"], LEAST_MEMORY) or usual.memory,
        disk=disk,
        disk_hard=2 * disk,
        tasks=int(_number(row["tasks"], 16, 4_000_000) or usual.tasks),
        gpu=row["gpu"] == 1,
    )
    tasks = _most(row["max_tasks"], _number(row["max_tasks"], 16, 4_000_000), given.tasks)
    return Rules(
        name=row["name"],
        description=row["description"],
        defaults=given,
        max_cpu=_most(row["max_cpu"], _number(row["max_cpu"], 0.01, 4096), given.cpu),
        max_memory=_most(row["max_memory"], _bytes(row["max_memory"], LEAST_MEMORY), given.memory),
        max_disk=_most(row["max_disk"], _bytes(row["max_disk"], LEAST_DISK), given.disk),
        max_tasks=None if tasks is None else int(tasks),
        max_gpu=row["max_gpu"] == 1,
        max_sessions=_sessions(row["max_sessions"]),
        second_factor=row["second_factor"] not in (0, None),
    )


def _sessions(written: object) -> int | None:
    """Return how many sessions one person may have; what is no number is none."""
    return written if isinstance(written, int) and written > 0 else None


def _bytes(text: object, least: int) -> int | None:
    try:
        size = int(parse_size(str(text), bare="M"))
    except InvalidInput:
        return None
    return size if least <= size <= 1 << 60 else None


def _number(value: object, least: float, most: float) -> float | None:
    return value if isinstance(value, float | int) and least <= value <= most else None


def _most(written: object, read: N | None, default: N) -> N | None:
    """Return a maximum. One that cannot be read must not mean that there is none: then nobody gets more than usual."""
    return None if written is None else default if read is None else read


def columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields as the table keeps them: sizes as their canonical text, flags as 0 and 1."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in SIZES and value is not None:
            found[name] = format_size(value)
        elif isinstance(value, bool):
            found[name] = int(value)
        else:
            found[name] = "" if name == "description" and value is None else value
    return found


def every(connection: Connection, name: str | None = None, *, within: str | None = None) -> list[Policy]:
    """Return policies by name, or the one of a name, with how many have each: three statements, however many there are.

    within: the only domain whose users are counted and which is named, None for all.
    """
    query = select(policies).order_by(policies.c.name)
    if name is not None:
        query = query.where(policies.c.name == name)
    having = select(users.c.policy, func.count()).group_by(users.c.policy)
    using = select(domains.c.policy, domains.c.name).order_by(domains.c.name)
    if within is not None:
        having, using = having.where(users.c.domain == within), using.where(domains.c.name == within)
    counts = {row[0]: row[1] for row in connection.execute(having)}
    used: dict[str, list[str]] = {}
    for row in connection.execute(using):
        used.setdefault(row[0], []).append(row[1])
    return [
        _policy(row, counts.get(row["name"], 0), tuple(used.get(row["name"], ())))
        for row in connection.execute(query).mappings()
    ]


def _policy(row: RowMapping, count: int, used: tuple[str, ...]) -> Policy:
    known = to_rules(row)
    given = known.defaults
    return Policy(
        name=row["name"],
        description=row["description"],
        defaults=Defaults(given.cpu, format_size(given.memory), format_size(given.disk), given.tasks, given.gpu),
        maxima=Maxima(
            known.max_cpu,
            None if known.max_memory is None else format_size(known.max_memory),
            None if known.max_disk is None else format_size(known.max_disk),
            known.max_tasks,
            known.max_gpu,
        ),
        max_sessions=known.max_sessions,
        second_factor=known.second_factor,
        users=count,
        domains=used,
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def add(connection: Connection, values: Mapping[str, Any]) -> None:
    connection.execute(insert(policies).values(columns(values)))


def change(connection: Connection, name: str, values: Mapping[str, Any]) -> None:
    changed = {**columns(values), "updated_at": func.current_timestamp()}
    connection.execute(update(policies).where(policies.c.name == name).values(changed))


def remove(connection: Connection, name: str) -> None:
    connection.execute(delete(policies).where(policies.c.name == name))


def users_above(connection: Connection, known: Rules) -> int:
    """Return how many users of a policy have more than its maxima: set before it was lowered."""
    query = users_repository.ROW.where(users.c.policy == known.name)
    rows = (users_repository.to_row(row) for row in connection.execute(query))
    return sum(1 for row in rows if beyond(known, row.allocation))


def beyond(known: Rules, wanted: Allocation, only: frozenset[str] = frozenset(LIMITS)) -> dict[str, str]:
    """Return which limits are above a policy's maxima, with the rule each breaks. only: the limits to look at."""
    found: dict[str, str] = {}
    for name in LIMITS:
        most, value = getattr(known, f"max_{name}"), getattr(wanted, name)
        if name not in only or most is None:
            continue
        if name == "gpu":
            if value and not most:
                found[name] = f"the policy {known.name} gives no GPU"
        elif value > most:
            shown = format_size(most) if name in SIZES else f"{most:g}"
            found[name] = f"at most {shown} by the policy {known.name}"
    return found
