"""Recovery codes: ten words for the day the phone is gone, each good for one sign-in.

A code has 120 random bits, so that a plain hash keeps it (ASVS 5.0, 6.5.2 asks for 112); the letters are those that are
not mistaken for one another on paper.
"""

from __future__ import annotations

import hashlib
import secrets

from sqlalchemy import Connection, delete, func, insert, select, update

from diycloud.db.sign_in_tables import recovery_codes
from diycloud.db.tables_base import NOW

COUNT, GROUPS, LETTERS = 10, 4, 6
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
"""32 letters, five bits each; no l, o, 0, 1."""


def normalised(code: str) -> str:
    """Return a code as it is compared: people type it with or without hyphens, in capitals too."""
    return "".join(code.lower().replace("-", " ").split())


def _hash(code: str) -> bytes:
    return hashlib.sha256(normalised(code).encode()).digest()


def _new() -> str:
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(LETTERS)) for _ in range(GROUPS))


def renew(connection: Connection, user_id: int) -> list[str]:
    """Give a user new codes in place of all earlier ones; returns them, which nobody can do again."""
    remove(connection, user_id)
    codes = [_new() for _ in range(COUNT)]
    connection.execute(insert(recovery_codes), [{"user_id": user_id, "code_hash": _hash(code)} for code in codes])
    return codes


def spend(connection: Connection, user_id: int, code: str) -> bool:
    """Use a code up. Returns False if it is none, or was used before."""
    unused = (recovery_codes.c.user_id == user_id) & recovery_codes.c.used_at.is_(None)
    this = update(recovery_codes).where(unused, recovery_codes.c.code_hash == _hash(code))
    return connection.execute(this.values(used_at=NOW)).rowcount == 1


def left(connection: Connection, user_id: int) -> int:
    """Return how many codes a user has that were not used."""
    unused = (recovery_codes.c.user_id == user_id) & recovery_codes.c.used_at.is_(None)
    return connection.execute(select(func.count()).select_from(recovery_codes).where(unused)).scalar_one()


def remove(connection: Connection, user_id: int) -> None:
    """Forget a user's codes."""
    connection.execute(delete(recovery_codes).where(recovery_codes.c.user_id == user_id))
