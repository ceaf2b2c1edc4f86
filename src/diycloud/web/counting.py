"""What the server counts of itself: every request by the template of its address, and how late its event loop is.

A raw address is never a label: whoever sends requests must not be able to make the server keep more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable
from typing import Any

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diycloud.actions.meter import Meter
from diycloud.core.metrics import LOOP_LAG, REQUEST_SECONDS, REQUESTS
from diycloud.web.calls import COUNTED_AS

NOTHING = "(none)"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
TICK_S = 0.5


class Counting:
    """An ASGI application around the whole of ours. routes: its routes, for their templates.

    Routes of our own kinds leave their template in the scope (COUNTED_AS), Starlette's their function. A request counts
    when its answer begins: what streams for an hour was no slow answer.
    """

    def __init__(self, app: ASGIApp, meter: Meter, routes: Iterable[BaseRoute]) -> None:
        self._app, self._meter = app, meter
        known = [route for route in routes if isinstance(route, Route)]
        self._fixed = frozenset(route.path for route in known if "{" not in route.path)
        self._templates: dict[Any, str] = {route.endpoint: route.path for route in known}
        self._counters: dict[tuple[str, str, int], Any] = {}
        self._clocks: dict[tuple[str, str], Any] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._watch(scope, receive, send) if scope["type"] == "http" else self._app(scope, receive, send)

    async def _watch(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, begun = time.perf_counter(), False

        def note(message: Message) -> Awaitable[None]:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self._count(scope, message["status"], time.perf_counter() - started)
            return send(message)

        try:
            await self._app(scope, receive, note)
        except Exception:  # the error page is made outside of here
            if not begun:
                self._count(scope, 500, time.perf_counter() - started)
            raise

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        method, route = scope["method"], scope.get(COUNTED_AS) or self._template(scope)
        if method not in METHODS:
            method = "other"
        counter = self._counters.get((method, route, status // 100))
        if counter is None:
            counter = self._meter.child(REQUESTS, method, route, f"{status // 100}xx")
            self._counters[method, route, status // 100] = counter
        clock = self._clocks.get((method, route))
        if clock is None:
            clock = self._clocks[method, route] = self._meter.child(REQUEST_SECONDS, method, route)
        counter.inc()
        clock.observe(seconds)

    def _template(self, scope: Scope) -> str:
        path: str = scope["path"]
        return path if path in self._fixed else self._templates.get(scope.get("endpoint"), NOTHING)


async def watch_loop(meter: Meter) -> None:
    """Note, for the server's life, how late the event loop wakes a sleeper."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        meter.time(LOOP_LAG, max(0.0, loop.time() - due))
