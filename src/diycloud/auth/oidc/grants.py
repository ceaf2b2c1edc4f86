"""What a sign-in at an application was given: a code, and with it tokens. Functions over a Connection.

A grant stands as long as its user may sign in, from where they came, its application is on, and the session that it came
from holds; with offline_access it outlives the session. That is asked at every use, so whoever is disabled is out at once.
Ending a grant removes its row, and with it all its tokens.

A refresh token is `family.secret`. The family stays, the secret is new at each use; a right family with another secret
was used before: somebody has stolen it, and the grant ends (RFC 9700, 4.14.2). So is a code that is used twice (RFC 6749,
4.1.2). What is refused is returned, not raised: raising would undo the ending.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Collection
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, bindparam, delete, exists, insert, literal_column, select, update

from diycloud.auth import forced
from diycloud.auth.addresses import allows
from diycloud.auth.oidc.clients import Client, digest
from diycloud.db.engine import Prepared
from diycloud.db.sign_in_tables import oidc_clients, oidc_grants, oidc_tokens
from diycloud.db.tables import sessions, users
from diycloud.users.models import SIGN_IN

CODE_S = 60
LONGEST_S = 365 * 86_400
"""How long refresh tokens go on at most, however often they are used: then the person signs in anew."""
OFFLINE = "offline_access"
MAX_GRANTS = 30
"""Of one person at one application; the oldest gives way."""
MAX_ACCESS = 20
"""Access tokens of one grant at a time; the oldest give way."""
_VERIFIER = re.compile(r"\A[A-Za-z0-9._~-]{43,128}\Z")
CHALLENGE = re.compile(r"\A[A-Za-z0-9_-]{43}\Z")


class Refused(StrEnum):
    """Why a code or token is not taken. Applications learn only that it is not."""

    UNKNOWN = "unknown"
    EXPIRED = "expired"
    FOREIGN = "of another application"
    MISMATCH = "wrong redirect_uri or verifier"
    REUSED = "used twice"
    ENDED = "user or session may no more"
    SCOPE = "more than was granted"


class Rules(NamedTuple):
    """now: Unix seconds; factor_roles: as forced.is_missing takes them; the others: for how many seconds things hold."""

    now: int
    session_idle_s: int
    access_s: int
    refresh_s: int
    factor_roles: Collection[str] = ()


class Grant(NamedTuple):
    """A grant with the user's and the application's state now. address: where the user came from, for their networks."""

    id: int
    user_id: int
    session_id: int | None
    code_expires_at: int
    redirect_uri: str
    challenge: str
    nonce: str
    scope_text: str
    methods: str
    address: str
    signed_in_at: int
    redeemed: int
    client_row: int
    client: str
    enabled: int
    username: str
    uuid: str
    status: str
    must_change_password: int
    networks: str
    role: str
    factor_asked: int
    has_factor: int
    session_expires_at: int | None
    session_seen: int | None

    @property
    def scopes(self) -> tuple[str, ...]:
        return tuple(self.scope_text.split())

    def stands(self, rules: Rules) -> bool:
        """Tell whether it still gives anything."""
        may = self.status in SIGN_IN and not self.must_change_password and self.enabled == 1
        if not may or not allows(str(self.networks), self.address):
            return False
        if forced.is_missing(rules.factor_roles, self.role, asked=self.factor_asked, has_one=self.has_factor):
            return False
        if OFFLINE in self.scopes:
            return True
        if self.session_expires_at is None or self.session_seen is None:
            return False
        return rules.now < self.session_expires_at and rules.now - self.session_seen < rules.session_idle_s


class Token(NamedTuple):
    """A token that was found. kind: access or refresh; scopes: may be fewer than the grant's."""

    id: int
    kind: str
    scopes: tuple[str, ...]
    created_at: int
    expires_at: int
    current: bytes | None
    grant: Grant


class Issued(NamedTuple):
    """What an application gets. refresh: None where it gets none."""

    grant: Grant
    access: str
    refresh: str | None
    scopes: tuple[str, ...]


