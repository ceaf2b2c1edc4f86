"""What stays of a user who was purged: the audit, under the name or under a pseudonym.

An anonymous history still tells what one person did: the pseudonym is the same in every row, and nobody else's.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, insert, or_, select, update

from diycloud.db.tables import audit, purges
from diycloud.users import repository
from diycloud.users.models import Row

_NAMES = (audit.c.actor, audit.c.on_behalf_of, audit.c.target)


def count(connection: Connection, username: str) -> int:
    """Return how many rows of the audit name a user."""
    query = select(func.count()).select_from(audit).where(or_(*(column == username for column in _NAMES)))
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
    """Put a pseudonym for a name in the audit, and drop what rows about the user say beside it: addresses, changes, words."""
    own = or_(audit.c.actor == username, audit.c.on_behalf_of == username)
    connection.execute(update(audit).where(own).values(address=""))
    connection.execute(update(audit).where(or_(own, audit.c.target == username)).values(message="", changes="{}"))
    for column in _NAMES:
        connection.execute(update(audit).where(column == username).values({column.name: pseudonym}))
    quoted, instead = f'"{username}"', f'"{pseudonym}"'  # as a member of a group, as one of an import
    named = func.instr(audit.c.changes, quoted) > 0
    connection.execute(update(audit).where(named).values(changes=func.replace(audit.c.changes, quoted, instead)))
