"""Idempotency keys under way, and answers that are still whole: in memory, where a lost connection wants them.

For ten minutes an answer is repeated with the passwords that it held; what the table keeps for a day (actions/claims.py)
has none.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from diycloud.actions import claims
from diycloud.actions.action import Kind
from diycloud.actions.claims import Answered, Claim
from diycloud.actions.dispatcher import Context, Dispatcher
from diycloud.actions.reach import check_place
from diycloud.db.engine import Database
from diycloud.errors import Conflict, FieldError, InvalidInput, PermissionDenied

WHOLE_S = 600.0
MAX_KEPT, MAX_BYTES = 2_000, 32 << 20
HEADER = "Idempotency-Key"
_KEY = re.compile(r'"?([!#-~]{16,255})"?\Z')
_Name = tuple[str, str]


class Busy(Conflict):
    """The first request with this key still runs. retry_after: seconds."""

    retry_after = 1


class _Kept(NamedTuple):
    answered: Answered
    until: float


class Keys:
    """The keys under way and the answers still whole. clock: seconds, monotonic."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._running: dict[_Name, bytes] = {}
        self._kept: OrderedDict[_Name, _Kept] = OrderedDict()
        self._bytes = 0

    async def find(self, claim: Claim) -> Answered | None:
        """Return what a key was answered with, None if it is new; it is then under way until `release`.

        Raises Busy while the first request runs, InvalidInput if that one asked for something else.
        """
        running = self._running.get(claim.name)
        if running is not None:
            _check(running, claim)
            raise Busy(f"The first request with this {HEADER} still runs.", "Send it again in a second.")
        found = self._whole(claim.name)
        if found is None:
            self._running[claim.name] = claim.fingerprint
            try:
                found = await self._database.read(claims.read, *claim.name)
                if found is not None:
                    _check(found.fingerprint, claim)
            except BaseException:
                self.release(claim)
                raise
            if found is not None and found.status is not None:
                self.release(claim)
            return found
        _check(found.fingerprint, claim)
        return found

    def release(self, claim: Claim) -> None:
        """Let the key be used again: its request has ended."""
        self._running.pop(claim.name, None)

    def keep(self, claim: Claim, status: int, body: bytes) -> None:
        """Keep a whole answer for ten minutes, in the place of the oldest where there are too many."""
        if len(body) > MAX_BYTES // 4:
            return
        self._kept[claim.name] = _Kept(Answered(claim.fingerprint, claim.rights, status, body), self._clock() + WHOLE_S)
        self._bytes += len(body)
        while len(self._kept) > MAX_KEPT or self._bytes > MAX_BYTES:
            self._drop(next(iter(self._kept)))

    def _whole(self, name: _Name) -> Answered | None:
        now = self._clock()
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._drop(next(iter(self._kept)))
        kept = self._kept.get(name)
        return kept.answered if kept else None

    def _drop(self, name: _Name) -> None:
        self._bytes -= len(self._kept.pop(name).answered.body)


def _check(fingerprint: bytes, claim: Claim) -> None:
    if fingerprint != claim.fingerprint:
        message = "was sent before with another request"
        raise InvalidInput(
            f"{HEADER}: {message}.", "Make a new key for each thing to do.", errors=[FieldError(HEADER, message)]
        )


async def repeated(dispatcher: Dispatcher, ctx: Context, claim: Claim, answered: Answered) -> bytes:
    """Return an answer's body as who asks again may have it now: without the passwords of users who are out of reach by now.

    Raises PermissionDenied if the rights are not those it was given under.
    """
    claim.check_rights(ctx.actor, answered)
    beyond = set()
    for name in claims.names_with_secrets(answered.body) if ctx.bound is not None and answered.body else ():
        try:
            check_place(ctx.actor, name, await dispatcher.place(Kind.USER, name))
        except PermissionDenied:
            beyond.add(name)
    return claims.without_secrets(answered.body, beyond) if beyond else answered.body


def parse_key(text: str) -> str:
    """Return a key without its quotes. Raises InvalidInput."""
    found = _KEY.match(text)
    if found is None:
        rule = "16–255 printable ASCII characters without spaces, made at random, such as a UUID"
        raise InvalidInput.of([FieldError(HEADER, rule)])
    return found[1]
