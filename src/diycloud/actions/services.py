"""What every handler may use: made once, when the process starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from diycloud.agent.protocol import Message, SyncReport, Wish
from diycloud.config import Settings
from diycloud.db.engine import Database

T = TypeVar("T")


class Agent(Protocol):
    """What the services need of the agent's client. Raises the agent's own errors, Unavailable if it does not answer."""

    async def call(self, message: Message, answer: type[T]) -> T: ...

    async def sync(self, wishes: Iterable[Wish]) -> SyncReport: ...

    async def close(self) -> None: ...


class Hasher(Protocol):
    """Password hashes: auth/passwords.py."""

    async def hash(self, password: str) -> str: ...

    async def hash_many(self, passwords: list[str]) -> list[str]: ...

    async def verify(self, password: str, hashed: str | None) -> bool: ...


class Services:
    """The process's own parts.."""

    def __init__(self, *, database: Database, agent: Agent, hasher: Hasher, settings: Settings) -> None:
        self.database = database
        self.agent = agent
        self.hasher = hasher
        self.settings = settings
