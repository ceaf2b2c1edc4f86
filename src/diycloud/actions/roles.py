"""Which role has which permissions: the one table."""

from __future__ import annotations

from enum import StrEnum

from diycloud.actions.action import Permission


class Role(StrEnum):
    """What a user may do. monitor reads everything and changes nothing but its own password."""

    ADMIN = "admin"
    MONITOR = "monitor"
    USER = "user"


_OWN = frozenset({Permission.OWN_READ, Permission.OWN_PASSWORD})
_READ = frozenset({Permission.USERS_READ, Permission.USAGE_READ, Permission.AUDIT_READ, Permission.HOST_READ})

PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.ADMIN: frozenset(Permission),
    Role.MONITOR: _OWN | _READ,
    Role.USER: _OWN,
}
