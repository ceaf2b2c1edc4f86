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
from diycloud.actions.action import Action, Audited
from diycloud.actions.actor import Actor
from diycloud.actions.parsing import Source, parse_action
from diycloud.actions.roles import PERMISSIONS
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
        "not-found",
        "conflict",
        "unsupported",
        "too-many-requests",
    }
)


class Context:
    """What a handler has. services: the process's own (database, agent, hasher…); actor: who asks.

    changes: the handler puts here what really changed, field → [before, after], for the audit.
    """

    def __init__(self, services: Services, actor: Actor, begin: Callable[[Connection], int] | None = None) -> None:
        self.services = services
        self.actor = actor
        self.changes: dict[str, Any] | None = None
        self._row = 0
        self._last: list[Callable[[Connection], object]] = []
        self._begin = begin

    async def write(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one transaction (db.engine). The first also writes the audit's row, so that no wish is without one."""

        def job(connection: Connection) -> tuple[int, T]:
            row = self._row or (self._begin(connection) if self._begin else 0)
            return row, fn(connection, *args, **kwargs)

        self._row, result = await self.services.database.write(job)
        return result

    def at_end(self, fn: Callable[Concatenate[Connection, P], object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have a change written with the audit's end, in one transaction: the host's answer, which reconcile would get again."""
        self._last.append(lambda connection: fn(connection, *args, **kwargs))

    async def finish(self, end: Callable[[Connection, int], None]) -> None:
        """Write how it ended, beginning the audit's row if nothing was written before."""

        def job(connection: Connection) -> None:
            for fn in self._last:
                fn(connection)
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


def authorise(actor: Actor, action: type[Action[Any]], target: str) -> None:
    """Raise PermissionDenied unless the actor may do this to the target."""
    held = PERMISSIONS[actor.role]
    own = action.own is not None and action.own in held and target == actor.name and actor.user_id is not None
    if actor.must_change_password and action.action_name not in ("password.change", "session.end"):
        raise PermissionDenied("The password must be changed first.", "Sign in at the portal and choose one.")
    if not own and action.permission not in held:
        raise PermissionDenied(f"{actor.name} may not do this ({action.action_name}).", "Ask an administrator.")


class Dispatcher:
    """Runs actions. handlers: one for each action; services: given to each in its Context."""

    def __init__(self, handlers: Mapping[type[Action[Any]], Handler], services: Services) -> None:
        self.handlers = handlers
        self.services = services
        self.monitors: list[Monitor] = []
        self._database = services.database

    async def run(self, actor: Actor, action: Action[R]) -> R:
        """Run an action made in Python."""
        return cast(R, await self._span(actor, type(action), action.target, lambda: action))

    async def submit(self, actor: Actor, action: type[Action[R]], raw: Mapping[str, Any], source: Source) -> R:
        """Run an action that raw input describes; who may not do it at all learns nothing about its fields."""
        target = raw.get(action.target_field, "")
        return cast(R, await self._span(actor, action, str(target)[:100], lambda: parse_action(action, raw, source)))

    async def _span(self, actor: Actor, cls: type[Action[Any]], target: str, make: Callable[[], Action[Any]]) -> Any:
        started = time.monotonic()
        asked: dict[str, Any] = {}
        context = Context(
            self.services, actor, lambda connection: audit.begin(connection, actor, cls.action_name, target, asked)
        )
        outcome, code, message = "crashed", "", ""
        try:
            authorise(actor, cls, target)
            action = make()
            asked.update(audit.asked(action))
            result = await self.handlers[cls](context, action)
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
            if _leaves_row(cls, outcome, code):
                values: dict[str, Any] = {
                    "code": code,
                    "message": message,
                    "duration_ms": seconds * 1000,
                    "changes": context.changes,
                }
                await context.finish(lambda connection, row: audit.end(connection, row, outcome, **values))
            for monitor in self.monitors:
                monitor(actor, cls.action_name, outcome, seconds)


def _leaves_row(cls: type[Action[Any]], outcome: str, code: str) -> bool:
    """Tell whether an action is audited: every change, and what was refused or failed of all others.

    An ordinary read is only counted, and a read of nothing (a name mistyped) is no event.
    """
    if cls.audited is not Audited.NO:
        return True
    return outcome != "done" and code not in {"not-found", "invalid-input"}
