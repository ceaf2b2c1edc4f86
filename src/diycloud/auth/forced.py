"""Who must have a second factor: by the policy's second_factor, or by the setting server.second_factor_roles.

Whoever must and has none may do nothing but set one up (actions/reach.py); every look-up of a session or token tells.
"""

from __future__ import annotations

from collections.abc import Collection

from diycloud.config import ServerSettings

ASKED = """COALESCE((SELECT p.second_factor FROM policies AS p WHERE p.name = u.policy), 0)"""
HAS_ONE = """(EXISTS (SELECT 1 FROM totps AS t WHERE t.user_id = u.id AND t.active = 1)
OR EXISTS (SELECT 1 FROM passkeys AS k WHERE k.user_id = u.id))"""
"""SQL about a row `u` of users, for statements that find whoever sends a request."""


def must_enrol(server: ServerSettings, role: str, *, asked: object, has_one: object) -> bool:
    """Tell whether a user must set up a second factor first. asked, has_one: of a row, by the SQL above."""
    return is_missing(server.second_factor_roles, role, asked=asked, has_one=has_one)


def is_missing(roles: Collection[str], role: str, *, asked: object, has_one: object) -> bool:
    """Tell the same by the setting's roles alone."""
    return not has_one and (bool(asked) or role in roles)


def reason(server: ServerSettings, role: str, policy: str, *, asked: object) -> str:
    """Return why a user must have one, empty if not: the words that refusals and pages say."""
    if asked:
        return f"the policy {policy} asks for one"
    return f"everybody with the role {role} needs one" if role in server.second_factor_roles else ""
