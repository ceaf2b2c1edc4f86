"""Passwords that somebody had before: hashes, only as many as the setting server.password_history asks for."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from diycloud.actions.services import Services
from diycloud.db.sign_in_tables import old_passwords
from diycloud.users.models import Row


def remember(connection: Connection, row: Row, most: int) -> None:
    """Keep the hash that a user has until now, and no more than so many of theirs."""
    if most:
        connection.execute(insert(old_passwords).values(user_id=row.id, password_hash=row.password_hash))
    mine = old_passwords.c.user_id == row.id
    newest = select(old_passwords.c.id).where(mine).order_by(old_passwords.c.id.desc()).limit(most)
    connection.execute(delete(old_passwords).where(mine, old_passwords.c.id.not_in(newest)))


async def was_used(services: Services, row: Row, password: str) -> bool:
    """Tell whether a password is one of those that a user had before. Takes the time of a hash for each. Raises Unavailable."""
    most = services.settings.server.password_history
    if not most:
        return False

    def read(connection: Connection) -> list[str]:
        query = select(old_passwords.c.password_hash).where(old_passwords.c.user_id == row.id)
        return list(connection.execute(query.order_by(old_passwords.c.id.desc()).limit(most)).scalars())

    for hashed in await services.database.read(read):
        if await services.hasher.verify(password, hashed):
            return True
    return False
