"""What the actions of second factors do. Everybody sets up their own; an administrator can only take them all away."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import structlog
from sqlalchemy import Connection

from diycloud.actions.actor import Actor
from diycloud.actions.dispatcher import Context
from diycloud.actions.services import Services
from diycloud.auth import factors, forced, notices, passkeys, proof, recovery, sessions, totp
from diycloud.auth.factor_actions import (
    ActivateTotp,
    AddPasskey,
    BeginPasskey,
    BeginTotp,
    Factors,
    FactorsChanged,
    PasskeyBegun,
    RemovePasskey,
    RemoveTotp,
    RenamePasskey,
    RenewCodes,
    ResetFactors,
    ShowFactors,
    TotpBegun,
)
from diycloud.errors import Conflict, FieldError, InvalidInput, NotFound, PermissionDenied, TooManyRequests
from diycloud.users import service
from diycloud.users.models import Row

log = structlog.get_logger()
TRIES = 10
"""Wrong first codes until a new secret must be asked for."""


class _Added(NamedTuple):
    """codes: new recovery codes; token: of the session from now on, None where it stays."""

    codes: tuple[str, ...]
    token: str | None


NOTHING_ADDED = _Added((), None)


class NewSecret:
    """A secret that an app was shown, and no code of it was seen yet."""

    __slots__ = ("secret", "tries")

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.tries = 0


async def show_factors(ctx: Context, action: ShowFactors) -> Factors:
    row = await service.get(ctx.services, action.username)
    return await _shown(ctx.services, row)


async def _shown(services: Services, row: Row) -> Factors:
    return await services.database.read(factors.shown, row, services.settings.server)


async def _own(ctx: Context) -> Row:
    """Return the row of who acts, for a change of their own. Raises Conflict, ProofNeeded, PermissionDenied."""
    if ctx.actor.real:
        raise Conflict(
            "Nobody sets up a second factor on another's behalf.", "`diycloud factor reset NAME` removes them."
        )
    if ctx.actor.user_id is None:
        raise Conflict(f"{ctx.actor.name} signs in without a password here, and without a second factor.")
    proof.require(ctx.actor)
    return await service.get(ctx.services, ctx.actor.name)


def _owner(row: Row) -> str:
    return f"user {row.id}"


async def begin_totp(ctx: Context, action: BeginTotp) -> TotpBegun:
    """Show a secret. Asked again within a quarter of an hour it is the same: a page that is loaded anew changes nothing."""
    row = await _own(ctx)
    waiting = ctx.services.new_secrets
    begun = waiting.newest(_owner(row))
    if begun is None:
        begun = NewSecret(totp.generate_secret())
        waiting.put(_owner(row), begun)
    uri = totp.uri(begun.secret, row.username, passkeys.party(ctx.services.settings.server).id)
    return TotpBegun(begun.secret, uri, totp.picture(uri))


async def activate_totp(ctx: Context, action: ActivateTotp) -> FactorsChanged:
    """Take the app's first code. The secret is then the user's, in place of an earlier app's."""
    services, row = ctx.services, await _own(ctx)
    begun = services.new_secrets.newest(_owner(row))
    if begun is None:
        raise Conflict("There is no new app to activate, or it took too long.", "Begin again.")
    begun.tries += 1
    if begun.tries > TRIES:
        services.new_secrets.forget(_owner(row))
        raise TooManyRequests("Too many wrong codes for this QR code.", "Begin again with a new one.")
    step = totp.matching_step(begun.secret, "".join(action.code.split()))
    if step is None:
        raise InvalidInput.of([FieldError("code", "is not what the app shows now; is the phone's clock right?")])
    ctx.changes = {"app": "(secret)"}
    added = await _add(
        ctx,
        row,
        factors.OTP,
        lambda connection: totp.store(connection, services.vault, row.id, begun.secret, step=step),
    )
    services.new_secrets.forget(_owner(row))
    changed = await _changed(ctx, row, added)
    await factors.spend_on_host(services, row, step)  # after the secret itself, or the host knows nothing of its steps
    return changed


async def _add(ctx: Context, row: Row, method: str, store: Callable[[Connection], None]) -> _Added:
    """Store a second factor. With the first one come recovery codes, and other sessions end.

    A session that could do nothing before goes on under another token, as after any gain of rights.
    """
    session = ctx.actor.session_id

    def change(connection: Connection) -> _Added:
        first = not factors.state(connection, row.id).any
        store(connection)
        if session is not None:
            sessions.add_method(connection, session, method)
        token = sessions.rotate(connection, session) if session is not None and ctx.actor.must_enrol else None
        if not first:
            return _Added((), token)
        sessions.end_all(connection, row.id, keep=session)
        return _Added(tuple(recovery.renew(connection, row.id)), token)

    return await ctx.write(change)


async def _changed(ctx: Context, row: Row, added: _Added = NOTHING_ADDED) -> FactorsChanged:
    """Return the second factors after a change that the host must know of: sshd asks for the same codes."""
    warnings = (await service.apply(ctx, row.id)).warnings
    return FactorsChanged(await _shown(ctx.services, row), added.codes, warnings, added.token)


