"""Who users are elsewhere, as people read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diycloud.actions.action import Action
from diycloud.auth.outside.actions import LinkIdentity, ListIdentities, UnlinkIdentity
from diycloud.cli.output import table


def linked(found: dict[str, Any]) -> str:
    own = "a password here" if found["password"] else "no password here"
    if not found["identities"]:
        return f"{found['username']} has {own}, and is linked to nobody elsewhere."
    rows = [
        (one["provider"], one["subject"], one["linked_at"], one["last_used"] or "never") for one in found["identities"]
    ]
    return f"{table(('PROVIDER', 'SUBJECT', 'LINKED', 'LAST USED'), rows)}\n{found['username']} has {own}."


VIEWS: dict[type[Action[Any]], Callable[[Any], str]] = {
    ListIdentities: linked,
    LinkIdentity: linked,
    UnlinkIdentity: linked,
}
