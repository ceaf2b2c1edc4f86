"""All SQL about users. Functions over a Connection; services decide when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from diycloud.actions.roles import Role
from diycloud.auth.addresses import readable
from diycloud.db.engine import Prepared
from diycloud.db.tables import group_members as members
from diycloud.db.tables import groups, metadata, users
from diycloud.db.tables import resource_allocations as allocations
from diycloud.errors import Conflict, InvalidInput
from diycloud.units import format_size, parse_size
from diycloud.users.models import SIGN_IN, Allocation, Row, Status

T = TypeVar("T")
JOIN = users.outerjoin(allocations, allocations.c.user_id == users.c.id)
GROUPS = (
    select(func.group_concat(groups.c.name))
    .select_from(members.join(groups, groups.c.id == members.c.group_id))
    .where(members.c.user_id == users.c.id)
    .scalar_subquery()
)
LIMITS = tuple(
    allocations.c[name] for name in ("cpu_limit", "mem_limit", "disk_quota", "disk_hard", "tasks_limit", "gpu_access")
)
"""What `to_allocation` takes."""
_COLUMNS = (
    *(users.c[name] for name in Row.__struct_fields__ if name not in ("groups", "allocation")),
    GROUPS.label("groups"),
    *LIMITS,
)
_WIDTH = len(_COLUMNS) - len(LIMITS)
_NAMES = tuple(column.name for column in _COLUMNS)
_USERNAME = _NAMES.index("username")
_ROLE, _STATUS = _NAMES.index("role"), _NAMES.index("status")
_FLAGS = tuple(
    _NAMES.index(name) for name in ("portal_only", "must_change_password", "shadow_set", "sudo", "password_void")
)
_GROUP_NAMES = _NAMES.index("groups")
ROW: Select[Any] = select(*_COLUMNS).select_from(JOIN)
"""What `to_row` takes: queries of lists add to it."""
_BY_NAME = Prepared(ROW.where(users.c.username == bindparam("username")))
_BY_ID = Prepared(ROW.where(users.c.id == bindparam("user_id")))
_THIS = users.c.id == bindparam("user_id")
_OWNED = [table for table in reversed(metadata.sorted_tables) if "user_id" in table.c]
"""What belongs to one user; what refers to another of them comes first."""
_ANSWERED = users.c.generation == bindparam("answered")
_DEFAULTS = Allocation()
LEAST_MEMORY = 16 << 20
NOW = func.current_timestamp()
_STILL = Prepared(
    select(users.c.id).where(
        _THIS,
        users.c.password_hash == bindparam("known"),
        or_(*(users.c.status == status for status in sorted(SIGN_IN))),
    )
)
_TOUCH = Prepared(update(users).where(_THIS).values(updated_at=NOW))


@lru_cache(maxsize=4096)  # a thousand users share a dozen sizes
def _size(value: object, default: int, least: int = 1) -> int:
    """Return the bytes of a size column. People may have written anything there; what cannot be means the default."""
    try:
        size = parse_size(str(value), bare="M")
    except InvalidInput:
        return default
    return size if size >= least else default


@lru_cache(maxsize=4096, typed=True)  # these too; typed: 1 and 1.0 are equal, and shown as they are
def to_allocation(cpu: object, memory: object, disk: object, hard: object, tasks: object, gpu: object) -> Allocation:
    """Return the limits of their six columns. What is missing, or cannot be, means the default."""
    soft = _size(disk, _DEFAULTS.disk)
    return Allocation(
        cpu=cpu if isinstance(cpu, float | int) and 0.01 <= cpu <= 4096 else _DEFAULTS.cpu,
        memory=_size(memory, _DEFAULTS.memory, LEAST_MEMORY),
        disk=soft,
        disk_hard=_size(hard, 2 * soft),
        tasks=tasks if isinstance(tasks, int) and 16 <= tasks <= 4_000_000 else _DEFAULTS.tasks,
        gpu=bool(gpu),
    )


def to_row(values: Sequence[Any]) -> Row:
    """Return the row of a statement made of ROW."""
    head = list(values[:_WIDTH])
    if bytes in map(type, head):  # somebody wrote a BLOB where text belongs; SQLite keeps it so
        head = [str(value, "utf-8", "replace") if type(value) is bytes else value for value in head]
        head[_USERNAME] = values[_USERNAME]  # no other statement would find it by the text: host.impossible tells
    head[_ROLE], head[_STATUS] = Role(head[_ROLE]), Status(head[_STATUS])
    for flag in _FLAGS:
        head[flag] = bool(head[flag])
    head[_GROUP_NAMES] = head[_GROUP_NAMES] or ""
    return Row(*head, to_allocation(*values[_WIDTH:]))  # type: ignore[call-arg]  # mypy cannot count a star's values


def by_name(connection: Connection, username: str) -> Row | None:
    """Return a user with all that services need. What is only to be shown: shown.by_name."""
    found = _BY_NAME.fetch_one(connection, username=username)
    return to_row(found) if found else None


def by_id(connection: Connection, user_id: int) -> Row | None:
    found = _BY_ID.fetch_one(connection, user_id=user_id)
    return to_row(found) if found else None


def by_ids(connection: Connection, ids: Iterable[int]) -> list[Row]:
    """Return some users, those that are there."""
    return [to_row(row) for part in _parts(ids) for row in connection.execute(ROW.where(users.c.id.in_(part)))]


def names_of(connection: Connection, ids: Iterable[int]) -> list[str]:
    """Return the names of some users, sorted."""
    query = select(users.c.username)
    return sorted(
        name for part in _parts(ids) for name in connection.execute(query.where(users.c.id.in_(part))).scalars()
    )


def existing_names(connection: Connection, names: Iterable[str]) -> set[str]:
    """Return which of some names are taken."""
    return _existing(connection, users.c.username, names)


def domains_of(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    """Return which domain each of some users is in, of those that are there."""
    query = select(users.c.username, users.c.domain)
    found: dict[str, str] = {}
    for part in _parts(names):
        found.update((row[0], row[1]) for row in connection.execute(query.where(users.c.username.in_(part))))
    return found


def existing_emails(connection: Connection, emails: Iterable[str]) -> set[str]:
    """Return which of some addresses are taken, in lower case."""
    return _existing(connection, func.lower(users.c.email), [email.lower() for email in emails])


def existing(connection: Connection, column: str, values: Iterable[str]) -> set[str]:
    """Return which values of a column that is each user's own are taken; addresses in lower case."""
    if column == "email":
        return existing_emails(connection, values)
    return _existing(connection, users.c[column], values)


