"""Asking the platform's server over its Unix socket: who somebody is, whether they may work, and telling what became of servers.

The hub has no network. The server knows it by the kernel's word for its account (web/internal.py).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import msgspec
import structlog

from diycloud.errors import Unavailable

log = structlog.get_logger()
AGE_S = 1.0
"""For how long an answer about somebody is good; with what Nginx and the users' servers keep (2 s each) under 5 s in all."""
GRACE_S = 300.0
"""For how long the last good answer stands in while the server is away: then nobody is disabled through it either."""
KNOWN = 20_000
"""How many answers are kept."""
TIMEOUT_S = 10.0
EVENTS_AT_ONCE, EVENTS_KEPT = 100, 10_000
RETRY_S = 5.0
LAST_S = 2.0
"""For how long a hub that ends waits until its last events are taken."""


class Person(msgspec.Struct, frozen=True):
    """A user as the server tells. active: may work with notebooks now; admin: has the portal's role of administrators."""

    name: str
    active: bool = False
    reason: str = ""
    admin: bool = False
    groups: tuple[str, ...] = ()


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a notebook server (the kinds and their fields: notebooks/models.py)."""

    kind: str
    name: str
    server: str
    at: float
    profile: str = ""
    seconds: float = 0.0
    by: str = ""
    reason: str = ""
    cause: str = ""


class Response(NamedTuple):
    status: int
    body: bytes


class Portal:
    """The hub's way to the server. One event loop's; opens connections as needed and keeps them."""

    def __init__(self, socket: Path) -> None:
        self._socket = str(socket)
        self._session: aiohttp.ClientSession | None = None
        self._known: dict[tuple[str, str | None], tuple[float, Person]] = {}
        self._asking: dict[tuple[str, str | None], asyncio.Task[Person]] = {}
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._telling: asyncio.Task[None] | None = None

    async def person(self, name: str, address: str | None) -> Person:
        """Return what is known of a user, AGE_S old at most; one that is not active may not work, or is not there.

        A refusal is not kept: who is let in again is at once. Many who ask at the same time ask the server once.

        address: where the user's browser is; None if it is no browser that asks. Raises Unavailable if the server has been
        away for longer than GRACE_S.
        """
        key = (name, address)
        found = self._known.get(key)
        if found is not None and found[1].active and time.monotonic() - found[0] < AGE_S:
            return found[1]
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(key))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    async def exchange(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Response:
        """Send one request. Raises Unavailable if the server does not answer."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(self._socket), timeout=timeout)
        try:
            async with self._session.request(method, f"http://portal{path}", headers=headers, data=body) as answer:
                return Response(answer.status, await answer.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(
                "The portal does not answer.", f"Try again in a moment ({type(error).__name__})."
            ) from error

    def tell(self, event: Event) -> None:
        """Have the server write down what became of a notebook server; sent again until it is taken."""
        self._events.append(event)
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())

    async def close(self) -> None:
        """End, once what has just happened is told, if the server takes it at once."""
        if self._telling is not None:
            await asyncio.wait([self._telling], timeout=LAST_S)
            self._telling.cancel()
        if self._session is not None:
            await self._session.close()

    async def _ask(self, key: tuple[str, str | None]) -> Person:
        name, address = key
        query = "" if address is None else f"?address={quote(address)}"
        try:
            status, body = await self.exchange("GET", f"/internal/hub/users/{quote(name, safe='')}{query}")
            if status not in (200, 403, 404):
                raise Unavailable("The portal cannot tell who may work.", f"It answered {status}.")
            person = _person(name, status, body)
        except Unavailable:
            kept = self._known.get(key)
            if kept is None or time.monotonic() - kept[0] > GRACE_S:
                raise
            return kept[1]
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[key] = (time.monotonic(), person)
        return person

    async def _tell(self) -> None:
        while self._events:
            batch = [self._events.popleft() for _ in range(min(EVENTS_AT_ONCE, len(self._events)))]
            try:
                status, body = await self.exchange(
                    "POST",
                    "/internal/hub/events",
                    {"Content-Type": "application/json"},
                    msgspec.json.encode({"events": batch}),
                )
            except Unavailable:
                self._events.extendleft(reversed(batch))
                await asyncio.sleep(RETRY_S)
                continue
            if status >= 500:
                self._events.extendleft(reversed(batch))
                await asyncio.sleep(RETRY_S)
            elif status != 204:
                log.warning("events were refused", status=status, answer=body[:500].decode(errors="replace"))


def _person(name: str, status: int, body: bytes) -> Person:
    try:
        person = msgspec.json.decode(body, type=Person)
    except msgspec.DecodeError:
        return Person(name, reason="The portal does not know this user.")
    return person if status == 200 and person.name == name else msgspec.structs.replace(person, active=False)


def decode_json(response: Response) -> Any:
    """Return a response's JSON, None if it has none."""
    try:
        return msgspec.json.decode(response.body)
    except msgspec.DecodeError:
        return None
