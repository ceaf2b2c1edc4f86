"""Who is signed in: sessions as their owners and administrators see them."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from diycloud.actions.dispatcher import Context
from diycloud.auth import notices
from diycloud.auth import sessions as store
from diycloud.auth.actions import EndSession, EndSessions, ListSessions, ShowSessions
from diycloud.auth.devices import describe
from diycloud.auth.ending import end_everything
from diycloud.auth.models import SessionList, SessionPage, SignedInSession, moment
from diycloud.db.tables import sessions, users
from diycloud.errors import NotFound
from diycloud.notebooks import eviction
from diycloud.users import service
from diycloud.users.models import SIGN_IN

_SHOWN = select(
    sessions.c.id, users.c.username, sessions.c.kind, sessions.c.user_agent, sessions.c.address, sessions.c.methods,
    sessions.c.created_at, sessions.c.last_seen, sessions.c.expires_at,
).join_from(sessions, users, users.c.id == sessions.c.user_id)  # fmt: skip


def _idle_s(ctx: Context) -> int:
    return ctx.services.settings.server.session_idle_minutes * 60


def _holds(now: int, idle_s: int) -> ColumnElement[bool]:
    return (sessions.c.expires_at > now) & (sessions.c.last_seen > now - idle_s) & users.c.status.in_(SIGN_IN)


def _session(row: Any, ctx: Context) -> SignedInSession:
    who = ctx.actor.real or ctx.actor
    return SignedInSession(
        id=str(row.id), username=row.username, kind=row.kind, device=describe(row.user_agent), address=row.address,
        methods=tuple(row.methods.split()), created_at=moment(row.created_at), last_seen=moment(row.last_seen),
        ends_at=moment(row.expires_at), idle_at=moment(min(row.expires_at, row.last_seen + _idle_s(ctx))),
        current=row.id == who.session_id,
    )  # fmt: skip


async def list_sessions(ctx: Context, action: ListSessions) -> SessionPage:
    """Return a page of all sessions that hold, of the actor's domain or of all."""
    holds = [_holds(int(time.time()), _idle_s(ctx))]
    if (domain := ctx.within(None)) is not None:
        holds.append(users.c.domain == domain)
    if action.user:
        holds.append(users.c.username == action.user)
    if action.address:
        holds.append(sessions.c.address == action.address)

    def read(connection: Connection) -> tuple[list[Any], int]:
        count = select(func.count()).select_from(sessions).join(users, users.c.id == sessions.c.user_id).where(*holds)
        query = _SHOWN.where(*holds).order_by(sessions.c.id.desc()).limit(action.limit)
        if action.before:
            query = query.where(sessions.c.id < action.before)
        return list(connection.execute(query)), connection.execute(count).scalar_one()

    rows, total = await ctx.services.database.read_long(read)
    following = rows[-1].id if len(rows) == action.limit else None
    return SessionPage([_session(row, ctx) for row in rows], total, following)


async def show_sessions(ctx: Context, action: ShowSessions) -> SessionList:
    user = await service.get(ctx.services, action.username)
    query = _SHOWN.where(sessions.c.user_id == user.id, _holds(int(time.time()), _idle_s(ctx)))
    rows = await ctx.services.database.read_long(
        lambda connection: list(connection.execute(query.order_by(sessions.c.last_seen.desc(), sessions.c.id.desc())))
    )
    return SessionList(user.username, [_session(row, ctx) for row in rows])


async def end_session(ctx: Context, action: EndSession) -> None:
    """End one session of a user. Raises NotFound for one that has ended or is another's."""
    user = await service.get(ctx.services, action.username)
    if not await ctx.write(store.end_of, user.id, int(action.session)):
        raise NotFound(f"{user.username} has no session {action.session}.", "It may have ended by itself.")


async def end_sessions(ctx: Context, action: EndSessions) -> None:
    """End every session and API token of a user, but what is to be kept."""
    user = await service.get(ctx.services, action.username)
    keep = ctx.actor.session_id if action.keep_this and ctx.actor.user_id == user.id else None
    ended = await ctx.write(end_everything, ctx.services, user.id, keep_session=keep, keep_tokens=action.keep_tokens)
    await eviction.carry_out(ctx.services, user.username)
    await notices.tell_of(ctx, user.id, notices.SIGNED_OUT)
    ctx.changes = {name: [count, 0] for name, count in ended.items()}
