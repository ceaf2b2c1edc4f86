"""The hub: JupyterHub with the platform's parts, and what it does beside answering requests."""

from __future__ import annotations

import asyncio
import gc
from typing import Any, ClassVar

from jupyterhub import orm
from jupyterhub.app import JupyterHub
from tornado.httpserver import HTTPServer

from diycloud.agent.client import Client
from diycloud.config import Paths, Settings
from diycloud.hub.board import Board, Key, Reasons, Why
from diycloud.hub.culling import Culling
from diycloud.hub.handlers import HANDLERS
from diycloud.hub.listening import BoundedServer
from diycloud.hub.portal import Portal
from diycloud.hub.turns import Turns

STARTS = 20
"""Connections for starts; the agent takes 32 of one account."""


class Hub(JupyterHub):
    """paths, settings: the platform's; the spawners and the authenticator ask here for the agent and the portal."""

    name = "jupyterhub"
    paths: ClassVar[Paths]
    settings: ClassVar[Settings]

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        at_once = self.settings.notebooks.at_once
        self.agent = Client(self.paths.agent_socket)
        self.starter = Client(self.paths.agent_socket, connections=min(at_once, STARTS))
        """Starts take their time, and must not keep what is read and stopped waiting."""
        self.board = Board(self.agent)
        self.portal = Portal(self.paths.server_socket)
        self.turns = Turns(self.settings.notebooks)
        self.ends = Reasons()
        self._why: dict[Key, Why] = {}
        self._culling: asyncio.Task[None] | None = None

    def init_db(self) -> None:
        """Open the database so that a commit waits for the disk once: it holds up the event loop."""
        super().init_db()
        with self.db.get_bind().connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")

    def load_config_file(self, *_: Any, **__: Any) -> None:
        """Load none: a file in the working directory must not configure the hub (settings.py does)."""

    def init_tornado_settings(self) -> None:
        """Let pages say why a server ended."""
        super().init_tornado_settings()
        for environment in ("jinja2_env", "jinja2_env_sync"):
            self.tornado_settings[environment].globals["why_ended"] = lambda name, server: self.ends.of((name, server))

    def init_handlers(self) -> None:
        """Put the platform's pages before JupyterHub's of the same address."""
        super().init_handlers()
        self.handlers[:0] = self.add_url_prefix(self.hub_prefix, list(HANDLERS))

    async def init_api_tokens(self) -> None:
        """Let the portal's token be the one in its file alone: those that were there before do not hold any more."""
        await super().init_api_tokens()
        for service in self.db.query(orm.Service):
            current = [
                orm.APIToken.find(self.db, token) for token, name in self.service_tokens.items() if name == service.name
            ]
            for token in list(service.api_tokens):
                if token not in current:
                    self.db.delete(token)
        self.db.commit()

    async def start(self) -> None:
        HTTPServer.configure(BoundedServer, trusted=self.paths.server_socket.parent)
        await super().start()
        gc.collect()
        gc.freeze()  # what is loaded stays: a collection that walks it holds everybody up for some 150 ms
        self._culling = asyncio.create_task(Culling(self, self.settings.notebooks).run())

    async def cleanup(self) -> None:
        if self._culling is not None:
            self._culling.cancel()
        await super().cleanup()
        await self.portal.close()

    async def end_server(self, spawner: Any, why: Why) -> None:
        """Stop a server on the hub's own account, as JupyterHub does with one that died."""
        key = (spawner.user.name, spawner.name)
        self._why[key] = why
        spawner._stop_pending = True
        try:
            await self.proxy.delete_user(spawner.user, spawner.name)
            await spawner.user.stop(spawner.name)
        finally:
            self._why.pop(key, None)
            spawner._stop_pending = False

    def why_ends(self, spawner: Any) -> Why | None:
        """Return why the hub is ending a server; None if somebody asked for it."""
        return self._why.get((spawner.user.name, spawner.name))
