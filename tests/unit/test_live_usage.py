"""The live gauges' stream: who may open one, and how many."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from diycloud.actions.actor import Actor
from diycloud.actions.dispatcher import Dispatcher
from diycloud.actions.roles import Role
from diycloud.db.engine import Database
from diycloud.errors import NotFound, PermissionDenied, TooManyRequests
from diycloud.users import places, repository
from diycloud.users.models import Allocation, Status
from diycloud.web.pages import MAX_STREAMS, live_usage
from diycloud.web.portal import Page


class _Gauges:
    """Gauges that say nothing for ever, or one thing and then end."""

    def __init__(self, *, ends: bool) -> None:
        self._ends = ends

    async def watch(self, username: str) -> AsyncIterator[None]:
        yield None
        if not self._ends:
            await asyncio.Event().wait()


def page(database: Database, *, streams: Counter[str] | None = None, user: str = "", ends: bool = True) -> Any:
    services: Any = SimpleNamespace(database=database)
    portal: Any = SimpleNamespace(
        streams=Counter() if streams is None else streams,
        dispatcher=Dispatcher({}, services, places.find),
        gauges=_Gauges(ends=ends),
    )
    visitor: Any = SimpleNamespace(actor=Actor("ada", Role.USER, "portal", 1))
    request: Any = SimpleNamespace(query_params={"user": user} if user else {})
    return Page(portal, request, visitor, None)


@pytest.fixture
def with_users(database: Database) -> Database:
    for name, portal_only in (("ada", 0), ("desk", 1)):
        values = {"username": name, "password_hash": "x", "status": Status.ACTIVE, "portal_only": portal_only}
        asyncio.run(database.write(repository.add, values, Allocation()))
    return database


def test_a_person_has_so_many_streams_and_no_more(with_users: Database) -> None:
    """However many are asked for before the first of them begins to send."""
    streams: Counter[str] = Counter()

    async def burst() -> list[Any]:
        asked = (live_usage(page(with_users, streams=streams)) for _ in range(MAX_STREAMS + 3))
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(burst())
    assert [answer.media_type for answer in answers[:MAX_STREAMS]] == ["text/event-stream"] * MAX_STREAMS
    assert all(isinstance(error, TooManyRequests) for error in answers[MAX_STREAMS:])
    assert streams == {"ada": MAX_STREAMS}


async def _connected() -> dict[str, str]:
    await asyncio.Event().wait()
    raise AssertionError


async def _gone() -> dict[str, str]:
    return {"type": "http.disconnect"}


async def _taken(message: object) -> None:
    pass


async def _broken(message: object) -> None:
    raise OSError("connection lost")


@pytest.mark.parametrize("version", ["2.0", "2.4"], ids=["waits-for-the-end", "learns-it-by-sending"])
@pytest.mark.parametrize(
    ("receive", "send", "ends"),
    [(_connected, _taken, True), (_gone, _taken, False), (_connected, _broken, False), (_connected, _taken, False)],
    ids=["it-ends", "the-visitor-went", "the-line-broke", "the-server-stops"],
)
def test_a_stream_gives_its_place_back(with_users: Database, receive: Any, send: Any, ends: bool, version: str) -> None:
    streams: Counter[str] = Counter()

    async def scenario() -> None:
        answer = await live_usage(page(with_users, streams=streams, ends=ends))
        sending = asyncio.create_task(answer({"type": "http", "asgi": {"spec_version": version}}, receive, send))
        assert streams == {"ada": 1}
        await asyncio.wait([sending], timeout=0.05)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    asyncio.run(scenario())
    assert streams == {}


def test_nobody_watches_another(with_users: Database) -> None:
    with pytest.raises(PermissionDenied):
        asyncio.run(live_usage(page(with_users, user="desk")))


def test_there_is_nothing_to_measure_of_a_portal_only_account(with_users: Database) -> None:
    watcher = page(with_users, user="desk")
    watcher.visitor.actor = Actor("grace", Role.ADMIN, "portal", 9)
    with pytest.raises(NotFound):
        asyncio.run(live_usage(watcher))
