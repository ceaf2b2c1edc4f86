"""Many single actions side by side, as quick as a batch.

Each does what it does alone, with its own checks and its own row in the audit; but what they commit is gathered into one
transaction, a savepoint each, and what they ask of the agent into one message. While one batch is under way the next
gathers, so there is nothing to wait for and nothing to tune.

`checking` gives the services with which an action is only tried: every handler decides first and commits its wish before
it acts (users/service.py), so a trial is the handler run up to its first commit, which is then undone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from sqlalchemy import Connection

from diycloud.actions.services import Agent, Hasher, Services
from diycloud.agent import framing
from diycloud.agent import protocol as wire
from diycloud.db.engine import Database
from diycloud.errors import DiyCloudError

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")
Done = TypeVar("Done")
AT_ONCE = 8
"""Waiting tasks that are woken before the event loop may look at others'."""


class Checked(Exception):
    """An action that is only tried has come to its first effect: nothing is in its way."""


class Gatherer(Generic[Item, Done]):
    """Has things done together that were asked for while the last of them were being done.

    do: takes at most `most`, returns a result or an exception for each, in order.
    """

    def __init__(self, do: Callable[[list[Item]], Awaitable[Sequence[Done | Exception]]], most: int) -> None:
        self._do = do
        self._most = most
        self._waiting: list[tuple[Item, asyncio.Future[Done]]] = []
        self._work: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Done:
        future: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._work is None:
            self._work = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        await asyncio.sleep(0)  # those that ask in the same moment come along
        while self._waiting:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            try:
                found = await self._do([item for item, _ in batch])
            except Exception as error:
                found = [error] * len(batch)
            for number, ((_, future), result) in enumerate(zip(batch, found, strict=True), 1):
                if future.cancelled():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
        self._work = None


class _Undo(Exception):
    """Rolls a transaction back and carries what came of it."""

    def __init__(self, found: list[Any]) -> None:
        super().__init__()
        self.found = found


