"""Signing in: from a name and what is proved to a session.

    prove      who it is, by a password or by an outside provider; the account may sign in, from there
    factors    what is still asked of them (auth/factors.py); they come back with a ticket
    begin      the session

Whatever the reason for a refusal, the words are the same and the time is that of a hash.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import structlog
from sqlalchemy import Connection

from diycloud.actions import audit
from diycloud.actions.actor import Actor
from diycloud.actions.roles import Role
from diycloud.actions.services import Services
from diycloud.auth import passwords, sessions
from diycloud.auth.addresses import allows
from diycloud.errors import TooManyRequests, Unauthenticated, Unavailable
from diycloud.users import host, repository, service
from diycloud.users.models import SIGN_IN, Row

log = structlog.get_logger()
WRONG = "The name or the password is wrong."
"""Said for an unknown name, a wrong password and an account that may not sign in alike."""
PASSWORD = "pwd"  # noqa: S105 - a method's name
"""How it was proved who it is: the words of RFC 8176 (`otp`, `hwk` of the second factors, `fed` for an outside provider)."""


class SignedIn(NamedTuple):
    """token: the visitor's, kept nowhere here. expires_at: Unix seconds."""

    token: str
    username: str
    must_change_password: bool
    expires_at: int


class Visit(NamedTuple):
    """Where a sign-in comes from. actor: the stranger, with address and request id; kind: browser or api."""

    actor: Actor
    kind: str
    user_agent: str
    started: float


class SignIn:
    """Checks names and passwords and starts sessions."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.throttle = services.throttle

    async def __call__(self, username: str, password: str, *, actor: Actor, kind: str, user_agent: str) -> SignedIn:
        """Start a session. actor: the stranger, with address and request id.

        Raises Unauthenticated with the same words and after the same time for every reason, TooManyRequests, Unavailable.
        """
        visit = Visit(actor, kind, user_agent, time.monotonic())
        row = await self._prove_password(
            username[:64].replace("\0", "\ufffd"), password, visit
        )  # PostgreSQL takes no NUL
        if not row.shadow_set and not row.portal_only and not row.must_change_password:
            await self._give_host_password(row, password)
        is_old = row.password_hash.startswith(passwords.OLD)
        better = await self._services.hasher.hash_many([password]) if is_old else []
        return await self.begin(row, (PASSWORD,), visit, better=better)

    async def _prove_password(self, username: str, password: str, visit: Visit) -> Row:
        """Return the user whom a password proves. Raises as calling does."""
        actor = visit.actor
        row = await self._services.database.read(repository.by_name, username)
        try:
            self.throttle.check(username, actor.address, known_address=row.last_login_ip if row else None)
            self.throttle.failed(username, actor.address)  # until it is known: guesses sent all at once count too
            if not await self._verify(username, password, row, actor):
                raise Unauthenticated(WRONG)
            assert row is not None
            if row.status not in SIGN_IN or not allows(row.allowed_client_ip, actor.address):
                raise Unauthenticated(WRONG)
        except (Unauthenticated, TooManyRequests) as error:
            if isinstance(error, Unauthenticated) or self.throttle.is_news(actor.address):
                await self.audit(actor, row, "refused", error.code, visit.started)
            raise
        self.throttle.succeeded(row.username, actor.address)
        return row

    async def _verify(self, username: str, password: str, row: Row | None, actor: Actor) -> bool:
        try:
            return await self._services.hasher.verify(password[:1024], row.password_hash if row else None)
        except Unavailable:
            self.throttle.uncount(username, actor.address)  # nothing was tried
            raise

    async def begin(self, row: Row, methods: Sequence[str], visit: Visit, *, better: Sequence[str] = ()) -> SignedIn:
        """Start the session of a user who is proved. better: a hash to take the place of an old one.

        Raises Unauthenticated if the user was changed meanwhile.
        """
        settings, now, actor = self._services.settings.server, int(time.time()), visit.actor
        max_s = settings.session_max_hours * 3600

        def store(connection: Connection) -> str:
            if not repository.is_still(
                connection, row
            ):  # checking took a while: the password is another, the user gone
                raise Unauthenticated(WRONG)
            values = {"last_login": repository.NOW, "last_login_ip": actor.address}
            repository.note(connection, row.id, values)
            for hashed in better:
                repository.replace_hash(connection, row.id, row.password_hash, hashed)
            return sessions.begin(
                connection, row.id, now=now, max_s=max_s, kind=visit.kind, address=actor.address,
                user_agent=visit.user_agent, methods=methods,
            )  # fmt: skip

        try:
            token = await self._services.database.write(store)
        except Unauthenticated as error:
            await self.audit(actor, row, "refused", error.code, visit.started)
            raise
        await self.audit(actor._replace(name=row.username), row, "done", "", visit.started)
        return SignedIn(token, row.username, row.must_change_password, now + max_s)

    async def _give_host_password(self, row: Row, password: str) -> None:
        """Set the host's password to the one just proved: the account came without it (by hand, or while the agent was down)."""
        shadow = await service.shadow_hash(self._services, password)
        if shadow is None:
            return
        await self._services.database.write(repository.change, row.id, {"shadow_hash": shadow})
        try:
            fresh = await self._services.database.read(repository.by_id, row.id)
            await host.settle(self._services.database, self._services.agent, [fresh] if fresh else [])
        except Unavailable:
            log.warning("host password not set yet", username=row.username)

    async def audit(self, actor: Actor, user: Row | None, outcome: str, code: str, started: float) -> None:
        """Record a sign-in, or why there was none. started: seconds, monotonic."""

        def store(connection: Connection) -> None:
            target, domain = (user.username, user.domain) if user else ("", "")
            begun = audit.begin(connection, actor, "session.begin", target, {}, domain=domain)
            audit.end(
                connection, begun, outcome, code=code, duration_ms=(time.monotonic() - started) * 1000, changes=None
            )

        await self._services.database.write(store)


def stranger(via: str, address: str, request_id: str) -> Actor:
    """Return the actor of a request that nobody is signed in for. The role has no say: nothing is run for it but sign-in."""
    return Actor("(nobody)", Role.USER, via, None, address, request_id)
