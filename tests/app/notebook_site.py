"""The application on a host with notebooks: an agent and a hub of dictionaries behind it."""

from __future__ import annotations

import time
from typing import Any

import httpx

from diycloud.agent import protocol as wire
from diycloud.config_notebooks import NotebookSettings, Profile
from diycloud.db.engine import Database
from diycloud.errors import HostError, Unavailable
from diycloud.notebooks.hub import HubServer
from tests.app.openid import OpenId
from tests.app.restful import WholeHost

SIZES = {"small": Profile(cpu=0.5, memory="512M"), "large": Profile(title="Large", memory="16G")}


class NotebookHost(WholeHost):
    """An agent with notebook servers."""

    def __init__(self) -> None:
        super().__init__()
        self.servers: dict[tuple[str, str], wire.Notebook] = {}
        self.logs: dict[tuple[str, str], tuple[str, ...]] = {}

    def runs(self, name: str, server: str = "", state: str = "running", log: tuple[str, ...] = (), **more: Any) -> None:
        self.servers[name, server] = wire.Notebook(name, server, state, **more)
        self.logs[name, server] = log

    def _ReadNotebooks(self, message: wire.ReadNotebooks) -> list[wire.Notebook]:
        if message.server is not None:
            found = self.servers.get((message.name, message.server))
            lines = self.logs.get((message.name, message.server), ())
            return [] if found is None else [wire.Notebook(**{**_fields(found), "log": lines})]
        return [one for (name, _), one in sorted(self.servers.items()) if message.name in ("", name)]

    def _StopNotebook(self, message: wire.StopNotebook) -> wire.Notebook:
        ended = wire.Notebook(message.name, message.server, "stopped", ended=time.time())
        self.servers[message.name, message.server] = ended
        return ended

    def _EndNotebooks(self, message: wire.EndNotebooks) -> int:
        running = [one for one in self.servers.values() if (one.name, one.state) == (message.name, "running")]
        for one in running:
            self._StopNotebook(wire.StopNotebook(one.name, one.server))
        return len(running)

    def _StopWorkloads(self, message: wire.StopWorkloads) -> int:
        return 0


def _fields(found: wire.Notebook) -> dict[str, Any]:
    return {name: getattr(found, name) for name in found.__struct_fields__}


class Hub:
    """A hub: who is known there, with which tokens; what it was asked."""

    def __init__(self, host: NotebookHost) -> None:
        self.host, self.is_set_up, self.away = host, True, False
        self.known: dict[str, dict[str, HubServer]] = {}
        self.tokens: dict[str, list[str]] = {}
        self.refuses: Exception | None = None
        self.breaks_at_a_stop = False
        self.ready = True
        self.asked: list[tuple[str, ...]] = []

    def _ask(self, *what: str) -> None:
        if self.away:
            raise Unavailable("The notebooks' hub does not answer.")
        self.asked.append(what)

    async def servers(self, name: str) -> dict[str, HubServer]:
        self._ask("servers", name)
        return dict(self.known.get(name, {}))

    async def start(self, name: str, server: str, profile: str) -> bool:
        self._ask("start", name, server, profile)
        if self.refuses:
            raise self.refuses
        pending = "" if self.ready else "spawn"
        self.known.setdefault(name, {})[server] = HubServer(server, self.ready, pending, profile)
        if self.ready:
            self.host.runs(name, server, profile=profile, started=time.time())
        return self.ready

    async def stop(self, name: str, server: str) -> None:
        self._ask("stop", name, server)
        if self.breaks_at_a_stop:
            raise HostError("The notebooks' hub answered 500.")
        self.known.get(name, {}).pop(server, None)

    async def sign_out(self, name: str, *, tokens: bool, kept_session: int | None, last_session: int) -> None:
        self._ask("sign_out", name, "tokens" if tokens else "", str(kept_session or ""))
        if tokens:
            self.tokens.pop(name, None)

    async def remove(self, name: str) -> None:
        self._ask("remove", name)
        self.known.pop(name, None)
        self.tokens.pop(name, None)

    async def close(self) -> None:
        return


class Site(OpenId):
    """The application on a host with notebooks."""

    host: NotebookHost

    def __init__(self, database: Database, **notebooks: Any) -> None:
        super().__init__(database)
        self.host = self.services.agent = NotebookHost()
        self.hub = self.services.hub = Hub(self.host)
        settings = self.services.settings
        self.services.settings = type(settings)(
            server=settings.server, notebooks=NotebookSettings(**{"profiles": SIZES, **notebooks})
        )
        self.restart()

    def rest(self, method: str, name: str = "ada", **more: Any) -> httpx.Response:
        return self.ask(method, f"/api/v1/users/{name}/notebooks", **more)
