"""The preview's pages of notebooks: servers in every state, one's own and another's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from diycloud.auth.models import moment
from diycloud.notebooks.models import Activity, Notebooks, Profile, Server
from diycloud.web.pages import mark

from .frame import page
from .samples import ADA

NOW = int(time.time())
G = 1 << 30
LOG = (
    "[I 2026-11-21 22:14:03.117 ServerApp] jupyterlab | extension was successfully loaded.",
    "[I 2026-11-21 22:14:03.120 ServerApp] Serving notebooks from local directory: /home/ada",
    "[W 2026-11-21 22:31:55.480 ServerApp] delete /" + "a-very-long-name-of-a-folder-that-nobody-would-type/" * 3,
)
SIZES = (
    Profile("small", "Small", 0.5, G // 2),
    Profile("large", "Large, for <data> & training with a title as long as one may", 4.0, 16 * G),
)


def server(name: str, state: str, **more: Any) -> Server:
    address = f"/jupyter/user/ada/{name + '/' if name else ''}"
    return Server(name, state, address, **more)


RUNNING = {
    "profile": "small", "started_at": moment(NOW - 9000), "memory": 380 << 20, "cpu_seconds": 71.4, "tasks": 23,
}  # fmt: skip
KILLED = {"ended_at": moment(NOW - 300), "reason": "It was ended for memory: the limit is 2G.", "log": LOG}
ACTIVITY = (
    Activity(
        moment(NOW - 300), "failed", "training", "large", 5400.0, reason="It was ended for memory: the limit is 2G."
    ),
    Activity(moment(NOW - 8000), "stopped", "", "", 86_500.0, "culler", "It was not used for 120 minutes."),
    Activity(moment(NOW - 9000), "started", "", "small", 0.41),
    Activity(moment(NOW - 190_000), "stopped", "a" * 30, "", 12.0, "root_admin"),
)
SERVERS = {
    "": (
        server("", "running", **RUNNING),
        server("a" * 30, "stopping", profile="small"),
        server("course", "starting"),
        server("old", "stopped", ended_at=moment(NOW - 200_000)),
        server("training", "failed", profile="large", **KILLED),
    ),
    "stopped": (server("", "stopped"),),
    "failed": (server("", "failed", **KILLED),),
    "hurt": (
        server("", "running", **RUNNING, reason="2 programs in it were ended for memory: the limit is 512M."),
    ),
    "running": (server("", "running", **RUNNING),),
}  # fmt: skip


def sample(which: str = "", *, sizes: bool = True) -> Notebooks:
    plain = which == "stopped"
    return Notebooks("ada", SERVERS[which], SIZES if sizes else (), 0 if plain else 2, () if plain else ACTIVITY)


def found_for(request: Request) -> dict[str, Any]:
    found = sample(request.query_params.get("show", ""), sizes="plain" not in request.query_params)
    return {"found": found, "mark": mark(found)}


def own(request: Request) -> Response:
    part = {"1": "notebooks_servers.html", "tile": "notebooks_tile.html"}.get(request.query_params.get("fragment", ""))
    if part:
        return page(request, part, actor=ADA, own=True, **found_for(request))
    errors = {"server_name": "1–30 characters: a–z, 0–9 and -"} if "wrong" in request.query_params else {}
    message = "ada has 3 notebook servers already. Stop one of them first." if "full" in request.query_params else ""
    return page(
        request, "notebooks.html", actor=ADA, own=True, errors=errors, message=message, section="notebooks",
        values={"server_name": "Big One"} if errors else {}, notebooks_here=True, **found_for(request),
    )  # fmt: skip


def others(request: Request) -> Response:
    return page(
        request, "notebooks.html", own=False, errors={}, message="", values={}, section="users", **found_for(request)
    )


def none(request: Request) -> Response:
    return page(request, "notebooks_none.html", portal_only="portal" in request.query_params, section="notebooks")


async def events(request: Request) -> Response:
    """Say nothing: the page stays as it is."""

    async def quiet() -> AsyncIterator[bytes]:
        yield b": quiet\n\n"
        await asyncio.sleep(600)

    return StreamingResponse(quiet(), media_type="text/event-stream")


async def back(request: Request) -> Response:
    return RedirectResponse("/notebooks", 303)


ROUTES = [
    Route("/notebooks", own),
    Route("/notebooks", back, methods=["POST"]),
    Route("/notebooks/new", back, methods=["POST"]),
    Route("/no-notebooks", none),
    Route("/users/ada/notebooks", others),
    Route("/users/ada/notebooks", back, methods=["POST"]),
    Route("/events/notebooks", events),
]
PAGES = (
    "/notebooks",
    "/notebooks?show=stopped&plain=1",
    "/notebooks?show=failed",
    "/notebooks?show=hurt&full=1",
    "/notebooks?wrong=1",
    "/no-notebooks",
    "/no-notebooks?portal=1&as=user",
    "/users/ada/notebooks",
    "/?as=user&all=1&show=failed",
    "/?as=user&all=1&show=stopped",
)
