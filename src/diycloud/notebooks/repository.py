"""All SQL about notebooks: who may work with them, what was run, whom the hub has still to turn out."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, case, delete, func, insert, literal_column, select, update

from diycloud.actions.roles import Role
from diycloud.auth import forced
from diycloud.auth.addresses import allows
from diycloud.config import ServerSettings
from diycloud.db.engine import Prepared
from diycloud.db.notebook_tables import activity, notebook_evictions
from diycloud.db.tables import group_members, groups, sessions, users
from diycloud.notebooks.models import Activity, Event, HubUser
from diycloud.users import shown
from diycloud.users.models import SIGN_IN, Status

KEPT_SHOWN = 20
AT_ONCE_S = 2.0
"""How long an eviction may take before its user is refused at the hub until it is done; then one of the two was away."""
LEFT_BEHIND = "What an earlier user of this name left at the hub is still to be removed."
BEING_ENDED = "What was begun here before the password or the rights changed is being ended. Try again in a moment."
"""Why somebody is refused while an eviction waits, which is to be carried out then."""
_U, _E = users.alias("u"), notebook_evictions.alias("e")
_GROUPS = (
    select(func.group_concat(groups.c.name))
    .select_from(group_members.join(groups, groups.c.id == group_members.c.group_id))
    .where(group_members.c.user_id == _U.c.id)
    .scalar_subquery()
)
_STANDING = Prepared(
    select(
        _U.c.username, _U.c.full_name, _U.c.role, _U.c.status, _U.c.must_change_password, _U.c.portal_only, _U.c.domain,
        _U.c.allowed_client_ip, literal_column(forced.ASKED), literal_column(forced.HAS_ONE), _GROUPS, _E.c.gone, _E.c.asked_at,
    ).join_from(_U, _E, _E.c.username == _U.c.username, isouter=True).where(_U.c.username == bindparam("username"))
)  # fmt: skip


def standing(connection: Connection, username: str, address: str | None, server: ServerSettings) -> HubUser | None:
    """Return a user as the hub must know them now, None if there is none. Asked at nearly every request that the hub gets.

    address: where the user comes from; None if that is no browser's request.
    """
    found = _STANDING.fetch_one(connection, username=username)
    if found is None:
        return None
    name, full_name, role, status, must_change, portal_only, domain, networks, asked, has_one, groups_, gone, ends = (
        found
    )
    why = ""
    if status not in SIGN_IN:
        why = f"{name} is {status}."
    elif portal_only:
        why = f"{name} is for the portal only, without files or a budget on the machine: sign in as somebody who has them."
    elif status == Status.PENDING:
        why = f"The account of {name} is still being made."
    elif must_change:
        why = "The password must be changed first."
    elif forced.must_enrol(server, role, asked=asked, has_one=has_one):
        why = "A second factor must be set up first."
    elif address is not None and not allows(str(networks), address):
        why = f"{name} may not come from {address or 'an unknown address'}."
    elif gone:
        why = LEFT_BEHIND
    elif ends is not None and time.time() - ends > AT_ONCE_S:
        why = BEING_ENDED
    if why:
        return HubUser(name, False, why)
    names = tuple(shown.names(groups_ or ""))
    return HubUser(name, True, "", full_name, role, role == Role.ADMIN, domain, names)


# -- activity


def note_events(connection: Connection, events: Iterable[Event]) -> None:
    """Write down what the hub tells. Events about people who are not users any more are dropped."""
    for event in events:
        owner = connection.execute(select(users.c.id).where(users.c.username == event.name)).scalar()
        if owner is None:
            continue
        at = datetime.fromtimestamp(min(event.at, time.time()), UTC)
        values = {
            "user_id": owner, "at": f"{at:%Y-%m-%d %H:%M:%S}", "server": event.server, "profile": event.profile,
            "outcome": event.kind, "seconds": round(event.seconds, 3), "by_whom": event.by, "reason": event.reason,
        }  # fmt: skip
        connection.execute(insert(activity).values(values))


def lately(connection: Connection, user_id: int) -> tuple[Activity, ...]:
    """Return what a user ran lately, newest first."""
    its = activity.c
    query = (
        select(its.at, its.outcome, its.server, its.profile, its.seconds, its.by_whom, its.reason)
        .where(its.user_id == user_id, its.kind == "notebook")
        .order_by(its.id.desc())
        .limit(KEPT_SHOWN)
    )
    return tuple(Activity(*row) for row in connection.execute(query))


def forget(connection: Connection, days: int) -> int:
    """Remove what was run more than so many days ago; returns how many rows."""
    before = f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d %H:%M:%S}"
    return connection.execute(delete(activity).where(activity.c.at < before)).rowcount


# -- evictions


class Eviction(NamedTuple):
    """What of somebody's at the hub must end (the columns: db/notebook_tables.py). asked_at: Unix seconds."""

    id: int
    username: str
    asked_at: float
    gone: bool
    servers: bool
    tokens: bool
    kept_session: int | None
    last_session: int


def evict(
    connection: Connection,
    username: str,
    *,
    gone: bool = False,
    servers: bool = True,
    tokens: bool = True,
    kept_session: int | None = None,
) -> None:
    """Have what a user has at the hub end, however long hub and agent are away; what is asked for twice ends once, all of it.

    gone: the user is purged. servers, tokens: whether what runs, and the API tokens made there, end too. kept_session: whose
    browser stays signed in.
    """
    its, now = notebook_evictions, time.time()
    asked = {name: 1 for name, wished in (("gone", gone), ("servers", servers), ("tokens", tokens)) if wished}
    kept = None if kept_session is None else case((its.c.kept_session == kept_session, kept_session), else_=None)
    last = connection.execute(select(func.max(sessions.c.id))).scalar() or 0
    latest = case((its.c.last_session > last, its.c.last_session), else_=last)
    both = {"asked_at": now, "kept_session": kept, "last_session": latest, **asked}
    if not connection.execute(update(its).where(its.c.username == username).values(both)).rowcount:
        flags = {"gone": int(gone), "servers": int(servers), "tokens": int(tokens), "last_session": last}
        connection.execute(insert(its).values(username=username, asked_at=now, kept_session=kept_session, **flags))


def evictions(connection: Connection, username: str = "") -> list[Eviction]:
    """Return what is still to be done, of everybody or of one user."""
    its = notebook_evictions.c
    query = select(
        its.id, its.username, its.asked_at, its.gone, its.servers, its.tokens, its.kept_session, its.last_session
    )
    if username:
        query = query.where(its.username == username)
    return [
        Eviction(
            row.id, row.username, row.asked_at, bool(row.gone), bool(row.servers), bool(row.tokens), row.kept_session,
            row.last_session,
        )
        for row in connection.execute(query.order_by(its.id))
    ]  # fmt: skip


def evicted(connection: Connection, done: Eviction) -> None:
    """Note that an eviction is done, unless it was asked for again meanwhile."""
    its = notebook_evictions.c
    same = (its.id == done.id) & (its.asked_at == done.asked_at) & (its.gone == int(done.gone))
    connection.execute(delete(notebook_evictions).where(same))


def is_within(connection: Connection, user_id: int, networks: str) -> bool:
    """Tell whether everywhere that a user is signed in from is within networks; not if they are signed in nowhere."""
    query = select(sessions.c.address).where(sessions.c.user_id == user_id)
    found = list(connection.execute(query).scalars())
    return bool(found) and all(allows(networks, address) for address in found)
