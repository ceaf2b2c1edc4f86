"""Out of the notebooks, in one of two ways.

Whoever may not work any more has their servers ended and their tokens at the hub revoked. Whoever changed a password or got
another role has what was begun before ended there (tokens, cookies, other browsers' connections), while servers go on.

The wish is stored in the transaction of the change. It is carried out right after; if agent or hub were away, by reconcile,
and as soon as the hub asks about the user (web/internal.py), who is refused there until it is done.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from sqlalchemy import Connection

from diycloud.actions.services import Services
from diycloud.agent import protocol as wire
from diycloud.errors import DiyCloudError, TooManyRequests, Unavailable
from diycloud.notebooks import repository
from diycloud.notebooks.repository import Eviction
from diycloud.users import repository as users_repository
from diycloud.users.models import Row

log = structlog.get_logger()


def ask(connection: Connection, services: Services, row: Row, *, gone: bool = False) -> None:
    """Store that a user's notebooks are to end. gone: and that the hub is to forget the user, who is purged."""
    if services.hub is not None and services.hub.is_set_up and not row.portal_only:
        repository.evict(connection, row.username, gone=gone)


def ask_sign_out(
    connection: Connection, services: Services, user_id: int, *, keep_session: int | None, keep_tokens: bool
) -> None:
    """Store that what was begun at the hub with a user's password, or with their rights, is to end; servers go on.

    keep_session: the browser that stays signed in. keep_tokens: API tokens that the user made there stay.
    """
    row = users_repository.by_id(connection, user_id)
    if row is not None and services.hub is not None and services.hub.is_set_up and not row.portal_only:
        repository.evict(connection, row.username, servers=False, tokens=not keep_tokens, kept_session=keep_session)


def ask_if_outside(connection: Connection, services: Services, row: Row, values: Mapping[str, object]) -> None:
    """Store the same where a change of networks shuts out where the user may be at work from."""
    networks = values.get("allowed_client_ip")
    if networks and not repository.is_within(connection, row.id, str(networks)):
        ask(connection, services, row)


async def carry_out(services: Services, username: str = "") -> tuple[str, ...]:
    """Do what is still to be done, for one user or for everybody; returns what could not be done yet, as warnings."""
    if services.hub is None or not services.hub.is_set_up:
        return ()
    warnings: tuple[str, ...] = ()
    for eviction in await services.database.read(repository.evictions, username):
        try:
            if eviction.servers:
                services.notebook_endings.note(eviction.username, None, "system", "shut-out")
                # By the agent, which needs no hub for it.
                await services.agent.call(wire.EndNotebooks(eviction.username), int)
            await _leave_hub(services, eviction)
        except (Unavailable, TooManyRequests) as error:
            what = "Notebooks" if eviction.servers else "Sign-ins at the notebooks' hub"
            warnings += (f"{what} of {eviction.username} end as soon as can be: {error.message}",)
            continue
        except DiyCloudError as error:
            log.error("not out of the notebooks yet", username=eviction.username, reason=str(error))
            warnings += (f"{eviction.username} is not out of the notebooks yet: {error.message}",)
            continue
        await services.database.write(repository.evicted, eviction)
    return warnings


async def _leave_hub(services: Services, eviction: Eviction) -> None:
    hub = services.hub
    assert hub is not None
    if eviction.gone:
        await hub.remove(eviction.username)
        return
    # First: nobody gets in any more, whatever stopping takes.
    kept = None if eviction.servers else eviction.kept_session
    await hub.sign_out(eviction.username, tokens=eviction.tokens, kept_session=kept, last_session=eviction.last_session)
    if eviction.servers:
        for server in (await hub.servers(eviction.username)).values():
            if server.ready or server.pending:
                await hub.stop(eviction.username, server.name)
