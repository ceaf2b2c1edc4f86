"""Slows down guessing without letting a guesser lock anybody out.

Three counters, each with a growing delay: one account from one address, one address whatever the account, one account
from everywhere. The last is short and spares the address of the last good sign-in, as a stranger can drive it up.
Kept in memory: a restart forgets it, and nobody but an administrator can restart.
"""

from __future__ import annotations

import ipaddress
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from diycloud.errors import TooManyRequests

MAX_ENTRIES = 50_000


class _Rule(NamedTuple):
    free: int
    """Failures without a delay."""
    longest_s: float


_PAIR = _Rule(5, 900)
_ADDRESS = _Rule(100, 900)
"""A class behind one address mistypes, too, and what is being checked counts. Guessing one account is held up by the others."""
_ACCOUNT = _Rule(20, 15)
_CODE = _Rule(10, 900)
"""Of one account, wrong codes of a second factor: only who knows the password gets to send one, so nobody else is held up."""
_FORGET_S = 3600


class _Count(NamedTuple):
    failures: int
    last: float


class Waiting(NamedTuple):
    """Somebody who must wait. kind: account, address or pair; username: as it was typed; seconds: that are left."""

    kind: str
    username: str
    address: str
    failures: int
    seconds: int


class Throttle:
    """Counts failed sign-ins. clock: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, account: _Rule = _ACCOUNT) -> None:
        self._clock = clock
        self._rules = {"pair": _PAIR, "address": _ADDRESS, "account": account}
        self.codes: Throttle = self if account is _CODE else Throttle(clock, account=_CODE)
        """Counts wrong codes of second factors, apart from passwords."""
        self._counts: OrderedDict[tuple[str, str], _Count] = OrderedDict()
        self._told: dict[str, float] = {}

    def is_news(self, address: str) -> bool:
        """Tell whether a refusal of an address is to be recorded: one a minute is, or a stranger could fill the disk."""
        now, network = self._clock(), _network(address)
        if now - self._told.get(network, float("-inf")) < 60:
            return False
        if len(self._told) >= MAX_ENTRIES:
            self._told.clear()
        self._told[network] = now
        return True

    def check(self, username: str, address: str, *, known_address: str | None = None) -> None:
        """Raise TooManyRequests if this sign-in comes too early."""
        wait = max(self._wait(key, rule) for key, rule in self._keys(username, address, known_address))
        if wait > 0:
            raise TooManyRequests("Too many failed sign-ins.", f"Try again in {wait:.0f} s.", retry_after=int(wait) + 1)

    def failed(self, username: str, address: str) -> None:
        """Count a failure."""
        now = self._clock()
        for key, _ in self._keys(username, address, None):
            old = self._counts.pop(key, _Count(0, now))
            failures = 0 if now - old.last > _FORGET_S else old.failures
            self._counts[key] = _Count(failures + 1, now)
        while len(self._counts) > MAX_ENTRIES:
            self._counts.popitem(last=False)

    def uncount(self, username: str, address: str) -> None:
        """Take one counted failure back."""
        for key, _ in self._keys(username, address, None):
            old = self._counts.get(key)
            if old is not None:
                self._counts[key] = old._replace(failures=max(0, old.failures - 1))

    def succeeded(self, username: str, address: str) -> None:
        """Take the failure back that was counted ahead, and forget what this account failed from this address.

        The address is let off those, too: they were mistypings. What it failed with other names stays.
        """
        self.uncount(username, address)
        self.forgive(username, address)

    def forgive(self, username: str, address: str) -> None:
        """Forget what this account failed from this address, and let the address off it."""
        network = _network(address)
        mistyped = self._counts.pop(("pair", f"{alike(username)} {network}"), None)
        there = self._counts.get(("address", network))
        if mistyped is not None and there is not None:
            left = max(0, there.failures - mistyped.failures)
            self._counts["address", network] = there._replace(failures=left)

    def waiting(self) -> list[Waiting]:
        """Return everybody who must wait now, the longest first."""
        found = [] if self.codes is self else self.codes.waiting()
        for (kind, who), count in self._counts.items():
            seconds = self._wait((kind, who), self._rules[kind])
            if seconds > 0:
                name, _, address = who.rpartition(" ") if kind == "pair" else (who, "", "")
                named, network = ("", who) if kind == "address" else (name, address)
                found.append(Waiting(kind, named, network, count.failures, int(seconds) + 1))
        return sorted(found, key=lambda waiting: -waiting.seconds)

    def clear(self, username: str) -> None:
        """Forget everything about an account."""
        name = alike(username)
        for key in [k for k in self._counts if k == ("account", name) or k[1].startswith(f"{name} ")]:
            del self._counts[key]
        if self.codes is not self:
            self.codes.clear(username)

    def _keys(self, username: str, address: str, known: str | None) -> list[tuple[tuple[str, str], _Rule]]:
        network, username = _network(address), alike(username)
        keys = [(("pair", f"{username} {network}"), _PAIR), (("address", network), _ADDRESS)]
        if known is None or _network(known) != network:
            keys.append((("account", username), self._rules["account"]))
        return keys

    def _wait(self, key: tuple[str, str], rule: _Rule) -> float:
        count = self._counts.get(key)
        if count is None or count.failures < rule.free:
            return 0
        delay = min(rule.longest_s, 2.0 ** min(count.failures - rule.free, 20))
        return count.last + delay - self._clock()


def alike(username: str) -> str:
    """Return what is counted of a typed name: what a directory takes for one name must not be tried as many.

    Directories tell neither capitals nor blanks apart, some no accents either (RFC 4518, 2). A user's name stays as it is.
    """
    if username.isascii() and username.islower() and username.replace("_", "").replace("-", "").isalnum():
        return username
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", username).casefold())
    return "".join(char for char in plain if char.isalnum() or char in "_-.@")


@lru_cache(maxsize=1024)
def _network(address: str) -> str:
    """Return what counts as one visitor: an IPv4 address, an IPv6 /64 (what one customer has). Asked four times a sign-in."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))
