"""Out everywhere: the one place that knows what lets somebody be let in without their password.

Whatever takes rights away or changes a password comes here: disabling, deleting, another role, a new password. What was
begun at the notebooks' hub is only noted here: whoever calls has it carried out after the transaction (notebooks/eviction.py).
"""

from __future__ import annotations

from sqlalchemy import Connection

from diycloud.actions.services import Services
from diycloud.auth import sessions, tokens
from diycloud.auth.oidc import grants
from diycloud.notebooks import eviction


def end_everything(
    connection: Connection,
    services: Services,
    user_id: int,
    *,
    keep_session: int | None = None,
    keep_tokens: bool = False,
) -> dict[str, int]:
    """End every session, API token and sign-in at an application of a user, but what is to be kept; returns how many of each."""
    eviction.ask_sign_out(connection, services, user_id, keep_session=keep_session, keep_tokens=keep_tokens)
    ended = {"sessions": sessions.end_all(connection, user_id, keep=keep_session)}
    ended["applications"] = grants.end_of_user(connection, user_id)
    if not keep_tokens:
        ended["tokens"] = tokens.end_all(connection, user_id)
    return ended
