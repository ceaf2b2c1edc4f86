"""What every handler may use: made once, when the process starts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from diycloud.actions.actor import Actor
from diycloud.actions.endings import Endings
from diycloud.actions.meter import Meter
from diycloud.actions.topics import Topics
from diycloud.actions.waiting import Waiting
from diycloud.agent.protocol import Capacity as AskCapacity
from diycloud.agent.protocol import HostCapacity, Message, SyncReport, Wish
from diycloud.config import Settings
from diycloud.db.engine import Database
from diycloud.db.vault import Vault

T = TypeVar("T")
CAPACITY_S = 60.0
"""A host gains and loses cores and memory seldom."""


class Agent(Protocol):
    """What the services need of the agent's client. Raises the agent's own errors, Unavailable if it does not answer."""

    async def call(self, message: Message, answer: type[T], *, deadline: float = 60.0) -> T: ...

    async def sync(self, wishes: Iterable[Wish]) -> SyncReport: ...

    async def close(self) -> None: ...


class Hasher(Protocol):
    """Password hashes: auth/passwords.py."""

    async def hash(self, password: str) -> str: ...

    async def hash_many(self, passwords: list[str]) -> list[str]: ...

    async def verify(self, password: str, hashed: str | None) -> bool: ...


class Throttle(Protocol):
    """Slows guessing down: auth/throttle.py."""

    def check(self, username: str, address: str, *, known_address: str | None = None) -> None: ...

    def failed(self, username: str, address: str) -> None: ...

    def uncount(self, username: str, address: str) -> None: ...

    def succeeded(self, username: str, address: str) -> None: ...

    def forgive(self, username: str, address: str) -> None: ...

    def clear(self, username: str) -> None: ...

    def is_news(self, address: str) -> bool: ...

    def waiting(self) -> Sequence[tuple[str, str, str, int, int]]: ...

    @property
    def codes(self) -> Throttle: ...


class Outside(Protocol):
    """Directories and providers that people sign in through: auth/outside/gateway.py. Rows and people are its own types."""

    async def close(self) -> None: ...

    async def subject(self, row: Any) -> str | None: ...

    async def by_password(self, username: str, password: str, row: Any, subject: str | None, visitor: Actor) -> Any: ...

    async def password_holds(self, row: Any, subject: str, password: str) -> bool: ...

    async def depart(self, name: str, actor: Actor, *, base: str, target: str, what_for: str) -> tuple[str, str]: ...

    async def come_back(
        self, name: str, answer: Mapping[str, str], cookie: str, actor: Actor, *, base: str
    ) -> tuple[Any, Any]: ...

    async def arrive(self, person: Any, visitor: Actor, *, must_be: int | None = None) -> Any: ...

    async def find(self, name: str) -> Any: ...


class Hub(Protocol):
    """The notebooks' hub: notebooks/hub.py, whose own type a server is. Raises Unavailable if it does not answer."""

    @property
    def is_set_up(self) -> bool: ...

    async def servers(self, name: str) -> Mapping[str, Any]: ...

    async def start(self, name: str, server: str, profile: str) -> bool: ...

    async def stop(self, name: str, server: str) -> None: ...

    async def sign_out(self, name: str, *, tokens: bool, kept_session: int | None, last_session: int) -> None: ...

    async def remove(self, name: str) -> None: ...

    async def close(self) -> None: ...


class Services:
    """The process's own parts."""

    def __init__(
        self,
        *,
        database: Database,
        agent: Agent,
        hasher: Hasher,
        throttle: Throttle,
        settings: Settings,
        vault: Vault | None = None,
        hub: Hub | None = None,
    ) -> None:
        self.database = database
        self.agent = agent
        self.hasher = hasher
        self.throttle = throttle
        self.settings = settings
        self.vault = vault or Vault.of_this_process()
        self.hub = hub
        self.meter = Meter()
        """What is counted for /metrics; the server's own keeps it (core/metrics.py)."""
        self.notebook_endings = Endings()
        """Who has a notebook server ended, until the hub tells of its end."""
        self.notebook_changes = Topics()
        """User names whose notebook servers may have changed."""
        self.tickets: Waiting[Any] = Waiting(seconds=300, most=5_000)
        """Sign-ins that wait for their second factor (auth/signin.py)."""
        self.challenges: Waiting[Any] = Waiting(seconds=300, most=10_000, each=200)
        """What browsers were asked to sign with a passkey (auth/passkeys.py)."""
        self.challenges_of_strangers: Waiting[Any] = Waiting(seconds=300, most=10_000, each=200)
        """The same for whoever is not known yet: they crowd out nobody but each other."""
        self.notebook_codes: Waiting[Any] = Waiting(seconds=30, most=10_000)
        """The way from the portal to notebooks at a host name of their own (notebooks/doors.py)."""
        self.new_secrets: Waiting[Any] = Waiting(seconds=900, most=5_000, each=1)
        """Secrets of apps that have shown no code yet (auth/factor_service.py)."""
        self.outside: Outside | None = None
        """Set by the application if the settings name a directory or a provider."""
        self.group_changes = asyncio.Lock()
        """Held by whoever has the host make or remove groups (groups/host.py)."""
        self.report = SyncReport()
        """What the last reconcile found."""
        self._capacity: tuple[float, HostCapacity] | None = None

    async def capacity(self) -> HostCapacity:
        """Return what the host has, asked again after a minute. Raises Unavailable if it was never told."""
        now = time.monotonic()
        if self._capacity is None or now - self._capacity[0] > CAPACITY_S:
            self._capacity = (now, await self.agent.call(AskCapacity(), HostCapacity))
        return self._capacity[1]