class _Gathered(Database):
    """A database whose transactions are gathered. trial: none of them stays, and each that would have raises Checked."""

    def __init__(self, real: Database, *, trial: bool = False) -> None:
        self._real = real
        self._writes: Gatherer[Callable[[Connection], Any], Any] = Gatherer(
            self._try if trial else self._commit, wire.MAX_BATCH
        )

    async def read(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._real.read(fn, *args, **kwargs)

    def read_now(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return self._real.read_now(fn, *args, **kwargs)

    async def read_long(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._real.read_long(fn, *args, **kwargs)

    async def write(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return cast(T, await self._writes(partial(_call, fn, args, kwargs)))

    async def note(self, fn: Callable[[Connection], T]) -> T:
        return cast(T, await self._writes(fn))

    async def _commit(self, jobs: list[Callable[[Connection], Any]]) -> list[Any]:
        return await self._real.write(self._each, jobs)

    async def _try(self, jobs: list[Callable[[Connection], Any]]) -> list[Any]:
        def job(connection: Connection) -> None:
            raise _Undo(self._each(connection, jobs, trial=True))

        try:
            await self._real.write(job)
        except _Undo as undone:
            return undone.found
        raise AssertionError("a trial was committed")

    def _each(
        self, connection: Connection, jobs: list[Callable[[Connection], Any]], *, trial: bool = False
    ) -> list[Any]:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # or a savepoint would be a transaction of its own
        found: list[Any] = []
        for job in jobs:
            savepoint = connection.begin_nested()
            try:
                result = job(connection)
                if trial:
                    raise Checked
                savepoint.commit()
                found.append(result)
            except Exception as error:
                savepoint.rollback()
                found.append(self._real._refusal(error) or error)
        return found

    def _transaction(self, fn: Callable[[Connection], T], *, durable: bool) -> T:
        return self._real._transaction(fn, durable=durable)

    def _refusal(self, error: Exception) -> DiyCloudError | None:
        return self._real._refusal(error)

    def claim(self) -> None:
        """Nothing: the real one has it."""

    def close(self) -> None:
        """Nothing: the real one goes on."""


def _call(fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], connection: Connection) -> T:
    return fn(connection, *args, **kwargs)


class _GatheredAgent:
    """The agent, asked for accounts and hashes of many at once."""

    def __init__(self, real: Agent) -> None:
        self._real = real
        self._accounts: Gatherer[wire.Account, wire.Outcome] = Gatherer(self._ensure, wire.MAX_BATCH)
        self._passwords: Gatherer[str, str] = Gatherer(self._hash, wire.MAX_BATCH)

    async def call(self, message: wire.Message, answer: type[T], *, deadline: float = 60.0) -> T:
        if isinstance(message, wire.EnsureAccounts):
            return cast(T, list(await asyncio.gather(*map(self._accounts, message.accounts))))
        if isinstance(message, wire.HashPasswords):
            return cast(T, list(await asyncio.gather(*map(self._passwords, message.passwords))))
        return await self._real.call(message, answer, deadline=deadline)

    async def _ensure(self, accounts: list[wire.Account]) -> list[wire.Outcome]:
        found: list[wire.Outcome] = []
        for part in framing.parts(accounts, wire.MAX_BATCH):
            found += await self._real.call(wire.EnsureAccounts(part), list[wire.Outcome])
        return found

    async def _hash(self, passwords: list[str]) -> list[str]:
        return await self._real.call(wire.HashPasswords(passwords), list[str])

    async def sync(self, wishes: Iterable[wire.Wish]) -> wire.SyncReport:
        return await self._real.sync(wishes)

    async def close(self) -> None:
        """Nothing: the real one goes on."""


class _WatchingAgent(_GatheredAgent):
    """The agent as a trial sees it: it answers what changes nothing."""

    async def call(self, message: wire.Message, answer: type[T], *, deadline: float = 60.0) -> T:
        if isinstance(message, wire.HashPasswords):
            return cast(T, ["*"] * len(message.passwords))
        if isinstance(message, wire.Capacity | wire.CheckLimits | wire.PurgePreview):
            return await self._real.call(message, answer, deadline=deadline)
        raise Checked


class _Queueless:
    """Hashes as a batch does: the queue that keeps sign-ins from piling up is not meant for work that is bounded."""

    def __init__(self, real: Hasher) -> None:
        self._real = real

    async def hash(self, password: str) -> str:
        return (await self._real.hash_many([password]))[0]

    async def hash_many(self, passwords: list[str]) -> list[str]:
        return await self._real.hash_many(passwords)

    async def verify(self, password: str, hashed: str | None) -> bool:
        return await self._real.verify(password, hashed)


class _NoHasher:
    """Hashes that are stored nowhere."""

    async def hash(self, password: str) -> str:
        return "*"

    async def hash_many(self, passwords: list[str]) -> list[str]:
        return ["*"] * len(passwords)

    async def verify(self, password: str, hashed: str | None) -> bool:
        return False


def gathered(services: Services) -> Services:
    """Return the services for actions that run side by side. Two of them must not be about one user."""
    return _Like(services, _Gathered(services.database), _GatheredAgent(services.agent), _Queueless(services.hasher))


def checking(services: Services) -> Services:
    """Return the services for actions that are only tried: Checked says that nothing is in the way."""
    return _Like(services, _Gathered(services.database, trial=True), _WatchingAgent(services.agent), _NoHasher())


class _Like(Services):
    """The process's services, some of them in other hands."""

    def __init__(self, real: Services, database: Database, agent: Agent, hasher: Hasher) -> None:
        super().__init__(database=database, agent=agent, hasher=hasher, throttle=real.throttle, settings=real.settings)
        self.group_changes = real.group_changes
        self._real = real

    async def capacity(self) -> wire.HostCapacity:
        return await self._real.capacity()
