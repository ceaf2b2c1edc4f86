"""Whose word a password is: the server's, or that of somebody who changed it on the host (passwd, chpasswd, usermod).

For each account a root-only file keeps the fingerprint of the password field that the server set, or showed that it knows.
Where /etc/shadow has another, the password is foreign, and the server must ask before it believes its own hash
(docs/decisions/0014-pam.md). A line that is missing or broken makes the password foreign: the next sign-in mends it.

    NAME FINGERPRINT DAYS

DAYS: the greatest age of the password that was set here, 0 for none.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from diycloud.errors import TooManyRequests
from diycloud.system.contract import System

_LINE = re.compile(r"([a-z_][a-z0-9_-]{0,31}) ([0-9a-f]{64}|-) ([0-9]{1,5})")
_UNKNOWN = "-"
MAX_TRIES, A_TRY_S = 20, 5.0
"""Passwords of one account that are compared at once, and the seconds after which there is one more."""


class Known(NamedTuple):
    """What is known of an account's password. fingerprint: empty if none; days: its greatest age, set here."""

    fingerprint: str = _UNKNOWN
    days: int = 0


def fingerprint(field: str) -> str:
    """Return the fingerprint of a password field of shadow(5), locked (`!` first) or not."""
    return hashlib.sha256(field.lstrip("!").encode("utf-8", "surrogateescape")).hexdigest()


def is_password(field: str) -> bool:
    """Tell whether a field has a password, be it an empty one that lets everybody in. `x`: it is kept elsewhere (tcb(5))."""
    return field.lstrip("!") not in ("", "*", "x") or field == ""


class Passwords:
    """The file in memory; every change is on disk before the call returns."""

    def __init__(self, system: System, path: Path) -> None:
        self._system = system
        self._path = path
        self._known: dict[str, Known] = {}
        for line in (system.read(path) or "").splitlines():
            if match := _LINE.fullmatch(line):
                self._known[match[1]] = Known(match[2], int(match[3]))

    def get(self, name: str) -> Known:
        return self._known.get(name, Known())

    def is_foreign(self, name: str, field: str) -> bool:
        """Tell whether a field of shadow(5) has a password that the server does not know."""
        return is_password(field) and self.get(name).fingerprint != fingerprint(field)

    def confirm(self, found: Mapping[str, Known]) -> None:
        """Put what is known of some accounts in place of what was."""
        if any(self.get(name) != known for name, known in found.items()):
            self._save(self._known | dict(found))

    def forget(self, names: Iterable[str]) -> None:
        """Forget accounts that are gone."""
        gone = set(names)
        if gone & self._known.keys():
            self._save({name: known for name, known in self._known.items() if name not in gone})

    def _save(self, known: dict[str, Known]) -> None:
        lines = (f"{name} {one.fingerprint} {one.days}\n" for name, one in known.items())
        self._system.write(self._path, "".join(lines), mode=0o600)
        self._known = known


class Tries:
    """How often passwords of one account may be compared: a taken-over server must not guess faster than this.

    The server slows people's guesses down itself, more than this does; so a guesser there keeps nobody out here.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> None:
        """Use one. Raises TooManyRequests when none is left."""
        now = self._clock()
        left, at = self._left.get(name, (float(MAX_TRIES), now))
        left = min(MAX_TRIES, left + (now - at) / A_TRY_S)
        if left < 1:
            raise TooManyRequests("Too many passwords were tried for this account.", retry_after=int(A_TRY_S))
        self._left[name] = (left - 1, now)
