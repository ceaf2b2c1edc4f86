"""The hub as it is, with a watch on its event loop: `-c "from tests.bench.watched_hub import main; main()"` + its options.

A task sleeps 5 ms again and again and notes how late the loop woke it: each second a line of JSON with the longest of its
delays in ms goes into `lateness` in the hub's own folder. This is the benches' alone.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from diycloud.hub import main as program

TICK_S, EVERY_S = 0.005, 1.0
FILE = "lateness"


class WatchedHub(program.Hub):  # type: ignore[misc, unused-ignore]
    """The hub with its watch."""

    async def start(self) -> None:
        await super().start()
        self._watch = asyncio.create_task(_watch(self.paths.hub_state / FILE))


async def _watch(file: Path) -> None:
    loop = asyncio.get_running_loop()
    with file.open("a", encoding="ascii") as lines:
        while True:
            late, end = 0.0, loop.time() + EVERY_S
            while loop.time() < end:
                due = loop.time() + TICK_S
                await asyncio.sleep(TICK_S)
                late = max(late, loop.time() - due)
            print(json.dumps(late * 1e3), file=lines, flush=True)


def main() -> None:
    """Run the hub's own entry point with the watched hub."""
    program.Hub = WatchedHub  # type: ignore[misc]
    sys.exit(program.main())
