"""What an action is: data, the permission it needs, the type of its result.

    @action("user.show", needs=Permission.USERS_READ, audited=Audited.NO)
    class ShowUser(Action[User], frozen=True):
        \"\"\"Show one user.\"\"\"

        username: Username

The same declaration makes the REST body and its OpenAPI schema, the command line's options, the form's fields, the CSV
columns, the audit record and the page in docs/reference/actions.md.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, StrEnum
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

R = TypeVar("R")


class Permission(StrEnum):
    """What may be done; `noun:verb`. Which role has which, and how far it reaches: actions/roles.py."""

    ROOT = "root:word"
    """Only on the word of the host's own root."""
    ACCOUNT = "account:own"
    """One's own sign-in: password, sessions."""
    SESSIONS_READ = "sessions:read"
    SESSIONS = "sessions:write"
    TOKENS_READ = "tokens:read"
    TOKENS = "tokens:write"
    FACTORS_READ = "factors:read"
    FACTORS = "factors:write"
    """Second factors: to see which somebody has; to take them away."""
    CLIENTS_READ = "clients:read"
    CLIENTS = "clients:write"
    """Applications that sign people in through the platform."""
    ACT_AS = "users:act-as"
    USERS_EXPORT = "users:export"
    KEYS_READ = "keys:read"
    KEYS = "keys:write"
    GROUPS_READ = "groups:read"
    GROUPS = "groups:write"
    DOMAINS_READ = "domains:read"
    DOMAINS = "domains:write"
    POLICIES_READ = "policies:read"
    POLICIES = "policies:write"
    AUDIT_EXPORT = "audit:export"

    USERS_READ = "users:read"
    USERS_CREATE = "users:create"
    USERS_MODIFY = "users:modify"
    USERS_LIMITS = "users:limits"
    USERS_STATUS = "users:status"
    USERS_DELETE = "users:delete"
    USERS_PURGE = "users:purge"
    USERS_PASSWORD = "users:password"  # noqa: S105 - a permission's name
    USAGE_READ = "usage:read"
    AUDIT_READ = "audit:read"
    HOST_READ = "host:read"
    METRICS_READ = "metrics:read"
    NOTEBOOKS_READ = "notebooks:read"
    NOTEBOOKS_START = "notebooks:start"
    """To start servers of one's own: nobody starts another's."""
    NOTEBOOKS = "notebooks:write"
    """To stop them."""


class Audited(Enum):
    """What leaves a row in the audit. Refusals always do. EXPORT: a read that takes much away at once."""

    CHANGE = "change"
    EXPORT = "export"
    NO = "no"


class Kind(Enum):
    """What an action's target is. NEW: a user that is not there yet; NOTHING: a list, or the actor."""

    USER = "user"
    NEW = "new"
    GROUP = "group"
    NEW_GROUP = "new-group"
    DOMAIN = "domain"
    POLICY = "policy"
    NOTHING = ""


class Action(msgspec.Struct, Generic[R], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Root of all actions. target_field: the field that names what is acted on; kind: what that is."""

    action_name: ClassVar[str]
    permission: ClassVar[Permission]
    audited: ClassVar[Audited]
    target_field: ClassVar[str]
    kind: ClassVar[Kind]

    @property
    def target(self) -> str:
        """Name what is acted on, empty for a list."""
        return str(getattr(self, self.target_field, ""))


A = TypeVar("A", bound=type[Action[Any]])


def action(
    name: str,
    *,
    needs: Permission,
    audited: Audited = Audited.CHANGE,
    target: str = "username",
    kind: Kind | None = None,
) -> Callable[[A], A]:
    """Name an action, the permission it needs, and what it leaves in the audit.

    target: the field that names what is acted on; kind: what that is, by default what the target field is usually for.
    """

    def define(cls: A) -> A:
        cls.action_name, cls.permission, cls.audited, cls.target_field = name, needs, audited, target
        cls.kind = kind or (Kind.USER if target == "username" else Kind.NOTHING)
        return cls

    return define


def summary(cls: type[Action[Any]]) -> str:
    """Return the first line of an action's docstring: its help everywhere."""
    return (cls.__doc__ or "").strip().splitlines()[0]
