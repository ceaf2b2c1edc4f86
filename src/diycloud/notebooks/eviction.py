"""Out of the notebooks: whoever may not work any more has their servers ended and their tokens at the hub revoked.

The wish is stored in the transaction that takes the right away. It is carried out right after, and again by reconcile for as
long as agent or hub are away. New requests are refused by the guard and by the hub's own question meanwhile; what ending the
servers adds is that open WebSockets end, which nobody asks about again.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from sqlalchemy import Connection

from diycloud.actions.services import Services
from diycloud.agent import protocol as wire
from diycloud.errors import DiyCloudError, NotFound, PermissionDenied, TooManyRequests, Unavailable
from diycloud.notebooks import repository
from diycloud.notebooks.repository import Eviction
from diycloud.users.models import Row

log = structlog.get_logger()


def ask(connection: Connection, services: Services, row: Row, *, gone: bool = False) -> None:
    """Store that a user's notebooks are to end. gone: and that the hub is to forget the user, who is purged."""
    if services.hub is not None and services.hub.is_set_up and not row.portal_only:
        repository.evict(connection, row.username, gone=gone)


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
            await _end_servers(services, eviction.username)
            await _leave_hub(services, eviction)
        except (Unavailable, TooManyRequests) as error:
            warnings += (f"Notebooks of {eviction.username} end as soon as can be: {error.message}",)
            continue
        except DiyCloudError as error:
            log.error("notebooks not ended", username=eviction.username, reason=str(error))
            warnings += (f"Notebooks of {eviction.username} could not be ended: {error.message}",)
            continue
        await services.database.write(repository.evicted, eviction)
    return warnings


async def _end_servers(services: Services, username: str) -> None:
    """End every server by the agent, which needs no hub for it. An account that is gone has none."""
    try:
        found = await services.agent.call(wire.ReadNotebooks(name=username), list[wire.Notebook])
        for notebook in found:
            if notebook.state == "running":
                await services.agent.call(wire.StopNotebook(username, notebook.server), wire.Notebook)
    except (NotFound, PermissionDenied):
        return


async def _leave_hub(services: Services, eviction: Eviction) -> None:
    hub = services.hub
    assert hub is not None
    if not eviction.gone:
        for server in (await hub.servers(eviction.username)).values():
            if server.ready or server.pending:
                await hub.stop(eviction.username, server.name)
        await hub.revoke(eviction.username, eviction.asked_at)
        return
    await hub.remove(eviction.username)
