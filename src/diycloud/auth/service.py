"""Signing in and out, and one's own password."""

from __future__ import annotations

import time
from typing import NamedTuple

import structlog
from sqlalchemy import Connection

from diycloud.actions import audit
from diycloud.actions.actor import Actor
from diycloud.actions.dispatcher import Context
from diycloud.actions.roles import Role
from diycloud.actions.services import Services
from diycloud.auth import passwords, sessions
from diycloud.auth.actions import ChangePassword, ClearThrottle, EndSessions, SignOut
from diycloud.auth.addresses import allows
from diycloud.errors import Conflict, FieldError, InvalidInput, TooManyRequests, Unauthenticated, Unavailable
from diycloud.users import adopting, host, repository, service
from diycloud.users.models import SIGN_IN, Changed, Row

log = structlog.get_logger()
WRONG = "The name or the password is wrong."
"""Said for an unknown name, a wrong password and an account that may not sign in alike."""


class SignedIn(NamedTuple):
    """token: the visitor's, kept nowhere here. expires_at: Unix seconds."""

    token: str
    username: str
    must_change_password: bool
    expires_at: int


class SignIn:
    """Checks names and passwords and starts sessions."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.throttle = services.throttle

    async def __call__(self, username: str, password: str, *, actor: Actor, kind: str, user_agent: str) -> SignedIn:
        """Start a session. actor: the stranger, with address and request id.

        Raises Unauthenticated with the same words and after the same time for every reason, TooManyRequests, Unavailable.
        """
        started, username = (
            time.monotonic(),
            username[:64].replace("\0", "\ufffd"),
        )  # PostgreSQL takes no NUL, even to look
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
                await self._audit(actor, row, "refused", error.code, started)
            raise
        self.throttle.succeeded(row.username, actor.address)
        if not row.shadow_set and not row.portal_only and not row.must_change_password:
            await self._give_host_password(row, password)
        is_old = row.password_hash.startswith(passwords.OLD)
        better = await self._services.hasher.hash_many([password]) if is_old else []
        settings, now = self._services.settings.server, int(time.time())
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
                connection, row.id, now=now, max_s=max_s, kind=kind, address=actor.address, user_agent=user_agent
            )

        try:
            token = await self._services.database.write(store)
        except Unauthenticated as error:
            await self._audit(actor, row, "refused", error.code, started)
            raise
        await self._audit(actor._replace(name=row.username), row, "done", "", started)
        return SignedIn(token, row.username, row.must_change_password, now + max_s)

    async def _verify(self, username: str, password: str, row: Row | None, actor: Actor) -> bool:
        try:
            return await self._services.hasher.verify(password[:1024], row.password_hash if row else None)
        except Unavailable:
            self.throttle.uncount(username, actor.address)  # nothing was tried
            raise

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

    async def _audit(self, actor: Actor, user: Row | None, outcome: str, code: str, started: float) -> None:
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
