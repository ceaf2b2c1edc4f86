"""Out everywhere: the one place that knows what lets somebody be let in without their password.

Whatever takes rights away or changes a password comes here: disabling, deleting, another role, a new password.
"""

from __future__ import annotations

from sqlalchemy import Connection

from diycloud.auth import sessions, tokens
from diycloud.auth.oidc import grants


def end_everything(
    connection: Connection, user_id: int, *, keep_session: int | None = None, keep_tokens: bool = False
) -> dict[str, int]:
    """End every session, API token and sign-in at an application of a user, but what is to be kept; returns how many of each."""
    ended = {"sessions": sessions.end_all(connection, user_id, keep=keep_session)}
    ended["applications"] = grants.end_of_user(connection, user_id)
    if not keep_tokens:
        ended["tokens"] = tokens.end_all(connection, user_id)
    return ended
