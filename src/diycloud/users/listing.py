"""Pages of users: search, filter, sort, by keyset.

The statements are built once for each shape of question; a page then costs a walk along an index and fifty rows.
"""

from __future__ import annotations

import base64
import json
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, ColumnElement, Connection, bindparam, func, or_, select, tuple_

from diycloud.db.engine import Prepared, data_version, driver_errors
from diycloud.db.sql import pattern
from diycloud.db.tables import group_members as members
from diycloud.db.tables import groups, users
from diycloud.db.tables import resource_allocations as allocations
from diycloud.errors import FieldError, InvalidInput
from diycloud.users.models import Allocation, Status, User
from diycloud.users.shown import SHOWN, to_user

_DEFAULTS = Allocation()
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


class Shape(NamedTuple):
    """What a statement depends on; everything else is a parameter."""

    search: bool
    status: str
    """`` hides the deleted, `all` hides none, `one` asks for one."""
    role: bool
    domain: bool = False
    group: bool = False
    policy: bool = False


class Order(NamedTuple):
    """How a statement walks. after: from a row on; downwards: largest first."""

    sort: str
    downwards: bool
    after: bool


def page(
    connection: Connection,
    *,
    search: str,
    status: str | None,
    role: str | None,
    domain: str | None = None,
    group: str | None = None,
    policy: str | None = None,
    sort: str,
    descending: bool,
    cursor: str,
    limit: int,
) -> tuple[list[User], int, str | None, str | None]:
    """Return a page of users: themselves, how many match in all, and the cursors of the next and previous page.

    A page costs the same wherever it is in the list. Raises InvalidInput for a cursor that this list did not give.
    """
    shape, given = chosen(search=search, status=status, role=role, domain=domain, group=group, policy=policy)
    values = {name: given[name] for name in parameters(shape)}
    backwards, after = _parse_cursor(cursor, sort, descending)
    order = Order(sort, descending != backwards, after is not None)
    place: dict[str, Any] = {} if after is None else {"key": after[0], "row_id": after[1]}
    try:
        found = _page(shape, order).fetch_all(connection, **values, **place, rows=limit + 1)
    except driver_errors(connection).DataError:
        # A text where PostgreSQL has a number; SQLite, which keeps what people wrote, may have one there.
        raise _bad_cursor("is not one this list gave") from None
    more, found = len(found) > limit, found[:limit]
    if backwards:
        found = found[::-1]
    previous = following = None
    if found and (more if backwards else after is not None):
        previous = _cursor("<", sort, descending, found[0])
    if found and (after is not None if backwards else more):
        following = _cursor(">", sort, descending, found[-1])
    whole = after is None and not more  # then these are all that match
    total = len(found) if whole else _total(connection, shape, values)
    return [to_user(row) for row in found], total, following, previous


def chosen(
    *, search: str, status: str | None, role: str | None, domain: str | None, group: str | None, policy: str | None
) -> tuple[Shape, dict[str, Any]]:
    """Return the shape of a question and all that was given for it; `parameters` says which of it the shape needs."""
    shape = Shape(
        bool(search),
        status if status == "all" else "one" if status else "",
        bool(role),
        domain is not None,
        bool(group),
        bool(policy),
    )
    return shape, {
        "search": pattern(search), "status": status, "role": role, "domain": domain, "group": group, "policy": policy,
    }  # fmt: skip


def parameters(shape: Shape) -> list[str]:
    found = [name for name in ("search", "role", "domain", "group", "policy") if getattr(shape, name)]
    return [*found, "status"] if shape.status == "one" else found


def conditions(shape: Shape) -> list[ColumnElement[bool]]:
    """Return what a row must be like."""
    found: list[ColumnElement[bool]] = []
    if shape.search:
        columns = (users.c.username, users.c.full_name, users.c.email, users.c.description, users.c.external_id)
        found.append(or_(*(func.contains(column, bindparam("search")) for column in columns)))
    if not shape.status:
        found.append(users.c.status != Status.DELETED.value)
    elif shape.status == "one":
        found.append(users.c.status == bindparam("status"))
    if shape.role:
        found.append(users.c.role == bindparam("role"))
    if shape.domain:
        found.append(users.c.domain == bindparam("domain"))
    if shape.policy:
        found.append(users.c.policy == bindparam("policy"))
    if shape.group:
        joined = members.join(groups, groups.c.id == members.c.group_id)
        inside = select(members.c.user_id).select_from(joined).where(groups.c.name == bindparam("group"))
        found.append(users.c.id.in_(inside))
    return found


@lru_cache(maxsize=512)
def _page(shape: Shape, order: Order) -> Prepared:
    column = SORT_COLUMNS[order.sort]
    query = SHOWN.add_columns(column.label("sort_key")).where(*conditions(shape))
    if order.after:
        key: BindParameter[Any] = bindparam("key")
        row_id: BindParameter[Any] = bindparam("row_id")
        here, there = tuple_(column, users.c.id), tuple_(key, row_id)  # row values: SQLite walks the index from there
        query = query.where(here < there if order.downwards else here > there)
    ends = (column.desc(), users.c.id.desc()) if order.downwards else (column.asc(), users.c.id.asc())
    return Prepared(query.order_by(*ends).limit(bindparam("rows")))


@lru_cache(maxsize=64)
def _count(shape: Shape) -> Prepared:
    return Prepared(select(func.count()).select_from(users).where(*conditions(shape)))


MAX_TOTALS = 256


def _total(connection: Connection, shape: Shape, values: dict[str, Any]) -> int:
    """Return how many rows match; counted again only when somebody has changed the database."""
    key, version = (shape, tuple(values.values())), data_version(connection)
    totals: dict[object, tuple[object, int]] = connection.info.setdefault(
        "totals", {}
    )  # lives as long as the connection
    known = totals.get(key)
    if known is not None and known[0] == version:
        return known[1]
    total = int(_count(shape)(connection, **values).fetchone()[0])
    if len(totals) >= MAX_TOTALS:
        totals.clear()
    totals[key] = (version, total)
    return total


def _cursor(side: str, sort: str, descending: bool, row: Any) -> str:
    text = json.dumps([side, sort, descending, row[-1], row[0]])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _parse_cursor(cursor: str, sort: str, descending: bool) -> tuple[bool, tuple[Any, int] | None]:
    """Return whether the page lies before the cursor, and the key and id it starts from."""
    if not cursor:
        return False, None
    try:
        side, of_sort, of_descending, key, row_id = json.loads(
            base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        )
        if side not in ("<", ">") or not _is_id(row_id) or not _is_key(key, sort):
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise _bad_cursor("is not one this list gave") from None
    if (of_sort, of_descending) != (sort, descending):
        raise _bad_cursor("belongs to another order")
    return side == "<", (key, row_id)


def _bad_cursor(message: str) -> InvalidInput:
    return InvalidInput(f"cursor: {message}", "Start from the first page.", errors=[FieldError("cursor", message)])


def _is_id(value: object) -> bool:
    return type(value) is int and abs(value) < 1 << 63


def _is_key(value: object, sort: str) -> bool:
    """Tell whether the database can take a value of a cursor, which may come from anywhere."""
    if isinstance(value, str):
        return not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value)
    return sort == "cpu" and (isinstance(value, float) or _is_id(value))
