"""All SQL about users. Functions over a Connection; services decide when."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, func, insert, or_, select, text, update

from diycloud.actions.roles import Role
from diycloud.db.tables import resource_allocations as allocations
from diycloud.db.tables import sessions, users
from diycloud.errors import InvalidInput
from diycloud.units import format_size, parse_size
from diycloud.users.models import Allocation, Row, Status

_JOIN = users.outerjoin(allocations, allocations.c.user_id == users.c.id)
_COLUMNS = (
    *(users.c[name] for name in Row.__struct_fields__ if name != "allocation"),
    allocations.c.cpu_limit,
    allocations.c.mem_limit,
    allocations.c.disk_quota,
    allocations.c.disk_hard,
    allocations.c.tasks_limit,
    allocations.c.gpu_access,
)
_WIDTH = len(_COLUMNS) - 6
_ROW: Select[Any] = select(*_COLUMNS).select_from(_JOIN)
_BY_NAME = str(_ROW.where(users.c.username == text("?")).compile(compile_kwargs={"literal_binds": True}))
_DEFAULTS = Allocation()
LEAST_MEMORY = 16 << 20
NOW = func.current_timestamp()

SORT_COLUMNS: dict[str, ColumnElement[Any]] = {
    "username": users.c.username,
    "created_at": users.c.created_at,
    "last_login": func.ifnull(users.c.last_login, ""),
    "cpu": func.ifnull(allocations.c.cpu_limit, _DEFAULTS.cpu),
    "memory": func.ifnull(allocations.c.mem_limit, ""),
    "status": users.c.status,
    "role": users.c.role,
    "full_name": users.c.full_name,
}


def _size(value: object, default: int, least: int = 1) -> int:
    """Return the bytes of a size column. People may have written anything there; what cannot be means the default."""
    try:
        size = parse_size(str(value), bare="M")
    except InvalidInput:
        return default
    return size if size >= least else default


def _to_row(values: Sequence[Any]) -> Row:
    cpu, memory, disk, hard, tasks, gpu = values[_WIDTH:]
    soft = _size(disk, _DEFAULTS.disk)
    allocation = Allocation(
        cpu=cpu if isinstance(cpu, float | int) and 0.01 <= cpu <= 4096 else _DEFAULTS.cpu,
        memory=_size(memory, _DEFAULTS.memory, LEAST_MEMORY),
        disk=soft,
        disk_hard=_size(hard, 2 * soft),
        tasks=tasks if isinstance(tasks, int) and 16 <= tasks <= 4_000_000 else _DEFAULTS.tasks,
        gpu=bool(gpu),
    )
    row = dict(zip(_NAMES, values, strict=False))
    row["role"], row["status"] = Role(row["role"]), Status(row["status"])
    for flag in ("portal_only", "must_change_password", "shadow_set"):
        row[flag] = bool(row[flag])
    return Row(**row, allocation=allocation)


_NAMES = tuple(name for name in Row.__struct_fields__ if name != "allocation")


def by_name(connection: Connection, username: str) -> Row | None:
    """Return a user. The hottest read: one prepared statement."""
    found = connection.exec_driver_sql(_BY_NAME, (username,)).first()
    return _to_row(found) if found else None


def by_id(connection: Connection, user_id: int) -> Row | None:
    found = connection.execute(_ROW.where(users.c.id == user_id)).first()
    return _to_row(found) if found else None


def existing_names(connection: Connection, names: Iterable[str]) -> set[str]:
    """Return which of some names are taken."""
    return _existing(connection, users.c.username, names)


def existing_emails(connection: Connection, emails: Iterable[str]) -> set[str]:
    """Return which of some addresses are taken, in lower case."""
    return _existing(connection, func.lower(users.c.email), [email.lower() for email in emails])


def _existing(connection: Connection, column: ColumnElement[Any], values: Iterable[str]) -> set[str]:
    wanted = list(values)
    found: set[str] = set()
    for start in range(0, len(wanted), 500):
        query = select(column).where(column.in_(wanted[start : start + 500]))
        found.update(connection.execute(query).scalars())
    return found


def add(connection: Connection, values: dict[str, Any], allocation: Allocation) -> int:
    """Insert a user with its allocation; returns the id."""
    result = connection.execute(insert(users).values(values))
    assert result.inserted_primary_key is not None
    user_id = int(result.inserted_primary_key[0])
    connection.execute(insert(allocations).values(user_id=user_id, **allocation_columns(allocation)))
    return user_id


def allocation_columns(allocation: Allocation) -> dict[str, Any]:
    """Return an allocation as the table keeps it: sizes as their canonical text."""
    return {
        "cpu_limit": allocation.cpu,
        "mem_limit": format_size(allocation.memory),
        "disk_quota": format_size(allocation.disk),
        "disk_hard": None if allocation.disk_hard == 2 * allocation.disk else format_size(allocation.disk_hard),
        "tasks_limit": allocation.tasks,
        "gpu_access": int(allocation.gpu),
    }


def change(connection: Connection, user_id: int, values: dict[str, Any], limits: dict[str, Any] | None = None) -> None:
    """Update a user, and those columns of the allocation that are given (making it if somebody removed it).

    Only what changes is written, so that two administrators who change different things lose nothing.
    """
    connection.execute(update(users).where(users.c.id == user_id).values(updated_at=NOW, **values))
    if limits:
        done = connection.execute(update(allocations).where(allocations.c.user_id == user_id).values(limits))
        if not done.rowcount:
            connection.execute(insert(allocations).values(user_id=user_id, **limits))


def note(connection: Connection, user_id: int, values: dict[str, Any]) -> None:
    """Write down something that is no change of the user's (last_login)."""
    connection.execute(update(users).where(users.c.id == user_id).values(values))


