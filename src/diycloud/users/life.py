"""Disable, enable, delete, restore, purge: a user's way through the statuses (models.TRANSITIONS)."""

from __future__ import annotations

from typing import Any

import structlog
from msgspec import UNSET
from sqlalchemy import Connection

from diycloud.actions.dispatcher import Context
from diycloud.actions.roles import Role
from diycloud.actions.services import Services
from diycloud.agent import protocol as wire
from diycloud.auth.ending import end_everything
from diycloud.errors import (
    Conflict,
    DiyCloudError,
    FieldError,
    InvalidInput,
    PermissionDenied,
    TooManyRequests,
    Unavailable,
)
from diycloud.notebooks import eviction
from diycloud.units import human_size
from diycloud.users import history, host, repository, service, shown
from diycloud.users.actions import DeleteUser, DisableUser, EnableUser, PreviewPurge, PurgeUser, RestoreUser
from diycloud.users.models import Changed, Purged, PurgePlan, Row, Status

log = structlog.get_logger()
ARCHIVE_S = 600.0


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
    later = await eviction.carry_out(ctx.services, row.username)
    changed = Changed(changed.user, warnings=(*changed.warnings, *later))
    if keep_running or row.portal_only or changed.user.uid is None or row.host_generation == 0:
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
    if row.sudo:
        raise Conflict(
            f"{username} has sudo, so only root may open the account again.",
            f"As root on the host: diycloud user sudo {username} --revoke, then try again; grant it afterwards.",
        )
    return await _move(ctx, row, Status.ACTIVE)


async def _move(ctx: Context, row: Row, to: Status, *, end_sessions: bool = False) -> Changed:
    ctx.changes = {"status": [row.status, to]}

    def store(connection: Connection) -> None:
        repository.change(connection, row.id, {"status": to}, since=row.status)
        if end_sessions:
            end_everything(connection, ctx.services, row.id)
            eviction.ask(connection, ctx.services, row)
            if row.role is Role.ADMIN:
                service.leave_an_admin(connection)

    await ctx.write(store)
    # A row without an account (a name of the host's, written here by hand) has nobody to lock out.
    return await service.apply(ctx, row.id, strict=end_sessions and row.uid is not None and row.host_generation > 0)


async def preview_purge(ctx: Context, action: PreviewPurge) -> PurgePlan:
    row = await service.get(ctx.services, action.username)
    groups, named = shown.names(row.groups), await ctx.services.database.read_long(history.count, row.username)
    if row.portal_only or row.uid is None:
        return PurgePlan(row.username, row.status, None, "", "0B", 0, 0, groups, named)
    left = await ctx.services.agent.call(wire.PurgePreview(row.username), wire.Remains)
    size = ("more than " if left.more else "") + human_size(left.home_bytes)
    return PurgePlan(
        row.username, row.status, left.uid, left.home, size, left.home_files, left.processes, groups, named
    )


async def purge_user(ctx: Context, action: PurgeUser) -> Purged:
    """Remove a soft-deleted user for good. Can be repeated until it is through; reconcile goes on after a crash."""
    if action.history != "keep" and ctx.bound is not None:
        raise PermissionDenied("history: only an administrator of all domains changes the audit.", "Ask one.")
    row = await service.get(ctx.services, action.username)
    if row.status not in (Status.DELETED, Status.PURGE_ERROR, Status.PURGING):
        raise Conflict(
            f"{row.username} is {row.status}: delete it first.", "A purge takes only what was deleted before."
        )
    archived = await _archive(ctx.services, row) if action.archive else wire.Archived()
    handed = wire.Handed() if action.hand_over_to is UNSET else await _hand_over(ctx, row, action.hand_over_to)

    def store(connection: Connection) -> None:
        history.ask(connection, row.id, action.history)
        repository.change(connection, row.id, {"status": Status.PURGING}, since=row.status)

    if row.status is not Status.PURGING:
        await ctx.write(store)
    await finish_purge(ctx.services, await service.get(ctx.services, action.username))
    ctx.changes = {"status": [row.status, None], "uid": [row.uid, None]}
    if archived.path:
        ctx.changes["archive"] = [None, archived.path]
    if handed.given:
        ctx.changes["handed_over"] = [None, f"{handed.given} to {action.hand_over_to}"]
    has_home = not row.portal_only and row.uid is not None
    left_out: tuple[str, ...] = ()
    if archived.left_out:
        left_out += (f"{archived.left_out} entries of the home are not in the archive.",)
    if handed.left:
        left_out += (f"{handed.left} links and the like in groups' folders could not be handed over.",)
    size = human_size(archived.bytes) if archived.path else ""
    return Purged(row.username, has_home, archived.path, size, handed.given, left_out)


async def _hand_over(ctx: Context, row: Row, to: str) -> wire.Handed:
    """Give what the user has in groups' folders to somebody else, while the user is only deleted.

    Raises InvalidInput for who cannot have it, and what the agent says; nothing is gone then, and it can be repeated.
    """
    heir = await ctx.services.database.read(repository.by_name, to)
    if heir is None or (ctx.bound is not None and heir.domain != ctx.bound):
        raise InvalidInput.of([FieldError("hand_over_to", f"there is no user {to} to hand over to")])
    if heir.id == row.id or heir.status is not Status.ACTIVE or heir.portal_only or heir.domain != row.domain:
        rule = f"must be another active user of the domain {row.domain}, with an account on the host"
        raise InvalidInput.of([FieldError("hand_over_to", rule)])
    if row.portal_only or row.uid is None:
        return wire.Handed()
    return await ctx.services.agent.call(wire.HandOver(row.username, to), wire.Handed, deadline=ARCHIVE_S)


async def _archive(services: Services, row: Row) -> wire.Archived:
    """Have the home packed while the user is only deleted: whatever fails here, nothing is gone yet.

    Told again after a crash it finds the archive that is there. Raises what is in the way, Unavailable if packing takes
    longer than a message may: it goes on, and the same purge again finds it done.
    """
    if row.portal_only or row.uid is None:
        return wire.Archived()
    return await services.agent.call(wire.ArchiveHome(row.username), wire.Archived, deadline=ARCHIVE_S)


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
            # A name of the host's, written here by hand, or adopted without root's word to the agent.
            if isinstance(error, PermissionDenied) and (row.uid is None or row.host_generation == 0):
                await _forget(services, row)
                return
            problem: dict[str, Any] = {"status": Status.PURGE_ERROR, "host_problem": error.message[:500]}
            await services.database.write(repository.change, row.id, problem)
            raise
    await _forget(services, row)
    log.info("user purged", username=row.username, uid=row.uid)


async def _forget(services: Services, row: Row) -> None:
    """Remove a purged user's rows, and have the notebooks' hub forget the name, which is free from now on."""

    def store(connection: Connection) -> None:
        history.remove(connection, row)
        eviction.ask(connection, services, row, gone=True)

    await services.database.write(store)
    await eviction.carry_out(services, row.username)
