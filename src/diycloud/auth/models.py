"""What belongs to signing in, as others see it. Times are UTC, `YYYY-MM-DD HH:MM:SS`, as everywhere in the API."""

from __future__ import annotations

import time

import msgspec

from diycloud.actions.entry import Entry
from diycloud.users.models import Changed


def moment(seconds: int) -> str:
    """Return Unix seconds as others see them."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


class Key(msgspec.Struct, frozen=True):
    """An SSH public key. fingerprint: as `ssh-keygen -l` shows it; line: as authorized_keys takes it."""

    fingerprint: str
    type: str
    comment: str
    line: str


class KeyList(msgspec.Struct, frozen=True):
    """A user's SSH keys, and what people should know about a change of them."""

    username: str
    keys: list[Key]
    warnings: tuple[str, ...] = ()


class AuditPage(msgspec.Struct, frozen=True):
    """Entries, newest first. next: what `before` asks for the following page, None at the end."""

    entries: list[Entry]
    next: int | None = None


class SignedInSession(msgspec.Struct, frozen=True):
    """One session. id: its number, which opens nothing; device: of the program's own word (auth/devices.py).

    kind: browser or api; methods: how it was proved who it is, in the words of RFC 8176 (pwd, otp, hwk, fed).
    ends_at: when it ends at the latest; idle_at: when it ends if it is not used; current: the one that asks.
    """

    id: str
    username: str
    kind: str
    device: str
    address: str
    methods: tuple[str, ...]
    created_at: str
    last_seen: str
    ends_at: str
    idle_at: str
    current: bool


class SessionList(msgspec.Struct, frozen=True):
    """Where one user is signed in, the last used first."""

    username: str
    sessions: list[SignedInSession]


class SessionPage(msgspec.Struct, frozen=True):
    """Who is signed in, the newest sign-in first. next: what `before` asks for the following page, None at the end."""

    sessions: list[SignedInSession]
    total: int
    next: int | None = None


class Proved(msgspec.Struct, frozen=True):
    """A fresh proof. session_token: takes the place of the one that was asked with, which ends; until: how long it counts."""

    session_token: str
    proved_until: str


class PasswordChanged(Changed, frozen=True):
    """A changed password. session_token: takes the place of the one that was asked with, which ends."""

    session_token: str | None = None


class Token(msgspec.Struct, frozen=True):
    """An API token without its secret. scopes: permissions that it lends, as far as its owner has them."""

    key_id: str
    username: str
    label: str
    scopes: tuple[str, ...]
    created_at: str
    expires_at: str
    expired: bool
    last_used: str | None
    last_address: str


class TokenList(msgspec.Struct, frozen=True):
    """A user's API tokens, the newest first."""

    username: str
    tokens: list[Token]


class TokenCreated(msgspec.Struct, frozen=True):
    """A new API token. secret: the whole of it, shown this once."""

    token: Token
    secret: str


class Wait(msgspec.Struct, frozen=True):
    """Somebody who must wait after failed sign-ins. kind: account, address, or pair (this account from that address).

    username: empty for an address, and where there is no user of that name (it may be a mistyped password). seconds: the wait
    that is left.
    """

    kind: str
    username: str
    address: str
    failures: int
    seconds: int


class WaitList(msgspec.Struct, frozen=True):
    """Everybody who must wait, the longest first; at most 200. more: how many others there are."""

    waiting: list[Wait]
    more: int = 0
