"""Tells tasks of this process that something they look at has changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


class News:
    """What was told of a name since it was last waited for."""

    def __init__(self) -> None:
        self.told = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Wait until there is news, for so long at most; news that came before the call counts."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.told.wait()
        self.told.clear()


class Topics:
    """Names that tasks listen to. Nothing is kept for who comes later: they listen first, then look."""

    def __init__(self) -> None:
        self._listening: dict[str, set[News]] = {}

    def tell(self, name: str) -> None:
        """Give everybody news who listens to a name."""
        for news in self._listening.get(name, ()):
            news.told.set()

    @contextlib.contextmanager
    def listen(self, name: str) -> Iterator[News]:
        """Listen to a name until the block ends."""
        news = News()
        listening = self._listening.setdefault(name, set())
        listening.add(news)
        try:
            yield news
        finally:
            listening.discard(news)
            if not listening and self._listening.get(name) is listening:
                del self._listening[name]
