"""What is kept while somebody is away at a provider: sealed, in their own browser.

So strangers can fill no memory here, and a restart loses nobody. A journey ends in the browser where it began (the cookie),
at the provider it went to, once, and within ten minutes.
"""

from __future__ import annotations

import base64
import json
import time
from collections import OrderedDict
from typing import NamedTuple

from diycloud.auth.outside.openid import Pending
from diycloud.db.vault import Vault
from diycloud.errors import HostError

LASTS_S = 600
SIGN_IN, AGAIN, LINK = "sign-in", "again", "link"
"""What for: to sign in; to prove anew who is signed in; to link who is signed in."""
_PURPOSE = "cookie of a journey to a provider"
MAX_SPENT = 50_000


class Journey(NamedTuple):
    """provider: by name; target: where to go at the end; started: Unix seconds; user_id, session_id: who left, 0 for nobody."""

    provider: str
    pending: Pending
    what_for: str
    target: str
    started: int
    user_id: int = 0
    session_id: int = 0


def seal(vault: Vault, journey: Journey) -> str:
    """Return a journey as the browser keeps it."""
    sealed = vault.seal(json.dumps(journey).encode(), purpose=_PURPOSE)
    return base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def unseal(vault: Vault, cookie: str) -> Journey | None:
    """Return the journey that a browser kept, None for what is none of ours, or too old."""
    try:
        plain = vault.open(base64.urlsafe_b64decode(cookie + "=" * (-len(cookie) % 4)), purpose=_PURPOSE)
        provider, pending, *rest = json.loads(plain)
        journey = Journey(provider, Pending(*pending), *rest)
    except (HostError, ValueError, TypeError):
        return None
    return journey if 0 <= time.time() - journey.started < LASTS_S else None


class Spent:
    """States that were used, until their journeys would have ended anyway."""

    def __init__(self) -> None:
        self._used: OrderedDict[str, float] = OrderedDict()

    def spend(self, state: str) -> bool:
        """Take a state as used; False if it was before."""
        now = time.monotonic()
        while self._used and (len(self._used) > MAX_SPENT or now - next(iter(self._used.values())) > LASTS_S):
            self._used.popitem(last=False)
        if state in self._used:
            return False
        self._used[state] = now
        return True
