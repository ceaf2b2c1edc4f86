"""The audit's rows: written around every change, never holding a secret."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, func, insert, select, update

from diycloud.actions.action import Action
from diycloud.actions.actor import Actor
from diycloud.actions.entry import Entry
from diycloud.actions.parsing import fields_of
from diycloud.db.engine import Prepared
from diycloud.db.tables import audit

MAX_TEXT = 2000
_BEGIN = Prepared(
    insert(audit).values(
        {name: bindparam(name) for name in ("actor", "via", "address", "request_id", "action", "target", "changes")}
    )
)
_END = Prepared(
    update(audit)
    .where(audit.c.id == bindparam("row_id"))
    .values({name: bindparam(name) for name in ("outcome", "code", "message", "duration_ms")})
    .values(changes=func.ifnull(bindparam("changes"), audit.c.changes))
)


def asked(action: Action[Any]) -> dict[str, Any]:
    """Return what an action asks for, without its secrets, long texts cut."""
    shown: dict[str, Any] = {}
    for name, field in fields_of(type(action)).items():
        value = getattr(action, name)
        if value is msgspec.UNSET or name == action.target_field or value == field.default:
            continue
        if field.secret:
            shown[name] = "(secret)"
        else:
            shown[name] = value[:MAX_TEXT] if isinstance(value, str) else value
    return shown


def begin(connection: Connection, actor: Actor, name: str, target: str, changes: dict[str, Any]) -> int:
    """Write that something was started; returns the row's id. A row left so after a crash is closed at the next start."""
    cursor = _BEGIN(
        connection,
        actor=actor.name, via=actor.via, address=actor.address, request_id=actor.request_id,
        action=name, target=target[:100], changes=_json(changes),
    )  # fmt: skip
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def end(
    connection: Connection,
    row_id: int,
    outcome: str,
    *,
    code: str = "",
    message: str = "",
    duration_ms: float,
    changes: dict[str, Any] | None,
) -> None:
    """Write how it ended. changes: what really changed, if the handler told."""
    _END(
        connection,
        row_id=row_id,
        outcome=outcome,
        code=code,
        message=message[:MAX_TEXT],
        duration_ms=round(duration_ms, 1),
        changes=None if changes is None else _json(changes),
    )


def close_crashed(connection: Connection) -> int:
    """Mark rows that a crash left open; returns how many."""
    return connection.execute(update(audit).where(audit.c.outcome == "started").values(outcome="crashed")).rowcount


def page(
    connection: Connection,
    *,
    target: str = "",
    actor: str = "",
    action: str = "",
    outcome: str = "",
    before: int = 0,
    limit: int = 50,
) -> list[Entry]:
    """Return rows, newest first. before: the id of the last row of the page before, 0 for the first page."""
    query = select(audit).order_by(audit.c.id.desc()).limit(limit)
    for column, value in (
        (audit.c.target, target),
        (audit.c.actor, actor),
        (audit.c.action, action),
        (audit.c.outcome, outcome),
    ):
        if value:
            query = query.where(column == value)
    if before:
        query = query.where(audit.c.id < before)
    return [Entry(**{**row._mapping, "changes": _changes(row.changes)}) for row in connection.execute(query)]


def _changes(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}  # somebody wrote something else into the database


def forget(connection: Connection, days: int) -> int:
    """Remove rows older than some days; returns how many."""
    from sqlalchemy import delete, func

    return connection.execute(delete(audit).where(audit.c.at < func.datetime("now", f"-{days} days"))).rowcount


def _json(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()
