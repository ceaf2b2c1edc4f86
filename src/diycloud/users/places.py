"""Where a target of an action is: the dispatcher's question (actions/reach.py)."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select

from diycloud.actions.action import Kind
from diycloud.actions.reach import Place
from diycloud.actions.roles import Role
from diycloud.db.engine import Prepared
from diycloud.db.tables import domains, groups, users
from diycloud.users.models import SIGN_IN

_USER = Prepared(
    select(users.c.domain, users.c.id, users.c.role, users.c.status, users.c.sudo).where(
        users.c.username == bindparam("target")
    )
)
_GROUP = Prepared(select(groups.c.domain).where(groups.c.name == bindparam("target")))
_DOMAIN = Prepared(select(domains.c.name).where(domains.c.name == bindparam("target")))


def find(connection: Connection, kind: Kind, target: str) -> Place | None:
    """Return where a target is; None if there is no such thing, or its kind belongs to no domain."""
    if kind is Kind.USER:
        found = _USER(connection, target=target).fetchone()
        return Place(found[0], found[1], Role(found[2]), found[3] in SIGN_IN, bool(found[4])) if found else None
    statement = {Kind.GROUP: _GROUP, Kind.DOMAIN: _DOMAIN}.get(kind)
    found = statement(connection, target=target).fetchone() if statement else None
    return Place(found[0]) if found else None
