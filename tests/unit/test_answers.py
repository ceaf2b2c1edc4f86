"""Answers that are sent piece by piece."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from diycloud.web.answers import Stream


def send_all(pieces: AsyncIterator[bytes], *, leaves_after: int | None = None) -> bytes:
    """Return what a reader gets of a stream; one that leaves is gone once it has so many pieces."""
    got: list[bytes] = []

    async def go() -> None:
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body":
                got.append(message["body"])
                if len(got) == leaves_after:
                    gone.set()

        await asyncio.wait_for(Stream(pieces, 200)({"type": "http"}, receive, send), 10)  # type: ignore[arg-type]

    asyncio.run(go())
    return b"".join(got)


def test_a_stream_ends_with_its_last_piece() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one "
        await asyncio.sleep(0)
        yield b"two"

    assert send_all(pieces()) == b"one two"


def test_nothing_is_made_for_a_reader_who_left() -> None:
    ended = []

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"."
                await asyncio.sleep(0.001)
        finally:
            ended.append(True)

    assert 3 <= len(send_all(pieces(), leaves_after=3)) < 100
    assert ended == [True]


def test_what_breaks_a_stream_off_is_not_hidden() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        send_all(pieces())
