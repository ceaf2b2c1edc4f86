"""A page that grows while long work is done: its head, how far the work is, what came of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from diycloud.users.models import BulkRow, ImportRow
from diycloud.web.portal import Page

GAP = "\0"
"""Where the page is cut: what is made meanwhile goes there."""
STEPS = 200
"""Lines of progress at most."""


async def growing(
    page: Page,
    whole: str,
    line: str,
    count: int,
    rows: AsyncIterator[msgspec.Struct],
    end: Callable[[], Awaitable[str]],
) -> AsyncIterator[str]:
    """Give a page piece by piece. whole: with a GAP in an open section; line: the template that tells how far it is."""
    head, _, tail = whole.partition(GAP)
    yield head
    done, step = 0, max(1, count // STEPS)
    yield page.text(line, done=done, rows=count, username="")
    async for row in rows:
        done += 1
        if isinstance(row, ImportRow | BulkRow) and (done % step == 0 or done == count):
            yield page.text(line, done=done, rows=count, username=row.username)
    yield "</section>"
    yield await end()
    yield tail
