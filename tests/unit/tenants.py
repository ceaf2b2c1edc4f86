"""Domains, policies and groups without a host: real services on a real database, and a host of dictionaries."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from diycloud.actions.action import Action
from diycloud.actions.actor import Actor
from diycloud.actions.dispatcher import Dispatcher
from diycloud.actions.roles import Role
from diycloud.actions.services import Services
from diycloud.agent import framing
from diycloud.agent import protocol as wire
from diycloud.auth.throttle import Throttle
from diycloud.config import Settings
from diycloud.core.handlers import HANDLERS
from diycloud.db.engine import Database
from diycloud.db.sqlite import SqliteDatabase
from diycloud.domains import actions as domains
from diycloud.errors import DiyCloudError, PermissionDenied, Unavailable
from diycloud.users import actions as users
from diycloud.users import places, reconcile

ROOT = Actor("root", Role.ADMIN, "cli")


class Host:
    """What an agent does, on dictionaries. gids: groups; wishes: the last of each account.

    away: nothing answers; refuses: name → the error that a group or account meets; asked: every message, in order;
    meanwhile: what happens while a message of a kind is on its way.
    """

    def __init__(self) -> None:
        self.gids: dict[str, int] = {}
        self.wishes: dict[str, wire.Wish] = {}
        self.away = False
        self.refuses: dict[str, DiyCloudError] = {}
        self.asked: list[Any] = []
        self.meanwhile: dict[type, Any] = {}
        self._next = 10_000

    async def call(self, message: Any, answer: Any, **_: Any) -> Any:
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("The agent does not answer.")
        framing.pack(framing.Request(1, message))  # raises what no frame can hold
        self.asked.append(message)
        if act := self.meanwhile.pop(type(message), None):
            await act()
        return getattr(self, f"_{type(message).__name__}")(message)

    async def sync(self, wishes: Iterable[wire.Wish]) -> wire.SyncReport:
        if self.away:
            raise Unavailable("The agent does not answer.")
        self.wishes |= {wish.name: wish for wish in wishes}
        return wire.SyncReport()

    async def close(self) -> None:
        pass

    def members(self, group: str) -> set[str]:
        return {wish.name for wish in self.wishes.values() if group in wish.groups and group in self.gids}

    def _EnsureGroups(self, message: wire.EnsureGroups) -> list[wire.Outcome]:
        return [self._group(name) for name in message.groups]

    def _group(self, name: str) -> wire.Outcome:
        if error := self.refuses.get(name):
            return wire.Outcome(name, self.gids.get(name), code=error.code, message=error.message)
        if new := name not in self.gids:
            self.gids[name], self._next = self._next, self._next + 1
        return wire.Outcome(name, self.gids[name], changed=new, made=new)

    def _GroupPreview(self, message: wire.GroupPreview) -> wire.GroupRemains:
        if message.name not in self.gids:
            raise PermissionDenied(f"{message.name} is not a group of the platform.")
        return wire.GroupRemains(
            message.name, self.gids[message.name], f"/srv/diycloud/{message.name}", 3 << 20, 7,
            len(self.members(message.name)),
        )  # fmt: skip

    def _RemoveGroup(self, message: wire.RemoveGroup) -> wire.Outcome:
        if error := self.refuses.get(message.name):
            raise error
        return wire.Outcome(message.name, self.gids.pop(message.name, None))

    def _EnsureAccounts(self, message: wire.EnsureAccounts) -> list[wire.Outcome]:
        found = []
        for account in message.accounts:
            name = account.wish.name
            if error := self.refuses.get(name):
                found.append(wire.Outcome(name, code=error.code, message=error.message))
                continue
            self.wishes[name] = account.wish
            found.append(wire.Outcome(name, uid=20_000 + sum(map(ord, name)), changed=True))
        return found

    def _CheckLimits(self, message: wire.CheckLimits) -> wire.Outcome:
        return wire.Outcome(message.name)

    def _Capacity(self, message: wire.Capacity) -> wire.HostCapacity:
        return wire.HostCapacity(cores=64, memory=256 << 30, slices="cgroup v2")

    def _HashPasswords(self, message: wire.HashPasswords) -> list[str]:
        return ["$6$salt$" + "x" * 86 for _ in message.passwords]

    def _StopWorkloads(self, message: wire.StopWorkloads) -> int:
        return 0

    def _PurgeAccount(self, message: wire.PurgeAccount) -> wire.Outcome:
        self.wishes.pop(message.name, None)
        return wire.Outcome(message.name)


class Hasher:
    """Hashes that cost nothing."""

    async def hash(self, password: str) -> str:
        return f"hash of {password}"


class Bench:
    """A dispatcher on a database and a host of one test."""

    def __init__(self, database: Database) -> None:
        self.host, self.database = Host(), database
        quick: Any = Hasher()
        self.services = Services(
            database=database, agent=self.host, hasher=quick, throttle=Throttle(), settings=Settings()
        )
        self._dispatcher = Dispatcher(HANDLERS, self.services, places.find)

    async def start(self, action: Action[Any], actor: Actor = ROOT) -> Any:
        return await self._dispatcher.run(actor, action)

    def run(self, action: Action[Any], actor: Actor = ROOT) -> Any:
        """Run one action, by root unless another actor is named."""
        return asyncio.run(self.start(action, actor))

    def both(self, first: Action[Any], second: Action[Any], actor: Actor = ROOT) -> list[Any]:
        """Run two actions at once; returns the result or the error of each."""

        async def together() -> list[Any]:
            return await asyncio.gather(self.start(first, actor), self.start(second, actor), return_exceptions=True)

        return asyncio.run(together())

    def reconcile(self) -> None:
        asyncio.run(reconcile.reconcile(self.services))

    def user(self, name: str, domain: str = "default", role: Role = Role.USER, **more: Any) -> Actor:
        """Create a user; returns who they are when they ask for something."""
        self.run(users.CreateUser(username=name, domain=domain, role=role, **more))
        ((user_id,),) = self.sql("SELECT id FROM users WHERE username = ?", name)
        now = int(time.time())
        return Actor(name, role, "rest", user_id=user_id, domain=domain, session_id=10_000 + user_id, proved_at=now)

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Read or change the database as people do."""
        if not isinstance(self.database, SqliteDatabase):
            return asyncio.run(self.database.write(_run, statement.replace("?", "%s"), values))
        return by_hand(self.database.path, statement, *values)

    def audited(self, action: str) -> list[tuple[str, str, str, str]]:
        """Return the audit's rows of an action: who, on what, how it ended, what changed."""
        query = "SELECT actor, target, outcome, changes FROM audit WHERE action = ? ORDER BY id"
        return self.sql(query, action)


def by_hand(path: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Do what people with a sqlite3 of their own do: it keeps no foreign keys."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def _run(connection: Connection, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    done = connection.exec_driver_sql(statement, values)
    return [tuple(row) for row in done] if done.returns_rows else []


def with_two_domains(bench: Bench) -> Bench:
    """Make `physics` beside `default`, with people in both."""
    bench.run(domains.CreateDomain(name="physics"))
    for name in ("ada", "bob", "carl"):
        bench.user(name)
    for name in ("dora", "emil"):
        bench.user(name, "physics")
    return bench
