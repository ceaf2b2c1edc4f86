"""Signing out, and one's own password. Signing in: signin.py."""

from __future__ import annotations

from diycloud.actions.dispatcher import Context
from diycloud.auth import passwords, sessions
from diycloud.auth.actions import ChangePassword, ClearThrottle, EndSessions, SignOut
from diycloud.errors import Conflict, FieldError, InvalidInput
from diycloud.users import adopting, service
from diycloud.users.models import Changed


async def change_password(ctx: Context, action: ChangePassword) -> Changed:
    """Change one's own password with the old one; every other session ends. Raises InvalidInput by field."""
    services = ctx.services
    if ctx.actor.real:
        raise Conflict("Nobody changes a password on another's behalf.", "`diycloud user set-password NAME` sets one.")
    if ctx.actor.user_id is None:
        raise Conflict(f"{ctx.actor.name} has no password here.", "`diycloud user set-password NAME` sets a user's.")
    row = await service.get(services, ctx.actor.name)
    services.throttle.check(row.username, ctx.actor.address)
    if not await services.hasher.verify(action.current, row.password_hash):
        services.throttle.failed(row.username, ctx.actor.address)
        raise InvalidInput.of([FieldError("current", "is not your present password")])
    weakness = passwords.weakness(action.password, own=(row.username, row.full_name, row.email or ""))
    if weakness:
        raise InvalidInput.of([FieldError("password", weakness)])
    if action.password == action.current:
        raise InvalidInput.of([FieldError("password", "is the one you have")])
    if row.sudo:
        await adopting.change_administrators_password(ctx, row, action.current, action.password)
    else:
        await service.store_password(ctx, row, action.password, must_change=False, keep_session=ctx.actor.session_id)
    ctx.changes = {"password": "(secret)"}
    return await service.apply(ctx, row.id)


async def end_sessions(ctx: Context, action: EndSessions) -> None:
    """End every session of a user."""
    row = await service.get(ctx.services, action.username)
    ended = await ctx.write(sessions.end_all, row.id)
    ctx.changes = {"sessions": [ended, 0]}


async def clear_throttle(ctx: Context, action: ClearThrottle) -> None:
    """Forget a user's failed sign-ins. Those of an address they share with others stay counted."""
    row = await service.get(ctx.services, action.username)
    ctx.services.throttle.clear(row.username)


async def sign_out(ctx: Context, action: SignOut) -> None:
    if ctx.actor.session_id is not None:
        await ctx.write(sessions.end, ctx.actor.session_id)
