"""The one way through which every action runs.

authorise → validate → handler (whose first commit begins the audit's row) → audit end → monitors. Refusals and crashes are
audited too; ordinary reads are only counted.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import structlog
from sqlalchemy import Connection

from diycloud.actions import audit
from diycloud.actions.action import Action, Audited, Kind
from diycloud.actions.actor import Actor
from diycloud.actions.parsing import Source, parse_action
from diycloud.actions.reach import Lookup, Place, authorise, check_actor, check_lent, check_place, stand_in
from diycloud.actions.roles import TRUSTED, Scope
from diycloud.actions.services import Services
from diycloud.errors import DiyCloudError, PermissionDenied

R = TypeVar("R")
T = TypeVar("T")
P = ParamSpec("P")
log = structlog.get_logger()

REFUSED = frozenset(
    {
        "invalid-input",
        "unauthenticated",
        "permission-denied",
        "proof-needed",
        "not-found",
        "conflict",
        "precondition-failed",
        "unsupported",
        "too-many-requests",
    }
)


class Terms:
    """What an edge asks beside an action, held in the transactions that store it; these ask nothing.

    Each method may raise what refuses the action. None of them may call anything but the database.
    """

    def check(self, connection: Connection) -> None:
        """Look whether the action may go on: before its handler, and again in the first transaction that it writes."""

    def begin(self, connection: Connection, actor: Actor) -> None:
        """Write what belongs to the wish of an actor, in its transaction."""

    def end(self, connection: Connection, result: object, outcome: str) -> None:
        """Write how a wish ended (as the audit has it), in the transaction of the audit's end; not called without a wish."""


