"""The keys that sign ID tokens: RS256, which every client knows (OpenID Connect Core 1.0, 15.1); sealed in the database.

A new key signs at once. The old one is shown for checking until what it signed has long expired, and checks the hints of
people who sign out; then its row goes.
"""

from __future__ import annotations

import asyncio
import importlib
import secrets
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from diycloud.db.engine import Database
from diycloud.db.sign_in_tables import oidc_keys as table
from diycloud.db.vault import Vault

if TYPE_CHECKING:
    from joserfc.jwk import RSAKey

ALGORITHM = "RS256"
BITS = 2048
KEPT_S = 7 * 86_400
"""How long an old key is shown: ID tokens hold for minutes, applications may keep one as a hint for signing out."""


class Stored(NamedTuple):
    """A key's row. retired_at: None for the one that signs."""

    kid: str
    sealed: bytes
    created_at: int
    retired_at: int | None


class Keys:
    """Signs and checks. days: after which a key is followed by a new one; 0: only by command."""

    def __init__(self, database: Database, vault: Vault, days: int) -> None:
        self._database, self._vault, self._days = database, vault, days
        self._opened: dict[str, RSAKey] = {}
        self._making = asyncio.Lock()
        self._loaded = False

    async def sign(self, claims: dict[str, Any]) -> str:
        """Return an ID token."""
        key = await self._current()
        from joserfc import jwt

        return jwt.encode({"alg": ALGORITHM, "typ": "JWT", "kid": key.kid}, claims, key, algorithms=[ALGORITHM])

    async def read(self, token: str, issuer: str) -> dict[str, Any] | None:
        """Return the claims of an ID token of ours, expired ones too (RP-Initiated Logout 1.0, 2); None for any other.

        The algorithm is ours, never the token's own choice: `none`, and HS256 with the public key, are no signatures.
        """
        await self._load()
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import Key, KeySet

        known: list[Key] = [self._open(stored) for stored in await self._database.read(_stored)]
        try:
            found = jwt.decode(token, KeySet(known), algorithms=[ALGORITHM])
        except (JoseError, ValueError, TypeError, KeyError, AttributeError):
            return None
        claims = found.claims
        return claims if claims.get("iss") == issuer and found.header.get("typ", "JWT") == "JWT" else None

    async def public(self) -> list[dict[str, Any]]:
        """Return the public halves, the one that signs first (RFC 7517)."""
        await self._current()
        stored = await self._database.read(_stored)
        return [
            {**self._open(one).as_dict(private=False), "kid": one.kid, "use": "sig", "alg": ALGORITHM} for one in stored
        ]

    async def rotate(self) -> list[str]:
        """Sign with a new key from now on; returns the names of all, the new one first."""
        made = await asyncio.to_thread(_make)  # 50 to 300 ms of arithmetic
        await self._database.write(store, made, self._vault)
        return [stored.kid for stored in await self._database.read(_stored)]

    async def _load(self) -> None:
        """Have the library there: loading it takes 0.1 s, during which nobody else would be heard."""
        if not self._loaded:
            await asyncio.to_thread(importlib.import_module, "joserfc.jwt")
            self._loaded = True

    async def _current(self) -> RSAKey:
        await self._load()
        async with self._making:
            stored = await self._database.read(_stored)
            due = self._days * 86_400
            if not stored or stored[0].retired_at is not None or (due and time.time() - stored[0].created_at > due):
                await self.rotate()
                stored = await self._database.read(_stored)
        return self._open(stored[0])

    def _open(self, stored: Stored) -> RSAKey:
        from joserfc.jwk import RSAKey

        known = self._opened.get(stored.kid)
        if known is None:
            pem = self._vault.open(stored.sealed, purpose=_purpose(stored.kid))
            known = RSAKey.import_key(pem, {"kid": stored.kid, "use": "sig", "alg": ALGORITHM})
            self._opened = {**dict(list(self._opened.items())[-7:]), stored.kid: known}
        return known


def _make() -> tuple[str, bytes]:
    """Return a new key's name and its private half as PEM."""
    from joserfc.jwk import RSAKey

    return secrets.token_hex(8), RSAKey.generate_key(BITS).as_pem(private=True)


def store(connection: Connection, made: tuple[str, bytes], vault: Vault) -> None:
    """Have a new key sign, and forget those that were retired long ago."""
    (kid, pem), now = made, int(time.time())
    connection.execute(delete(table).where(table.c.retired_at <= now - KEPT_S))
    connection.execute(update(table).where(table.c.retired_at.is_(None)).values(retired_at=now))
    sealed = vault.seal(pem, purpose=_purpose(kid))
    connection.execute(insert(table).values(kid=kid, sealed=sealed, created_at=now))


def _purpose(kid: str) -> str:
    return f"oidc_keys.sealed {kid}"


def _stored(connection: Connection) -> list[Stored]:
    """Return the keys that are shown, the newest first."""
    query = select(table.c.kid, table.c.sealed, table.c.created_at, table.c.retired_at).order_by(table.c.id.desc())
    held = table.c.retired_at.is_(None) | (table.c.retired_at > int(time.time()) - KEPT_S)
    return [Stored(*row) for row in connection.execute(query.where(held))]