def settle(connection: Connection, user_id: int, generation: int, *, uid: int | None, problem: str = "") -> None:
    """Note the host's answer to one generation of a wish: done, or what is in the way."""
    columns = (users.c.status, users.c.generation, users.c.shadow_hash)
    now = connection.execute(select(*columns).where(users.c.id == user_id)).first()
    if now is None or (problem and now.generation != generation):
        return  # removed meanwhile, or an answer to what is not wished any more
    values: dict[str, Any] = {"host_problem": problem[:500]}
    if uid is not None:
        values["uid"] = uid
    if not problem and now.generation == generation:
        values.update(host_generation=generation, shadow_hash=None)
        if now.shadow_hash is not None:
            values["shadow_set"] = 1
        if now.status == Status.PENDING:
            values["status"] = Status.ACTIVE
    connection.execute(update(users).where(users.c.id == user_id).values(values))


def note_lost_passwords(connection: Connection, names: Iterable[str]) -> None:
    """Note that the host has no password for some users: their next sign-in gives it one."""
    for name in names:
        lost = update(users).where(users.c.username == name, users.c.shadow_hash.is_(None))
        connection.execute(lost.values(shadow_set=0))


def remove(connection: Connection, user_id: int) -> None:
    """Remove a user's rows. The audit stays: it tells what happened under the name."""
    for table in (sessions, allocations):
        connection.execute(delete(table).where(table.c.user_id == user_id))
    connection.execute(delete(users).where(users.c.id == user_id))


def active_admins(connection: Connection) -> int:
    """Return how many administrators can sign in."""
    query = select(func.count()).where(users.c.role == Role.ADMIN, users.c.status.in_([Status.ACTIVE, Status.PENDING]))
    return connection.execute(query.select_from(users)).scalar_one()


def first_admin(connection: Connection) -> str | None:
    """Return the oldest administrator that can sign in."""
    query = select(users.c.username).where(
        users.c.role == Role.ADMIN, users.c.status.in_([Status.ACTIVE, Status.PENDING])
    )
    return connection.execute(query.order_by(users.c.id).limit(1)).scalar()


def unsettled(connection: Connection, limit: int) -> list[Row]:
    """Return users whose wish the host has not confirmed, oldest first."""
    query = _ROW.where(
        users.c.generation != users.c.host_generation,
        users.c.portal_only == 0,
        users.c.status.notin_([Status.PURGING]),
    ).order_by(users.c.id)
    return [_to_row(row) for row in connection.execute(query.limit(limit))]


def wishes(connection: Connection) -> list[Row]:
    """Return every user that has, or should have, an account on the host."""
    query = _ROW.where(users.c.portal_only == 0, users.c.status != Status.PURGING).order_by(users.c.id)
    return [_to_row(row) for row in connection.execute(query)]


def with_status(connection: Connection, status: Status) -> list[Row]:
    return [_to_row(row) for row in connection.execute(_ROW.where(users.c.status == status).order_by(users.c.id))]


