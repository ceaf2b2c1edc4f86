"""What an action is: data, the permission it needs, the type of its result.

X a user: portal account, POSIX account, slice and limits.\"\"\"

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
    """What may be done; `noun:verb`. Which role has which: actions/roles.py."""

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
    OWN_READ = "own:read"
    OWN_PASSWORD = "own:password"  # noqa: S105 - a permission's name


class Audited(Enum):
    """What leaves a row in the audit. Refusals always do."""

    CHANGE = "change"
    NO = "no"


class Action(msgspec.Struct, Generic[R], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Root of all actions. own: the permission that is enough when the target
    is the actor; target_field: the field that names what is acted on."""

    action_name: ClassVar[str]
    permission: ClassVar[Permission]
    own: ClassVar[Permission | None]
    audited: ClassVar[Audited]
    target_field: ClassVar[str]

    @property
    def target(self) -> str:
        """Name what is acted on, empty for a list."""
        return str(getattr(self, self.target_field, ""))


A = TypeVar("A", bound=type[Action[Any]])


def action(
    name: str,
    *,
    needs: Permission,
    own: Permission | None = None,
    audited: Audited = Audited.CHANGE,
    target: str = "username",
) -> Callable[[A], A]:
    """Name an action, the permission it needs, and what it leaves in the audit. target: the field that names what is acted on."""

    def define(cls: A) -> A:
        cls.action_name, cls.permission, cls.own, cls.audited, cls.target_field = name, needs, own, audited, target
        return cls

    return define


def summary(cls: type[Action[Any]]) -> str:
    """Return the first line of an action's docstring: its help everywhere."""
    return (cls.__doc__ or "").strip().splitlines()[0]
