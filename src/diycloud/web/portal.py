"""The portal's pages."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute

from diycloud.actions.dispatcher import Dispatcher
from diycloud.auth.service import SignIn
from diycloud.users.usage import Gauges


class Portal:
    def __init__(self, dispatcher: Dispatcher, sign_in: SignIn, gauges: Gauges) -> None:
        self._dispatcher = dispatcher

    def routes(self) -> list[BaseRoute]:
        return []

    def plain_error(self, request: Request, status: int) -> Response:
        return PlainTextResponse(str(status), status)
