"""The one way through which every action runs.

authorise → validate → audit begin → handler → audit end → monitors. Refusals and crashes are audited too; ordinary
reads are only counted.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar, cast

import structlog

from diycloud.actions import audit
from diycloud.actions.action import Action, Audited
from diycloud.actions.actor import Actor
from diycloud.actions.parsing import Source, parse_action
from diycloud.actions.roles import PERMISSIONS
from diycloud.actions.services import Services
from diycloud.errors import DiyCloudError, PermissionDenied

R = TypeVar("R")
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

    def __init__(self, services: Services, actor: Actor) -> None:
        self.services = services
        self.actor = actor
        self.changes: dict[str, Any] | None = None


class Monitor(Protocol):
    """Told of every action that ran: metrics, hooks."""

    def __call__(self, actor: Actor, action: str, outcome: str, seconds: float) -> None: ...


Handler = Callable[[Any, Any], Awaitable[Any]]


def authorise(actor: Actor, action: type[Action[Any]], target: str) -> None:
    """Raise PermissionDenied unless the actor may do this to the target."""
    held = PERMISSIONS[actor.role]
    own = action.own is not None and action.own in held and target == actor.name and actor.user_id is not None
    if actor.must_change_password and action.action_name != "password.change":
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
        started, row, context = time.monotonic(), 0, Context(self.services, actor)
        outcome, code, message, asked = "crashed", "", "", {}
        try:
            authorise(actor, cls, target)
            action = make()
            if cls.audited is not Audited.NO:
                asked = audit.asked(action)
                row = await self._database.write(audit.begin, actor, cls.action_name, target, asked)
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
            if row or outcome != "done":
                await self._record(row, actor, cls, target, outcome, code, message, seconds, context.changes)
            for monitor in self.monitors:
                monitor(actor, cls.action_name, outcome, seconds)

    async def _record(
        self, row: int, actor: Actor, cls: type[Action[Any]], target: str, outcome: str, code: str, message: str,
        seconds: float, changes: dict[str, Any] | None,
    ) -> None:  # fmt: skip
        if not row and cls.audited is Audited.NO and code in {"not-found", "invalid-input"}:
            return  # a read of nothing is no event
        if not row:
            row = await self._database.write(audit.begin, actor, cls.action_name, target, {})
        await self._database.write(
            audit.end, row, outcome, code=code, message=message, duration_ms=seconds * 1000, changes=changes
        )
