"""A result too large to be one value: bytes that are made and sent piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:  # declarations name Download, and the command line reads them without a database
    from sqlalchemy import Connection

    from diycloud.db.engine import Database

K = TypeVar("K")


class Download(NamedTuple):
    """A file to be. chunks: its bytes, in pieces of some ten to hundred KiB."""

    media_type: str
    filename: str
    chunks: AsyncIterator[bytes]


async def pages(
    database: Database, read: Callable[[Connection, K], tuple[bytes, K | None]], start: K
) -> AsyncIterator[bytes]:
    """Yield the pages of a list as bytes, each made in the thread for long reads.

    read: takes where the page starts; returns its bytes and where the next one starts, None at the end. No transaction is
    open between pages: a row that changes meanwhile is there once, as it was or as it is, if pages follow a fixed key.
    """
    at: K | None = start
    while at is not None:
        data, at = await database.read_long(read, at)
        if data:
            yield data
