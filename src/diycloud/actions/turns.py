"""Long work on the event loop, in turns: whoever goes through thousands of rows lets others be answered in between."""

from __future__ import annotations

import asyncio
import time

TURN_S = 0.005
"""How long one piece of work may keep the event loop. Counted in time, not in rows: what a row costs differs a hundredfold."""


class Turns:
    """Tells when a turn is over. Made where the work begins; `give_way` is called after each row."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def give_way(self) -> None:
        """Let others have the event loop if this turn has lasted long enough."""
        if time.perf_counter() - self._began > TURN_S:
            await asyncio.sleep(0)
            self._began = time.perf_counter()
