"""What changes how somebody signs in asks for a fresh proof of who it is: a session that was left open must not be enough."""

from __future__ import annotations

import time

import structlog

from diycloud.actions.actor import Actor
from diycloud.actions.services import Services
from diycloud.auth import factors, host_password, passkeys
from diycloud.errors import PermissionDenied, ProofNeeded, Unavailable
from diycloud.users.models import Row

log = structlog.get_logger()
FRESH_S = 15 * 60
"""How long a proof counts: from signing in, or from `session.prove`."""


def is_fresh(actor: Actor) -> bool:
    """Tell whether who acts has proved it just now, so that `require` would let them; the host's own root needs no proof."""
    who = actor.real or actor
    return who.user_id is None or (who.session_id is not None and time.time() - who.proved_at <= FRESH_S)


def require(actor: Actor) -> None:
    """Raise ProofNeeded unless who acts has proved it just now, PermissionDenied for an API token, which cannot.

    The host's own root needs none. Who acts for another proves who they are themselves.
    """
    who = actor.real or actor
    if who.user_id is None:
        return
    if who.scopes is not None or who.session_id is None:
        raise PermissionDenied(
            "An API token may not change how somebody signs in.", "Sign in, at the portal or by REST."
        )
    if not is_fresh(actor):
        raise ProofNeeded(
            "This needs a fresh proof of who you are.",
            "`diycloud login` gives it, or by REST: POST /api/v1/account/proof.",
        )


def require_of_session(actor: Actor) -> None:
    """As `require`, for what an API token may be lent: its owner proved who they are when they made it."""
    if (actor.real or actor).scopes is None:
        require(actor)


async def password_holds(services: Services, row: Row, password: str, address: str) -> bool:
    """Tell whether a password is a user's, slowed down as at signing in: a session that was left open is no way to guess it.

    Raises TooManyRequests, Unavailable.
    """
    services.throttle.check(row.username, address)
    services.throttle.failed(row.username, address)  # until it is known: guesses sent all at once count too
    try:
        outside = services.outside
        subject = await outside.subject(row) if outside else None
        if outside and subject is not None:  # the directory keeps it
            right = await outside.password_holds(row, subject, password)
        else:
            right = (await host_password.verify(services, row.username, row, password)).right
    except Unavailable:
        services.throttle.uncount(row.username, address)  # nothing was tried
        raise
    if right:
        services.throttle.uncount(row.username, address)
    return right


async def holds(services: Services, row: Row, password: str, code: str, address: str) -> bool:
    """Tell whether password and, of who has a second factor, code are a user's: one answer, whichever of them is wrong.

    Raises TooManyRequests, Unavailable.
    """
    right = await password_holds(services, row, password, address)
    if right and (await services.database.read(factors.state, row.id)).any:
        codes = services.throttle.codes
        codes.check(row.username, address, known_address=row.last_login_ip)
        codes.failed(row.username, address)
        right = await factors.prove_code(services, row, code)
        if right:
            codes.succeeded(row.username, address)
        else:
            services.throttle.failed(row.username, address)
    return right


async def shown(services: Services, row: Row, answer: str) -> bool:
    """Tell whether a browser's answer shows a passkey of a user's, the device having looked who holds it.

    That is as much as signing in asks for. The reason for a refusal is in the log.
    """
    try:
        passkeys.check_handle(answer, row.uuid)
        await factors.prove_passkey(services, answer, passkeys.Challenge(passkeys.PROVE, row.id))
    except passkeys.Wrong as error:
        log.warning("passkey refused", username=row.username, reason=error.message)
        return False
    return True
