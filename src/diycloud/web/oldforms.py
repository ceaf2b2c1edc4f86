"""The short forms of old clients: /api/users with the column names of the database instead of the API's own.

An old client reads and writes cpu_limit, mem_limit, disk_quota, gpu_access and is_active beside the user's other fields,
expects the whole list in one answer, and changes a user by sending back (PUT) what it read, with some values changed.
So answers here are the users of /api/v1 with the old names added, and of a PUT counts what differs from what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from diycloud.errors import FieldError, InvalidInput
from diycloud.users.models import SIGN_IN, Changed, Created, Page, User

NAMES = {"cpu_limit": "cpu", "mem_limit": "memory", "disk_quota": "disk", "gpu_access": "gpu"}
"""Old name of a field → the API's."""
_FLAGS = frozenset({"gpu_access", "is_active"})
_SERVERS = frozenset({"last_login", "last_login_ip", "settled", "host_problem", "updated_at", "version"})
"""What the server writes by itself: it may have changed since the client read it."""


def fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body with the API's names. Raises InvalidInput for a field that is there under both."""
    _check_twice(raw)
    return {NAMES.get(name, name): _flag(name, value) for name, value in raw.items()}


def _check_twice(raw: Mapping[str, Any]) -> None:
    twice = [FieldError(old, f"is there as {new} too") for old, new in NAMES.items() if old in raw and new in raw]
    if twice:
        raise InvalidInput.of(twice)


def _flag(name: str, value: Any) -> Any:
    """Return a flag that an old client wrote as the column has it, 0 or 1."""
    return bool(value) if name in _FLAGS and type(value) is int and value in (0, 1) else value


def of_create(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a create. Raises InvalidInput: a user is made active."""
    given = fields(raw)
    if given.pop("is_active", True) is not True:
        raise InvalidInput.of([FieldError("is_active", "a new user is active: create, then disable")])
    return given


def of_change(raw: Mapping[str, Any], now: User) -> tuple[dict[str, Any], bool | None]:
    """Return what a PUT changes of a user: fields by the API's names, and whether the account is to be active.

    None: that stays. What is as it was is no change, whatever it is. Raises InvalidInput.
    """
    _check_twice(raw)
    known = user(now)
    changed = {n: v for n, v in raw.items() if n not in _SERVERS and (n not in known or known[n] != _flag(n, v))}
    if "username" in changed:
        raise InvalidInput.of([FieldError("username", "is fixed for life")])
    given = fields(changed)
    active = given.pop("is_active", None)
    if active is not None and not isinstance(active, bool):
        raise InvalidInput.of([FieldError("is_active", "true or false")])
    return given, active


def user(one: User) -> dict[str, Any]:
    """Return a user with the old names beside the new."""
    limits = one.limits
    return {
        **msgspec.to_builtins(one),
        "is_active": one.status in SIGN_IN,
        "cpu_limit": limits.cpu,
        "mem_limit": limits.memory,
        "disk_quota": limits.disk,
        "gpu_access": limits.gpu,
    }


def answer(result: Any) -> Any:
    """Return a result of a user's action as an old client takes it."""
    if isinstance(result, User):
        return user(result)
    if isinstance(result, Page):
        return {"users": [user(one) for one in result.users], "total": result.total}
    if isinstance(result, Created | Changed):
        return {**user(result.user), "password": result.password, "warnings": result.warnings}
    return result


def renamed(error: InvalidInput, raw: Mapping[str, Any]) -> InvalidInput:
    """Return an error whose fields are named as the client named them."""
    old = {new: name for name, new in NAMES.items() if name in raw}
    if not any(found.field in old for found in error.errors):
        return error
    return InvalidInput.of(FieldError(old.get(found.field, found.field), found.message) for found in error.errors)
