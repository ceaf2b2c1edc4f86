"""What users use now: one reader of the agent for all who look."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import structlog

from diycloud.actions.dispatcher import Context
from diycloud.actions.services import Services
from diycloud.agent import protocol as wire
from diycloud.errors import DiyCloudError, NotFound
from diycloud.users import service
from diycloud.users.actions import ReadUsage
from diycloud.users.models import Reading, Row, Usage

log = structlog.get_logger()
EVERY_S = 2.0
LATELY_S = 60.0
MAX_REMEMBERED = 10_000


def usage(row: Row, now: wire.Usage | None, before: wire.Usage | None) -> Usage:
    """Return a reading beside the budget. CPU is the mean of cores in use between the two readings."""
    cores = 0.0
    if now and before and now.at > before.at:
        cores = max(0.0, (now.cpu_us - before.cpu_us) / 1e6 / (now.at - before.at))
    limits = row.allocation
    return Usage(
        username=row.username,
        at=now.at if now else None,
        cpu=Reading(round(cores, 3), limits.cpu),
        memory=Reading(now.memory if now else 0, limits.memory),
        tasks=Reading(now.tasks if now else 0, limits.tasks),
        oom_kills=now.oom_kills if now else 0,
    )


async def read_usage(ctx: Context, action: ReadUsage) -> Usage:
    """Read twice, a fifth of a second apart, so that CPU is a rate."""
    row = await service.get(ctx.services, action.username)
    before = await _read(ctx.services, [row.username])
    await asyncio.sleep(0.2)
    now = await _read(ctx.services, [row.username])
    return usage(row, now.get(row.username), before.get(row.username))


async def _read(services: Services, names: list[str]) -> dict[str, wire.Usage]:
    return {reading.name: reading for reading in await services.agent.call(wire.ReadUsage(names), list[wire.Usage])}


class Gauges:
    """Reads the watched users' counters every two seconds, once for all watchers, and only while somebody looks."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._watchers: dict[str, int] = {}
        self._last: dict[str, wire.Usage] = {}
        self._tick = asyncio.Condition()
        self._ticks = 0
        self._current: dict[str, Usage] = {}
        self._task: asyncio.Task[None] | None = None

    async def glance(self, row: Row) -> Usage | None:
        """Return one reading for a page; CPU is the mean since the user was last looked at, if that was lately.

        None if the agent does not answer.
        """
        try:
            now = (await _read(self._services, [row.username])).get(row.username)
        except DiyCloudError:
            return None
        before = self._last.get(row.username)
        if now is not None and row.username not in self._watchers:
            self._remember(now)
        return usage(row, now, before if before and now and now.at - before.at < LATELY_S else None)

    def _remember(self, reading: wire.Usage) -> None:
        self._last[reading.name] = reading
        if len(self._last) > MAX_REMEMBERED:
            del self._last[next(iter(self._last))]

    async def watch(self, username: str) -> AsyncIterator[Usage | None]:
        """Yield a reading every two seconds until the caller stops; None while there is none."""
        self._watchers[username] = self._watchers.get(username, 0) + 1
        if self._task is None:
            self._task = asyncio.create_task(self._read_on())
        seen = self._ticks
        try:
            while True:
                async with self._tick:
                    while self._ticks <= seen:
                        await self._tick.wait()
                    seen = self._ticks
                yield self._current.get(username)
        finally:
            self._watchers[username] -= 1
            if not self._watchers[username]:
                del self._watchers[username]

    async def _read_on(self) -> None:
        while self._watchers:
            names = list(self._watchers)[: wire.MAX_READ]
            current: dict[str, Usage] = {}
            try:
                fresh = await _read(self._services, names)
                for name in names:
                    with contextlib.suppress(NotFound):
                        current[name] = usage(
                            await service.get(self._services, name), fresh.get(name), self._last.get(name)
                        )
                for reading in fresh.values():
                    self._remember(reading)
            except DiyCloudError as error:
                log.warning("no gauges", reason=str(error))
            self._current = current
            async with self._tick:
                self._ticks += 1
                self._tick.notify_all()
            await asyncio.sleep(EVERY_S)
        self._task = None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


def as_event(reading: Usage | None) -> bytes:
    """Return a reading as a server-sent event (WHATWG HTML, 9.2)."""
    if reading is None:
        return b"event: unavailable\ndata: {}\n\n"
    body: dict[str, Any] = msgspec.to_builtins(reading)
    return b"data: " + msgspec.json.encode(body) + b"\n\n"
