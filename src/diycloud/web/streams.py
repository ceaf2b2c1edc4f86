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
from starlette.responses import Response, StreamingResponse

from diycloud.errors import DiyCloudError
from diycloud.users import progress
from diycloud.users.actions import BulkUsers, ImportUsers
from diycloud.web import problems

T = TypeVar("T")
STREAMED = frozenset({ImportUsers, BulkUsers})
MEDIA_TYPE = "application/x-ndjson"
_encode = msgspec.json.Encoder().encode
_under_way: set[asyncio.Task[Any]] = set()
"""Held here, for the event loop itself forgets tasks that nobody holds."""


def is_asked_for(accept: str) -> bool:
    """Tell whether a request's Accept field asks for lines."""
    return any(part.partition(";")[0].strip().lower() == MEDIA_TYPE for part in accept.split(","))


async def begin(
    work: Callable[[], Awaitable[T]],
) -> tuple[AsyncIterator[msgspec.Struct] | None, asyncio.Task[T]]:
    """Begin work and return its rows as they are done, and itself; no rows if it is over without having told of one."""
    rows: asyncio.Queue[msgspec.Struct | None] = asyncio.Queue()

    async def listened() -> T:
        progress.listener.set(rows.put_nowait)
        try:
            return await work()
        finally:
            rows.put_nowait(None)

    task = asyncio.create_task(listened())
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)
    first = await rows.get()

    async def told() -> AsyncIterator[msgspec.Struct]:
        row = first
        while row is not None:
            yield row
            row = await rows.get()

    return (None if first is None else told()), task


async def answer(work: Callable[[], Awaitable[Response]], request_id: str) -> Response:
    """Return an answer that tells of each row as soon as it is done; work's own answer where there was none to tell of.

    Raises what work raises before the first row.
    """
    rows, task = await begin(work)
    if rows is None:
        return await task

    async def lines() -> AsyncIterator[bytes]:
        async for row in rows:
            yield _encode({"row": row}) + b"\n"
        try:
            yield _encode({"report": msgspec.Raw((await task).body)}) + b"\n"
        except DiyCloudError as error:
            told = problems.problem_of(error, request_id)
            yield _encode({"problem": msgspec.Raw(bytes(told.body))}) + b"\n"

    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff", "x-accel-buffering": "no"}
    return StreamingResponse(lines(), 200, headers, MEDIA_TYPE)
