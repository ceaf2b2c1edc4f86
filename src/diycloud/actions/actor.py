"""Who acts."""

from __future__ import annotations

from typing import NamedTuple

from diycloud.actions.roles import Role


class Actor(NamedTuple):
    """Who acts, through what, from where.

    name: a user's name, `root` for the host's own administrator on the server's socket, `system` for the platform itself.
    via: cli, rest, portal or system. must_change_password: nothing but that is allowed until it is done. domain: the
    user's. on_behalf_of: as whom it is to be done; the dispatcher makes that user the actor and then keeps in `real` who
    asked. methods, proved_at: how the session was begun (RFC 8176), and when, or proved anew (Unix seconds). token_id, token:
    of an API token, in the database and for people; scopes: the only permissions that it lends, None for all of the role's.
    must_enrol: nothing but setting up a second factor is allowed until it is done.
    """

    name: str
    role: Role
    via: str
    user_id: int | None = None
    address: str = ""
    request_id: str = ""
    session_id: int | None = None
    must_change_password: bool = False
    domain: str = ""
    on_behalf_of: str = ""
    real: Actor | None = None
    methods: str = ""
    proved_at: int = 0
    scopes: frozenset[str] | None = None
    token_id: int | None = None
    must_enrol: bool = False
    token: str = ""

    @property
    def is_root(self) -> bool:
        """Tell whether uid 0 on the host itself asks, by the kernel's word."""
        return self.user_id is None and self.name == "root" and self.via == "cli"


SYSTEM = Actor("system", Role.ADMIN, "system")
