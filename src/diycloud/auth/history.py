"""Reading the audit."""

from __future__ import annotations

from diycloud.actions import audit
from diycloud.actions.dispatcher import Context
from diycloud.auth.actions import AuditPage, ListAudit


async def list_audit(ctx: Context, action: ListAudit) -> AuditPage:
    entries = await ctx.services.database.read_long(
        audit.page,
        target=action.user,
        actor=action.actor,
        action=action.action,
        outcome=action.outcome or "",
        before=action.before,
        limit=action.limit,
    )
    return AuditPage(entries, entries[-1].id if len(entries) == action.limit else None)
