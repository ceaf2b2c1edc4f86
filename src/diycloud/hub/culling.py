"""Ending servers that nobody uses, that ran long enough, or that the hub does not know of."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import structlog

from diycloud.agent.protocol import Notebook, StopNotebook
from diycloud.config_notebooks import NotebookSettings
from diycloud.errors import DiyCloudError
from diycloud.hub.board import Key, Why

log = structlog.get_logger()
EVERY_S = 60.0
BUSY = 0.05
"""A server that uses more of a core than this computes something, though nobody looks: kernels without output do not
count as active in Jupyter's own reckoning."""
AT_ONCE = 4


class Culling:
    """Looks at every server once a minute. hub: the application (hub/app.py)."""

    def __init__(self, hub: Any, settings: NotebookSettings) -> None:
        self._hub, self._settings = hub, settings
        self._busy: dict[Key, tuple[int, float, float]] = {}
        """Processor time (µs) at the last look, when that was, and when the server last computed something."""
        self._unknown: set[Key] = set()
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except DiyCloudError as error:
                log.warning("servers were not looked at", reason=str(error))
            except Exception:
                log.exception("servers were not looked at")
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Look once. Raises Unavailable if the agent is away."""
        found = await self._hub.board.read()
        ours = {key: spawner for key, spawner in self._spawners() if spawner.active}
        await self._end_unknown(found, ours)
        self._note_busy(found)
        due = [
            (spawner, why) for key, spawner in ours.items() if spawner.ready and (why := self._why_end(key, spawner))
        ]
        await asyncio.gather(*(self._end(spawner, why) for spawner, why in due))

    def _spawners(self) -> list[tuple[Key, Any]]:
        return [
            ((user.name, name), spawner)
            for user in list(self._hub.users.values())
            for name, spawner in list(user.spawners.items())
        ]

    async def _end_unknown(self, found: dict[Key, Notebook], ours: dict[Key, Any]) -> None:
        """End what runs without the hub knowing: it has no token that holds, so nobody could use it.

        Only at the second look: one that was asked for just now is known to the agent first.
        """
        unknown = {key for key, notebook in found.items() if notebook.state == "running" and key not in ours}
        for name, server in sorted(unknown & self._unknown):
            log.warning("server that the hub does not know is stopped", user=name, server=server)
            try:
                await self._hub.agent.call(StopNotebook(name, server), Notebook)
            except (
                DiyCloudError
            ) as error:  # a process that waits for a device ends later, or never: the others' turn comes
                log.error("server that the hub does not know goes on", user=name, server=server, reason=str(error))
            self._hub.board.forget()
        self._unknown = unknown

    def _note_busy(self, found: dict[Key, Notebook]) -> None:
        now, before = time.time(), self._busy
        self._busy = {}
        for key, notebook in found.items():
            used, at, busy = before.get(key, (notebook.cpu_us, now, notebook.started))
            if notebook.cpu_us - used > BUSY * 1e6 * (now - at):
                busy = now
            self._busy[key] = (notebook.cpu_us, now, busy)

    def _why_end(self, key: Key, spawner: Any) -> Why | None:
        """Return why a server is to end, None if it is not."""
        now, started = time.time(), _seconds(spawner.orm_spawner.started)
        if self._settings.max_hours and started and now - started > self._settings.max_hours * 3600:
            return Why("age", f"It was stopped because it ran for {self._settings.max_hours} h.")
        used = max(started, _seconds(spawner.orm_spawner.last_activity), self._busy.get(key, (0, 0.0, 0.0))[2])
        if self._settings.idle_minutes and used and now - used > self._settings.idle_minutes * 60:
            return Why("idle", f"It was stopped because it was not used for {self._settings.idle_minutes} min.")
        return None

    async def _end(self, spawner: Any, why: Why) -> None:
        async with self._turns:
            if not spawner.ready:
                return
            log.info("server is stopped", user=spawner.user.name, server=spawner.name, reason=why.reason)
            try:
                await self._hub.end_server(spawner, why)
            except DiyCloudError as error:
                log.error("server could not be stopped", user=spawner.user.name, server=spawner.name, reason=str(error))


def _seconds(moment: datetime | None) -> float:
    """Return a time of JupyterHub's database, which has no zone and is UTC, as seconds since 1970; 0 for none."""
    return 0.0 if moment is None else moment.replace(tzinfo=UTC).timestamp()
