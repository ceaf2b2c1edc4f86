"""Signing in: from a name and what is proved to a session.

    prove      who it is, by a password or by an outside provider; the account may sign in, from there
    go_on      to the session, or with a ticket to the second factor if there is one (auth/factors.py)
    second     the ticket, and a code or a passkey; one of the two only knows nothing
    begin      the session; only now is anything noted about the user

A passkey alone is the whole way (by_passkey): the device has looked who holds it.

Whatever the reason for a refusal, the words are the same and the time is that of a hash.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection

from diycloud.actions.actor import Actor
from diycloud.actions.roles import Role
from diycloud.actions.services import Services
from diycloud.auth import (
    ages,
    factors,
    forced,
    host_password,
    metrics,
    notices,
    passkeys,
    passwords,
    refusals,
    sessions,
)
from diycloud.auth.addresses import allows
from diycloud.errors import DiyCloudError, SecondFactorNeeded, TooManyRequests, Unauthenticated, Unavailable
from diycloud.users import host, repository, service
from diycloud.users.models import SIGN_IN, Row

log = structlog.get_logger()
WRONG = "The name or the password is wrong."
"""Said for an unknown name, a wrong password and an account that may not sign in alike."""
EXPIRED = "This password was for one time, and its time is over."
"""Said to whoever has the password, and to nobody else."""
PASSWORD = "pwd"  # noqa: S105 - a method's name
"""How it was proved who it is: the words of RFC 8176 (`otp`, `hwk` of the second factors, `fed` for an outside provider)."""
FEDERATED = "fed"
MFA = "mfa"
OURS, THEIRS = (PASSWORD,), (PASSWORD, FEDERATED)
"""By a password that is kept here, and by one that the directory of the settings keeps."""
TRIES = 5
"""Wrong codes until the password is asked for again."""
NEEDED, WRONG_CODE = "Your second factor is asked for.", "The code is wrong, or was used before."
GONE = "This sign-in took too long, or had too many wrong codes."
NO_PASSKEY = "This passkey opens nothing here."


class SignedIn(NamedTuple):
    """token: the visitor's, kept nowhere here. expires_at: Unix seconds. must_enrol: a second factor must be set up first."""

    token: str
    username: str
    must_change_password: bool
    expires_at: int
    must_enrol: bool


class Visit(NamedTuple):
    """Where a sign-in comes from. actor: the stranger, with address and request id; kind: browser or api."""

    actor: Actor
    kind: str
    user_agent: str
    started: float


class Ticket:
    """A sign-in that waits for its second factor. row: as the first one proved it; better: a hash in place of an old one."""

    __slots__ = ("better", "kind", "methods", "row", "tries")

    def __init__(self, row: Row, methods: Sequence[str], kind: str, better: Sequence[str]) -> None:
        self.row, self.methods, self.kind, self.better = row, tuple(methods), kind, tuple(better)
        self.tries = 0

    @property
    def owner(self) -> str:
        """Of whom the ticket is, where tickets wait."""
        return f"user {self.row.id}"


