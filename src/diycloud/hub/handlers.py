"""The few pages of the hub's that are the platform's own."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from jupyterhub import orm
from jupyterhub.apihandlers.users import UserServerAPIHandler, UserTokenListAPIHandler
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.handlers.pages import SpawnPendingHandler
from sqlalchemy import func
from tornado import web

from diycloud.hub import addresses
from diycloud.hub.signing_out import SignOut

WAIT_S = 15.0
STOPPING_S = 8.0
"""The portal waits for ten (notebooks/hub.py)."""
MOST_TOKENS = 100
"""Of one user, those of servers and browsers among them: all are read when the user is signed out (hub/signing_out.py)."""


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


class Servers(UserServerAPIHandler):
    """Starting and stopping by REST, by two at once too: JupyterHub's own looks, waits, and fails for the second."""

    async def spawn_single_user(self, user: Any, server_name: str = "", *words: Any, **more: Any) -> None:
        """Start a server, unless somebody else is about to: then it is under way. Raises HTTPError 400, 409 if it is stopped."""
        try:
            await super().spawn_single_user(user, server_name, *words, **more)
        except asyncio.CancelledError as error:
            raise web.HTTPError(409, "The server was stopped while it started.") from error
        except RuntimeError:
            pending = user.spawners[server_name].pending if server_name in user.spawners else None
            if pending == "spawn":
                return
            if pending:
                raise web.HTTPError(400, f"{user.name}'s server is about to end. Ask again in a moment.") from None
            raise

    async def stop_single_user(self, user: Any, server_name: str = "") -> Any:
        """Stop a server, unless whoever else is about to stop it does. Raises HTTPError 503 if that takes long."""
        deadline, waited = time.monotonic() + STOPPING_S, False
        while server_name in user.spawners and user.spawners[server_name].pending:
            if time.monotonic() > deadline:
                raise web.HTTPError(503, f"{user.name}'s server is about to end. Ask again in a moment.")
            waited = True
            await asyncio.sleep(0.05)
        if server_name not in user.spawners or (waited and not user.spawners[server_name].active):
            return None
        return await super().stop_single_user(user, server_name)


class Tokens(UserTokenListAPIHandler):
    """Making API tokens, by who is signed in; JupyterHub's own takes a password too, and any number."""

    async def post(self, user_name: str) -> None:
        """Make a token. Raises HTTPError 403 where there are enough."""
        if self.current_user is None:
            raise web.HTTPError(403)
        user = self.find_user(user_name)
        if user is not None:
            mine = self.db.query(func.count(orm.APIToken.id)).filter(orm.APIToken.user_id == user.orm_user.id).scalar()
            if mine >= MOST_TOKENS:
                raise web.HTTPError(
                    403, f"{user_name} has {mine} tokens, which are enough. Remove those that nobody uses."
                )
        await super().post(user_name)


HANDLERS = (
    (r"/api/users/([^/]+)/tokens", Tokens),
    (r"/api/users/([^/]+)/server", Servers),
    (r"/api/users/([^/]+)/servers/([^/]*)", Servers),
    (r"/spawn-pending/([^/]+)", Pending),
    (r"/spawn-pending/([^/]+)/([^/]+)", Pending),
    (r"/home", Home),
    (r"/api/users/([^/]+)/sign-out", SignOut),
)
