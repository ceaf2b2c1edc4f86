"""The hub as it is, with a watch on its event loop: `-c "from tests.bench.watched_hub import main; main()"` + its options.

A task sleeps 5 ms again and again and notes how late the loop woke it: each second a line of JSON with the longest of its
delays in ms goes into `lateness` in the hub's own folder. Of a delay of 100 ms and more, `held` says how much of it the hub
computed (the rest it waited for a core, or for the kernel) and where it was in the midst of it. This is the benches' alone.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import time
import traceback
from pathlib import Path

from diycloud.hub import main as program

TICK_S, EVERY_S, HELD_S = 0.005, 1.0, 0.1
FILE, HELD_FILE = "lateness", "held"


class WatchedHub(program.Hub):  # type: ignore[misc, unused-ignore]
    """The hub with its watch."""

    async def start(self) -> None:
        await super().start()
        self._watch = asyncio.create_task(Watch(self.paths.hub_state).run())


class Watch:
    """What is known of the loop from inside (a task) and from outside (a thread)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last = time.monotonic()
        self._seen = ""
        self._collecting = 0.0
        threading.Thread(target=self._look, args=(threading.get_ident(),), daemon=True).start()
        gc.callbacks.append(self._collect)

    async def run(self) -> None:
        """Note how late the loop is, for ever."""
        with (
            (self._folder / FILE).open("a", encoding="ascii") as lines,
            (self._folder / HELD_FILE).open("a", encoding="utf-8") as held,
        ):
            while True:
                late, end = 0.0, time.monotonic() + EVERY_S
                while time.monotonic() < end:
                    self._seen, computed = "", time.thread_time()
                    self._collecting = 0.0
                    self._last = time.monotonic()
                    await asyncio.sleep(TICK_S)
                    delay = time.monotonic() - self._last - TICK_S
                    late = max(late, delay)
                    if delay > HELD_S:
                        computed = time.thread_time() - computed
                        facts = {"late": delay, "computed": computed, "collected": self._collecting, "at": self._seen}
                        print(json.dumps(facts), file=held, flush=True)
                print(json.dumps(late * 1e3), file=lines, flush=True)

    def _look(self, loop: int) -> None:
        while True:
            time.sleep(HELD_S / 2)
            if not self._seen and time.monotonic() - self._last > HELD_S / 2:
                self._seen = "".join(traceback.format_stack(sys._current_frames().get(loop), limit=12))

    def _collect(self, phase: str, _: dict[str, int]) -> None:
        self._collecting += time.monotonic() * (1 if phase == "stop" else -1)


def main() -> None:
    """Run the hub's own entry point with the watched hub."""
    program.Hub = WatchedHub  # type: ignore[misc]
    sys.exit(program.main())
