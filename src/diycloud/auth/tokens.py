"""API tokens: named, scoped, expiring; for scripts, so that none needs a password.

    dct_<key id>_<secret><sum>

The key id may be seen. The secret has 256 bits, so a plain hash of it is enough, as for sessions. The fixed beginning and the
sum at the end (CRC-32, as GitHub's tokens have it) let programs that look for lost secrets find ours and nothing else, and let
a mistyped one be refused without a look into the database.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, insert, select, text, update

from diycloud.actions.action import Permission
from diycloud.actions.roles import PERMISSIONS, Role
from diycloud.auth import forced
from diycloud.auth.models import Token, moment
from diycloud.db.engine import Prepared
from diycloud.db.sign_in_tables import api_tokens
from diycloud.errors import Conflict, FieldError, InvalidInput
from diycloud.users.models import SIGN_IN

PREFIX = "dct_"
MOST = 50
"""Tokens of one user."""
KEPT_S = 30 * 86_400
"""How long a token that has expired is still shown, so that its owner sees why the script fails."""
SEEN_EVERY_S = 60
NEVER = frozenset({"root:word", "account:own", "sessions:write", "tokens:write", "factors:write", "clients:write"})
"""What no token may do: it would let whoever finds it stay."""
CARRIED = frozenset(str(permission) for permission in Permission if permission not in NEVER)
"""Every permission that a token may lend."""
_SECRET_SIZE, _SUM_SIZE = 43, 6
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LOOKUP = Prepared(
    text(f"""SELECT t.id, t.secret_hash, t.scopes, t.expires_at, t.last_used, u.id, u.username, u.role, u.status,
u.must_change_password, u.domain, u.allowed_client_ip, {forced.ASKED}, {forced.HAS_ONE}
FROM api_tokens AS t JOIN users AS u ON u.id = t.user_id WHERE t.key_id = :key_id""")  # noqa: S608 - constants
)


class Holder(NamedTuple):
    """A token that holds, with its user. factor_asked, has_factor: as forced.must_enrol takes them."""

    id: int
    key_id: str
    scopes: frozenset[str]
    last_used: int
    user_id: int
    username: str
    role: Role
    must_change_password: bool
    domain: str
    allowed_client_ip: str
    factor_asked: bool
    has_factor: bool


class Parts(NamedTuple):
    key_id: str
    secret: str


def make() -> tuple[Parts, str]:
    """Return a new token's parts, and the whole of it, kept nowhere here."""
    key_id = base64.b32encode(secrets.token_bytes(10)).decode().lower()[:12]
    secret = _base62(secrets.randbits(256), _SECRET_SIZE)
    return Parts(key_id, secret), f"{PREFIX}{key_id}_{secret}{_sum(key_id, secret)}"


def parse(token: str) -> Parts | None:
    """Return the parts of a token, None for what cannot be one."""
    key_id, _, rest = token.removeprefix(PREFIX).partition("_")
    secret, told = rest[:_SECRET_SIZE], rest[_SECRET_SIZE:]
    if (
        not token.startswith(PREFIX)
        or len(key_id) != 12
        or len(rest) != _SECRET_SIZE + _SUM_SIZE
        or not token.isascii()
    ):
        return None
    return Parts(key_id, secret) if told == _sum(key_id, secret) else None


def _sum(key_id: str, secret: str) -> str:
    return _base62(zlib.crc32(f"{key_id}_{secret}".encode()), _SUM_SIZE)


