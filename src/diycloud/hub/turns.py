"""Whose server may start now: a class that comes at once gets its turn one after the other, and nobody takes all of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable

from diycloud.config_notebooks import NotebookSettings

ALL = "Waiting for its turn: others are starting."
OWN = "Waiting for your other servers, which are starting: they come first."


class Turns:
    """First come, first served; but a start beyond a user's own share waits aside, where it is in nobody's way.

    Safe for the tasks of one event loop.
    """

    def __init__(self, settings: NotebookSettings) -> None:
        self._all = asyncio.Semaphore(settings.at_once)
        self._share = settings.own_at_once
        self._own: dict[str, asyncio.Semaphore] = {}
        self._starts: Counter[str] = Counter()
        """Of each user: how many starts wait or are under way."""

    @contextlib.asynccontextmanager
    async def take(self, name: str, tell: Callable[[str], None]) -> AsyncIterator[None]:
        """Wait for a turn of a user's, and have it. tell: is given what people read meanwhile."""
        own = self._own.setdefault(name, asyncio.Semaphore(self._share))
        self._starts[name] += 1
        try:
            tell(OWN if own.locked() else ALL)
            async with own:
                tell(ALL)
                async with self._all:
                    yield
        finally:
            self._starts[name] -= 1
            if not self._starts[name]:
                del self._starts[name], self._own[name]
