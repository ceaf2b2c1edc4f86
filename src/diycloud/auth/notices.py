"""What people are told at their next visit: what was done to the way they sign in, by somebody else."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select

from diycloud.actions.dispatcher import Context
from diycloud.db.sign_in_tables import notices

FACTORS_RESET, WRONG_CODES = "factor.reset", "codes.wrong"
PASSWORD_SET, SIGNED_OUT, MAY_TRY_AGAIN = "user.set-password", "session.end-all", "throttle.clear"
TEXTS = {
    PASSWORD_SET: "{by} set a new password for you.",
    SIGNED_OUT: "{by} signed you out everywhere.",
    MAY_TRY_AGAIN: "There had been too many failed sign-ins with your name; {by} let you try again at once.",
    WRONG_CODES: "Somebody at {by} knew your password and sent wrong codes. If it was not you, change your password.",
    FACTORS_RESET: "{by} removed your second factor and your recovery codes. If you did not ask for it, ask them why; "
    "set up a new one in any case.",
}
"""What is said, by the action that it is about."""
MOST = 10
"""Kept of one person; the oldest goes."""


class Notice(NamedTuple):
    """at: UTC, as the database writes it."""

    at: str
    text: str


def tell(connection: Connection, user_id: int, kind: str, *, by: str) -> None:
    """Leave a word for a user, the same one only once. kind: of TEXTS; by: whose doing it was, or from where."""
    same = (notices.c.user_id == user_id) & (notices.c.kind == kind) & (notices.c.by_whom == by)
    connection.execute(delete(notices).where(same))
    connection.execute(insert(notices).values(user_id=user_id, kind=kind, by_whom=by))
    newest = select(notices.c.id).where(notices.c.user_id == user_id).order_by(notices.c.id.desc()).limit(MOST)
    kept = connection.execute(newest).scalars().all()
    connection.execute(delete(notices).where(notices.c.user_id == user_id, notices.c.id.notin_(kept)))


async def tell_of(ctx: Context, user_id: int, kind: str) -> None:
    """Leave a word about what somebody else has just done for a user, or to them."""
    who = ctx.actor.real or ctx.actor
    if user_id not in (who.user_id, ctx.actor.user_id):
        await ctx.write(tell, user_id, kind, by=who.name)


def of_user(connection: Connection, user_id: int) -> list[Notice]:
    """Return what a user has not said to have read, newest first."""
    query = select(notices.c.at, notices.c.kind, notices.c.by_whom).where(notices.c.user_id == user_id)
    rows = connection.execute(query.order_by(notices.c.id.desc()))
    return [Notice(at, TEXTS[kind].format(by=by)) for at, kind, by in rows if kind in TEXTS]


def forget(connection: Connection, user_id: int) -> int:
    """Drop what a user has read; returns how many."""
    return connection.execute(delete(notices).where(notices.c.user_id == user_id)).rowcount
