"""Make the host equal to the database, at the start, every minute and when asked. Safe to repeat at any time."""

from __future__ import annotations

import asyncio
import contextlib
import time

import structlog

from diycloud.actions import audit, claims
from diycloud.actions.services import Services
from diycloud.agent import protocol as wire
from diycloud.auth import demands, host_password, sessions, tokens
from diycloud.auth.oidc import grants
from diycloud.errors import DiyCloudError, Unavailable
from diycloud.groups import host as groups
from diycloud.notebooks import eviction
from diycloud.notebooks import repository as notebooks
from diycloud.users import host, life, metrics, repository
from diycloud.users.models import Status

log = structlog.get_logger()
EVERY_S = 60


async def reconcile(services: Services) -> wire.SyncReport:
    """Have the groups, finish purges, settle what the host has not confirmed, then compare the whole list.

    Raises Unavailable. Groups come before those who are in them; what keeps the host from groups keeps nobody's limits.
    """
    try:
        await groups.reconcile(services)
    except DiyCloudError as error:
        log.warning("groups not reconciled", reason=str(error))
    for row in await services.database.read_long(repository.with_status, Status.PURGING):
        with contextlib.suppress(DiyCloudError):  # noted in the row
            await life.finish_purge(services, row)
    await _settle_all(services)
    rows = await services.database.read_long(repository.wishes)
    asked = await demands.asked(services)
    await eviction.carry_out(services)
    report = await services.agent.sync(
        host.wish(row, asked.get(row.id, demands.NOTHING)) for row in rows if not host.impossible(row)
    )
    services.report = report
    if report.foreign and (names := await services.database.write(host_password.void, services, report.foreign)):
        log.warning("passwords changed on the host", names=names)
        await eviction.carry_out(services)
    if report.overtaken:  # an older database was restored: its wishes are the newest there are
        await services.database.write(repository.overtake, report.overtaken)
        await _settle_all(services)
    if report.remade:  # accounts that somebody removed are back, without their passwords
        await services.database.write(repository.note_lost_passwords, report.remade)
    if report.created or report.mended or report.orphans or report.failed or report.stopped:
        log.warning("reconciled", **{name: getattr(report, name) for name in report.__struct_fields__})
    return report


async def _settle_all(services: Services) -> None:
    tried: set[int] = set()
    while True:
        rows = await services.database.read_long(repository.unsettled, len(tried) + wire.MAX_BATCH)
        rows = [row for row in rows if row.id not in tried][: wire.MAX_BATCH]
        if not rows:
            return
        tried.update(row.id for row in rows)
        await host.settle(services, rows)


async def housekeeping(services: Services) -> None:
    """Forget expired sessions, tokens and sign-ins at applications, idempotency keys of yesterday and old audit rows."""
    settings, now = services.settings.server, int(time.time())
    idle = settings.session_idle_minutes * 60
    await services.database.write(lambda connection: sessions.forget_expired(connection, now=now, idle_s=idle))
    await services.database.write(lambda connection: tokens.forget_expired(connection, now=now))
    await services.database.write(grants.forget, now)
    await services.database.write(claims.forget)
    await services.database.write(audit.forget, settings.audit_days)
    await services.database.write(notebooks.forget, settings.audit_days)


async def start(services: Services) -> None:
    """Close what a crash left open, before the first request."""
    crashed = await services.database.write(audit.close_crashed)
    orphans = await services.database.write(repository.tidy)
    if crashed or orphans:
        log.warning("after an unclean stop", actions_left_open=crashed, orphan_rows_removed=orphans)


async def keep_reconciling(services: Services) -> None:
    """Run for the server's life."""
    while True:
        try:
            with metrics.reconciling(services):
                await reconcile(services)
            await housekeeping(services)
        except Unavailable as error:
            log.warning("cannot reconcile", reason=str(error))
        except Exception:
            log.exception("reconcile crashed")
        await asyncio.sleep(EVERY_S)
