"""The first administrator: `python -m diycloud.users.first_admin`, run by the installer under the server's user.

Reads {"username", "password", "one_time"} as JSON on standard input and prints {"username", "password": null, "created"}.
Portal only: no account on the host, no shell. Where there is an administrator already, nothing is changed and their name
is printed. A one-time password must be changed at the first sign-in.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

import msgspec
from sqlalchemy import Connection

from diycloud import config
from diycloud.actions import audit
from diycloud.actions.actor import Actor
from diycloud.actions.fields import Username
from diycloud.actions.roles import Role
from diycloud.auth import passwords
from diycloud.config import Paths
from diycloud.db.engine import Database, open_database
from diycloud.errors import Conflict, DiyCloudError, InvalidInput
from diycloud.users import repository
from diycloud.users.models import Allocation, Status

INSTALLER = Actor("root", Role.ADMIN, "install")


async def ensure_admin(database: Database, username: str, password: str, *, one_time: bool) -> dict[str, Any]:
    """Make the administrator unless there is one; returns the administrator's name and whether it was made now.

    Raises InvalidInput for what cannot be a name, Conflict if another kind of user has it.
    """
    try:
        msgspec.convert(username, Username)
    except msgspec.ValidationError:
        raise InvalidInput(f"{username!r} cannot be a name.", "Use 1–32 of a–z, 0–9, _ and -.") from None
    first = await database.read(repository.first_admin)
    if first is not None:
        return {"username": first, "password": None, "created": False}
    if await database.read(repository.by_name, username) is not None:
        raise Conflict(f"There is a user {username} already.", "Choose another name: --admin-name NAME.")
    hasher = passwords.Hasher(threads=1)
    hashed = await hasher.hash(password)
    hasher.close()

    def store(connection: Connection) -> None:
        values = {"username": username, "role": Role.ADMIN, "status": Status.ACTIVE, "portal_only": 1}
        secret = {"password_hash": hashed, "must_change_password": int(one_time)}
        repository.add(connection, {**values, **secret}, Allocation())
        entry = audit.begin(connection, INSTALLER, "user.first-admin", username, {})
        audit.end(connection, entry, "done", duration_ms=0, changes=None)

    await database.write(store)
    return {"username": username, "password": None, "created": True}


def main() -> int:
    """Entry point; exit status 0 done, 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", default="/")
    paths = Paths(parser.parse_args().prefix)
    asked = json.load(sys.stdin)
    try:
        database = open_database(config.load(paths.config), paths)
        try:
            made = asyncio.run(
                ensure_admin(database, asked["username"], asked["password"], one_time=bool(asked.get("one_time")))
            )
        finally:
            database.close()
    except DiyCloudError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