async def _remove(ctx: Context, row: Row, take: Callable[[Connection], bool], what: str) -> FactorsChanged:
    """Take one second factor away; other sessions end. Raises Conflict for the last where one must be."""
    server = ctx.services.settings.server

    def change(connection: Connection) -> None:
        if not take(connection):
            raise NotFound(f"You have no {what}.")
        left = factors.state(connection, row.id)
        reason = forced.reason(server, row.role, row.policy, asked=left.asked)
        if not left.any and reason:
            raise Conflict(
                f"This is your only second factor, and {reason}.", "Set up another first, then remove this one."
            )
        if not left.any:
            recovery.remove(connection, row.id)
        sessions.end_all(connection, row.id, keep=ctx.actor.session_id)

    await ctx.write(change)
    return await _changed(ctx, row)


async def remove_totp(ctx: Context, action: RemoveTotp) -> FactorsChanged:
    row = await _own(ctx)
    ctx.changes = {"app": ["(secret)", ""]}
    return await _remove(ctx, row, lambda connection: totp.remove(connection, row.id), "app for codes")


async def renew_codes(ctx: Context, action: RenewCodes) -> FactorsChanged:
    """Give new recovery codes. Raises Conflict without a second factor: they would stand in for nothing."""
    row = await _own(ctx)

    def change(connection: Connection) -> tuple[str, ...]:
        if not factors.state(connection, row.id).any:
            raise Conflict("Recovery codes stand in for a second factor, and you have none.", "Set one up first.")
        return tuple(recovery.renew(connection, row.id))

    codes = await ctx.write(change)
    return FactorsChanged(await _shown(ctx.services, row), codes)


async def begin_passkey(ctx: Context, action: BeginPasskey) -> PasskeyBegun:
    """Return what the browser is to be asked for. Raises Unsupported where it would refuse."""
    services, row = ctx.services, await _own(ctx)
    here = passkeys.party(services.settings.server)
    passkeys.check_possible(here)
    token = services.challenges.put(_owner(row), passkeys.Challenge(passkeys.REGISTER, row.id))
    known = await services.database.read(passkeys.of_user, row.id)
    options = await passkeys.registration_options(here, token, row.username, row.full_name, row.uuid, known)
    return PasskeyBegun(options, here.origin)


async def add_passkey(ctx: Context, action: AddPasskey) -> FactorsChanged:
    """Keep the passkey that the browser made for the challenge that this user was given."""
    services, row = ctx.services, await _own(ctx)
    try:
        token = passkeys.challenge_of(action.credential)
        if services.challenges.take(token) != passkeys.Challenge(passkeys.REGISTER, row.id):
            raise Conflict("That took too long, or was sent twice.", "Add the passkey again.")
        made = await passkeys.verify_registration(passkeys.party(services.settings.server), token, action.credential)
    except passkeys.Wrong as error:
        log.warning("passkey refused", username=row.username, reason=error.message)
        raise InvalidInput.of([FieldError("credential", "is no passkey for this portal")]) from None
    ctx.changes = {"passkey": ["", action.label]}
    added = await _add(
        ctx, row, factors.HARDWARE, lambda connection: passkeys.add(connection, row.id, made, action.label)
    )
    return FactorsChanged(await _shown(services, row), added.codes, (), added.token)


async def rename_passkey(ctx: Context, action: RenamePasskey) -> FactorsChanged:
    row = await _own(ctx)
    if not await ctx.write(passkeys.rename, row.id, int(action.passkey), action.label):
        raise NotFound("You have no such passkey.")
    return FactorsChanged(await _shown(ctx.services, row))


async def remove_passkey(ctx: Context, action: RemovePasskey) -> FactorsChanged:
    row = await _own(ctx)
    which = int(action.passkey)
    names = {key.id: key.name for key in await ctx.services.database.read(passkeys.of_user, row.id)}
    ctx.changes = {"passkey": [names.get(which, action.passkey), ""]}
    return await _remove(ctx, row, lambda c: passkeys.remove(c, row.id, which) > 0, "such passkey")


async def reset_factors(ctx: Context, action: ResetFactors) -> FactorsChanged:
    """Take everything away: the phone is gone, and the paper too. One's own go one by one, where one may be without."""
    proof.require(ctx.actor)
    services, row = ctx.services, await service.get(ctx.services, action.username)
    if row.id in (ctx.actor.user_id, (ctx.actor.real or ctx.actor).user_id):
        raise Conflict("Your own second factors are removed one by one, on your account's page.")
    _check_sudo(ctx.actor, row)

    def change(connection: Connection) -> tuple[bool, int, int]:
        had = factors.state(connection, row.id)
        if not had.any:
            raise Conflict(f"{row.username} has no second factor.")
        gone = totp.remove(connection, row.id), passkeys.remove(connection, row.id)
        recovery.remove(connection, row.id)
        notices.tell(connection, row.id, notices.FACTORS_RESET, by=(ctx.actor.real or ctx.actor).name)
        return (*gone, sessions.end_all(connection, row.id))

    app, keys, ended = await ctx.write(change)
    ctx.changes = {"app": [int(app), 0], "passkeys": [keys, 0], "sessions": [ended, 0]}
    services.new_secrets.forget(_owner(row))
    services.throttle.clear(row.username)
    return await _changed(ctx, row)


def _check_sudo(actor: Actor, row: Row) -> None:
    """Raise PermissionDenied: who is an administrator of the host is helped by its root alone (rules.md 1)."""
    if row.sudo and not actor.is_root:
        raise PermissionDenied(
            f"{row.username} has sudo on the host, so only root takes the second factor away.",
            f"As root on the host: diycloud factor reset {row.username}",
        )
