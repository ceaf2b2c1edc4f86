"""An application of the platform's own: `python -m diycloud.auth.oidc.first_party`, run under the server's user.

Reads {"name", "title", "redirect_uris", "secret"} as JSON on standard input and prints {"secret", "changed"}: the secret
that was given if the application has it, else a new one. Nobody is asked whether it may know them. Whether it is enabled
stays the administrators' word.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

import msgspec
from sqlalchemy import Connection

from diycloud import config
from diycloud.actions import audit
from diycloud.actions.actor import Actor
from diycloud.actions.roles import Role
from diycloud.auth.oidc import clients
from diycloud.config import Paths
from diycloud.db.engine import open_database
from diycloud.errors import DiyCloudError

INSTALLER = Actor("root", Role.ADMIN, "install")
SCOPES = ("openid", "profile", "email", "groups")


class Wanted(msgspec.Struct, frozen=True):
    """An application. name: its client_id; secret: the one it had, if it is known."""

    name: str
    title: str
    redirect_uris: tuple[str, ...]
    secret: str | None = None


class Kept(msgspec.Struct, frozen=True):
    """Its secret from now on, and whether anything had to be changed."""

    secret: str
    changed: bool


def ensure_client(connection: Connection, wanted: Wanted) -> Kept:
    """Make the application be there as it is wanted."""
    values: dict[str, Any] = {
        "redirect_uris": wanted.redirect_uris, "scopes": SCOPES, "trusted": True, "pkce": True,
    }  # fmt: skip
    found = clients.by_name(connection, wanted.name)
    if found is None:
        secret = wanted.secret or clients.new_secret()
        clients.add(connection, wanted.name, {**values, "title": wanted.title}, secret)
        _note(connection, "app.create", wanted.name)
        return Kept(secret, changed=True)
    same = all(getattr(found.app, name) == value for name, value in values.items())
    if not same:
        clients.change(connection, wanted.name, values)
        _note(connection, "app.modify", wanted.name)
    if wanted.secret is not None and found.has_secret(wanted.secret):
        return Kept(wanted.secret, changed=not same)
    secret = clients.new_secret()
    clients.set_secret(connection, wanted.name, secret)
    _note(connection, "app.rotate-secret", wanted.name)
    return Kept(secret, changed=True)


def _note(connection: Connection, action: str, name: str) -> None:
    entry = audit.begin(connection, INSTALLER, action, name, {})
    audit.end(connection, entry, "done", duration_ms=0, changes=None)


def main() -> int:
    """Entry point; exit status 0 done, 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", default="/")
    paths = Paths(parser.parse_args().prefix)
    wanted = msgspec.json.decode(sys.stdin.read(), type=Wanted)
    try:
        database = open_database(config.load(paths.config), paths)
        try:
            kept = asyncio.run(database.write(ensure_client, wanted))
        finally:
            database.close()
    except DiyCloudError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(msgspec.json.encode(kept).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
