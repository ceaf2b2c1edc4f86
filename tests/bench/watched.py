"""The platform's server as it is, with a watch on its event loop: `python -m tests.bench.watched` + web.main's options.

A task sleeps 5 ms again and again and notes how late the loop woke it. GET /bench/lateness, from anybody, gives the
delays in ms since it was last asked. This is the benches' alone: the product has no such path.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec

from diycloud.web import main as server

TICK_S = 0.005
PATH = "/bench/lateness"


class Watched:
    """An ASGI application around the platform's."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._late: list[float] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._watch())
        if scope["type"] == "http" and scope["path"] == PATH:
            await self._tell(send)
        else:
            await self._app(scope, receive, send)

    async def _tell(self, send: Any) -> None:
        body, self._late = msgspec.json.encode(self._late), []
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            self._late.append(max(0.0, loop.time() - due) * 1e3)


def main() -> int:
    """Run the server's own entry point around the watched application."""
    plain = server.make_app
    server.make_app = lambda services: Watched(plain(services))  # type: ignore[assignment,return-value]
    return server.main()


if __name__ == "__main__":
    sys.exit(main())
