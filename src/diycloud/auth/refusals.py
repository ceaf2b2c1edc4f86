"""The rows of the audit that strangers cause: sign-ins that were refused.

Throttling slows one name and one address down, but nobody runs out of names, and a network of IPv6 has more addresses than a
disk has room for rows. So each refusal has a row of its own as long as they are few; past that, those of one minute share a
row that counts them. Names that are nobody's have a budget of their own: a flood of those hides no guessing at people's.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Connection

from diycloud.actions import audit
from diycloud.actions.actor import Actor
from diycloud.db.engine import Database
from diycloud.errors import Unauthenticated
from diycloud.users.models import Row

AT_ONCE = 1000
"""Rows of each budget when nothing was refused for long."""
A_MINUTE = 10
"""Rows that each budget gets back in a minute. A flood without end makes at most 2 x (10 + 1) x 1440 = 31 680 rows a day."""


class _Budget:
    """A token bucket (as in web/ratelimit.py: the moment at which it is full), and the row that what is past it shares."""

    def __init__(self, whose: str) -> None:
        self.whose = whose
        self.full = float("-inf")
        self.shared: int | None = None
        self.since = float("-inf")
        self.count = 0

    def take(self, now: float) -> bool:
        each = 60 / A_MINUTE
        full = max(self.full, now) + each
        if full - now > AT_ONCE * each:
            return False
        self.full = full
        return True


class Refusals:
    """Writes down why there was no session. clock: seconds, monotonic."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._clock = database, clock
        self._known, self._unknown = _Budget("of people here"), _Budget("of names that are nobody's here")

    async def record(self, actor: Actor, user: Row | None, code: str, started: float, message: str = "") -> None:
        """Record that a sign-in was refused. user: whose it would have been; started: seconds, monotonic."""
        budget = self._known if user else self._unknown
        if budget.take(self._clock()):
            await self._database.write(write, actor, user, "refused", code, started, message)
        else:
            await self._database.write(self._share, budget, actor)

    def _share(self, connection: Connection, budget: _Budget, actor: Actor) -> None:
        now = self._clock()
        if budget.shared is None or now - budget.since >= 60:
            nowhere = actor._replace(address="", request_id="", via="")
            budget.shared, budget.since, budget.count = audit.begin(connection, nowhere, ACTION, "", {}), now, 0
        budget.count += 1
        message = f"{budget.count} more were refused within a minute, {budget.whose}: too many for rows of their own"
        changes, spent = {"refused": budget.count}, (now - budget.since) * 1000
        audit.end(
            connection, budget.shared, "refused", code=Unauthenticated.code, message=message, duration_ms=spent,
            changes=changes,
        )  # fmt: skip


ACTION = "session.begin"


def write(
    connection: Connection, actor: Actor, user: Row | None, outcome: str, code: str, started: float, message: str = ""
) -> None:
    """Write how a sign-in ended, in a transaction."""
    target, domain = (user.username, user.domain) if user else ("", "")
    begun = audit.begin(connection, actor, ACTION, target, {}, domain=domain)
    seconds = time.monotonic() - started
    audit.end(connection, begun, outcome, code=code, message=message, duration_ms=seconds * 1000, changes=None)
