"""Pages of users: search, filter, sort, by keyset.

The statements are built once for each shape of question; a page then costs a walk along an index and fifty rows.
"""

from __future__ import annotations

import base64
import json
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, ColumnElement, Connection, Select, bindparam, func, or_, select, tuple_

from diycloud.db.engine import data_version
from diycloud.db.tables import resource_allocations as allocations
from diycloud.db.tables import users
from diycloud.errors import FieldError, InvalidInput
from diycloud.users.models import Allocation, Row, Status
from diycloud.users.repository import ROW, to_row

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
    sort: str,
    descending: bool,
    cursor: str,
    limit: int,
) -> tuple[list[Row], int, str | None, str | None]:
    """Return a page of users: rows, how many match in all, and the cursors of the next and previous page.

    A page costs the same wherever it is in the list. Raises InvalidInput for a cursor that this list did not give.
    """
    shape = Shape(bool(search), status if status == "all" else "one" if status else "", bool(role))
    given: dict[str, Any] = {"search": search.lower(), "status": status, "role": role}
    parameters = {name: given[name] for name in _parameters(shape)}
    backwards, after = _parse_cursor(cursor, sort, descending)
    order = Order(sort, descending != backwards, after is not None)
    if after is not None:
        parameters |= {"key": after[0], "row_id": after[1]}
    found = connection.execute(_page(shape, order), {**parameters, "rows": limit + 1}).all()
    more, found = len(found) > limit, found[:limit]
    if backwards:
        found = found[::-1]
    previous = following = None
    if found and (more if backwards else after is not None):
        previous = _cursor("<", sort, descending, found[0])
    if found and (after is not None if backwards else more):
        following = _cursor(">", sort, descending, found[-1])
    return [to_row(row[:-1]) for row in found], _total(connection, shape, given), following, previous


def _parameters(shape: Shape) -> list[str]:
    asked = (("search", shape.search), ("status", shape.status == "one"), ("role", shape.role))
    return [name for name, wanted in asked if wanted]


def _conditions(shape: Shape) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if shape.search:
        columns = (users.c.username, users.c.full_name, users.c.email)
        found.append(or_(*(func.instr(func.lower(column), bindparam("search")) > 0 for column in columns)))
    if not shape.status:
        found.append(users.c.status != Status.DELETED.value)
    elif shape.status == "one":
        found.append(users.c.status == bindparam("status"))
    if shape.role:
        found.append(users.c.role == bindparam("role"))
    return found


@lru_cache(maxsize=512)
def _page(shape: Shape, order: Order) -> Select[Any]:
    column = SORT_COLUMNS[order.sort]
    query = ROW.add_columns(column.label("sort_key")).where(*_conditions(shape))
    if order.after:
        key: BindParameter[Any] = bindparam("key")
        row_id: BindParameter[Any] = bindparam("row_id")
        here, there = tuple_(column, users.c.id), tuple_(key, row_id)  # row values: SQLite walks the index from there
        query = query.where(here < there if order.downwards else here > there)
    ends = (column.desc(), users.c.id.desc()) if order.downwards else (column.asc(), users.c.id.asc())
    return query.order_by(*ends).limit(bindparam("rows"))


@lru_cache(maxsize=64)
def _count(shape: Shape) -> Select[Any]:
    return select(func.count()).select_from(users).where(*_conditions(shape))


MAX_TOTALS = 256


def _total(connection: Connection, shape: Shape, given: dict[str, Any]) -> int:
    """Return how many rows match; counted again only when somebody has changed the database."""
    parameters = {name: given[name] for name in _parameters(shape)}
    key, version = (shape, tuple(parameters.values())), data_version(connection)
    totals: dict[object, tuple[int, int]] = connection.info.setdefault("totals", {})  # lives as long as the connection
    known = totals.get(key)
    if known is not None and known[0] == version:
        return known[1]
    total = int(connection.execute(_count(shape), parameters).scalar_one())
    if len(totals) >= MAX_TOTALS:
        totals.clear()
    totals[key] = (version, total)
    return total


def _cursor(side: str, sort: str, descending: bool, row: Any) -> str:
    text = json.dumps([side, sort, descending, row.sort_key, row.id])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


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
        raise _bad_cursor("is not one this list gave") from None
    if (of_sort, of_descending) != (sort, descending):
        raise _bad_cursor("belongs to another order")
    return side == "<", (key, row_id)


def _bad_cursor(message: str) -> InvalidInput:
    return InvalidInput(f"cursor: {message}", "Start from the first page.", errors=[FieldError("cursor", message)])


def _is_id(value: object) -> bool:
    return type(value) is int and abs(value) < 1 << 63


def _is_key(value: object) -> bool:
    """Tell whether SQLite can take a value of a cursor, which may come from anywhere."""
    if isinstance(value, str):
        return not any("\ud800" <= c <= "\udfff" for c in value)
    return isinstance(value, float) or _is_id(value)
