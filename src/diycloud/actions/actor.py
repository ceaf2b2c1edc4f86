"""Who acts."""

from __future__ import annotations

from typing import NamedTuple

from diycloud.actions.roles import Role


class Actor(NamedTuple):
    """Who acts, through what, from where.

    name: a user's name, `root` for the host's own administrator on the server's socket, `system` for the platform itself.
    via: cli, rest, portal or system. must_change_password: nothing but that is allowed until it is done. domain: the
    user's. on_behalf_of: as whom it is to be done; the dispatcher makes that user the actor and then notes in `real` who
    asked.
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
    real: str = ""

    @property
    def is_root(self) -> bool:
        """Tell whether uid 0 on the host itself asks, by the kernel's word."""
        return self.user_id is None and self.name == "root" and self.via == "cli"


SYSTEM = Actor("system", Role.ADMIN, "system")
