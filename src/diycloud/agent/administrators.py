"""Who has sudo through the platform, and how fast an administrator's password may be guessed.

The names stand in a root-only file beside the list of managed accounts, one a line. It is the agent's own truth: the
drop-in for sudo is made of it (agent/sudo.py). A file that cannot be read in full stops every grant.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from pathlib import Path

from diycloud.errors import HostError, TooManyRequests, Unavailable
from diycloud.system.contract import System

_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
FREE_TRIES = 3
LONGEST_WAIT_S = 3600.0


class Administrators:
    """The file in memory; every change is on disk before the call returns."""

    def __init__(self, system: System, path: Path) -> None:
        self._system = system
        self._path = path
        self.names: frozenset[str] = frozenset()
        self.problem = ""
        """Why the file cannot be trusted; empty when it can."""
        try:
            lines = (system.read(path) or "").splitlines()
        except (OSError, HostError) as error:
            self.problem = f"{path} cannot be read: {error}"
            return
        if not all(_NAME.fullmatch(line) for line in lines):
            self.problem = f"{path} is broken."
        else:
            self.names = frozenset(lines)

    def store(self, names: Collection[str]) -> None:
        """Put these names in place of those before. Raises Unavailable if the file cannot be trusted."""
        if self.problem:
            raise Unavailable(self.problem, "Put the file back from a backup, then restart the agent.")
        self._system.write(self._path, "".join(f"{name}\n" for name in sorted(names)), mode=0o600)
        self.names = frozenset(names)


class Guesses:
    """Wrong passwords of each account: after FREE_TRIES each one doubles the wait, up to an hour."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._missed: dict[str, tuple[int, float]] = {}

    def check(self, name: str) -> None:
        """Raises TooManyRequests while a wait runs."""
        count, last = self._missed.get(name, (0, 0.0))
        if count < FREE_TRIES:
            return
        left = last + min(LONGEST_WAIT_S, 2.0 ** (count - FREE_TRIES + 1)) - self._clock()
        if left > 0:
            raise TooManyRequests(
                f"The old password was wrong {count} times.", "Wait, then try again.", retry_after=max(1, int(left) + 1)
            )

    def failed(self, name: str) -> None:
        self._missed[name] = (min(self._missed.get(name, (0, 0.0))[0] + 1, 64), self._clock())

    def succeeded(self, name: str) -> None:
        self._missed.pop(name, None)
