"""How many requests somebody may send: a token bucket for each session and API token, and for each address before sign-in.

The generic cell rate algorithm (ITU-T I.371, annex A) keeps a bucket as one number: the moment at which it is full again.
A bucket holds a minute's worth of requests, so a burst of all of them passes, then one for each that a minute spreads.
Kept in memory and forgotten by a restart; the longest unused go first where there are too many.
"""

from __future__ import annotations

import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

from diycloud.actions.actor import Actor
from diycloud.config import ServerSettings
from diycloud.errors import TooManyRequests

MAX_BUCKETS = 50_000
WINDOW_S = 60.0
CLASS = 10
"""An address may sign in so many times as often as ask for anything else while nobody is signed in there."""


class Quota(NamedTuple):
    """What a bucket still holds. limit: of a minute; reset: seconds until it is full; wait: until it has one, 0 if it had."""

    limit: int
    remaining: int
    reset: int
    wait: int

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The fields of draft-polli-ratelimit-headers, as an answer carries them."""
        return [
            (b"ratelimit-limit", b"%d" % self.limit),
            (b"ratelimit-remaining", b"%d" % self.remaining),
            (b"ratelimit-reset", b"%d" % self.reset),
        ]

    def check(self) -> None:
        """Raise TooManyRequests if this request was one too many."""
        if self.wait:
            raise TooManyRequests(
                f"More than {self.limit} requests in a minute.", f"Try again in {self.wait} s.", retry_after=self.wait
            )


class RateLimit:
    """per_minute: requests, 0 for no limit. clock: seconds, monotonic."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic, most: int = MAX_BUCKETS) -> None:
        self._limit = per_minute
        self._each = WINDOW_S / per_minute if per_minute else 0.0
        self._clock = clock
        self._most = most
        self._full: OrderedDict[Hashable, float] = OrderedDict()

    def take(self, key: Hashable) -> Quota | None:
        """Take one request out of a bucket, if it has one. Returns what it then holds, None where nothing is limited."""
        if not self._limit:
            return None
        now = self._clock()
        since = self._full.get(key, now)
        full = (since if since > now else now) + self._each
        over = full - now - WINDOW_S
        if over > 1e-9:  # a refused request takes nothing
            return Quota(self._limit, 0, _whole(since - now), _whole(over))
        self._full[key] = full
        self._full.move_to_end(key)
        if len(self._full) > self._most:
            self._full.popitem(last=False)
        return Quota(self._limit, int((WINDOW_S - (full - now)) / self._each + 1e-6), _whole(full - now), 0)


def _whole(seconds: float) -> int:
    return int(seconds) + (seconds > int(seconds))


class Limits:
    """The buckets: one for each session, API token and application, one for each address that nobody is signed in from."""

    def __init__(self, settings: ServerSettings) -> None:
        self._sessions = RateLimit(settings.requests_per_minute)
        self._strangers = RateLimit(settings.strangers_per_minute)
        self._signing_in = RateLimit(settings.strangers_per_minute * CLASS)

    def of(self, key: Hashable) -> Quota | None:
        """Take one request of what carries its own credentials: an application, a sign-in at one."""
        return self._sessions.take(key)

    def take(self, actor: Actor, *, signing_in: bool = False) -> Quota | None:
        """Take one request from whoever sends it, root on the host itself excepted.

        signing_in: it is what strangers come for. A whole class does so from one address; guessing is slowed in
        auth/throttle.py, and hashes wait in a queue.
        """
        if actor.session_id is not None:
            return self._sessions.take(actor.session_id)
        if actor.token_id is not None:
            return self._sessions.take(("token", actor.token_id))
        bucket = self._signing_in if signing_in else self._strangers
        return None if actor.is_root else bucket.take(network(actor.address))


def network(address: str) -> str | bytes:
    """Return what counts as one visitor: an IPv4 address, an IPv6 /64 (what one customer has), any other text as it is."""
    if ":" not in address:
        return address
    try:
        packed = socket.inet_pton(socket.AF_INET6, address)
    except (OSError, ValueError):
        return address[:64]
    mapped = packed.startswith(b"\0" * 10 + b"\xff\xff")
    return socket.inet_ntoa(packed[12:]) if mapped else packed[:8]
