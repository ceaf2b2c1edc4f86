"""The audit's rows: written around every change, never holding a secret."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, insert, or_, select, update

from diycloud.actions.action import Action
from diycloud.actions.actor import Actor
from diycloud.actions.entry import Entry
from diycloud.actions.parsing import fields_of
from diycloud.db.engine import Prepared
from diycloud.db.tables import audit
from diycloud.units import format_size

MAX_TEXT = 2000
_BEGUN = ("actor", "on_behalf_of", "domain", "via", "address", "request_id", "action", "target", "changes", "token")
_BEGIN = Prepared(insert(audit).values({name: bindparam(name) for name in _BEGUN}))
_END = Prepared(
    update(audit)
    .where(audit.c.id == bindparam("row_id"))
    .values({name: bindparam(name) for name in ("outcome", "code", "message", "duration_ms")})
    .values(changes=func.ifnull(bindparam("changes"), audit.c.changes))
)


def asked(action: Action[Any]) -> dict[str, Any]:
    """Return what an action asks for, without its secrets, sizes as people write them, long texts cut."""
    shown: dict[str, Any] = {}
    for name, field in fields_of(type(action)).items():
        value = getattr(action, name)
        if value is msgspec.UNSET or name == action.target_field or value == field.default:
            continue
        if field.secret:
            shown[name] = "(secret)"
        elif field.kind == "size" and isinstance(value, int):
            shown[name] = format_size(value)
        else:
            shown[name] = value[:MAX_TEXT] if isinstance(value, str) else value
    return shown


def begin(
    connection: Connection, actor: Actor, name: str, target: str, changes: dict[str, Any], *, domain: str = ""
) -> int:
    """Write that something was started; returns the row's id. A row left so after a crash is closed at the next start."""
    return _BEGIN.insert(
        connection,
        actor=(actor.real or actor).name, on_behalf_of=actor.name if actor.real else actor.on_behalf_of[:100], domain=domain,
        via=actor.via, address=actor.address, request_id=actor.request_id,
        action=name, target=_plain(target[:100]), changes=_json(changes), token=(actor.real or actor).token,
    )  # fmt: skip


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
        message=_plain(message[:MAX_TEXT]),
        duration_ms=round(duration_ms, 1),
        changes=None if changes is None else _json(changes),
    )


def close_crashed(connection: Connection) -> int:
    """Mark rows that a crash left open; returns how many."""
    return connection.execute(update(audit).where(audit.c.outcome == "started").values(outcome="crashed")).rowcount


def conditions(
    *,
    target: str = "",
    actor: str = "",
    action: str = "",
    outcome: str = "",
    via: str = "",
    address: str = "",
    request_id: str = "",
    token: str = "",
    domain: str | None = None,
    search: str = "",
    since: str = "",
    until: str = "",
) -> list[ColumnElement[bool]]:
    """Return what asks for these entries. actor: who did it, or as whom it was done; action: one, or `user.` for all of them.

    since, until: `YYYY-MM-DD HH:MM:SS`, UTC, the second one is no longer asked for.
    """
    equal = (
        (audit.c.target, target), (audit.c.outcome, outcome), (audit.c.via, via), (audit.c.address, address),
        (audit.c.request_id, request_id), (audit.c.token, token),
    )  # fmt: skip
    found: list[ColumnElement[bool]] = [column == value for column, value in equal if value]
    if actor:
        found.append(or_(audit.c.actor == actor, audit.c.on_behalf_of == actor))
    if action:
        found.append(
            audit.c.action.startswith(action, autoescape=True) if action.endswith(".") else audit.c.action == action
        )
    if domain is not None:
        found.append(audit.c.domain == domain)
    if search:
        columns = (audit.c.message, audit.c.changes)
        found.append(or_(*(column.icontains(search, autoescape=True) for column in columns)))
    found += [audit.c.at >= since] if since else []
    found += [audit.c.at < until] if until else []
    return found


def page(connection: Connection, *, before: int = 0, limit: int = 50, **asked: Any) -> list[Entry]:
    """Return entries, newest first. before: the id of the last row of the page before, 0 for the first; asked: `conditions`."""
    query = select(audit).where(*conditions(**asked)).order_by(audit.c.id.desc()).limit(limit)
    if before:
        query = query.where(audit.c.id < before)
    return [_entry(row) for row in connection.execute(query)]


def following(connection: Connection, after: int, limit: int, **asked: Any) -> list[Entry]:
    """Return entries, oldest first, after an id."""
    query = select(audit).where(*conditions(**asked), audit.c.id > after).order_by(audit.c.id).limit(limit)
    return [_entry(row) for row in connection.execute(query)]


def _entry(row: Any) -> Entry:
    return Entry(**{**row._mapping, "changes": _changes(row.changes)})


def _changes(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}  # somebody wrote something else into the database


def forget(connection: Connection, days: int) -> int:
    """Remove rows older than some days; returns how many."""
    oldest = datetime.now(UTC) - timedelta(days=days)
    return connection.execute(delete(audit).where(audit.c.at < f"{oldest:%Y-%m-%d %H:%M:%S}")).rowcount


def _plain(text: str) -> str:
    """Return a text without NUL, which PostgreSQL's text cannot hold: anything may be asked for."""
    return text.replace("\0", "\ufffd")


def _json(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()
