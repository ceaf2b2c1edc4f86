"""The REST API in one process: the whole application on a real database, and a host of dictionaries that answers."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from starlette.applications import Starlette

from diycloud.actions.services import Services
from diycloud.agent import protocol as wire
from diycloud.auth.throttle import Throttle
from diycloud.config import ServerSettings, Settings
from diycloud.config_sign_in import SignInSettings
from diycloud.core import metrics
from diycloud.db.engine import Database
from diycloud.errors import PermissionDenied
from diycloud.users import first_admin, repository
from diycloud.web.app import make_app
from diycloud.web.identity import UNIX_PEER
from tests.unit.tenants import Host, by_hand

ADMIN, PASSWORD = "admin", "correct horse battery"
FAR = "192.0.2.7"


class WholeHost(Host):
    """A host that answers every message there is."""

    def _known(self, name: str) -> None:
        if name not in self.wishes:
            raise PermissionDenied(f"{name} is not an account of the platform.")

    def _Ping(self, message: wire.Ping) -> wire.Pong:
        return wire.Pong("test", 1.0)

    def _PurgePreview(self, message: wire.PurgePreview) -> wire.Remains:
        self._known(message.name)
        return wire.Remains(message.name, 20_000, f"/home/{message.name}", 3 << 20, 7, 0)

    def _ReadUsage(self, message: wire.ReadUsage) -> list[wire.Usage]:
        return [wire.Usage(name, 1.0, 2_000_000, 1 << 20, 3) for name in message.names if name in self.wishes]

    def _ArchiveHome(self, message: wire.ArchiveHome) -> wire.Archived:
        self._known(message.name)
        return wire.Archived(f"/var/backups/diycloud/{message.name}.tar.gz", 1 << 20)

    def _FindAdoptable(self, message: wire.FindAdoptable) -> list[wire.Adoptable]:
        return []

    def _AdoptAccounts(self, message: wire.AdoptAccounts) -> list[wire.Outcome]:
        return [
            wire.Outcome(w.name, code="not-found", message=f"There is no account {w.name}.") for w in message.wishes
        ]

    def _GrantSudo(self, message: wire.GrantSudo) -> wire.Outcome:
        self._known(message.name)
        return wire.Outcome(message.name, uid=20_000)

    def _ChangeOwnPassword(self, message: wire.ChangeOwnPassword) -> wire.Outcome:
        return wire.Outcome(message.name)

    def _IsPasswordForeign(self, message: wire.IsPasswordForeign) -> bool:
        return False

    def _SpendStep(self, message: wire.SpendStep) -> bool:
        return True

    def _ListTrash(self, message: wire.ListTrash) -> list[wire.Trashed]:
        return []

    def _EmptyTrash(self, message: wire.EmptyTrash) -> list[wire.Outcome]:
        return []


class PlainHasher:
    """Hashes that cost nothing."""

    async def hash(self, password: str) -> str:
        return f"plain {password}"

    async def hash_many(self, passwords: list[str]) -> list[str]:
        return [f"plain {password}" for password in passwords]

    async def verify(self, password: str, hashed: str | None) -> bool:
        return hashed == f"plain {password}"


class World:
    """One server. settings: of the server, to be changed for a test; sign_in: the directory and providers it knows."""

    def __init__(self, database: Database, *, sign_in: SignInSettings | None = None, **settings: Any) -> None:
        self.host, self.database = WholeHost(), database
        quick: Any = PlainHasher()
        server = ServerSettings(**{"requests_per_minute": 0, "strangers_per_minute": 0, **settings})
        known = Settings(server=server, sign_in=sign_in or SignInSettings())
        self.services = Services(database=database, agent=self.host, hasher=quick, throttle=Throttle(), settings=known)
        self.restart()

    def restart(self) -> None:
        """Begin anew as after a stop: what was in memory only is gone."""
        self.services.meter = metrics.make_meter(self.services.settings)
        self.app: Starlette = make_app(self.services, background=False)

    def first_admin(self) -> str:
        """Make the administrator; returns a token of theirs."""
        asyncio.run(first_admin.ensure_admin(self.database, ADMIN, PASSWORD, one_time=False))
        hashed = {"password_hash": f"plain {PASSWORD}"}
        asyncio.run(self.database.write(repository.note, 1, hashed))
        return self.token(ADMIN, PASSWORD)

    def token(self, username: str, password: str) -> str:
        sent = {"username": username, "password": password}
        found = self.ask("POST", "/api/v1/auth/login", json=sent, token="")
        assert found.status_code == 200, found.text
        return str(found.json()["token"])

    async def send(self, method: str, path: str, *, token: str | None = None, **more: Any) -> httpx.Response:
        """Send one request: with a token, as a stranger from afar (an empty one), or as root on the socket (None)."""
        headers = httpx.Headers(more.pop("headers", None))
        if token is not None:
            headers["X-Forwarded-For"] = more.pop("address", FAR)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        peer = (UNIX_PEER, 0 if token is None else 33)
        transport = httpx.ASGITransport(self.app, client=peer, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://cloud.test") as client:
            return await client.request(method, path, headers=headers, **more)

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self.send(method, path, **more))

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Read or change the database as people do."""
        return by_hand(self.database.path, statement, *values)  # type: ignore[attr-defined]
