"""Which role may do what, and how far: the one table."""

from __future__ import annotations

from enum import IntEnum, StrEnum

from diycloud.actions.action import Permission


class Role(StrEnum):
    """What a user may do. monitor reads everything and changes nothing but its own account."""

    ADMIN = "admin"
    DOMAIN_ADMIN = "domain-admin"
    MONITOR = "monitor"
    USER = "user"


class Scope(IntEnum):
    """How far a permission reaches: nowhere, oneself, one's domain, everywhere."""

    NONE = 0
    OWN = 1
    DOMAIN = 2
    ALL = 3


P = Permission
_USER = {
    P.ACCOUNT: Scope.ALL,
    P.USERS_READ: Scope.OWN,
    P.USAGE_READ: Scope.OWN,
    P.KEYS_READ: Scope.OWN,
    P.KEYS: Scope.OWN,
    P.SESSIONS_READ: Scope.OWN,
    P.SESSIONS: Scope.OWN,
    P.TOKENS_READ: Scope.OWN,
    P.TOKENS: Scope.OWN,
    P.FACTORS_READ: Scope.OWN,
    P.FACTORS: Scope.OWN,
    P.NOTEBOOKS_READ: Scope.OWN,
    P.NOTEBOOKS_START: Scope.OWN,
    P.NOTEBOOKS: Scope.OWN,
}
_DOMAIN = (
    P.USERS_READ, P.USERS_CREATE, P.USERS_MODIFY, P.USERS_LIMITS, P.USERS_STATUS, P.USERS_DELETE, P.USERS_PURGE,
    P.USERS_PASSWORD, P.USERS_EXPORT, P.ACT_AS, P.KEYS_READ, P.KEYS, P.GROUPS_READ, P.GROUPS, P.DOMAINS_READ, P.USAGE_READ,
    P.AUDIT_READ, P.AUDIT_EXPORT, P.SESSIONS_READ, P.SESSIONS, P.TOKENS_READ, P.TOKENS,
    P.FACTORS_READ, P.FACTORS, P.NOTEBOOKS_READ, P.NOTEBOOKS,
)  # fmt: skip
_MONITOR = (
    P.USERS_READ, P.USERS_EXPORT, P.KEYS_READ, P.GROUPS_READ, P.DOMAINS_READ, P.POLICIES_READ, P.USAGE_READ, P.AUDIT_READ,
    P.AUDIT_EXPORT, P.HOST_READ, P.CLIENTS_READ, P.SESSIONS_READ, P.TOKENS_READ, P.FACTORS_READ,
    P.NOTEBOOKS_READ, P.METRICS_READ,
)  # fmt: skip

PERMISSIONS: dict[Role, dict[Permission, Scope]] = {
    Role.ADMIN: {
        **{permission: Scope.ALL for permission in P if permission is not P.ROOT},
        P.NOTEBOOKS_START: Scope.OWN,
    },
    Role.DOMAIN_ADMIN: {
        **_USER,
        **dict.fromkeys(_DOMAIN, Scope.DOMAIN),
        P.POLICIES_READ: Scope.ALL,
    },
    Role.MONITOR: {**_USER, **dict.fromkeys(_MONITOR, Scope.ALL)},
    Role.USER: _USER,
}
"""What is not named is not allowed. P.ROOT is nobody's: only uid 0 on the host itself has it (Actor.is_root)."""

TRUSTED = frozenset({Role.ADMIN, Role.MONITOR})
"""Roles that reach beyond their domain: a domain's administrators may not touch who has one."""
