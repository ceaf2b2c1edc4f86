"""What waits in memory for somebody to come back with a token: the second half of a sign-in, a passkey's challenge.

Bounded twice, in all and for each owner, so that nobody fills the memory or pushes out what is somebody else's. A restart
forgets it all: whoever waited begins again.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class _Kept(NamedTuple, Generic[T]):
    owner: str
    until: float
    thing: T


class Waiting(Generic[T]):
    """seconds: how long a thing waits. most: in all; each: of one owner, the oldest gives way. clock: seconds, monotonic."""

    def __init__(
        self, *, seconds: float, most: int = 20_000, each: int = 8, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds, self._most, self._each, self._clock = seconds, most, each, clock
        self._kept: OrderedDict[str, _Kept[T]] = OrderedDict()
        self._owned: dict[str, OrderedDict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, owner: str, thing: T) -> str:
        """Keep a thing of an owner's; returns its token: 256 random bits."""
        now = self._clock()
        while (
            self._kept and next(iter(self._kept.values())).until <= now
        ):  # all wait equally long: the first is the oldest
            self._drop(next(iter(self._kept)))
        while len(self._owned.get(owner, ())) >= self._each:
            self._drop(next(iter(self._owned[owner])))
        if len(self._kept) >= self._most:
            self._drop(next(iter(self._kept)))
        token = secrets.token_urlsafe(32)
        self._kept[token] = _Kept(owner, now + self._seconds, thing)
        self._owned.setdefault(owner, OrderedDict())[token] = None
        return token

    def get(self, token: str) -> T | None:
        """Return what waits under a token, and let it wait on."""
        kept = self._kept.get(token)
        return kept.thing if kept is not None and kept.until > self._clock() else None

    def take(self, token: str) -> T | None:
        """Return what waits under a token, for the one time that this is possible."""
        found = self.get(token)
        self._drop(token)
        return found

    def newest(self, owner: str) -> T | None:
        """Return what an owner left last."""
        tokens = self._owned.get(owner)
        return self.get(next(reversed(tokens))) if tokens else None

    def forget(self, owner: str) -> None:
        """Drop all of an owner's."""
        for token in list(self._owned.get(owner, ())):
            self._drop(token)

    def _drop(self, token: str) -> None:
        kept = self._kept.pop(token, None)
        if kept is None:
            return
        tokens = self._owned[kept.owner]
        del tokens[token]
        if not tokens:
            del self._owned[kept.owner]
