"""Who acts."""

from __future__ import annotations

from typing import NamedTuple

from diycloud.actions.roles import Role


class Actor(NamedTuple):
    """Who acts, through what, from where.

    name: a user's name, `root` for the host's own administrator on the server's socket, `system` for the platform itself.
    via: cli, rest, portal or system. must_change_password: nothing but that is allowed until it is done.
    """

    name: str
    role: Role
    via: str
    user_id: int | None = None
    address: str = ""
    request_id: str = ""
    session_id: int | None = None
    must_change_password: bool = False


SYSTEM = Actor("system", Role.ADMIN, "system")
