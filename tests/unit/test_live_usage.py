"""The live gauges' stream: who may open one, and how many."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from diycloud.actions.actor import Actor
from diycloud.actions.roles import Role
from diycloud.db.engine import Database
from diycloud.errors import NotFound, PermissionDenied, TooManyRequests
from diycloud.users import repository
from diycloud.users.models import Allocation, Status
from diycloud.web.pages import MAX_STREAMS, live_usage


def page(database: Database, *, open_streams: int = 0, user: str = "") -> Any:
    portal = SimpleNamespace(
        streams=Counter(ada=open_streams), dispatcher=SimpleNamespace(services=SimpleNamespace(database=database))
    )
    visitor = SimpleNamespace(actor=Actor("ada", Role.USER, "portal", 1))
    request = SimpleNamespace(query_params={"user": user} if user else {})
    return SimpleNamespace(portal=portal, visitor=visitor, request=request)


@pytest.fixture
def with_users(database: Database) -> Database:
    for name, portal_only in (("ada", 0), ("desk", 1)):
        values = {"username": name, "password_hash": "x", "status": Status.ACTIVE, "portal_only": portal_only}
        asyncio.run(database.write(repository.add, values, Allocation()))
    return database


def test_a_person_has_so_many_streams_and_no_more(with_users: Database) -> None:
    answer = asyncio.run(live_usage(page(with_users, open_streams=MAX_STREAMS - 1)))
    assert answer.media_type == "text/event-stream"
    with pytest.raises(TooManyRequests, match=str(MAX_STREAMS)):
        asyncio.run(live_usage(page(with_users, open_streams=MAX_STREAMS)))


def test_nobody_watches_another(with_users: Database) -> None:
    with pytest.raises(PermissionDenied):
        asyncio.run(live_usage(page(with_users, user="desk")))


def test_there_is_nothing_to_measure_of_a_portal_only_account(with_users: Database) -> None:
    watcher = page(with_users, user="desk")
    watcher.visitor.actor = Actor("grace", Role.ADMIN, "portal", 9)
    with pytest.raises(NotFound):
        asyncio.run(live_usage(watcher))