_USERS = users.alias("u")  # as the SQL of forced.py calls them
_G, _C, _U, _S, _T = oidc_grants.c, oidc_clients.c, _USERS.c, sessions.c, oidc_tokens.c
_COLUMNS: tuple[ColumnElement[Any], ...] = (
    _G.id, _G.user_id, _G.session_id, _G.code_expires_at, _G.redirect_uri, _G.challenge, _G.nonce, _G.scopes, _G.methods,
    _G.address, _G.signed_in_at, _G.redeemed, _G.client_id.label("client_row"), _C.client_id.label("client"), _C.enabled,
    _U.username, _U.uuid, _U.status, _U.must_change_password, _U.allowed_client_ip,
    _U.role, literal_column(forced.ASKED).label("factor_asked"), literal_column(forced.HAS_ONE).label("has_factor"),
    _S.expires_at.label("until"), _S.last_seen,
)  # fmt: skip
_JOINED = oidc_grants.join(oidc_clients).join(_USERS).outerjoin(sessions, _G.session_id == _S.id)
_BY_CODE = Prepared(select(*_COLUMNS).select_from(_JOINED).where(_G.code_hash == bindparam("code_hash")))
_TOKEN = (_T.id.label("token_id"), _T.kind, _T.scopes.label("token_scopes"), _T.created_at, _T.expires_at, _T.current)
_BY_TOKEN = Prepared(
    select(*_TOKEN, *_COLUMNS)
    .select_from(_JOINED.join(oidc_tokens, _T.grant_id == _G.id))
    .where(_T.token_hash == bindparam("token_hash"), _T.kind == bindparam("kind"))
)


# -- the code


def begin(
    connection: Connection, *, client_row: int, user_id: int, session_id: int | None, redirect_uri: str, challenge: str,
    nonce: str, scopes: tuple[str, ...], methods: str, address: str, signed_in_at: int, now: int,
) -> str:  # fmt: skip
    """Grant what a person allowed an application, and return the code for it, kept nowhere here."""
    code = secrets.token_urlsafe(32)
    mine = (_G.user_id == user_id) & (_G.client_id == client_row)
    older = select(_G.id).where(mine).order_by(_G.id.desc()).offset(MAX_GRANTS - 1)
    connection.execute(delete(oidc_grants).where(_G.id.in_(list(connection.execute(older.limit(1000)).scalars()))))
    row = insert(oidc_grants).values(
        client_id=client_row, user_id=user_id, session_id=session_id, code_hash=digest(code), code_expires_at=now + CODE_S,
        redirect_uri=redirect_uri, challenge=challenge, nonce=nonce, scopes=" ".join(scopes), methods=methods,
        address=address, signed_in_at=signed_in_at, created_at=now,
    )  # fmt: skip
    connection.execute(row)
    return code


def redeem(
    connection: Connection, code: str, *, client: Client, redirect_uri: str, verifier: str | None, rules: Rules
) -> Issued | tuple[Refused, Grant | None]:
    """Return tokens for a code, for the one time that this is possible. Any wrong try ends the code."""
    found = _BY_CODE.fetch_one(connection, code_hash=digest(code))
    if found is None:
        return Refused.UNKNOWN, None
    grant = Grant(*found)
    problem = _code_problem(grant, client, redirect_uri, verifier, rules)
    if problem is not None:
        end(connection, grant.id)
        return problem, grant
    connection.execute(update(oidc_grants).where(_G.id == grant.id).values(redeemed=1))
    access = _add_access(connection, grant.id, grant.scopes, rules)
    refresh = None
    if OFFLINE in grant.scopes or client.app.refresh:
        refresh = _add_refresh(connection, grant, rules)
    return Issued(grant, access, refresh, grant.scopes)


def _code_problem(
    grant: Grant, client: Client, redirect_uri: str, verifier: str | None, rules: Rules
) -> Refused | None:
    if grant.redeemed:
        return Refused.REUSED
    if grant.client_row != client.id:
        return Refused.FOREIGN
    if rules.now >= grant.code_expires_at:
        return Refused.EXPIRED
    if redirect_uri != grant.redirect_uri or not verifies(grant.challenge, verifier):
        return Refused.MISMATCH
    return None if grant.stands(rules) else Refused.ENDED


def verifies(challenge: str, verifier: str | None) -> bool:
    """Tell whether a verifier is the challenge's by S256 (RFC 7636, 4.6).

    A verifier without a challenge is refused: whoever took PKCE out of the request must not get through (RFC 9700, 4.8.2).
    """
    if verifier is None or not challenge:
        return verifier is None and not challenge
    if not _VERIFIER.match(verifier):
        return False
    made = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
    return secrets.compare_digest(made, challenge.encode())


# -- tokens


def refresh(
    connection: Connection, token: str, *, client: Client, scopes: tuple[str, ...] | None, rules: Rules
) -> Issued | tuple[Refused, Grant | None]:
    """Return new tokens for a refresh token, which ends. scopes: fewer than were granted, None for all of them."""
    found = find(connection, token, "refresh")
    if found is None:
        return Refused.UNKNOWN, None
    grant = found.grant
    problem = _refresh_problem(found, token, client, rules)
    if problem is not None:
        end(connection, grant.id)
        return problem, grant
    if scopes is not None and not set(scopes) <= set(grant.scopes):
        return Refused.SCOPE, grant
    secret = secrets.token_urlsafe(32)
    fresh = f"{token.partition('.')[0]}.{secret}"
    values = {"current": digest(fresh), "created_at": rules.now, "expires_at": rules.now + rules.refresh_s}
    connection.execute(update(oidc_tokens).where(_T.id == found.id).values(values))
    wanted = tuple(scope for scope in scopes or grant.scopes if scope in client.app.scopes)
    return Issued(grant, _add_access(connection, grant.id, wanted, rules), fresh, wanted)


