"""One password on both sides: whoever changed it on the host (passwd, chpasswd, usermod) has changed it here too.

The agent tells whether somebody else than the server set the host's password last. If so the hash here is void, the agent
compares what people type with /etc/shadow, and what is right becomes the password here. docs/decisions/0014-pam.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from typing import NamedTuple, get_args

import structlog
from sqlalchemy import Connection, update

from diycloud.actions import audit
from diycloud.actions.actor import Actor
from diycloud.actions.services import Services
from diycloud.agent import protocol as wire
from diycloud.auth import old_passwords
from diycloud.auth.ending import end_everything
from diycloud.db.tables import users
from diycloud.errors import DiyCloudError, Unauthenticated, Unavailable
from diycloud.notebooks import eviction
from diycloud.users import host, repository
from diycloud.users.models import Row

log = structlog.get_logger()
PATIENCE_S = 5.0
"""How long a sign-in waits for the agent; after that it goes by what the last report said."""
_NAME = re.compile(get_args(wire.Name)[1].pattern)
_NOBODY = "nobody"
"""Asked about in the place of a name that cannot be: every sign-in takes the same way."""


class Match(NamedTuple):
    """Whether a password is right. fingerprint: of the host's that it is, empty if it is the one that is kept here."""

    right: bool
    fingerprint: str = ""


async def verify(services: Services, username: str, row: Row | None, password: str) -> Match:
    """Compare a password with a user's, wherever it was set last; row None (no such user) takes the same time.

    Raises Unavailable, TooManyRequests.
    """
    foreign = await _ask(services, username)
    if row is None or row.portal_only or row.shadow_hash is not None:  # then ours is on its way to the host
        return Match(await services.hasher.verify(password, row.password_hash if row else None))
    if foreign is None:
        foreign = row.password_void
    if not foreign:
        return Match(await services.hasher.verify(password, row.password_hash))
    fingerprint, _ = await asyncio.gather(_compare(services, row, password), services.hasher.verify(password, None))
    return Match(bool(fingerprint), fingerprint)


async def _ask(services: Services, username: str) -> bool | None:
    """Tell whether a name's password on the host is somebody else's, None if the agent does not say."""
    name = username if _NAME.match(username) else _NOBODY
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await services.agent.call(wire.IsPasswordForeign(name), bool, deadline=PATIENCE_S)
    except (DiyCloudError, TimeoutError):
        return None


async def _compare(services: Services, row: Row, password: str) -> str:
    """Return the fingerprint of the host's password if it is this one, else nothing.

    An agent that is away is no other answer than a wrong password: it would tell strangers that there is such a user.
    """
    if not password:
        return ""
    try:
        asked = wire.VerifyPassword(row.username, password)
        return (await services.agent.call(asked, wire.Verified, deadline=PATIENCE_S)).fingerprint
    except Unavailable as error:
        log.warning("password of the host not compared", username=row.username, reason=error.message)
        return ""


async def take_over(services: Services, row: Row, password: str, match: Match, actor: Actor) -> Row:
    """Make the host's password, which was just shown, the one here; every session and token ends. Returns the new row.

    actor: the visitor. Raises Unauthenticated if the user was changed meanwhile.
    """
    hashed, started = await services.hasher.hash(password), time.monotonic()
    values = {"password_hash": hashed, "must_change_password": 0, "shadow_set": 1}

    def store(connection: Connection) -> None:
        if not repository.is_still(connection, row):
            raise Unauthenticated("The user was changed meanwhile.", "Sign in again.")
        begun = audit.begin(connection, actor, "account.password", row.username, {}, domain=row.domain)
        old_passwords.remember(connection, row, services.settings.server.password_history)
        repository.change(connection, row.id, {**values, "password_changed_at": repository.NOW})
        end_everything(connection, services, row.id)
        took = (time.monotonic() - started) * 1000
        audit.end(connection, begun, "done", code="", duration_ms=took, changes={"password": "(changed on the host)"})

    await services.database.write(store)
    log.info("password of the host taken over", username=row.username)
    await eviction.carry_out(services, row.username)
    fresh = await services.database.read(repository.by_id, row.id) or row
    with contextlib.suppress(Unavailable):  # else it is foreign at the next sign-in, and the same again
        await services.agent.call(wire.ConfirmPassword(row.username, match.fingerprint), type(None))
        await host.settle(services, [fresh])
    return await services.database.read(repository.by_id, row.id) or fresh


def void(connection: Connection, services: Services, names: list[str]) -> list[str]:
    """Note whose password here is void, and end what was begun with it; returns those for whom that is new."""
    found = []
    for name in names:
        mine = (users.c.username == name) & (users.c.portal_only == 0)
        # A new password of ours that is on its way to the host is the later one.
        fresh = update(users).where(mine, users.c.password_void == 0, users.c.shadow_hash.is_(None))
        for (user_id,) in connection.execute(fresh.values(password_void=1).returning(users.c.id)).fetchall():
            end_everything(connection, services, user_id)
            found.append(name)
    return found
