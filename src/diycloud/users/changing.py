"""What a change of a user changes: columns, groups, limits, each with the audit's before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from diycloud.actions.dispatcher import Context
from diycloud.auth.addresses import allows
from diycloud.errors import Conflict
from diycloud.units import format_size
from diycloud.users import shown
from diycloud.users.actions import ModifyUser, SetLimits
from diycloud.users.models import Allocation, Row

UNSET = msgspec.UNSET
_EMPTY_IS_NULL = frozenset({"email", "external_id", "container_uid", "container_gid"})
_LISTS = frozenset({"allowed_client_ip", "container_gids"})
FIELDS = (
    "email", "full_name", "description", "role", "domain", "policy", "shell", "external_id", "allowed_client_ip",
    "container_uid", "container_gid", "container_gids",
)  # fmt: skip
LIMITS = ("cpu", "memory", "disk", "tasks", "gpu")


def fields(row: Row, action: ModifyUser | SetLimits) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the columns to write and the audit's before and after."""
    values: dict[str, Any] = {}
    for name in FIELDS:
        given = getattr(action, name, UNSET)
        if given is UNSET:
            continue
        if name in _LISTS:
            wanted: Any = ",".join(map(str, given or ()))
        else:
            wanted = given if name in _EMPTY_IS_NULL else given or ""
        if wanted != getattr(row, name):
            values[name] = wanted
    return values, {name: [getattr(row, name), value] for name, value in values.items()}


def groups(row: Row, action: ModifyUser | SetLimits) -> set[str] | None:
    """Return the groups the user is to be in, None if they stay as they are."""
    given = getattr(action, "groups", UNSET)
    if given is UNSET or set(given) == set(shown.names(row.groups)):
        return None
    return set(given)


def keep_own_way_in(ctx: Context, row: Row, networks: str) -> None:
    """Raise Conflict if a change would lock the one out who asks for it."""
    if ctx.actor.user_id == row.id and not ctx.actor.real and not allows(networks, ctx.actor.address):
        raise Conflict(
            f"allowed_client_ip: you come from {ctx.actor.address or 'an unknown address'}, which would lock you out.",
            "Add your own network, or repeat with force.",
        )


def allocation(before: Allocation, action: ModifyUser | SetLimits) -> Allocation:
    """Return the limits that the user is to have."""
    given: Mapping[str, Any] = {name: v for name in LIMITS if (v := getattr(action, name)) is not UNSET}
    if "disk" in given and (before.disk_hard == 2 * before.disk or before.disk_hard < given["disk"]):
        given = {**given, "disk_hard": 2 * given["disk"]}
    return msgspec.structs.replace(before, **given)


def allocation_changes(before: Allocation, after: Allocation) -> dict[str, Any]:
    """Return which limits change, field → [before, after], sizes as text."""
    found = {}
    for name in Allocation.__struct_fields__:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            show = format_size if name in ("memory", "disk", "disk_hard") else (lambda value: value)
            found[name] = [show(old), show(new)]
    return found