def _refresh_problem(found: Token, token: str, client: Client, rules: Rules) -> Refused | None:
    if found.current is None or not secrets.compare_digest(digest(token), found.current):
        return Refused.REUSED
    if found.grant.client_row != client.id:
        return Refused.FOREIGN
    if rules.now >= min(found.expires_at, found.grant.code_expires_at + LONGEST_S):
        return Refused.EXPIRED
    may = OFFLINE in client.app.scopes if OFFLINE in found.grant.scopes else client.app.refresh
    return None if may and found.grant.stands(rules) else Refused.ENDED


def find(connection: Connection, token: str, kind: str) -> Token | None:
    """Return a token of a kind, or the newest of a refresh token's family; whether it holds is still to be asked."""
    name = token.partition(".")[0] if kind == "refresh" else token
    found = _BY_TOKEN.fetch_one(connection, token_hash=digest(name), kind=kind)
    if found is None:
        return None
    head, rest = found[: len(_TOKEN)], found[len(_TOKEN) :]
    return Token(head[0], head[1], tuple(head[2].split()), head[3], head[4], head[5], Grant(*rest))


def find_valid(connection: Connection, token: str, kind: str, rules: Rules) -> Token | None:
    """Return a token that holds now, None otherwise. Looks only: a refresh token that was used before ends nothing here."""
    found = find(connection, token, kind)
    if found is None or rules.now >= found.expires_at or not found.grant.stands(rules):
        return None
    if kind == "refresh" and not (found.current and secrets.compare_digest(digest(token), found.current)):
        return None
    return found


def revoke(connection: Connection, found: Token) -> None:
    """End an access token, or with a refresh token the whole grant (RFC 7009, 2.1)."""
    if found.kind == "refresh":
        end(connection, found.grant.id)
    else:
        connection.execute(delete(oidc_tokens).where(_T.id == found.id))


def _add_access(connection: Connection, grant_id: int, scopes: tuple[str, ...], rules: Rules) -> str:
    mine = (_T.grant_id == grant_id) & (_T.kind == "access")
    older = select(_T.id).where(mine).order_by(_T.id.desc()).offset(MAX_ACCESS - 1).limit(1000)
    surplus = list(connection.execute(older).scalars())
    connection.execute(delete(oidc_tokens).where(mine, (_T.expires_at <= rules.now) | _T.id.in_(surplus)))
    token = secrets.token_urlsafe(32)
    _add(connection, grant_id, "access", digest(token), scopes, rules.now, rules.now + rules.access_s)
    return token


def _add_refresh(connection: Connection, grant: Grant, rules: Rules) -> str:
    family = secrets.token_urlsafe(16)
    token = f"{family}.{secrets.token_urlsafe(32)}"
    until = rules.now + rules.refresh_s
    _add(connection, grant.id, "refresh", digest(family), grant.scopes, rules.now, until, digest(token))
    return token


def _add(
    connection: Connection, grant_id: int, kind: str, hashed: bytes, scopes: tuple[str, ...], now: int, until: int,
    current: bytes | None = None,
) -> None:  # fmt: skip
    row = insert(oidc_tokens).values(
        grant_id=grant_id, kind=kind, token_hash=hashed, scopes=" ".join(scopes), created_at=now, expires_at=until,
        current=current,
    )  # fmt: skip
    connection.execute(row)


# -- the end


def end(connection: Connection, grant_id: int) -> None:
    """End a grant and all its tokens."""
    connection.execute(delete(oidc_grants).where(_G.id == grant_id))


def end_of_user(connection: Connection, user_id: int, client_row: int | None = None) -> int:
    """End every grant of a user, or those at one application; returns how many."""
    mine = _G.user_id == user_id
    if client_row is not None:
        mine &= _G.client_id == client_row
    return connection.execute(delete(oidc_grants).where(mine)).rowcount


def forget(connection: Connection, now: int) -> int:
    """Remove tokens that have expired, and grants that give nothing any more; returns how many grants."""
    connection.execute(delete(oidc_tokens).where(_T.expires_at <= now))
    empty = (_G.code_expires_at <= now) & ~exists().where(_T.grant_id == _G.id)
    over = _G.session_id.is_(None) & _G.scopes.notlike(f"%{OFFLINE}%")
    return connection.execute(delete(oidc_grants).where(empty | over)).rowcount


def end_at(connection: Connection, client_row: int) -> int:
    """End every grant of an application; returns how many."""
    return connection.execute(delete(oidc_grants).where(_G.client_id == client_row)).rowcount
