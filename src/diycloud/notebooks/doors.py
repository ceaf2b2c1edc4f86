"""The way from the portal to notebooks that have a host name of their own (settings: notebooks.host).

The portal's cookie is not sent there. So the browser is sent to the portal and back, with a code: random, good once, for half
a minute, and only in the browser that asked, which keeps the other half in a cookie. Whoever sends somebody else a code of
their own has them signed in as nobody. For the code the browser gets a cookie of the notebooks' name that stands for the
portal's session there. It is sealed, opens nothing at the portal, and ends with the session.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from typing import NamedTuple
from urllib.parse import quote

from diycloud.db.vault import Vault
from diycloud.errors import HostError

COOKIE = "__Host-diycloud-notebooks"
HALF = "__Host-diycloud-entering"
"""Of both names Nginx passes nothing on to what a user owns, as of all that begin with `__Host-`."""
HALF_S = 600
"""Another page that is opened meanwhile begins with the same half."""
BASE = "/jupyter/"
ENTER = "/jupyter/_enter"
"""At the notebooks' name; Nginx hands it to the server (web/internal.py)."""
_PURPOSE = "notebooks cookie"
_MAX_PAGE = 2000
_HALF = re.compile(r"\A[A-Za-z0-9_-]{43}\Z")


class Door(NamedTuple):
    """What a cookie stands for: a session's number, and a text that no other session of that number had or will have."""

    session_id: int
    csrf: str


class Code(NamedTuple):
    """What waits under a code. bound: the digest of the browser's half; page: where it leads."""

    door: Door
    bound: str
    page: str


def sealed(vault: Vault, door: Door) -> str:
    """Return the cookie that stands for a session."""
    plain = f"{door.session_id} {door.csrf}".encode()
    return base64.urlsafe_b64encode(vault.seal(plain, purpose=_PURPOSE)).decode().rstrip("=")


def opened(vault: Vault, cookie: str) -> Door | None:
    """Return what a cookie stands for, None for one that is not ours. Whether the session holds is not told by it."""
    try:
        box = base64.b64decode(cookie + "=" * (-len(cookie) % 4), altchars=b"-_", validate=True)
        number, _, csrf = vault.open(box, purpose=_PURPOSE).decode().partition(" ")
        return Door(int(number), csrf)
    except (HostError, binascii.Error, ValueError):
        return None


def half(given: str | None) -> str:
    """Return the browser's half: the one it has, if it is one, else a new one."""
    return given if given and _HALF.match(given) else secrets.token_urlsafe(32)


def bound(half: str) -> str:
    """Return what may be told of a half: its SHA-256, in 43 letters."""
    return base64.urlsafe_b64encode(hashlib.sha256(half.encode()).digest()).decode().rstrip("=")


def is_bound(text: str) -> bool:
    """Tell whether a text can be what `bound` returns."""
    return _HALF.match(text) is not None


def page(path: str) -> str:
    """Return a path of notebooks as an address takes it; their first page for anything else."""
    mine = path.startswith(BASE) and not path.startswith(ENTER) and path.isprintable() and "\\" not in path
    return quote(path, safe="/~@:+,;=!$&'()*") if mine and len(path) <= _MAX_PAGE else BASE
