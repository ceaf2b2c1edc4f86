"""All SQL about notebooks: who may work with them, what was run, whom the hub has still to turn out."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, insert, literal_column, select, update

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
_U = users.alias("u")
_GROUPS = (
    select(func.group_concat(groups.c.name))
    .select_from(group_members.join(groups, groups.c.id == group_members.c.group_id))
    .where(group_members.c.user_id == _U.c.id)
    .scalar_subquery()
)
_STANDING = Prepared(
    select(
        _U.c.username, _U.c.full_name, _U.c.role, _U.c.status, _U.c.must_change_password, _U.c.portal_only, _U.c.domain,
        _U.c.allowed_client_ip, literal_column(forced.ASKED), literal_column(forced.HAS_ONE), _GROUPS,
        select(notebook_evictions.c.gone).where(notebook_evictions.c.username == _U.c.username).scalar_subquery(),
    ).where(_U.c.username == bindparam("username"))
)  # fmt: skip


def standing(connection: Connection, username: str, address: str | None, server: ServerSettings) -> HubUser | None:
    """Return a user as the hub must know them now, None if there is none. Asked at nearly every request that the hub gets.

    address: where the user comes from; None if that is no browser's request.
    """
    found = _STANDING.fetch_one(connection, username=username)
    if found is None:
        return None
    name, full_name, role, status, must_change, portal_only, domain, networks, asked, has_one, groups_, gone = found
    why = ""
    if status not in SIGN_IN:
        why = f"{name} is {status}."
    elif portal_only:
        why = f"{name} has no account on the host."
    elif status == Status.PENDING:
        why = f"The account of {name} is still being made."
    elif must_change:
        why = "The password must be changed first."
    elif forced.must_enrol(server, role, asked=asked, has_one=has_one):
        why = "A second factor must be set up first."
    elif address is not None and not allows(str(networks), address):
        why = f"{name} may not come from {address or 'an unknown address'}."
    elif gone:
        why = "What an earlier user of this name left at the hub is still to be removed."
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
    """Somebody whose servers and hub tokens, made until asked_at (Unix seconds), must end. gone: the user is purged."""

    id: int
    username: str
    asked_at: int
    gone: bool


def evict(connection: Connection, username: str, *, gone: bool = False) -> None:
    """Have a user's servers and hub tokens end, however long hub and agent are away."""
    its, now = notebook_evictions, int(time.time())
    values = {"asked_at": now, **({"gone": 1} if gone else {})}
    if not connection.execute(update(its).where(its.c.username == username).values(values)).rowcount:
        connection.execute(insert(its).values(username=username, **values))


def evictions(connection: Connection, username: str = "") -> list[Eviction]:
    """Return what is still to be done, of everybody or of one user."""
    its = notebook_evictions.c
    query = select(its.id, its.username, its.asked_at, its.gone).order_by(its.id)
    if username:
        query = query.where(its.username == username)
    return [Eviction(row.id, row.username, row.asked_at, bool(row.gone)) for row in connection.execute(query)]


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
