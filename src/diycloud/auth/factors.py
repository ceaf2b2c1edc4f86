"""A user's second factors as signing in and the account's pages see them: which there are, and whether one was shown."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from diycloud.actions.services import Services
from diycloud.actions.waiting import Waiting
from diycloud.agent.protocol import SpendStep
from diycloud.auth import forced, passkeys, recovery, totp
from diycloud.auth.factor_actions import Factors, Passkey
from diycloud.config import ServerSettings
from diycloud.db.engine import Prepared
from diycloud.errors import Unavailable
from diycloud.users.models import Row

TOTP, RECOVERY, PASSKEY = "totp", "recovery", "passkey"
"""The ways of a second factor, as REST names them."""
OTP, HARDWARE, PRESENCE = "otp", "hwk", "user"
"""How it was proved who it is (RFC 8176): by a code once, by a key of a device, by a person that the device looked at."""
AGENT_S = 5.0
"""How long the agent is waited for."""
_DIGITS = re.compile(rf"[0-9]{{{totp.DIGITS}}}\Z")
_STATE = Prepared(
    text(f"""SELECT EXISTS (SELECT 1 FROM totps AS t WHERE t.user_id = u.id AND t.active = 1),
EXISTS (SELECT 1 FROM passkeys AS k WHERE k.user_id = u.id),
EXISTS (SELECT 1 FROM recovery_codes AS c WHERE c.user_id = u.id AND c.used_at IS NULL), {forced.ASKED}
FROM users AS u WHERE u.id = :user_id""")  # noqa: S608 - constants
)


class State(NamedTuple):
    """asked: whether the user's policy asks for one."""

    totp: bool
    passkey: bool
    recovery: bool
    asked: bool

    @property
    def any(self) -> bool:
        """Whether signing in asks for a second factor. Recovery codes stand in for one; they are none themselves."""
        return self.totp or self.passkey

    @property
    def ways(self) -> tuple[str, ...]:
        """The ways in which the second factor can be shown."""
        there = ((TOTP, self.totp), (PASSKEY, self.passkey), (RECOVERY, self.recovery))
        return tuple(way for way, has in there if has)


def state(connection: Connection, user_id: int) -> State:
    """Return which second factors a user has."""
    found = _STATE.fetch_one(connection, user_id=user_id)
    return State(*map(bool, found)) if found else State(False, False, False, False)


def shown(connection: Connection, row: Row, server: ServerSettings) -> Factors:
    """Return a user's second factors for people."""
    app = totp.find(connection, row.id)
    known = passkeys.of_user(connection, row.id)
    return Factors(
        username=row.username,
        totp_since=app.since if app else None,
        passkeys=[Passkey(str(k.id), k.name or "Passkey", k.backed_up, k.created_at, k.last_used) for k in known],
        codes_left=recovery.left(connection, row.id),
        required=forced.reason(server, row.role, row.policy, asked=state(connection, row.id).asked),
    )


async def prove_code(services: Services, row: Row, code: str) -> bool:
    """Tell whether a code is the user's (six digits: of the app; anything else: a recovery code), and use it up."""
    plain = "".join(code.split())
    if not _DIGITS.match(plain):
        return await services.database.write(recovery.spend, row.id, code)
    app = await services.database.read(totp.find, row.id)
    if app is None:
        return False
    step = totp.matching_step(totp.open_secret(services.vault, app), plain, after=app.last_step)
    return step is not None and await spend(services, row, step)


async def spend(services: Services, row: Row, step: int) -> bool:
    """Take a time step of a user's app as used, wherever it was shown. Returns False if it was used before.

    The one place through which every accepted code goes: of two uses at once the database lets one pass, and the agent
    knows which ones SSH has taken. Without the agent people sign in here all the same.
    """
    return await services.database.write(totp.spend, row.id, step) and await spend_on_host(services, row, step)


async def spend_on_host(services: Services, row: Row, step: int) -> bool:
    """Tell the agent that a step was used. Returns False if SSH has taken it before."""
    try:
        return row.portal_only or await services.agent.call(SpendStep(row.username, step), bool, deadline=AGENT_S)
    except Unavailable:
        return True


async def ask_passkey(services: Services, asked: passkeys.Challenge, owner: str) -> str:
    """Return what a browser is to ask its devices, as JSON, for a challenge that waits under an owner's name.

    Raises Unsupported where browsers would refuse.
    """
    here = passkeys.party(services.settings.server)
    passkeys.check_possible(here)
    token = _waiting(services, asked.user_id).put(owner, asked)
    known = await services.database.read(passkeys.of_user, asked.user_id) if asked.user_id is not None else []
    return await passkeys.request_options(here, token, known, verified=asked.verified)


def _waiting(services: Services, user_id: int | None) -> Waiting[Any]:
    """Return where challenges wait: those of strangers crowd out nobody else's."""
    return services.challenges_of_strangers if user_id is None else services.challenges


async def prove_passkey(services: Services, answer: str, asked: passkeys.Challenge) -> passkeys.Stored:
    """Return the passkey that a browser's answer to a challenge proves.

    Raises passkeys.Wrong: the challenge is not ours, for another purpose or used; the key is unknown or does not fit; its
    counter ran backwards.
    """
    token = passkeys.challenge_of(answer)
    if _waiting(services, asked.user_id).take(token) != asked:
        raise passkeys.Wrong("no challenge of ours, or for something else")
    stored = await services.database.read(passkeys.by_credential, passkeys.credential_of(answer))
    if stored is None or asked.user_id not in (None, stored.user_id):
        raise passkeys.Wrong("no passkey of this user")
    here = passkeys.party(services.settings.server)
    proof = await passkeys.verify(here, token, answer, stored, verified=asked.verified)
    if not await services.database.write(passkeys.note_use, stored, proof):
        raise passkeys.Wrong(f"the counter of passkey {stored.id} ran backwards: a copy of it may be in use")
    return stored
