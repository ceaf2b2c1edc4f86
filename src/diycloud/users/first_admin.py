"""The first administrator: `python -m diycloud.users.first_admin`, run by the installer under the server's user.

Reads {"username", "password" or null, "reset": bool} as JSON on standard input and prints
{"username", "password" or null, "created": bool}. Portal only: no account on the host, no shell. A second run changes
nothing unless it is told to reset the password. A generated password must be changed at the first sign-in.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

from sqlalchemy import Connection

from diycloud.actions import audit
from diycloud.actions.actor import Actor
from diycloud.actions.fields import Username
from diycloud.actions.roles import Role
from diycloud.auth import passwords, sessions
from diycloud.config import Paths
from diycloud.db.engine import Database
from diycloud.db.migrate import migrate
from diycloud.errors import Conflict, DiyCloudError, InvalidInput
from diycloud.users import repository
from diycloud.users.models import Allocation, Status

INSTALLER = Actor("root", Role.ADMIN, "install")


async def ensure_admin(database: Database, username: str, password: str | None, *, reset: bool = False) -> dict[str, Any]:
    """Make the administrator unless there is one; returns name, the generated password if any, and whether it was made.

    Raises Conflict if a user of that name is no administrator or has an account on the host.
    """
    import msgspec

    try:
        msgspec.convert(username, Username)
    except msgspec.ValidationError:
        raise InvalidInput(f"{username!r} cannot be a name.", "Use 1–32 of a–z, 0–9, _ and -.") from None
    row = database.read(repository.by_name, username)
    if row is None and not reset and database.read(repository.active_admins):
        return {"username": None, "password": None, "created": False}
    if row is not None and (row.role is not Role.ADMIN or not row.portal_only):
        raise Conflict(f"There is a user {username} already.", "Choose another name: --admin-name NAME.")
    if row is not None and not reset:
        return {"username": username, "password": None, "created": False}
    chosen = password or passwords.generate_password()
    hasher = passwords.Hasher(threads=1)
    values: dict[str, Any] = {"password_hash": await hasher.hash(chosen), "must_change_password": int(password is None)}
    hasher.close()

    def store(connection: Connection) -> None:
        if row is None:
            fixed = {"username": username, "role": Role.ADMIN, "status": Status.ACTIVE, "portal_only": 1}
            repository.add(connection, {**fixed, **values}, Allocation())
        else:
            repository.change(connection, row.id, values)
            sessions.end_all(connection, row.id)
        entry = audit.begin(connection, INSTALLER, "user.first-admin", username, {})
        audit.end(connection, entry, "done", duration_ms=0, changes=None)

    await database.write(store)
    return {"username": username, "password": None if password else chosen, "created": row is None}


def main() -> int:
    """Entry point; exit status 0 done, 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", default="/")
    paths = Paths(parser.parse_args().prefix)
    asked = json.load(sys.stdin)
    try:
        migrate(paths.database)
        database = Database(paths.database)
        try:
            made = asyncio.run(
                ensure_admin(database, asked["username"], asked.get("password"), reset=bool(asked.get("reset")))
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
