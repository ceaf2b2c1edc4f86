"""Tells tasks of this process that something they look at has changed."""

from __future__ import annotations

import asyncio


class Topics:
    """Names that tasks wait for. Nothing is kept for who comes later: they look first, then wait."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def tell(self, name: str) -> None:
        """Wake everybody who waits for a name."""
        for event in self._waiting.get(name, ()):
            event.set()

    async def wait(self, name: str, seconds: float) -> bool:
        """Wait until a name is told, for so long at most; True if it was."""
        event = asyncio.Event()
        self._waiting.setdefault(name, set()).add(event)
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
            return True
        except TimeoutError:
            return False
        finally:
            waiting = self._waiting[name]
            waiting.discard(event)
            if not waiting:
                del self._waiting[name]
