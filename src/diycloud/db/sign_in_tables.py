"""The tables of signing in: second factors, tokens, what outside providers and applications know of people.

The rules for all tables are in tables.py. What must not be read from a stolen database is sealed (db/vault.py) or a hash.
"""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, LargeBinary, Table, UniqueConstraint

from diycloud.db.sql import Integer, Text
from diycloud.db.tables_base import NOW, metadata, one_of

totps = Table(
    "totps",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("secret", LargeBinary, nullable=False),
    Column("active", Integer, nullable=False, server_default="0"),
    Column("last_step", Integer, nullable=False, server_default="0"),
    Column("created_at", Text, nullable=False, server_default=NOW),
    Column("activated_at", Text),
    sqlite_autoincrement=True,
)
"""Codes of an app (RFC 6238). secret: sealed (db/vault.py); active 0: shown once, and no code of it was seen yet;
last_step: the newest time step that a code was taken for; older ones are refused from then on."""

recovery_codes = Table(
    "recovery_codes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("code_hash", LargeBinary, nullable=False),
    Column("used_at", Text),
    sqlite_autoincrement=True,
)

passkeys = Table(
    "passkeys",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("credential_id", LargeBinary, nullable=False, unique=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("sign_count", Integer, nullable=False, server_default="0"),
    Column("name", Text, nullable=False, server_default=""),
    Column("transports", Text, nullable=False, server_default=""),
    Column("backed_up", Integer, nullable=False, server_default="0"),
    Column("created_at", Text, nullable=False, server_default=NOW),
    Column("last_used", Text),
    sqlite_autoincrement=True,
)
"""Credentials of WebAuthn. public_key: COSE, as the browser gave it."""

notices = Table(
    "notices",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Text, nullable=False, server_default=NOW),
    Column("kind", Text, nullable=False),
    Column("by_whom", Text, nullable=False, server_default=""),
    sqlite_autoincrement=True,
)
"""What a user is told at the next visit, until they say that they have read it (auth/notices.py)."""

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("key_id", Text, nullable=False, unique=True),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("name", Text, nullable=False, server_default=""),
    Column("scopes", Text, nullable=False, server_default=""),
    Column("created_at", Integer, nullable=False),
    Column("expires_at", Integer, nullable=False),
    Column("last_used", Integer),
    Column("last_address", Text, nullable=False, server_default=""),
    sqlite_autoincrement=True,
)
"""key_id may be seen; of the secret only its SHA-256 is kept. scopes: permissions with blanks between."""

old_passwords = Table(
    "old_passwords",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("password_hash", Text, nullable=False),
    Column("changed_at", Text, nullable=False, server_default=NOW),
    sqlite_autoincrement=True,
)

identities = Table(
    "identities",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("provider", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("linked_at", Text, nullable=False, server_default=NOW),
    Column("last_used", Text),
    Column("vouched", Integer, nullable=False, server_default="0"),
    UniqueConstraint("provider", "subject"),
    sqlite_autoincrement=True,
)
"""Who a user is to an outside directory or provider (settings: sign_in).

vouched: an administrator said so, or the user was made with it; else the setting `link` did, or they themselves.
"""

oidc_clients = Table(
    "oidc_clients",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("client_id", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("secret", LargeBinary),
    Column("redirect_uris", Text, nullable=False, server_default=""),
    Column("logout_uris", Text, nullable=False, server_default=""),
    Column("scopes", Text, nullable=False, server_default="openid profile email"),
    Column("trusted", Integer, nullable=False, server_default="0"),
    Column("pkce", Integer, nullable=False, server_default="1"),
    Column("refresh", Integer, nullable=False, server_default="0"),
    Column("enabled", Integer, nullable=False, server_default="1"),
    Column("created_at", Text, nullable=False, server_default=NOW),
    Column("updated_at", Text, nullable=False, server_default=NOW),
    sqlite_autoincrement=True,
)
"""Applications that sign people in through the platform. secret: its SHA-256, NULL for a public client; redirect_uris: one a
line, compared as they are; trusted: of the platform's own, people are not asked; pkce 0: one that cannot (with a secret);
refresh 1: gets refresh tokens that hold as long as the session does, without asking for offline_access."""

oidc_consents = Table(
    "oidc_consents",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("client_id", Integer, ForeignKey("oidc_clients.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("scopes", Text, nullable=False, server_default=""),
    Column("given_at", Text, nullable=False, server_default=NOW),
    UniqueConstraint("user_id", "client_id"),
    sqlite_autoincrement=True,
)

oidc_grants = Table(
    "oidc_grants",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("client_id", Integer, ForeignKey("oidc_clients.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("user_id", Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("session_id", Integer, ForeignKey("sessions.id", ondelete="SET NULL"), index=True),
    Column("code_hash", LargeBinary, unique=True),
    Column("code_expires_at", Integer, nullable=False),
    Column("redirect_uri", Text, nullable=False),
    Column("challenge", Text, nullable=False, server_default=""),
    Column("nonce", Text, nullable=False, server_default=""),
    Column("scopes", Text, nullable=False, server_default=""),
    Column("methods", Text, nullable=False, server_default=""),
    Column("address", Text, nullable=False, server_default=""),
    Column("signed_in_at", Integer, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("redeemed", Integer, nullable=False, server_default="0"),
    sqlite_autoincrement=True,
)
"""What one sign-in at an application was given: a code, and with it tokens. Removing the grant ends them all.

address: where the user came from; must stay in their networks. session_id is NULL once the session has ended."""

oidc_tokens = Table(
    "oidc_tokens",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("grant_id", Integer, ForeignKey("oidc_grants.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("token_hash", LargeBinary, nullable=False, unique=True),
    Column("scopes", Text, nullable=False, server_default=""),
    Column("created_at", Integer, nullable=False),
    Column("expires_at", Integer, nullable=False, index=True),
    Column("current", LargeBinary),
    one_of("kind", ("access", "refresh")),
    sqlite_autoincrement=True,
)
"""token_hash: of an access token; of a refresh token only the part that stays when it is rotated. current: of the whole
refresh token that holds; another one with the same first part was used before, so it was stolen, and its grant ends."""

oidc_keys = Table(
    "oidc_keys",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kid", Text, nullable=False, unique=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("retired_at", Integer),
    sqlite_autoincrement=True,
)
"""Keys that sign ID tokens, sealed (db/vault.py). retired_at: no more for signing, still shown for checking."""
