"""All SQL about groups and who is in them. Functions over a Connection; services decide when."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Select, bindparam, delete, func, insert, or_, select, update

from diycloud.actions.roles import Role
from diycloud.db.engine import Prepared
from diycloud.db.tables import group_members as members
from diycloud.db.tables import groups, users
from diycloud.errors import InvalidInput
from diycloud.units import format_size, parse_size

CHUNK = 500
"""Values in one IN (…)."""
_MEMBERS = (
    select(func.count())
    .select_from(members)
    .where(members.c.group_id == groups.c.id)
    .correlate(groups)
    .scalar_subquery()
)


class Row(msgspec.Struct, frozen=True):
    """A group with everything the platform knows. disk: bytes; members: how many."""

    id: int
    name: str
    domain: str
    description: str
    gid: int | None
    disk: int | None
    removing: bool
    host_problem: str
    created_at: str
    updated_at: str
    members: int


class Known(NamedTuple):
    """What the host has said of a group until now."""

    id: int
    name: str
    gid: int | None
    problem: str


class Person(NamedTuple):
    """Who could be a member. groups: how many the user is in; inside: one of them is the group asked about."""

    id: int
    username: str
    domain: str
    status: str
    role: Role
    sudo: bool
    groups: int
    inside: bool


_COLUMNS = (
    "id",
    "name",
    "domain",
    "description",
    "gid",
    "disk_quota",
    "removing",
    "host_problem",
    "created_at",
    "updated_at",
)
_ROW: Select[Any] = select(*(groups.c[name] for name in _COLUMNS), _MEMBERS)
_BY_NAME = Prepared(_ROW.where(groups.c.name == bindparam("name")))


def _to_row(values: Any) -> Row:
    identity, name, domain, description, gid, disk, removing, *rest = values
    number = gid if isinstance(gid, int) else None
    return Row(identity, name, domain, description, number, _bytes(disk), bool(removing), *rest)


def _bytes(text: object) -> int | None:
    """Return the bytes of a quota; what somebody wrote by hand and cannot be means none."""
    try:
        return None if text is None else int(parse_size(str(text), bare="M"))
    except InvalidInput:
        return None


def by_name(connection: Connection, name: str) -> Row | None:
    found = _BY_NAME(connection, name=name).fetchone()
    return _to_row(found) if found else None


def taken(connection: Connection, names: Iterable[str]) -> set[str]:
    """Return which of some names groups have, those that are being removed too."""
    wanted = list(names)
    found: set[str] = set()
    for start in range(0, len(wanted), CHUNK):
        query = select(groups.c.name).where(groups.c.name.in_(wanted[start : start + CHUNK]))
        found.update(connection.execute(query).scalars())
    return found


def page(connection: Connection, *, search: str, domain: str | None, after: str, limit: int) -> tuple[list[Row], bool]:
    """Return groups by name from a name on, and whether there are more: one statement, a page's work."""
    query = _ROW.order_by(groups.c.name).limit(limit + 1)
    if after:
        query = query.where(groups.c.name > after)
    if domain is not None:
        query = query.where(groups.c.domain == domain)
    if search:
        columns = (groups.c.name, groups.c.description)
        query = query.where(or_(*(func.instr(func.lower(column), search.lower()) > 0 for column in columns)))
    found = [_to_row(row) for row in connection.execute(query)]
    return found[:limit], len(found) > limit


def member_names(connection: Connection, group_id: int) -> list[str]:
    """Return who is in a group, by name."""
    joined = members.join(users, users.c.id == members.c.user_id)
    query = select(users.c.username).select_from(joined).where(members.c.group_id == group_id)
    return list(connection.execute(query.order_by(users.c.username)).scalars())


def people(connection: Connection, group_id: int, names: Collection[str]) -> dict[str, Person]:
    """Return those of some names that users have, with what decides whether they can be members of a group."""
    count = select(func.count()).select_from(members).where(members.c.user_id == users.c.id).scalar_subquery()
    here = select(members.c.id).where(members.c.user_id == users.c.id, members.c.group_id == group_id).exists()
    columns = ("id", "username", "domain", "status", "role", "sudo")
    query = select(*(users.c[name] for name in columns), count, here)
    wanted, found = list(names), {}
    for start in range(0, len(wanted), CHUNK):
        for row in connection.execute(query.where(users.c.username.in_(wanted[start : start + CHUNK]))):
            found[row.username] = Person(*row[:4], Role(row.role), bool(row.sudo), row[6], bool(row[7]))
    return found


def add(connection: Connection, values: Mapping[str, Any]) -> int:
    """Insert a group; returns its id."""
    result = connection.execute(insert(groups).values(columns(values)))
    assert result.inserted_primary_key is not None
    return int(result.inserted_primary_key[0])


def change(connection: Connection, group_id: int, values: Mapping[str, Any]) -> int:
    """Update a group; returns how many rows that were: 0 if it is gone."""
    changed = {**columns(values), "updated_at": func.current_timestamp()}
    return connection.execute(update(groups).where(groups.c.id == group_id).values(changed)).rowcount


def is_removing(connection: Connection, group_id: int) -> bool:
    """Tell whether a group is there and is to be taken off the host."""
    query = select(groups.c.id).where(groups.c.id == group_id, groups.c.removing != 0)
    return connection.execute(query).first() is not None


def columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields as the table keeps them: the quota as its canonical text."""
    found = {name: value for name, value in values.items() if name != "disk"}
    if "disk" in values:
        found["disk_quota"] = None if values["disk"] is None else format_size(values["disk"])
    return found


def join(connection: Connection, group_id: int, user_ids: Collection[int]) -> None:
    """Add members. Triggers raise the generation of each."""
    if user_ids:
        connection.execute(insert(members), [{"group_id": group_id, "user_id": user_id} for user_id in user_ids])


def leave(connection: Connection, group_id: int, user_ids: Iterable[int] | None = None) -> list[int]:
    """Remove some members, all if user_ids is None; returns the ids of who was one. Triggers raise their generations."""
    gone: list[int] = []
    here = members.c.group_id == group_id
    if user_ids is None:
        gone += connection.execute(select(members.c.user_id).where(here)).scalars()
        connection.execute(delete(members).where(here))
        return gone
    wanted = list(user_ids)
    for start in range(0, len(wanted), CHUNK):
        some = here & members.c.user_id.in_(wanted[start : start + CHUNK])
        gone += connection.execute(select(members.c.user_id).where(some)).scalars()
        connection.execute(delete(members).where(some))
    return gone


def note(connection: Connection, group_id: int, *, gid: int | None, problem: str) -> None:
    """Write down the host's answer: its number for a group, or what is in the way."""
    values: dict[str, Any] = {"host_problem": problem[:500]}
    if gid is not None:
        values["gid"] = gid
    connection.execute(update(groups).where(groups.c.id == group_id).values(values))


def remove(connection: Connection, group_id: int) -> None:
    """Remove a group's rows."""
    leave(connection, group_id)
    connection.execute(delete(groups).where(groups.c.id == group_id))


def known(connection: Connection, *, removing: bool) -> list[Known]:
    """Return the groups that the host is to have, or those that are to be taken off it."""
    query = select(groups.c.id, groups.c.name, groups.c.gid, groups.c.host_problem)
    query = query.where(groups.c.removing != 0 if removing else groups.c.removing == 0)
    return [Known(*row) for row in connection.execute(query.order_by(groups.c.id))]
