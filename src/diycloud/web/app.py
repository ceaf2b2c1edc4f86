"""The server's application: REST, portal, health, static files, and what runs beside them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from diycloud.actions.dispatcher import Dispatcher
from diycloud.actions.services import Services
from diycloud.auth.signin import SignIn
from diycloud.core import metrics
from diycloud.core.handlers import HANDLERS
from diycloud.users import places, reconcile
from diycloud.users.usage import Gauges
from diycloud.web import identity, problems
from diycloud.web.counting import Counting, watch_loop
from diycloud.web.internal import Internal
from diycloud.web.oidc import Provider
from diycloud.web.portal import Portal
from diycloud.web.ratelimit import Limits
from diycloud.web.rest import Rest

if TYPE_CHECKING:
    from diycloud.auth.outside.gateway import Outside

log = structlog.get_logger()


def make_app(services: Services, *, background: bool = True) -> Starlette:
    """Return the application. background: reconcile now and every minute (off where a single request is run in place)."""
    dispatcher = Dispatcher(HANDLERS, services, places.find)
    dispatcher.monitors.append(metrics.monitor(services.meter))
    sign_in = SignIn(services)
    outside = make_outside(services, dispatcher)
    gauges = Gauges(services)
    limits = Limits(services.settings.server)
    rest, portal = Rest(dispatcher, sign_in, limits), Portal(dispatcher, sign_in, gauges, limits)

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        await reconcile.start(services)
        task = asyncio.create_task(reconcile.keep_reconciling(services)) if background else None
        checking = asyncio.create_task(outside.keep_checking()) if background and outside is not None else None
        watching = asyncio.create_task(watch_loop(services.meter)) if background and services.meter.keeps else None
        try:
            yield
        finally:
            for beside in (task, checking, watching):
                if beside is not None:
                    beside.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await beside
            if outside is not None:
                await outside.close()
            await gauges.close()
            if services.hub is not None:
                await services.hub.close()

    provider = Provider(services, limits, portal.keys)
    routes: list[BaseRoute] = [Internal(services), rest, *provider.routes(), *portal.routes()]

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return await portal.plain_error(request, error.status_code)

    async def crash(request: Request, error: Exception) -> Response:
        reference = identity.request_id(request)
        log.error("request crashed", path=request.url.path, request_id=reference, exc_info=error)
        if request.url.path.startswith("/api/"):
            return problems.problem(500, "error", "Something broke; it is in the server's log.", request_id=reference)
        return await portal.plain_error(request, 500)

    around = [Middleware(Counting, services.meter, routes)] if services.meter.keeps else []
    handlers = {HTTPException: http_error, Exception: crash}
    app = Starlette(routes=routes, lifespan=life, exception_handlers=handlers, middleware=around)
    app.router.redirect_slashes = False  # a redirect would name this socket's host, and repeat a change elsewhere
    return app


def make_outside(services: Services, dispatcher: Dispatcher) -> Outside | None:
    """Return what asks the directory and the providers of the settings, and give it to the services; None without any."""
    if not services.settings.sign_in.is_used:
        return None
    from diycloud.auth.outside.gateway import Outside  # most of a second at the start, and 14 MB

    services.outside = made = Outside(services, dispatcher)
    return made
