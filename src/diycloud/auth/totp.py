"""Codes of an app: time-based one-time passwords (RFC 6238), SHA-1, 6 digits, 30 s, as every app makes them.

A step is taken once: `last_step` only grows, in one statement, so that of two uses of a code at once one is refused
(RFC 6238, 5.2). A clock may be one step off either way.
"""

from __future__ import annotations

import hmac
import time
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from diycloud.db.sign_in_tables import totps
from diycloud.db.tables_base import NOW
from diycloud.db.vault import Vault

STEP_S, DIGITS, SKEW = 30, 6, 1
"""Seconds of a step, digits of a code, steps that a clock may be off."""


class Stored(NamedTuple):
    """A user's app. sealed: the secret (db/vault.py); last_step: the newest that a code was taken for."""

    user_id: int
    sealed: bytes
    last_step: int
    since: str


def generate_secret() -> str:
    """Return a new secret in base32: 160 bits, the size of SHA-1 (RFC 4226, 4)."""
    import pyotp

    return pyotp.random_base32()


def code_at(secret: str, step: int) -> str:
    """Return the code of a time step."""
    import pyotp

    return pyotp.TOTP(secret, digits=DIGITS, interval=STEP_S).generate_otp(step)


def matching_step(secret: str, code: str, *, at: float | None = None, after: int = 0) -> int | None:
    """Return the time step that a code is of, None for none. at: Unix seconds; after: steps up to this one do not count."""
    now = int(time.time() if at is None else at) // STEP_S
    found = None
    for step in range(now - SKEW, now + SKEW + 1):  # all are looked at, whichever is right
        if hmac.compare_digest(code_at(secret, step).encode(), code.encode()) and step > after and found is None:
            found = step
    return found


def uri(secret: str, username: str, issuer: str) -> str:
    """Return what the QR code says, as apps read it (Key Uri Format). issuer: the portal's name."""
    import pyotp

    return pyotp.TOTP(secret, digits=DIGITS, interval=STEP_S).provisioning_uri(name=username, issuer_name=issuer)


def picture(text: str) -> str:
    """Return a QR code as the address of an SVG picture (`data:`), black on white whatever the page's theme."""
    import segno

    made = segno.make(text, error="m", micro=False)
    return made.svg_data_uri(border=4, dark="#000", light="#fff", omitsize=True, svgclass=None, lineclass=None)


def purpose(user_id: int) -> str:
    """Return what a secret is sealed for: another user's row does not open with it."""
    return f"totps.secret of user {user_id}"


def find(connection: Connection, user_id: int) -> Stored | None:
    """Return a user's app, None without one."""
    query = select(totps.c.user_id, totps.c.secret, totps.c.last_step, totps.c.activated_at)
    row = connection.execute(query.where(totps.c.user_id == user_id, totps.c.active == 1)).first()
    return Stored(row[0], bytes(row[1]), row[2], row[3] or "") if row else None


def open_secret(vault: Vault, stored: Stored) -> str:
    """Return the secret in base32. Raises HostError if it was sealed by another key, or for another user."""
    return vault.open(stored.sealed, purpose=purpose(stored.user_id)).decode("ascii")


def store(connection: Connection, vault: Vault, user_id: int, secret: str, *, step: int) -> None:
    """Make a secret the user's, in place of an earlier one. step: of the code that was seen, which counts as used."""
    sealed = vault.seal(secret.encode("ascii"), purpose=purpose(user_id))
    this = totps.c.user_id == user_id
    if not connection.execute(select(totps.c.id).where(this)).first():
        connection.execute(insert(totps).values(user_id=user_id, secret=sealed))  # active with the next statement,
    # which is what the host's wish follows (the triggers of the tables)
    connection.execute(update(totps).where(this).values(secret=sealed, active=1, last_step=step, activated_at=NOW))


def spend(connection: Connection, user_id: int, step: int) -> bool:
    """Take a step as used. Returns False if it, or a later one, was taken before: the code is not to be accepted."""
    newer = (totps.c.user_id == user_id) & (totps.c.active == 1) & (totps.c.last_step < step)
    return connection.execute(update(totps).where(newer).values(last_step=step)).rowcount == 1


def remove(connection: Connection, user_id: int) -> bool:
    """Forget a user's app; returns whether there was one."""
    return connection.execute(delete(totps).where(totps.c.user_id == user_id)).rowcount > 0
