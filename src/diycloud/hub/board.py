"""What the agent says of the notebook servers: asked at most once a second, for all of them together."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from diycloud.agent.client import Client
from diycloud.agent.protocol import MAX_NOTEBOOKS, Notebook, ReadNotebooks

AGE_S = 1.0
KEPT = 5000
"""Reasons."""
Key = tuple[str, str]
"""A user's name and the server's, empty for the first."""


class Why(NamedTuple):
    """Why the hub ends a server by itself: in a word (`idle`, `age`), and in a sentence."""

    cause: str
    reason: str


class Reasons:
    """Why servers ended, or did not start, for the pages that offer to start them anew. Nobody asked for those ends."""

    def __init__(self) -> None:
        self._of: dict[Key, str] = {}

    def of(self, key: Key) -> str:
        return self._of.get(key, "")

    def note(self, key: Key, reason: str) -> None:
        """Take the reason of an end. Users name servers as they like: the oldest reasons go."""
        self.forget(key)
        self._of[key] = reason
        if len(self._of) > KEPT:
            del self._of[next(iter(self._of))]

    def forget(self, key: Key) -> None:
        """Forget why one ended: it runs again."""
        self._of.pop(key, None)


class Board:
    """The agent's word on every server, kept for AGE_S. Safe for any number of tasks."""

    def __init__(self, agent: Client) -> None:
        self._agent = agent
        self._lock = asyncio.Lock()
        self._found: dict[Key, Notebook] = {}
        self._at = 0.0
        self._changes = 0

    async def read(self) -> dict[Key, Notebook]:
        """Return all that the agent knows of. Raises Unavailable if it does not answer."""
        async with self._lock:
            if time.monotonic() - self._at < AGE_S:
                return self._found
            changes, at = self._changes, time.monotonic()
            found = await self._ask()
            if changes == self._changes:  # else something changed while it was read
                self._found, self._at = found, at
            return found

    def forget(self) -> None:
        """Have the next reading ask anew: a server was started or stopped."""
        self._changes += 1
        self._at = 0.0

    async def _ask(self) -> dict[Key, Notebook]:
        found: dict[Key, Notebook] = {}
        after = ""
        while True:
            part = await self._agent.call(ReadNotebooks(after=after), list[Notebook])
            found |= {(notebook.name, notebook.server): notebook for notebook in part}
            if len(part) < MAX_NOTEBOOKS:
                return found
            last = part[-1]
            after = f"{last.name}+{last.server}" if last.server else last.name
