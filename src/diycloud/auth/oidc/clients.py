"""The applications: their table, their secrets, where they may send people back to.

A secret has 256 random bits, so a plain hash of it is enough. Addresses are compared character by character (RFC 9700,
4.1.3), but for the port of a program on the user's own device (RFC 8252, 7.3).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from diycloud.auth.oidc.models import App
from diycloud.db.sign_in_tables import oidc_clients as table

_NAME = re.compile(r"\A[a-z0-9_-]{1,64}\Z")
_LOOPBACK = re.compile(r"\A(http://(?:127\.0\.0\.1|\[::1\]))(?::[0-9]{1,5})?(/.*)?\Z")
_SCHEME = re.compile(r"\A[a-z][a-z0-9+-]*(\.[a-z0-9+-]+)+\Z")
"""Of a program on the user's device: a domain name of its maker's, backwards (RFC 8252, 7.1)."""


class Client(NamedTuple):
    """An application as the endpoints need it. id: of its row; secret_hash: None for a public one."""

    id: int
    app: App
    secret_hash: bytes | None

    @property
    def name(self) -> str:
        return self.app.name

    def has_secret(self, given: str) -> bool:
        """Tell whether a secret is this client's, in the same time whatever it is."""
        return secrets.compare_digest(digest(given), self.secret_hash or b"")

    def takes_back_at(self, uri: str) -> bool:
        """Tell whether people may be sent back to an address with a code."""
        return any(uri == known or _same_loopback(uri, known) for known in self.app.redirect_uris)


def digest(token: str) -> bytes:
    """Return what is kept of a secret, code or token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def new_secret() -> str:
    return secrets.token_urlsafe(32)


def _same_loopback(uri: str, known: str) -> bool:
    """Tell whether two addresses are the same but for the port, on the very device of the user's."""
    asked, registered = _LOOPBACK.match(uri), _LOOPBACK.match(known)
    return asked is not None and registered is not None and asked.groups() == registered.groups()


def uri_problem(uri: str) -> str | None:
    """Return why people may never be sent to an address, None if they may."""
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is no address"
    if "#" in uri or "*" in uri or "\\" in uri or parts.username is not None:
        return "may have no # or *, no \\ and no user name"
    if parts.scheme in ("http", "https"):
        if not host:
            return "has no host"
        if parts.scheme == "http" and host not in ("127.0.0.1", "::1", "localhost"):
            return "must begin with https:// (http only for 127.0.0.1, [::1] and localhost)"
        return None
    if not _SCHEME.match(parts.scheme):
        return "must begin with https://, or be a program's own, such as org.example.app:/signed-in"
    return None


# -- the table


def by_name(connection: Connection, name: str) -> Client | None:
    """Return an application by its client_id, whatever somebody sends as one."""
    if not _NAME.match(name):  # PostgreSQL takes no NUL
        return None
    row = connection.execute(select(table).where(table.c.client_id == name)).first()
    return _client(row) if row else None


def by_id(connection: Connection, client_id: int) -> Client | None:
    row = connection.execute(select(table).where(table.c.id == client_id)).first()
    return _client(row) if row else None


def every(connection: Connection) -> list[App]:
    return [_client(row).app for row in connection.execute(select(table).order_by(table.c.client_id))]


def add(connection: Connection, name: str, values: Mapping[str, Any], secret: str | None) -> None:
    """Add an application. values: as `change` takes them."""
    hashed = None if secret is None else digest(secret)
    connection.execute(insert(table).values(client_id=name, secret=hashed, **_columns(values)))


def change(connection: Connection, name: str, values: Mapping[str, Any]) -> None:
    """Change an application. values: fields of App."""
    changed = {**_columns(values), "updated_at": func.current_timestamp()}
    connection.execute(update(table).where(table.c.client_id == name).values(changed))


def set_secret(connection: Connection, name: str, secret: str) -> None:
    changed = {"secret": digest(secret), "updated_at": func.current_timestamp()}
    connection.execute(update(table).where(table.c.client_id == name).values(changed))


def remove(connection: Connection, name: str) -> None:
    """Remove an application and, by the tables' rules, all that it was given."""
    connection.execute(delete(table).where(table.c.client_id == name))


def _columns(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in ("redirect_uris", "logout_uris"):
            found[name] = "\n".join(value)
        elif name == "scopes":
            found[name] = " ".join(value)
        else:
            found["name" if name == "title" else name] = int(value) if isinstance(value, bool) else value
    return found


def _client(row: Row[Any]) -> Client:
    app = App(
        name=row.client_id, title=row.name, public=row.secret is None, redirect_uris=tuple(row.redirect_uris.split()),
        logout_uris=tuple(row.logout_uris.split()), scopes=tuple(row.scopes.split()), trusted=row.trusted == 1,
        pkce=row.pkce != 0 or row.secret is None, refresh=row.refresh == 1, enabled=row.enabled == 1,
        created_at=row.created_at, updated_at=row.updated_at,
    )  # fmt: skip
    return Client(row.id, app, row.secret)
