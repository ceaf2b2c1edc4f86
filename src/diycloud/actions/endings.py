"""Who had something ended, until its end is told by somebody who does not know: the hub is asked by the server for everybody."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

KEPT_S, MOST_KEPT = 180.0, 10_000


class Ending(NamedTuple):
    """Who has a server ended, as activity shows it, and what it counts as."""

    by: str
    reason: str


class Endings:
    """Who asked for the end of a server, until the hub tells that it has ended: the hub is told by the server alone.

    clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked: OrderedDict[tuple[str, str | None], tuple[float, Ending]] = OrderedDict()

    def note(self, username: str, server: str | None, by: str, reason: str) -> None:
        """Remember that somebody ends a server, None for all of a user's."""
        self._asked.pop((username, server), None)
        self._asked[username, server] = (self._clock(), Ending(by, reason))
        if len(self._asked) > MOST_KEPT:
            self._asked.popitem(last=False)

    def find(self, username: str, server: str) -> Ending | None:
        """Return who asked for it, None if nobody did lately. One server's own is forgotten with that."""
        for key in ((username, server), (username, None)):
            found = self._asked.get(key)
            if found is not None and self._clock() - found[0] <= KEPT_S:
                if key[1] is not None:
                    del self._asked[key]
                return found[1]
        return None
