"""Server-side sessions: a random token with the visitor, its SHA-256 and everything else here.

The token has 256 bits, so a plain hash is enough: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, text, update

from diycloud.actions.roles import Role
from diycloud.db.engine import Prepared
from diycloud.db.tables import sessions
from diycloud.users.models import SIGN_IN

_LOOKUP = Prepared(
    text("""SELECT s.id, s.csrf, s.last_seen, s.expires_at, s.kind, u.id, u.username, u.role, u.status, u.must_change_password,
u.domain, u.allowed_client_ip, s.methods, s.proved_at
FROM sessions AS s JOIN users AS u ON u.id = s.user_id WHERE s.token_hash = :token_hash""")
)
SEEN_EVERY_S = 60
"""last_seen is written at most this often: a write at every request would be the slowest part of it."""


class Session(NamedTuple):
    """A session that holds, with its user."""

    id: int
    csrf: str
    last_seen: int
    expires_at: int
    kind: str
    user_id: int
    username: str
    role: Role
    must_change_password: bool
    domain: str
    allowed_client_ip: str
    methods: str
    proved_at: int


def token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def begin(
    connection: Connection, user_id: int, *, now: int, max_s: int, kind: str, address: str, user_agent: str,
    methods: Iterable[str] = ("pwd",),
) -> str:  # fmt: skip
    """Start a session and return its token, kept nowhere here. methods: how it was proved who it is (RFC 8176)."""
    token = secrets.token_urlsafe(32)
    row = insert(sessions).values(
        token_hash=token_hash(token), user_id=user_id, kind=kind, csrf=secrets.token_urlsafe(24),
        created_at=now, last_seen=now, expires_at=now + max_s, address=address, user_agent=user_agent[:200],
        methods=" ".join(methods), proved_at=now,
    )  # fmt: skip
    connection.execute(row)
    return token


def find(connection: Connection, token: str, *, now: int, idle_s: int) -> Session | None:
    """Return the session of a token, None if it does not hold any more or its user may not sign in."""
    found = _LOOKUP.fetch_one(connection, token_hash=token_hash(token))
    if found is None:
        return None
    (
        session_id, csrf, last_seen, expires_at, kind, user_id, username, role, status, must_change, domain, networks,
        methods, proved_at,
    ) = found  # fmt: skip
    if now >= expires_at or now - last_seen >= idle_s or status not in SIGN_IN:
        return None
    return Session(
        session_id,
        csrf,
        last_seen,
        expires_at,
        kind,
        user_id,
        username,
        Role(role),
        bool(must_change),
        domain,
        str(networks),  # a BLOB by somebody's hand is text that cannot be read
        methods,
        proved_at,
    )


def seen(connection: Connection, session_id: int, now: int) -> None:
    """Note that a session is in use."""
    connection.execute(update(sessions).where(sessions.c.id == session_id).values(last_seen=now))


def end(connection: Connection, session_id: int) -> None:
    """End one session."""
    connection.execute(delete(sessions).where(sessions.c.id == session_id))


def end_all(connection: Connection, user_id: int, *, keep: int | None = None) -> int:
    """End every session of a user but one; returns how many."""
    others = delete(sessions).where(sessions.c.user_id == user_id, sessions.c.id != (keep or 0))
    return connection.execute(others).rowcount


def forget_expired(connection: Connection, *, now: int, idle_s: int) -> int:
    """Remove sessions that hold no more; returns how many."""
    gone = (sessions.c.expires_at <= now) | (sessions.c.last_seen <= now - idle_s)
    return connection.execute(delete(sessions).where(gone)).rowcount