def is_still(connection: Connection, row: Row) -> bool:
    """Tell whether a user has the same password and may sign in, as when it was read."""
    return _STILL.fetch_one(connection, user_id=row.id, known=row.password_hash) is not None


def has_external_id(connection: Connection, external_id: str) -> bool:
    """Tell whether a user has this id of an outside directory."""
    return connection.execute(select(users.c.id).where(users.c.external_id == external_id)).first() is not None


def _existing(connection: Connection, column: ColumnElement[Any], values: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for part in _parts(values):
        found.update(connection.execute(select(column).where(column.in_(part))).scalars())
    return found


def _parts(values: Iterable[T]) -> Iterator[list[T]]:
    """Cut values into parts that one IN (…) takes."""
    wanted = list(values)
    return (wanted[start : start + 500] for start in range(0, len(wanted), 500))


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


def change(
    connection: Connection,
    user_id: int,
    values: dict[str, Any],
    limits: dict[str, Any] | None = None,
    *,
    since: Status | None = None,
) -> None:
    """Update a user, and those columns of the allocation that are given (making it if somebody removed it).

    Only what changes is written, so that two administrators who change different things lose nothing. since: the status
    this was decided upon. Raises Conflict if it is another by now. A new password is not void.
    """
    values = {**values, "password_void": 0} if "password_hash" in values else values
    if values or since is not None:
        query = update(users).where(users.c.id == user_id)
        if since is not None:
            query = query.where(users.c.status == since)
        done = connection.execute(query.values(updated_at=NOW, **values))
        if since is not None and not done.rowcount:
            raise Conflict("Somebody else changed the user meanwhile.", "Look again.")
    else:
        _TOUCH(connection, user_id=user_id)
    if limits and not _change_limits(tuple(limits))(connection, user_id=user_id, **limits).rowcount:
        connection.execute(insert(allocations).values(user_id=user_id, **limits))


@lru_cache(maxsize=64)
def _change_limits(columns: tuple[str, ...]) -> Prepared:
    values: dict[str, Any] = {name: bindparam(name) for name in columns}
    return Prepared(update(allocations).where(allocations.c.user_id == bindparam("user_id")).values(values))


def note(connection: Connection, user_id: int, values: dict[str, Any]) -> None:
    """Write down something that is no change of the user's (last_login)."""
    now = tuple(name for name, value in values.items() if value is NOW)
    given = {name: value for name, value in values.items() if value is not NOW}
    _noting(now, tuple(given))(connection, user_id=user_id, **given)


@lru_cache(maxsize=64)
def _noting(now: tuple[str, ...], given: tuple[str, ...]) -> Prepared:
    return Prepared(
        update(users).where(_THIS).values({**dict.fromkeys(now, NOW), **{name: bindparam(name) for name in given}})
    )


def replace_hash(connection: Connection, user_id: int, old: str, new: str) -> None:
    """Put another hash of the same password in the place of one, unless the password has changed meanwhile."""
    same = (users.c.id == user_id) & (users.c.password_hash == old)
    connection.execute(update(users).where(same).values(password_hash=new))


def settle(
    connection: Connection, user_id: int, generation: int, *, uid: int | None, problem: str = "", made: bool = False
) -> None:
    """Note the host's answer to one generation of a wish: done, or what is in the way.

    Of an answer to what is not wished any more only the uid is kept. made: the account is new, so it has the password
    that waited in the row or none, which the next sign-in mends.
    """
    if problem:  # a refusal may name the uid of an account that is not this user's
        _REFUSED(connection, user_id=user_id, answered=generation, problem=problem[:500])
    elif not _DONE(connection, user_id=user_id, answered=generation, new_uid=uid, made=int(made)).rowcount:
        _OVERTAKEN(connection, user_id=user_id, new_uid=uid)


_UID = {"host_problem": "", "uid": func.ifnull(bindparam("new_uid"), users.c.uid)}
_REFUSED = Prepared(update(users).where(_THIS, _ANSWERED).values(host_problem=bindparam("problem")))
_OVERTAKEN = Prepared(update(users).where(_THIS).values(_UID))
_DONE = Prepared(
    update(users)
    .where(_THIS, _ANSWERED)
    .values(_UID)
    .values(
        host_generation=bindparam("answered"),
        shadow_set=case(
            (users.c.shadow_hash.is_not(None), 1), (literal(1) == bindparam("made"), 0), else_=users.c.shadow_set
        ),
        shadow_hash=None,
        status=case((users.c.status == Status.PENDING, Status.ACTIVE), else_=users.c.status),
    )
)


def note_lost_passwords(connection: Connection, names: Iterable[str]) -> None:
    """Note that the host has no password for some users: their next sign-in gives it one."""
    for name in names:
        lost = update(users).where(users.c.username == name, users.c.shadow_hash.is_(None))
        connection.execute(lost.values(shadow_set=0))


def remove(connection: Connection, user_id: int) -> None:
    """Remove a user's rows. The audit stays: it tells what happened under the name."""
    for table in _OWNED:
        connection.execute(delete(table).where(table.c.user_id == user_id))
    connection.execute(delete(users).where(users.c.id == user_id))


def active_admins(connection: Connection) -> int:
    """Return how many administrators can sign in."""
    query = select(func.count()).where(users.c.role == Role.ADMIN, users.c.status.in_([Status.ACTIVE, Status.PENDING]))
    return connection.execute(query.select_from(users)).scalar_one()


def overtake(connection: Connection, generations: Iterable[tuple[str, int]]) -> None:
    """Raise generations above the agent's: an older database was restored, and its wishes are the newest there are.

    A row that has the agent's generation by now was changed while the list was on its way: the host has followed already.
    """
    for username, generation in generations:
        lower = (users.c.username == username) & (users.c.generation < generation)
        connection.execute(update(users).where(lower).values(generation=generation + 1))


def first_admin(connection: Connection) -> str | None:
    """Return the oldest administrator that can sign in."""
    query = select(users.c.username).where(
        users.c.role == Role.ADMIN, users.c.status.in_([Status.ACTIVE, Status.PENDING])
    )
    return connection.execute(query.order_by(users.c.id).limit(1)).scalar()


def unsettled(connection: Connection, limit: int) -> list[Row]:
    """Return users whose wish the host has not confirmed, oldest first."""
    query = ROW.where(
        users.c.generation != users.c.host_generation,
        users.c.portal_only == 0,
        users.c.status.notin_([Status.PURGING]),
    ).order_by(users.c.id)
    return [to_row(row) for row in connection.execute(query.limit(limit))]


def wishes(connection: Connection) -> list[Row]:
    """Return every user that has, or should have, an account on the host."""
    query = ROW.where(users.c.portal_only == 0, users.c.status != Status.PURGING).order_by(users.c.id)
    return [to_row(row) for row in connection.execute(query)]


def with_status(connection: Connection, status: Status) -> list[Row]:
    return [to_row(row) for row in connection.execute(ROW.where(users.c.status == status).order_by(users.c.id))]


_PROMISED = Prepared(
    select(allocations.c.mem_limit, func.count(), func.sum(func.ifnull(allocations.c.cpu_limit, _DEFAULTS.cpu)))
    .select_from(JOIN)
    .where(
        or_(*(users.c.status == s for s in (Status.PENDING, Status.ACTIVE, Status.INACTIVE))), users.c.portal_only == 0
    )
    .group_by(allocations.c.mem_limit)
)


def promised(connection: Connection) -> tuple[float, int]:
    """Return the cores and bytes of memory promised to users that are not deleted."""
    rows = _PROMISED(connection).fetchall()
    return sum(cores for _, _, cores in rows), sum(_size(memory, _DEFAULTS.memory) * count for memory, count, _ in rows)


def count_unsettled(connection: Connection) -> int:
    """Return how many users the host has not confirmed as they are wished."""
    query = select(func.count()).select_from(users)
    return connection.execute(
        query.where(users.c.generation != users.c.host_generation, users.c.portal_only == 0)
    ).scalar_one()


def locked_out(connection: Connection, limit: int) -> list[str]:
    """Return the first users, by name, who could sign in if the networks that they may come from could be read."""
    query = select(users.c.username, users.c.allowed_client_ip).where(users.c.allowed_client_ip != "")
    rows = connection.execute(query.where(users.c.status.in_(SIGN_IN)).order_by(users.c.username))
    return list(islice((name for name, networks in rows if not readable(str(networks))), limit))


def count_by_status(connection: Connection) -> dict[str, int]:
    """Return how many users each status has."""
    query = select(users.c.status, func.count()).group_by(users.c.status)
    return {row.status: row[1] for row in connection.execute(query)}


def tidy(connection: Connection) -> int:
    """Remove orphans that hand-made changes left behind; returns how many rows."""
    known = select(users.c.id)
    orphans = [(table, table.c.user_id.notin_(known)) for table in _OWNED]
    orphans.append((members, members.c.group_id.notin_(select(groups.c.id))))
    return sum(connection.execute(delete(table).where(orphaned)).rowcount for table, orphaned in orphans)