class Context:
    """What a handler has. services: the process's own (database, agent, hasher…); actor: who asks.

    changes: the handler puts here what really changed, field → [before, after], for the audit. bound: the only domain
    that it may read or change, None for all; domain: the target's, for the audit (a handler that creates sets it).
    """

    def __init__(
        self,
        services: Services,
        actor: Actor,
        begin: Callable[[Connection], int] | None = None,
        terms: Terms | None = None,
    ) -> None:
        self.services = services
        self.actor = actor
        self.changes: dict[str, Any] | None = None
        self.bound: str | None = None
        self.domain = ""
        self.still_there: Callable[[Connection], None] | None = None
        """Raises PermissionDenied if actor or target are not what they were when the actor's reach was checked."""
        self._row = 0
        self._last: list[Callable[[Connection], object]] = []
        self._begin = begin
        self._terms = terms

    def within(self, domain: str | None) -> str | None:
        """Return the domain that a list is to show, None for all. Raises PermissionDenied for one that is not the actor's."""
        if self.bound is not None and domain not in (None, self.bound):
            raise PermissionDenied(f"{self.actor.name} sees the domain {self.bound} only.", "Ask an administrator.")
        return self.bound or domain

    async def write(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one transaction (db.engine). The first also writes the audit's row, so that no wish is without one."""

        def job(connection: Connection) -> tuple[int, T]:
            if not self._row and self.still_there:
                self.still_there(connection)
            if not self._row and self._terms:
                self._terms.check(connection)
                self._terms.begin(connection, self.actor)
            row = self._row or (self._begin(connection) if self._begin else 0)
            return row, fn(connection, *args, **kwargs)

        self._row, result = await self.services.database.write(job)
        return result

    def at_end(self, fn: Callable[Concatenate[Connection, P], object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have a change written with the audit's end, in one transaction: the host's answer, which reconcile would get again."""
        self._last.append(lambda connection: fn(connection, *args, **kwargs))

    async def finish(
        self, end: Callable[[Connection, int], None], result: object = None, outcome: str = "done"
    ) -> None:
        """Write how it ended, beginning the audit's row if nothing was written before."""

        def job(connection: Connection) -> None:
            for fn in self._last:
                fn(connection)
            if self._terms and self._row:
                self._terms.end(connection, result, outcome)
            end(connection, self._row or (self._begin(connection) if self._begin else 0))

        database = self.services.database
        if self._row:  # that it began, and what was wished, is on the disk
            await database.note(job)
        else:
            await database.write(job)


class Monitor(Protocol):
    """Told of every action that ran: metrics, hooks."""

    def __call__(self, actor: Actor, action: str, outcome: str, seconds: float) -> None: ...


Handler = Callable[[Any, Any], Awaitable[Any]]


class Dispatcher:
    """Runs actions. handlers: one for each action; services: given to each in its Context; lookup: where a target is."""

    def __init__(
        self, handlers: Mapping[type[Action[Any]], Handler], services: Services, lookup: Lookup = lambda *_: None
    ) -> None:
        self.handlers = handlers
        self.services = services
        self._lookup = lookup
        self.monitors: list[Monitor] = []
        self._database = services.database

    async def run(self, actor: Actor, action: Action[R], terms: Terms | None = None) -> R:
        """Run an action made in Python. terms: what is asked beside it."""
        return cast(R, await self._span(actor, type(action), action.target, lambda: action, terms))

    async def submit(
        self,
        actor: Actor,
        action: type[Action[R]],
        raw: Mapping[str, Any],
        source: Source,
        terms: Terms | None = None,
    ) -> R:
        """Run an action that raw input describes; who may not do it at all learns nothing about its fields."""
        target = str(raw.get(action.target_field, ""))[:100]
        return cast(R, await self._span(actor, action, target, lambda: parse_action(action, raw, source), terms))

    async def recall(
        self, actor: Actor, action: type[Action[R]], raw: Mapping[str, Any], source: Source, again: Handler
    ) -> Any:
        """Run what repeats the answer of an action, for who may do the action now; of this only a refusal is audited."""
        target = str(raw.get(action.target_field, ""))[:100]
        return await self._span(actor, action, target, lambda: parse_action(action, raw, source), None, again)

    async def place(self, kind: Kind, target: str) -> Place | None:
        """Return where a target is, None if there is no such thing."""
        return await self._database.read(self._lookup, kind, target)

    async def check(self, actor: Actor, cls: type[Action[Any]], target: str) -> str | None:
        """Return the only domain that the actor may reach with an action, None for all. Raises PermissionDenied."""
        scope = authorise(actor, cls, target)
        if actor.scopes is not None and cls.kind is Kind.USER and cls.audited is Audited.CHANGE:
            place = await self.place(cls.kind, target)
            check_lent(actor, target, place.role if place else None)
        if scope is not Scope.DOMAIN:
            return None
        if cls.kind not in _NOT_THERE:
            check_place(actor, target, await self.place(cls.kind, target))
        return actor.domain

    def _check_again(self, connection: Connection, context: Context, cls: type[Action[Any]], target: str) -> None:
        """Raise PermissionDenied if actor or target are not what they were: a long list of changes is one action each."""
        actor = context.actor
        if actor.real is not None:
            stand_in(actor.real, self._lookup(connection, Kind.USER, actor.name))
        for who in (actor.real, actor):
            if who is not None and who.user_id is not None:
                check_actor(who, self._lookup(connection, Kind.USER, who.name))
        if context.bound is not None and cls.kind not in _NOT_THERE:
            check_place(actor, target, self._lookup(connection, cls.kind, target))

    async def _span(
        self,
        actor: Actor,
        cls: type[Action[Any]],
        target: str,
        make: Callable[[], Action[Any]],
        terms: Terms | None,
        again: Handler | None = None,
    ) -> Any:
        started = time.monotonic()
        asked: dict[str, Any] = {}

        def begin(connection: Connection) -> int:
            domain = context.domain
            if not domain and cls.kind not in _NOT_THERE and (place := self._lookup(connection, cls.kind, target)):
                domain = place.domain
            if not domain and context.actor.role not in TRUSTED:
                domain = context.actor.domain  # what has no place is in the history of whose people do it
            return audit.begin(connection, context.actor, cls.action_name, target, asked, domain=domain)

        context = Context(self.services, actor, begin, terms)
        outcome, code, message = "crashed", "", ""
        result: Any = None
        try:
            if actor.on_behalf_of:
                context.actor = stand_in(actor, await self.place(Kind.USER, actor.on_behalf_of))
            context.bound = await self.check(context.actor, cls, target)
            context.still_there = lambda c: self._check_again(c, context, cls, target)
            action = make()
            asked.update(audit.asked(action))
            if terms is not None:
                await self._database.read(terms.check)
            result = await (again or self.handlers[cls])(context, action)
            outcome = "done"
            return result
        except DiyCloudError as error:
            outcome, code, message = "refused" if error.code in REFUSED else "failed", error.code, str(error)
            raise
        except Exception as error:
            message = type(error).__name__
            log.exception("action crashed", action=cls.action_name, target=target, actor=actor.name)
            raise
        finally:
            seconds = time.monotonic() - started
            if _leaves_row(Audited.NO if again else cls.audited, outcome, code):
                values: dict[str, Any] = {
                    "code": code,
                    "message": message,
                    "duration_ms": seconds * 1000,
                    "changes": context.changes,
                }
                await context.finish(
                    lambda connection, row: audit.end(connection, row, outcome, **values),
                    result,
                    outcome,
                )
            for monitor in self.monitors:
                monitor(actor, cls.action_name, outcome, seconds)


_NOT_THERE = frozenset({Kind.NOTHING, Kind.NEW, Kind.NEW_GROUP})
"""Targets that have no place: what they may reach is the handler's to keep (Context.bound)."""


def _leaves_row(audited: Audited, outcome: str, code: str) -> bool:
    """Tell whether an action is audited: every change, and what was refused or failed of all others.

    An ordinary read is only counted, and a read of nothing (a name mistyped) is no event.
    """
    if audited is not Audited.NO:
        return True
    return outcome != "done" and code not in {"not-found", "invalid-input"}
