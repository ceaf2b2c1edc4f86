"""Server-side sessions: a random token with the visitor, its SHA-256 and everything else here.

The token has 256 bits, so a plain hash is enough: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, insert, select, text, update

from diycloud.actions.roles import Role
from diycloud.auth import forced
from diycloud.db.engine import Prepared
from diycloud.db.tables import sessions
from diycloud.users.models import SIGN_IN

_COLUMNS = f"""SELECT s.id, s.csrf, s.last_seen, s.expires_at, s.kind, u.id, u.username, u.role, u.status, u.must_change_password,
u.domain, u.allowed_client_ip, s.methods, s.proved_at, {forced.ASKED}, {forced.HAS_ONE}
FROM sessions AS s JOIN users AS u ON u.id = s.user_id"""  # noqa: S608 - constants
_LOOKUP = Prepared(text(f"{_COLUMNS} WHERE s.token_hash = :token_hash"))
_LOOKUP_BY_ID = Prepared(text(f"{_COLUMNS} WHERE s.id = :session_id AND s.csrf = :csrf"))
_MOST = Prepared(
    text("SELECT p.max_sessions FROM users AS u JOIN policies AS p ON p.name = u.policy WHERE u.id = :user_id")
)
_BEGIN = Prepared(insert(sessions).values({c.name: bindparam(c.name) for c in sessions.c if c.name != "id"}))
SEEN_EVERY_S = 60
"""last_seen is written at most this often: a write at every request would be the slowest part of it."""


class Session(NamedTuple):
    """A session that holds, with its user. factor_asked, has_factor: as forced.must_enrol takes them."""

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
    factor_asked: bool
    has_factor: bool


def token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def begin(
    connection: Connection, user_id: int, *, now: int, max_s: int, kind: str, address: str, user_agent: str,
    methods: Iterable[str] = ("pwd",),
) -> str:  # fmt: skip
    """Start a session and return its token, kept nowhere here. methods: how it was proved who it is (RFC 8176)."""
    token = secrets.token_urlsafe(32)
    _BEGIN(
        connection, token_hash=token_hash(token), user_id=user_id, kind=kind, csrf=secrets.token_urlsafe(24),
        created_at=now, last_seen=now, expires_at=now + max_s, address=address, user_agent=user_agent[:200],
        methods=" ".join(methods), proved_at=now,
    )  # fmt: skip
    _let_oldest_go(connection, user_id)
    return token


def _let_oldest_go(connection: Connection, user_id: int) -> None:
    """End the oldest sessions of a user who has more than the policy gives; the new one stays."""
    found = _MOST.fetch_one(connection, user_id=user_id)
    most = found[0] if found else None
    if isinstance(most, int) and most > 0:
        query = select(sessions.c.id).where(sessions.c.user_id == user_id).order_by(sessions.c.id.desc()).offset(most)
        surplus = connection.execute(query).scalars().all()
        if surplus:
            connection.execute(delete(sessions).where(sessions.c.id.in_(surplus)))


def rotate(connection: Connection, session_id: int, *, proved_at: int | None = None) -> str | None:
    """Give a session another token, so that the one before opens nothing; None if the session has ended.

    proved_at: when who it is was proved anew, Unix seconds; None leaves that as it is.
    """
    token = secrets.token_urlsafe(32)
    values = {"token_hash": token_hash(token), **({} if proved_at is None else {"proved_at": proved_at})}
    done = connection.execute(update(sessions).where(sessions.c.id == session_id).values(values))
    return token if done.rowcount else None


def find(connection: Connection, token: str, *, now: int, idle_s: int) -> Session | None:
    """Return the session of a token, None if it does not hold any more or its user may not sign in."""
    return _holding(_LOOKUP.fetch_one(connection, token_hash=token_hash(token)), now, idle_s)


def find_by_id(connection: Connection, session_id: int, csrf: str, *, now: int, idle_s: int) -> Session | None:
    """Return the session of that number, as `find` does. csrf: its own; numbers come again when an old database is put back."""
    return _holding(_LOOKUP_BY_ID.fetch_one(connection, session_id=session_id, csrf=csrf), now, idle_s)


def _holding(found: Any, now: int, idle_s: int) -> Session | None:
    if found is None:
        return None
    (
        session_id, csrf, last_seen, expires_at, kind, user_id, username, role, status, must_change, domain, networks,
        methods, proved_at, asked, has_factor,
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
        bool(asked),
        bool(has_factor),
    )


def add_method(connection: Connection, session_id: int, method: str) -> None:
    """Note that a session was begun with one more proof: its owner has just shown it."""
    known = connection.execute(select(sessions.c.methods).where(sessions.c.id == session_id)).scalar()
    if known is not None and method not in known.split():
        values = {"methods": f"{known} {method}"}
        connection.execute(update(sessions).where(sessions.c.id == session_id).values(values))


def seen(connection: Connection, session_id: int, now: int) -> None:
    """Note that a session is in use."""
    connection.execute(update(sessions).where(sessions.c.id == session_id).values(last_seen=now))


def end(connection: Connection, session_id: int) -> None:
    """End one session."""
    connection.execute(delete(sessions).where(sessions.c.id == session_id))


def end_of(connection: Connection, user_id: int, session_id: int) -> bool:
    """End one session of a user; False if there is none."""
    its = (sessions.c.id == session_id) & (sessions.c.user_id == user_id)
    return connection.execute(delete(sessions).where(its)).rowcount > 0


def end_all(connection: Connection, user_id: int, *, keep: int | None = None) -> int:
    """End every session of a user but one; returns how many."""
    others = delete(sessions).where(sessions.c.user_id == user_id, sessions.c.id != (keep or 0))
    return connection.execute(others).rowcount


def forget_expired(connection: Connection, *, now: int, idle_s: int) -> int:
    """Remove sessions that hold no more; returns how many."""
    gone = (sessions.c.expires_at <= now) | (sessions.c.last_seen <= now - idle_s)
    return connection.execute(delete(sessions).where(gone)).rowcount
