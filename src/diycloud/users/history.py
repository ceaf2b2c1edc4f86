"""What stays of a user who was purged: the audit, under the name or under a pseudonym.

An anonymous history still tells what one person did: the pseudonym is the same in every row, and nobody else's.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, or_, select, update

from diycloud.db.tables import audit, purges
from diycloud.users import repository
from diycloud.users.models import Row

_OF_USERS = and_(
    audit.c.action.not_like("group.%"),
    audit.c.action.not_like("domain.%"),
    or_(audit.c.action.not_like("policy.%"), audit.c.action == "policy.apply"),
)
"""Of all others the target is a group, domain or policy, which may have a user's name."""
_USERS = frozenset({"members", "joined", "left", "created", "changed"})
"""Fields of changes that list users: of a group, of an import."""


def _is(column: ColumnElement[Any], username: str) -> ColumnElement[bool]:
    return and_(column == username, _OF_USERS) if column is audit.c.target else column == username


_NAMES: tuple[ColumnElement[Any], ...] = (audit.c.actor, audit.c.on_behalf_of, audit.c.target)


def count(connection: Connection, username: str) -> int:
    """Return how many rows of the audit name a user."""
    query = select(func.count()).select_from(audit).where(or_(*(_is(column, username) for column in _NAMES)))
    return int(connection.execute(query).scalar_one())


def ask(connection: Connection, user_id: int, history: str) -> None:
    """Note what is wished of a purge, with its first commit."""
    connection.execute(delete(purges).where(purges.c.user_id == user_id))
    connection.execute(insert(purges).values(user_id=user_id, history=history))


def remove(connection: Connection, row: Row) -> None:
    """Remove a purged user's rows, the history as it was wished."""
    wished = connection.execute(select(purges.c.history).where(purges.c.user_id == row.id)).scalar()
    repository.remove(connection, row.id)
    if wished == "anonymous":
        make_anonymous(connection, row.username, f"purged-{row.id}")


def make_anonymous(connection: Connection, username: str, pseudonym: str) -> None:
    """Put a pseudonym for a name in the audit, and drop what rows about the user say beside it: addresses, words, changes…"""
    own = or_(audit.c.actor == username, audit.c.on_behalf_of == username)
    connection.execute(update(audit).where(own).values(address="", token=""))
    connection.execute(update(audit).where(or_(own, _is(audit.c.target, username))).values(message="", changes="{}"))
    for column in _NAMES:
        connection.execute(update(audit).where(_is(column, username)).values({column.name: pseudonym}))
    named = select(audit.c.id, audit.c.changes).where(func.instr(audit.c.changes, f'"{username}"') > 0)
    for row in connection.execute(named).all():
        changes = _without(row.changes, username, pseudonym)
        connection.execute(update(audit).where(audit.c.id == row.id).values(changes=changes))


def _without(changes: str, username: str, pseudonym: str) -> str:
    """Return changes with another name in the lists of users: one may be called as a field or a status is."""
    try:
        found = msgspec.json.decode(changes, type=dict[str, Any])
    except msgspec.DecodeError:
        return changes  # somebody wrote something else into the database
    for field in _USERS & found.keys():
        if isinstance(found[field], list):
            found[field] = [pseudonym if value == username else value for value in found[field]]
    return msgspec.json.encode(found).decode()
