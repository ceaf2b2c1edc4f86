"""A user as others see it, straight from the database: the columns of models.User, and nothing that stays inside.

The hottest reads, GET of one user and lists, take no more cells than they show: a cell costs the driver 0.1 µs, and the
hashes and keys that services need are the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Select, bindparam, cast, select

from diycloud.actions.roles import Role
from diycloud.db.engine import Prepared
from diycloud.db.tables import users
from diycloud.units import format_size
from diycloud.users import repository
from diycloud.users.models import Allocation, Limits, Row, Status, User

_NAMES = (
    "username", "status", "role", "domain", "policy", "full_name", "email", "description", "shell", "uid", "uuid",
    "external_id", "allowed_client_ip", "container_uid", "container_gid", "container_gids", "sudo", "portal_only",
    "must_change_password", "generation", "host_generation", "host_problem", "created_at", "updated_at", "last_login",
    "last_login_ip",
)  # fmt: skip
"""What `_user` takes of the table, in its order; then the groups and the limits."""


def columns(*names: str) -> list[ColumnElement[Any]]:
    """Return columns of `users`. Text is text: what somebody wrote there as a BLOB, SQLite keeps as one."""
    own = [users.c[name] for name in names]
    return [cast(c, sa.Text()).label(c.name) if isinstance(c.type, sa.Text) else c for c in own]


SHOWN: Select[Any] = select(
    users.c.id, *columns(*_NAMES), repository.GROUPS.label("groups"), *repository.LIMITS
).select_from(repository.JOIN)
"""What `to_user` takes; what a list adds to it stands behind."""
_LIMITS = 1 + len(_NAMES) + 1
_END = _LIMITS + len(repository.LIMITS)
_BY_NAME = Prepared(SHOWN.where(users.c.username == bindparam("username")))
STATUSES: dict[str, Status] = {status.value: status for status in Status}  # a quarter of the time of Status(text)
ROLES: dict[str, Role] = {role.value: role for role in Role}


def by_name(connection: Connection, username: str) -> User | None:
    """Return a user as others see it, None if there is none."""
    found = _BY_NAME.fetch_one(connection, username=username)
    return to_user(found) if found else None


def to_user(values: Sequence[Any]) -> User:
    """Return the user of a row of SHOWN."""
    cells: Sequence[Any] = values[1:_LIMITS]
    return _user(_limits_of(*values[_LIMITS:_END]), *cells)


_cells = attrgetter(*_NAMES, "groups")


def view(row: Row) -> User:
    """Return the same of a row that is here already."""
    return _user(_limits(row.allocation), *_cells(row))


def _user(
    limits: Limits, username: str, status: str, role: str, domain: str, policy: str, full_name: str, email: str | None,
    description: str, shell: str, uid: int | None, uuid: str, external_id: str | None, networks: str,
    container_uid: int | None, container_gid: int | None, container_gids: str, sudo: object, portal_only: object,
    must_change: object, generation: int, host_generation: int, host_problem: str, created_at: str, updated_at: str,
    last_login: str | None, last_login_ip: str | None, groups: str | None,
) -> User:  # fmt: skip
    return User(  # by place, in the order of the declaration: by name it takes three times as long
        username, STATUSES[status], ROLES[role], domain, names(groups), policy, full_name, email, description, limits, shell,
        uid, uuid, external_id, names(networks), container_uid, container_gid, numbers(container_gids), bool(sudo),
        bool(portal_only), bool(must_change), bool(portal_only) or generation == host_generation, host_problem, created_at,
        updated_at, last_login, last_login_ip, generation,
    )  # fmt: skip


def names(text: str | None) -> tuple[str, ...]:
    """Return the parts of a column that keeps several with commas between, sorted."""
    return tuple(sorted(part for part in text.replace(" ", ",").split(",") if part)) if text else ()


def numbers(text: str | None) -> tuple[int, ...]:
    """Return the whole numbers of such a column."""
    return tuple(int(part) for part in names(text) if part.isdecimal()) if text else ()


@lru_cache(maxsize=4096, typed=True)  # a thousand users share a dozen; typed: 1 and 1.0 are shown as they are
def _limits_of(*values: object) -> Limits:
    return _limits(repository.to_allocation(*values))


@lru_cache(maxsize=4096)
def _limits(given: Allocation) -> Limits:
    return Limits(
        cpu=given.cpu,
        memory=format_size(given.memory),
        disk=format_size(given.disk),
        disk_hard=format_size(given.disk_hard),
        tasks=given.tasks,
        gpu=given.gpu,
    )