class SignIn:
    """Checks names, passwords and second factors, and starts sessions."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.throttle = services.throttle
        self._refusals = refusals.Refusals(services.database)

    async def __call__(
        self, username: str, password: str, *, actor: Actor, kind: str, user_agent: str, code: str = ""
    ) -> SignedIn:
        """Start a session. actor: the stranger, with address and request id; code: of a second factor, if it is there already.

        Raises Unauthenticated with the same words and after the same time for every reason, SecondFactorNeeded where the
        password is right and more is asked, TooManyRequests, Unavailable.
        """
        visit = Visit(actor, kind, user_agent, time.monotonic())
        row, methods = await self._prove_password(
            username[:64].replace("\0", "\ufffd"), password, visit
        )  # PostgreSQL takes no NUL
        if methods == THEIRS:
            return await self.go_on(row, methods, visit, code=code)
        if not row.shadow_set and not row.portal_only and not row.must_change_password:
            await self._give_host_password(row, password)
        is_old = row.password_hash.startswith(passwords.OLD)
        better = await self._services.hasher.hash_many([password]) if is_old else []
        return await self.go_on(row, methods, visit, code=code, better=better)

    async def go_on(
        self, row: Row, methods: Sequence[str], visit: Visit, *, code: str = "", better: Sequence[str] = ()
    ) -> SignedIn:
        """Start the session of a user whose first factor is proved, if there is no second one, or its code is here already.

        Raises SecondFactorNeeded with a ticket, else as `begin`.
        """
        known = await self._services.database.read(factors.state, row.id)
        if not known.any:
            self.throttle.succeeded(row.username, visit.actor.address)
            return await self.begin(row, methods, visit, better=better, alone=True)
        self.throttle.uncount(row.username, visit.actor.address)  # what was counted ahead; forgiven only at the end
        ticket = Ticket(row, methods, visit.kind, better)
        token = self._services.tickets.put(ticket.owner, ticket)
        if code:
            return await self.second(token, visit, code=code)
        raise SecondFactorNeeded(NEEDED, ticket=token, ways=known.ways)

    async def ways(self, token: str) -> tuple[Row, tuple[str, ...]] | None:
        """Return the user of a ticket and the ways of their second factor, None if the ticket, or they, are no more."""
        ticket: Ticket | None = self._services.tickets.get(token)
        if ticket is None:
            return None
        known = await self._services.database.read(factors.state, ticket.row.id)
        return (ticket.row, known.ways) if known.any else None

    async def second(self, token: str, visit: Visit, *, code: str = "", passkey: str = "") -> SignedIn:
        """Start the session that a ticket is for. code: of the app, or a recovery code; passkey: the browser's answer.

        Raises SecondFactorNeeded for a wrong one (the ticket holds on), Unauthenticated once the ticket does not hold,
        TooManyRequests.
        """
        ticket: Ticket | None = self._services.tickets.get(token)
        row = await self._still_proved(ticket, visit)
        if ticket is None or row is None:
            self._services.tickets.take(token)
            raise Unauthenticated(GONE, "Sign in again.")
        address, codes = visit.actor.address, self.throttle.codes
        ticket.tries += 1  # before anything is awaited: guesses sent all at once count too
        try:
            if ticket.tries > TRIES:
                raise passkeys.Wrong("too many tries at once")
            codes.check(row.username, address, known_address=row.last_login_ip)
            codes.failed(row.username, address)
            method = await self._show(row, code, passkey)
            if self._services.tickets.take(token) is None:
                raise passkeys.Wrong("the ticket was used meanwhile")
        except TooManyRequests as error:
            await self._refuse(visit, row, error)
            raise
        except passkeys.Wrong as error:
            refusal = await self._wrong(token, ticket, address)
            await self._refuse(visit, row, refusal, error.message)
            raise refusal from error
        codes.succeeded(row.username, address)
        self.throttle.forgive(row.username, address)
        return await self.begin(row, (*ticket.methods, method), visit, better=ticket.better)

    async def _still_proved(self, ticket: Ticket | None, visit: Visit) -> Row | None:
        """Return a ticket's user as it is now, None if that is not who proved the first factor, or may not sign in."""
        if ticket is None or ticket.kind != visit.kind:
            return None
        row = await self._services.database.read(repository.by_id, ticket.row.id)
        if row is None or row.password_hash != ticket.row.password_hash or not _may_come(row, visit.actor.address):
            return None
        return row

    async def _show(self, row: Row, code: str, passkey: str) -> str:
        """Return the method by which a second factor was shown. Raises passkeys.Wrong with the reason that it was not."""
        if passkey:
            passkeys.check_handle(passkey, row.uuid)
            await factors.prove_passkey(self._services, passkey, passkeys.Challenge(passkeys.SECOND, row.id))
            return factors.HARDWARE
        if not code or not await factors.prove_code(self._services, row, code):
            raise passkeys.Wrong("the code is wrong, or was used before")
        return factors.OTP

    async def _wrong(self, token: str, ticket: Ticket, address: str) -> Unauthenticated:
        """Return what is said about a wrong code: another try, as long as the ticket holds. Then its user is told, too."""
        if ticket.tries >= TRIES and self._services.tickets.take(token) is not None:
            await self._services.database.write(notices.tell, ticket.row.id, notices.WRONG_CODES, by=address)
        if self._services.tickets.get(token) is None:
            return Unauthenticated(GONE, "Sign in again.")
        known = await self._services.database.read(factors.state, ticket.row.id)
        return SecondFactorNeeded(WRONG_CODE, ticket=token, ways=known.ways)

    async def by_passkey(self, answer: str, visit: Visit) -> SignedIn:
        """Start the session of whoever a passkey proves, the device having looked who holds it.

        Raises Unauthenticated with the same words for every reason.
        """
        row: Row | None = None
        try:
            stored = await factors.prove_passkey(self._services, answer, passkeys.Challenge(passkeys.ALONE, None))
            row = await self._services.database.read(repository.by_id, stored.user_id)
            if row is None or not _may_come(row, visit.actor.address):
                raise passkeys.Wrong("the user may not sign in")
            passkeys.check_handle(answer, row.uuid)
        except passkeys.Wrong as error:
            news = row is not None or self.throttle.is_news(visit.actor.address)
            await self._refuse(visit, row, error, error.message, news=news)
            raise Unauthenticated(NO_PASSKEY, "Sign in with your password.") from error
        return await self.begin(row, (factors.HARDWARE, factors.PRESENCE), visit)

    async def by_provider(self, person: Any, visit: Visit, *, must_be: int | None = None) -> SignedIn:
        """Start the session of whoever a provider has proved (auth/outside). must_be: who is signed in, and proves it anew.

        Raises Unauthenticated with the reason, as it tells nobody but them; SecondFactorNeeded unless the provider asked for
        one, and is trusted with it.
        """
        outside = self._services.outside
        row: Row | None = None
        try:
            row = await outside.arrive(person, visit.actor, must_be=must_be) if outside else None
            if row is None or not _may_come(row, visit.actor.address):
                raise Unauthenticated("Your account here does not let you in from here.", "Ask an administrator.")
        except Unauthenticated as error:
            news = row is not None or self.throttle.is_news(visit.actor.address)
            await self._refuse(visit, row, error, error.message, news=news)
            raise
        if MFA in person.methods:
            return await self.begin(row, person.methods, visit)
        self.throttle.failed(row.username, visit.actor.address)  # until it is known, as with a password
        return await self.go_on(row, person.methods, visit)

    async def _prove_password(self, username: str, password: str, visit: Visit) -> tuple[Row, tuple[str, ...]]:
        """Return the user whom a password proves, and how. Raises as calling does."""
        actor = visit.actor
        row = await self._services.database.read(repository.by_name, username)
        try:
            self.throttle.check(username, actor.address, known_address=row.last_login_ip if row else None)
            self.throttle.failed(username, actor.address)  # until it is known: guesses sent all at once count too
            methods, row = await self._verify(username, password, row, actor)
            if row is None or not methods or not _may_come(row, actor.address):
                raise Unauthenticated(WRONG)
            if methods == OURS and ages.has_expired(row, self._services.settings.server):
                raise Unauthenticated(EXPIRED, "Ask an administrator for another.")
        except (Unauthenticated, TooManyRequests) as error:
            news = isinstance(error, Unauthenticated) or self.throttle.is_news(actor.address)
            await self._refuse(visit, row, error, news=news)
            raise
        if row.username != username:  # the directory knows them by another name, too
            self.throttle.uncount(username, actor.address)
            self.throttle.failed(row.username, actor.address)
        return row, methods

    async def _verify(
        self, username: str, password: str, row: Row | None, actor: Actor
    ) -> tuple[tuple[str, ...], Row | None]:
        """Return how a password proves somebody, nothing if it does not, and whom: by the hash here, or by the directory.

        The hash is looked at in any case, and the directory asked after every password that is not right here, so that no
        answer takes less time than another.
        """
        outside = self._services.outside
        try:
            subject = await outside.subject(row) if outside else None
            known = row if subject is None else None  # else it is the directory's to say
            match = await host_password.verify(self._services, username, known, password[:1024])
            if row is not None and match.right:
                if match.fingerprint and _may_come(row, actor.address):
                    row = await host_password.take_over(self._services, row, password[:1024], match, actor)
                return OURS, row
        except Unavailable:
            self.throttle.uncount(username, actor.address)  # nothing was tried
            raise
        # Counted even if the directory does not answer: what is kept here was tried.
        theirs = await outside.by_password(username, password[:1024], row, subject, actor) if outside else None
        return (THEIRS, theirs) if theirs is not None else ((), row)

    async def begin(
        self, row: Row, methods: Sequence[str], visit: Visit, *, better: Sequence[str] = (), alone: bool = False
    ) -> SignedIn:
        """Start the session of a user who is proved. better: a hash to take the place of an old one.

        alone: there was no second factor to ask for. Raises Unauthenticated if the user was changed meanwhile.
        """
        settings, now, actor = self._services.settings.server, int(time.time()), visit.actor
        max_s = settings.session_max_hours * 3600
        too_old = PASSWORD in methods and FEDERATED not in methods and ages.is_too_old(row, settings)

        def store(connection: Connection) -> tuple[str, bool]:
            if not repository.is_still(
                connection, row
            ):  # checking took a while: the password is another, the user gone
                raise Unauthenticated(WRONG)
            known = factors.state(connection, row.id)
            if alone and known.any:  # set up meanwhile, and nobody has shown it
                raise Unauthenticated(WRONG)
            values: dict[str, Any] = {"last_login": repository.NOW, "last_login_ip": actor.address}
            if too_old:
                values["must_change_password"] = 1
            repository.note(connection, row.id, values)
            for hashed in better:
                repository.replace_hash(connection, row.id, row.password_hash, hashed)
            token = sessions.begin(
                connection, row.id, now=now, max_s=max_s, kind=visit.kind, address=actor.address,
                user_agent=visit.user_agent, methods=methods,
            )  # fmt: skip
            refusals.write(connection, actor._replace(name=row.username), row, "done", "", visit.started)
            return token, forced.must_enrol(settings, row.role, asked=known.asked, has_one=known.any)

        try:
            token, must_enrol = await self._services.database.write(store)
        except Unauthenticated as error:
            await self._refuse(visit, row, error)
            raise
        self._services.meter.count(metrics.SIGN_INS, "done")
        return SignedIn(token, row.username, row.must_change_password or too_old, now + max_s, must_enrol)

    async def _refuse(
        self, visit: Visit, row: Row | None, error: DiyCloudError, message: str = "", *, news: bool = True
    ) -> None:
        """Count a refusal, and write it down. news: False for one that the audit is not to have again."""
        self._services.meter.count(metrics.SIGN_INS, metrics.outcome(error.code))
        if news:
            await self._refusals.record(visit.actor, row, error.code, visit.started, message)

    async def _give_host_password(self, row: Row, password: str) -> None:
        """Set the host's password to the one just proved: the account came without it (by hand, or while the agent was down)."""
        shadow = await service.shadow_hash(self._services, password)
        if shadow is None:
            return
        await self._services.database.write(repository.change, row.id, {"shadow_hash": shadow})
        try:
            fresh = await self._services.database.read(repository.by_id, row.id)
            await host.settle(self._services, [fresh] if fresh else [])
        except Unavailable:
            log.warning("host password not set yet", username=row.username)


def _may_come(row: Row, address: str) -> bool:
    """Tell whether a user may sign in, from an address."""
    return row.status in SIGN_IN and allows(row.allowed_client_ip, address)


def stranger(via: str, address: str, request_id: str) -> Actor:
    """Return the actor of a request that nobody is signed in for. The role has no say: nothing is run for it but sign-in."""
    return Actor("(nobody)", Role.USER, via, None, address, request_id)
