"""One's own sign-in: password, proof, signing out; API tokens. Signing in: signin.py; sessions: signed_in.py."""

from __future__ import annotations

import time

from sqlalchemy import Connection

from diycloud.actions.dispatcher import Context
from diycloud.auth import notices, old_passwords, passwords, proof, sessions, tokens
from diycloud.auth.actions import (
    ChangePassword,
    ClearThrottle,
    CreateToken,
    ListTokens,
    ListWaiting,
    Prove,
    RevokeToken,
    SignOut,
)
from diycloud.auth.models import PasswordChanged, Proved, Token, TokenCreated, TokenList, Wait, WaitList, moment
from diycloud.errors import Conflict, FieldError, InvalidInput, NotFound, PermissionDenied, Unauthenticated
from diycloud.users import adopting, repository, service
from diycloud.users.models import Row

MOST_SHOWN = 200


async def change_password(ctx: Context, action: ChangePassword) -> PasswordChanged:
    """Change one's own password with the old one; every other session ends, and this one goes on under another token.

    Raises InvalidInput by field.
    """
    services = ctx.services
    if ctx.actor.real:
        raise Conflict("Nobody changes a password on another's behalf.", "`diycloud user set-password NAME` sets one.")
    if ctx.actor.user_id is None:
        raise Conflict(f"{ctx.actor.name} has no password here.", "`diycloud user set-password NAME` sets a user's.")
    row = await service.get(services, ctx.actor.name)
    if services.outside and await services.outside.subject(row) is not None:
        raise Conflict("Your password is the directory's.", "Change it there; it holds here at once.")
    if row.password_hash == adopting.NO_PASSWORD and not row.sudo:
        proof.require(ctx.actor)  # the first one: there is none to show
    elif not await proof.password_holds(services, row, action.current, ctx.actor.address):
        raise InvalidInput.of([FieldError("current", "is not your present password")])
    await _check_new(ctx, row, action)
    if row.sudo:
        await adopting.change_administrators_password(
            ctx, row, action.current, action.password, keep_tokens=action.keep_tokens
        )
    else:
        await service.store_password(
            ctx, row, action.password, must_change=False, keep_session=ctx.actor.session_id,
            keep_tokens=action.keep_tokens,
        )  # fmt: skip
    ctx.changes = {"password": "(secret)"}
    token = await _rotate(ctx, None)
    changed = await service.apply(ctx, row.id)
    return PasswordChanged(changed.user, None, changed.warnings, token)


async def _check_new(ctx: Context, row: Row, action: ChangePassword) -> None:
    """Raise InvalidInput for a new password that is weak, the present one, or one of those before."""
    shortest = ctx.services.settings.server.password_min_length
    own = (row.username, row.full_name, row.email or "")
    weakness = passwords.weakness(action.password, own=own, min_length=shortest)
    if weakness is None and action.password == action.current:
        weakness = "is the one you have"
    if weakness is None and await old_passwords.was_used(ctx.services, row, action.password):
        weakness = "is one that you had before"
    if weakness is not None:
        raise InvalidInput.of([FieldError("password", weakness)])


async def _rotate(ctx: Context, proved_at: int | None) -> str | None:
    """Give the session that asks another token: whoever has taken the old one has nothing."""
    session = ctx.actor.session_id
    if session is None:
        return None
    return await ctx.write(sessions.rotate, session, proved_at=proved_at)


async def prove(ctx: Context, action: Prove) -> Proved:
    """Note that who acts has proved it anew, by password and code or by a passkey.

    Raises InvalidInput with the same words for a wrong password and a wrong code.
    """
    actor = ctx.actor
    if actor.real or actor.user_id is None or actor.session_id is None:
        raise PermissionDenied(
            "Only somebody who is signed in proves who they are.", "Sign in, at the portal or by REST."
        )
    row = await service.get(ctx.services, actor.name)
    if bool(action.passkey) == bool(action.password):
        raise InvalidInput.of([FieldError("password", "either this or passkey is needed")])
    if action.passkey:
        if not await proof.shown(ctx.services, row, action.passkey):
            raise InvalidInput("This passkey does not prove who you are here.", "Nothing was changed.")
    elif not await proof.holds(ctx.services, row, action.password, action.code, actor.address):
        raise InvalidInput("The password or the code is wrong.", "Nothing was changed.")
    now = int(time.time())
    token = await _rotate(ctx, now)
    if token is None:
        raise Unauthenticated("Your session has ended meanwhile.", "Sign in again.")
    ctx.changes = {}
    return Proved(token, moment(now + proof.FRESH_S))


async def sign_out(ctx: Context, action: SignOut) -> None:
    if ctx.actor.session_id is not None:
        await ctx.write(sessions.end, ctx.actor.session_id)


async def create_token(ctx: Context, action: CreateToken) -> TokenCreated:
    """Make a token of who acts. Raises PermissionDenied for anybody else's, ProofNeeded, InvalidInput, Conflict."""
    actor = ctx.actor
    user = await service.get(ctx.services, action.username)
    if actor.real or actor.user_id != user.id:
        raise PermissionDenied("Everybody makes their own API tokens.", f"{action.username} can, once signed in.")
    proof.require(actor)
    scopes, now = tokens.widen(action.scopes, actor.role), int(time.time())
    parts, whole = tokens.make()

    def store(connection: Connection) -> list[Token]:
        tokens.add(connection, user.id, parts, action.label, scopes, now=now, days=action.days)
        return tokens.of_user(connection, user.id, user.username, now=now)

    made = (await ctx.write(store))[0]
    ctx.changes = {"key_id": [None, made.key_id], "scopes": list(scopes), "expires_at": [None, made.expires_at]}
    return TokenCreated(made, whole)


async def list_tokens(ctx: Context, action: ListTokens) -> TokenList:
    user = await service.get(ctx.services, action.username)
    found = await ctx.services.database.read(tokens.of_user, user.id, user.username, now=int(time.time()))
    return TokenList(user.username, found)


async def revoke_token(ctx: Context, action: RevokeToken) -> None:
    """End a token. Raises NotFound for one that is not there or another's."""
    user = await service.get(ctx.services, action.username)
    if not await ctx.write(tokens.end, user.id, action.key_id):
        raise NotFound(f"{user.username} has no token {action.key_id}.", "`diycloud token list` shows them.")


async def list_waiting(ctx: Context, action: ListWaiting) -> WaitList:
    """Return who must wait; within a domain only its own accounts.

    A name that is no user's is not shown: people type their password there.
    """
    found = [Wait(*waiting) for waiting in ctx.services.throttle.waiting()]
    names = {wait.username for wait in found if wait.username}
    known = await ctx.services.database.read_long(repository.domains_of, names)
    if (domain := ctx.within(None)) is not None:
        found = [wait for wait in found if known.get(wait.username) == domain]
    shown = [wait if wait.username in known else _nameless(wait) for wait in found]
    return WaitList(shown[:MOST_SHOWN], max(0, len(shown) - MOST_SHOWN))


def _nameless(wait: Wait) -> Wait:
    return Wait(wait.kind, "", wait.address, wait.failures, wait.seconds)


async def clear_throttle(ctx: Context, action: ClearThrottle) -> None:
    """Forget a user's failed sign-ins. Those of an address they share with others stay counted."""
    row = await service.get(ctx.services, action.username)
    ctx.services.throttle.clear(row.username)
    await notices.tell_of(ctx, row.id, notices.MAY_TRY_AGAIN)
