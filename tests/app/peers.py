"""Requests as they come from the processes that share the server's socket: the notebooks' hub, Nginx, root."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from diycloud.web.identity import COOKIE, HUB_PEER, UNIX_PEER
from tests.app.openid import OpenId
from tests.app.restful import FAR

HUB, NGINX, ROOT = (HUB_PEER, 970), (UNIX_PEER, 33), (UNIX_PEER, 0)


def come(site: OpenId, peer: tuple[str, int], method: str, path: str, **more: Any) -> httpx.Response:
    """Send a request as it comes from a peer of the server's socket."""

    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(site.app, client=peer, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://cloud.test") as client:
            return await client.request(method, path, **more)

    return asyncio.run(once())


def guard(site: OpenId, cookie: str = "", owner: str = "", **headers: str) -> httpx.Response:
    sent = {"x-forwarded-for": FAR, **headers}
    if cookie:
        sent["cookie"] = f"other=1; {COOKIE}={cookie}; _xsrf=2"
    if owner:
        sent["x-notebook-owner"] = owner
    return come(site, NGINX, "GET", "/internal/notebooks/guard", headers=sent)


def events(site: OpenId, *told: dict[str, Any]) -> httpx.Response:
    return come(site, HUB, "POST", "/internal/hub/events", json={"events": list(told)})
