"""One row of the audit, as it is read."""

from __future__ import annotations

from typing import Any

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """One row as it is read. changes: field → [before, after], or field → value for what was asked; token: its key id."""

    id: int
    at: str
    actor: str
    on_behalf_of: str
    domain: str
    via: str
    address: str
    request_id: str
    action: str
    target: str
    outcome: str
    code: str
    message: str
    duration_ms: float | None
    changes: dict[str, Any]
    token: str = ""