def _base62(number: int, size: int) -> str:
    digits = []
    for _ in range(size):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def find(connection: Connection, token: str, *, now: int) -> Holder | None:
    """Return the user of a token, None if it does not hold (any more) or its user may not sign in."""
    parts = parse(token)
    found: Any = _LOOKUP.fetch_one(connection, key_id=parts.key_id) if parts else None
    if parts is None or found is None:
        return None
    (
        token_id, secret_hash, scopes, expires_at, last_used, user_id, username, role, status, must_change, domain, networks,
        asked, has_factor,
    ) = found  # fmt: skip
    if not hmac.compare_digest(_hash(parts.secret), bytes(secret_hash)) or now >= expires_at or status not in SIGN_IN:
        return None
    return Holder(
        token_id, parts.key_id, _lent(str(scopes)), last_used or 0, user_id, username, Role(role), bool(must_change), domain,
        str(networks), bool(asked), bool(has_factor),
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _lent(scopes: str) -> frozenset[str]:
    """Return the permissions of a column; what somebody wrote there by hand lends no more than a token may."""
    return frozenset(scopes.split()) & CARRIED


def used(connection: Connection, token_id: int, now: int, address: str) -> None:
    """Note that a token is in use."""
    values = {"last_used": now, "last_address": address[:64]}
    connection.execute(update(api_tokens).where(api_tokens.c.id == token_id).values(values))


def widen(scopes: Iterable[str], role: Role) -> tuple[str, ...]:
    """Return the permissions that scopes mean for a role: `read` all that only looks, `all` everything, or one by one.

    They are fixed when the token is made, so that it never grows with the program or its owner. Raises InvalidInput for
    what a token cannot lend, or its owner does not have.
    """
    had = {str(permission) for permission in PERMISSIONS[role]} & CARRIED
    found: set[str] = set()
    for scope in scopes:
        if scope == "all":
            found |= had
        elif scope == "read":
            found |= {name for name in had if name.endswith(":read")}
        elif scope in had:
            found.add(scope)
        else:
            raise InvalidInput.of([FieldError("scopes", f"{scope} is none of: read, all, {', '.join(sorted(had))}")])
    return tuple(sorted(found))


def add(
    connection: Connection, user_id: int, parts: Parts, label: str, scopes: Iterable[str], *, now: int, days: int
) -> None:
    """Keep a new token. Raises Conflict if its owner has too many."""
    query = select(func.count()).select_from(api_tokens).where(api_tokens.c.user_id == user_id)
    if connection.execute(query).scalar_one() >= MOST:
        raise Conflict(f"There are {MOST} tokens already, the most that one person may have.", "End those not in use.")
    row = insert(api_tokens).values(
        user_id=user_id, key_id=parts.key_id, secret_hash=_hash(parts.secret), name=label, scopes=" ".join(scopes),
        created_at=now, expires_at=now + days * 86_400,
    )  # fmt: skip
    connection.execute(row)


def of_user(connection: Connection, user_id: int, username: str, *, now: int) -> list[Token]:
    """Return a user's tokens, the newest first."""
    rows = connection.execute(
        select(api_tokens).where(api_tokens.c.user_id == user_id).order_by(api_tokens.c.id.desc())
    )
    return [_shown(row, username, now) for row in rows]


def _shown(row: Any, username: str, now: int) -> Token:
    return Token(
        key_id=row.key_id, username=username, label=row.name, scopes=tuple(sorted(_lent(row.scopes))),
        created_at=moment(row.created_at), expires_at=moment(row.expires_at), expired=now >= row.expires_at,
        last_used=moment(row.last_used) if row.last_used else None, last_address=row.last_address,
    )  # fmt: skip


def end(connection: Connection, user_id: int, key_id: str) -> bool:
    """End one token of a user; False if there is none."""
    mine = (api_tokens.c.user_id == user_id) & (api_tokens.c.key_id == key_id)
    return connection.execute(delete(api_tokens).where(mine)).rowcount > 0


def end_all(connection: Connection, user_id: int) -> int:
    """End every token of a user; returns how many."""
    return connection.execute(delete(api_tokens).where(api_tokens.c.user_id == user_id)).rowcount


def forget_expired(connection: Connection, *, now: int) -> int:
    """Remove tokens that have long expired; returns how many."""
    return connection.execute(delete(api_tokens).where(api_tokens.c.expires_at <= now - KEPT_S)).rowcount