def promised(connection: Connection) -> tuple[float, int]:
    """Return the cores and bytes of memory promised to users that are not deleted."""
    cpu = func.sum(func.ifnull(allocations.c.cpu_limit, _DEFAULTS.cpu))
    query = select(allocations.c.mem_limit, func.count(), cpu).select_from(_JOIN).group_by(allocations.c.mem_limit)
    query = query.where(users.c.status.in_([Status.PENDING, Status.ACTIVE, Status.INACTIVE]), users.c.portal_only == 0)
    rows = connection.execute(query).all()
    return sum(cores for _, _, cores in rows), sum(_size(memory, _DEFAULTS.memory) * count for memory, count, _ in rows)


def count_by_status(connection: Connection) -> dict[str, int]:
    """Return how many users each status has."""
    query = select(users.c.status, func.count()).group_by(users.c.status)
    return {row.status: row[1] for row in connection.execute(query)}


def tidy(connection: Connection) -> int:
    """Remove orphans that hand-made changes left behind; returns how many rows."""
    known = select(users.c.id)
    return sum(
        connection.execute(delete(table).where(table.c.user_id.notin_(known))).rowcount
        for table in (allocations, sessions)
    )


def _conditions(search: str, status: str | None, role: str | None) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if search:
        columns = (users.c.username, users.c.full_name, users.c.email)
        found.append(or_(*(func.instr(func.lower(column), search.lower()) > 0 for column in columns)))
    if status is None:
        found.append(users.c.status.notin_([Status.DELETED]))
    elif status != "all":
        found.append(users.c.status == status)
    if role:
        found.append(users.c.role == role)
    return found


def page(
    connection: Connection,
    *,
    search: str,
    status: str | None,
    role: str | None,
    sort: str,
    descending: bool,
    cursor: str,
    limit: int,
) -> tuple[list[Row], int, str | None, str | None]:
    """Return a page of users by keyset: rows, how many match in all, and the cursors of the next and previous page.

    A page costs the same wherever it is in the list. Raises InvalidInput for a cursor that this list did not give.
    """
    conditions = _conditions(search, status, role)
    total = connection.execute(select(func.count()).select_from(users).where(*conditions)).scalar_one()
    backwards, after = _parse_cursor(cursor, sort, descending)
    column = SORT_COLUMNS[sort]
    downwards = descending != backwards
    query = _ROW.add_columns(column.label("sort_key")).where(*conditions)
    if after is not None:
        key, row_id = after
        beyond = column < key if downwards else column > key
        same = and_(column == key, users.c.id < row_id if downwards else users.c.id > row_id)
        query = query.where(or_(beyond, same))
    order = (column.desc(), users.c.id.desc()) if downwards else (column.asc(), users.c.id.asc())
    found = list(connection.execute(query.order_by(*order).limit(limit + 1)))
    more, found = len(found) > limit, found[:limit]
    if backwards:
        found.reverse()
    ends = (
        [_cursor(side, sort, descending, row.sort_key, row.id) for side, row in (("<", found[0]), (">", found[-1]))]
        if found
        else [None, None]
    )
    previous = ends[0] if (more if backwards else after is not None) else None
    following = ends[1] if (after is not None if backwards else more) else None
    return [_to_row(row[:-1]) for row in found], total, following, previous


def _cursor(side: str, sort: str, descending: bool, key: object, row_id: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([side, sort, descending, key, row_id]).encode()).decode().rstrip("=")


def _parse_cursor(cursor: str, sort: str, descending: bool) -> tuple[bool, tuple[Any, int] | None]:
    """Return whether the page lies before the cursor, and the key and id it starts from."""
    if not cursor:
        return False, None
    try:
        side, of_sort, of_descending, key, row_id = json.loads(
            base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        )
        if side not in ("<", ">") or not _is_id(row_id) or not _is_key(key):
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise InvalidInput("cursor: is not one this list gave", "Start from the first page.") from None
    if (of_sort, of_descending) != (sort, descending):
        raise InvalidInput("cursor: belongs to another order", "Start from the first page.")
    return side == "<", (key, row_id)


def _is_id(value: object) -> bool:
    return type(value) is int and abs(value) < 1 << 63


def _is_key(value: object) -> bool:
    """Tell whether SQLite can take a value of a cursor, which may come from anywhere."""
    if isinstance(value, str):
        return not any("\ud800" <= c <= "\udfff" for c in value)
    return isinstance(value, float) or _is_id(value)
