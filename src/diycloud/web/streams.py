"""Long work told row by row: lines of JSON (NDJSON) while it is done, the report as the last.

    {"row": {"username": "ada", "outcome": "created", …}}
    {"report": {…}}     or, if it broke off, {"problem": {…}}

Whoever goes away in the middle misses the lines only: what was begun goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response

from diycloud.errors import DiyCloudError
from diycloud.users import progress
from diycloud.users.actions import BulkUsers, ImportUsers
from diycloud.web import problems
from diycloud.web.answers import Stream

T = TypeVar("T")
STREAMED = frozenset({ImportUsers, BulkUsers})
MEDIA_TYPE = "application/x-ndjson"
_encode = msgspec.json.Encoder().encode
_under_way: set[asyncio.Task[Any]] = set()
"""Held here, for the event loop itself forgets tasks that nobody holds."""


def is_asked_for(accept: str) -> bool:
    """Tell whether a request's Accept field asks for lines."""
    return any(part.partition(";")[0].strip().lower() == MEDIA_TYPE for part in accept.split(","))


def begin(work: Callable[[], Awaitable[T]]) -> tuple[AsyncIterator[msgspec.Struct], asyncio.Task[T]]:
    """Begin work; returns its rows, as each is done, and the task that ends with what comes of it all."""
    rows: asyncio.Queue[msgspec.Struct | None] = asyncio.Queue()

    async def listened() -> T:
        progress.listener.set(rows.put_nowait)
        try:
            return await work()
        finally:
            rows.put_nowait(None)

    async def told() -> AsyncIterator[msgspec.Struct]:
        while (row := await rows.get()) is not None:
            yield row

    task = asyncio.create_task(listened())
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)
    return told(), task


async def answer(work: Callable[[], Awaitable[Response]], request_id: str) -> Response:
    """Return an answer that tells of each row as soon as it is done; work's own answer where there was none to tell of.

    Raises what work raises before the first row.
    """
    rows, task = begin(work)
    first = await anext(rows, None)
    if first is None:
        return await task

    async def lines() -> AsyncIterator[bytes]:
        yield _encode({"row": first}) + b"\n"
        async for row in rows:
            yield _encode({"row": row}) + b"\n"
        try:
            yield _encode({"report": msgspec.Raw((await task).body)}) + b"\n"
        except DiyCloudError as error:
            told = problems.problem_of(error, request_id)
            yield _encode({"problem": msgspec.Raw(bytes(told.body))}) + b"\n"

    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff", "x-accel-buffering": "no"}
    return Stream(lines(), 200, headers, MEDIA_TYPE)
