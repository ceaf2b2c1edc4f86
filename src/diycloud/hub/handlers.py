"""The few pages of the hub's that are the platform's own."""

from __future__ import annotations

import asyncio
from typing import Any

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.handlers.pages import SpawnPendingHandler
from tornado import web

from diycloud.hub import addresses
from diycloud.hub.signing_out import SignOut

WAIT_S = 15.0


class Pending(SpawnPendingHandler):
    """The page shown while a server starts. It loads itself again, and that request waits for the server: no script."""

    async def get(self, user_name: str, server_name: str = "") -> Any:
        user = self.current_user
        spawner = user.spawners.get(server_name) if user is not None and user.name == user_name else None
        future = getattr(spawner, "_spawn_future", None)
        if self.get_query_argument("wait", "") and future is not None and not future.done():
            await asyncio.wait([future], timeout=WAIT_S)
        return await super().get(user_name, server_name)

    def render_template(self, name: str, sync: bool = False, **values: Any) -> Any:
        return super().render_template(name, sync, next_page=self.get_query_argument("next", ""), **values)


class Home(BaseHandler):
    """Servers are managed at the portal."""

    @web.authenticated
    def get(self) -> None:
        self.redirect(f"{addresses.portal(self.app.settings)}notebooks")


HANDLERS = (
    (r"/spawn-pending/([^/]+)", Pending),
    (r"/spawn-pending/([^/]+)/([^/]+)", Pending),
    (r"/home", Home),
    (r"/api/users/([^/]+)/sign-out", SignOut),
)
