"""Disable, enable, delete, restore, purge: a user's way through the statuses (models.TRANSITIONS)."""

from __future__ import annotations

from typing import Any

import structlog
from sqlalchemy import Connection

from diycloud.actions.dispatcher import Context
from diycloud.actions.roles import Role
from diycloud.actions.services import Services
from diycloud.agent import protocol as wire
from diycloud.auth import sessions
from diycloud.errors import Conflict, DiyCloudError, PermissionDenied, TooManyRequests, Unavailable
from diycloud.units import human_size
from diycloud.users import host, repository, service
from diycloud.users.actions import DeleteUser, DisableUser, EnableUser, PreviewPurge, PurgeUser, RestoreUser
from diycloud.users.models import Changed, Purged, PurgePlan, Row, Status

log = structlog.get_logger()


async def disable_user(ctx: Context, action: DisableUser) -> Changed:
    """Lock a user out everywhere, then end what runs unless it is to be kept."""
    return await _lock_out(ctx, action.username, Status.INACTIVE, keep_running=action.keep_running)


async def delete_user(ctx: Context, action: DeleteUser) -> Changed:
    """As disable, and hidden from lists."""
    return await _lock_out(ctx, action.username, Status.DELETED, keep_running=False)


async def _lock_out(ctx: Context, username: str, to: Status, *, keep_running: bool) -> Changed:
    row = await service.get(ctx.services, username)
    service.check_transition(row, to)
    await service.keep_an_admin(ctx, row)
    changed = await _move(ctx, row, to, end_sessions=True)
    if keep_running or row.portal_only or changed.user.uid is None:
        return changed
    try:
        await ctx.services.agent.call(wire.StopWorkloads(username), int)
    except Unavailable:
        return Changed(changed.user, warnings=(*changed.warnings, "What runs could not be stopped."))
    return changed


async def enable_user(ctx: Context, action: EnableUser) -> Changed:
    return await _activate(ctx, action.username, Status.INACTIVE)


async def restore_user(ctx: Context, action: RestoreUser) -> Changed:
    return await _activate(ctx, action.username, Status.DELETED)


async def _activate(ctx: Context, username: str, since: Status) -> Changed:
    row = await service.get(ctx.services, username)
    if row.status is not since:
        raise Conflict(f"{username} is {row.status}, not {since}.")
    return await _move(ctx, row, Status.ACTIVE)


async def _move(ctx: Context, row: Row, to: Status, *, end_sessions: bool = False) -> Changed:
    ctx.changes = {"status": [row.status, to]}

    def store(connection: Connection) -> None:
        repository.change(connection, row.id, {"status": to}, since=row.status)
        if end_sessions:
            sessions.end_all(connection, row.id)
            if row.role is Role.ADMIN:
                service.leave_an_admin(connection)

    await ctx.write(store)
    # A row without an account (a name of the host's, written here by hand) has nobody to lock out.
    return await service.apply(ctx, row.id, strict=end_sessions and row.uid is not None)


async def preview_purge(ctx: Context, action: PreviewPurge) -> PurgePlan:
    row = await service.get(ctx.services, action.username)
    if row.portal_only or row.uid is None:
        return PurgePlan(row.username, row.status, None, "", "0B", 0, 0)
    left = await ctx.services.agent.call(wire.PurgePreview(row.username), wire.Remains)
    size = ("more than " if left.more else "") + human_size(left.home_bytes)
    return PurgePlan(row.username, row.status, left.uid, left.home, size, left.home_files, left.processes)


async def purge_user(ctx: Context, action: PurgeUser) -> Purged:
    """Remove a soft-deleted user for good. Can be repeated until it is through; reconcile goes on after a crash."""
    row = await service.get(ctx.services, action.username)
    if row.status is not Status.PURGING:
        if row.status not in (Status.DELETED, Status.PURGE_ERROR):
            raise Conflict(
                f"{row.username} is {row.status}: delete it first.", "A purge takes only what was deleted before."
            )
        await ctx.write(repository.change, row.id, {"status": Status.PURGING}, since=row.status)
    await finish_purge(ctx.services, await service.get(ctx.services, action.username))
    ctx.changes = {"status": [row.status, None], "uid": [row.uid, None]}
    return Purged(row.username, home_in_trash=not row.portal_only and row.uid is not None)


async def finish_purge(services: Services, row: Row) -> None:
    """Take a user in status purging off the host and out of the database. Raises what stops it, noted in the row."""
    if not row.portal_only:
        try:
            outcome = await services.agent.call(wire.PurgeAccount(row.username, row.generation), wire.Outcome)
            if outcome.code:
                raise host.failure(outcome)
        except (Unavailable, TooManyRequests):
            raise  # stays purging: reconcile goes on when the agent is back, or takes more of the server's purges
        except DiyCloudError as error:
            if isinstance(error, PermissionDenied) and row.uid is None:  # a name of the host's, written here by hand
                await services.database.write(repository.remove, row.id)
                return
            problem: dict[str, Any] = {"status": Status.PURGE_ERROR, "host_problem": error.message[:500]}
            await services.database.write(repository.change, row.id, problem)
            raise
    await services.database.write(repository.remove, row.id)
    log.info("user purged", username=row.username, uid=row.uid)
