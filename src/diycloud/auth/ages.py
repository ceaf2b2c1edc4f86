"""How old a password may be: one for one time holds for some days, any other until the setting's age, if there is one."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from diycloud.config import ServerSettings
from diycloud.users.models import Row

DAY_S = 86_400


def _age_s(row: Row) -> float:
    """Return how old a user's password is; what somebody wrote by hand and is no time counts as new."""
    try:
        changed = datetime.fromisoformat(row.password_changed_at).replace(tzinfo=UTC)
    except ValueError:
        return 0.0
    return time.time() - changed.timestamp()


def is_too_old(row: Row, server: ServerSettings) -> bool:
    """Tell whether a password must be changed because of its age (server.password_max_age_days)."""
    return 0 < server.password_max_age_days * DAY_S < _age_s(row)


def has_expired(row: Row, server: ServerSettings) -> bool:
    """Tell whether a password for one time holds no more (server.first_password_days; OWASP ASVS 5.0, 6.4.1).

    A password of one's own that became too old must be changed too, but lets its owner in to do so.
    """
    if not row.must_change_password or not 0 < server.first_password_days * DAY_S < _age_s(row):
        return False
    was_used = row.last_login is not None and row.last_login >= row.password_changed_at
    return not (was_used and is_too_old(row, server))
