"""Whose server may start next: a class in order, and nobody who takes all the turns."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from diycloud.config_notebooks import NotebookSettings
from diycloud.hub.turns import ALL, OWN, Turns


class Queue:
    """Starts that hold their turn until they are let go."""

    def __init__(self, at_once: int) -> None:
        self.turns = Turns(NotebookSettings(at_once=at_once))
        self.started: list[str] = []
        self.told: dict[str, str] = {}
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, *servers: str) -> None:
        """Have servers start, in this order: NAME, or NAME+SERVER."""
        for server in servers:
            self.ends[server] = asyncio.Event()
            self.tasks[server] = asyncio.create_task(self._start(server))
            await asyncio.sleep(0)
        await self.settle()

    async def _start(self, server: str) -> None:
        def tell(words: str) -> None:
            self.told[server] = words

        async with self.turns.take(server.partition("+")[0], tell):
            self.started.append(server)
            await self.ends[server].wait()

    async def end(self, *servers: str) -> None:
        for server in servers:
            self.ends[server].set()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


def run(scene: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 5))


def test_a_third_start_of_the_same_user_waits_aside_and_is_told_so() -> None:
    async def scene() -> None:
        queue = Queue(at_once=4)
        await queue.ask("mallory", "mallory+a", "mallory+b", "mallory+c", "alice", "bob")
        assert queue.started == ["mallory", "mallory+a", "alice", "bob"]
        assert queue.told["mallory+b"] == queue.told["mallory+c"] == OWN
        assert "your other servers" in OWN
        await queue.ask("carol")
        assert queue.told["carol"] == ALL, "she waits for others"
        await queue.end("mallory")  # its own next one goes behind who waits already
        assert queue.started[4:] == ["carol"] and queue.told["mallory+b"] == ALL
        await queue.end("alice")
        assert queue.started[5:] == ["mallory+b"] and queue.told["mallory+c"] == OWN
        await queue.end(*queue.ends)
        assert queue.started[6:] == ["mallory+c"]

    run(scene())


@pytest.mark.parametrize(("at_once", "own"), [(1, 1), (2, 1), (3, 2), (10, 2)])
def test_nobody_has_all_turns_where_there_is_more_than_one(at_once: int, own: int) -> None:
    async def scene() -> None:
        queue = Queue(at_once)
        await queue.ask(*(f"mallory+{number}" for number in range(12)))
        assert len(queue.started) == own
        await queue.ask("alice")
        assert ("alice" in queue.started) is (at_once > 1)
        await queue.end(*queue.ends)
        assert len(queue.started) == 13, "each gets its turn in the end"

    run(scene())


def test_a_start_that_is_broken_off_gives_its_turn_back_also_while_it_waits() -> None:
    async def scene() -> None:
        queue = Queue(at_once=3)
        await queue.ask("alice", "alice+a", "alice+b", "bob", "carol")
        for server in ("alice+b", "alice", "carol"):  # waits for its own, runs, waits for others
            queue.tasks[server].cancel()
        await queue.settle()
        await queue.ask("alice+c", "dave")
        assert queue.started == ["alice", "alice+a", "bob", "alice+c"]
        await queue.end("bob")
        assert queue.started[4:] == ["dave"]
        await queue.end(*queue.ends)
        await asyncio.gather(*queue.tasks.values(), return_exceptions=True)
        assert not queue.turns._own and not queue.turns._starts, "nothing is kept of who has none waiting"

    run(scene())
