"""What people allowed applications to know about them, remembered so that nobody is asked twice."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, insert, select

from diycloud.auth.oidc.models import SCOPES, OwnApp
from diycloud.db.sign_in_tables import oidc_clients, oidc_consents, oidc_grants

_C, _A, _G = oidc_consents.c, oidc_clients.c, oidc_grants.c


def read(connection: Connection, user_id: int, client_row: int) -> frozenset[str]:
    """Return the scopes that a user allowed an application."""
    query = select(_C.scopes).where(_C.user_id == user_id, _C.client_id == client_row)
    found = connection.execute(query).scalar()
    return frozenset(found.split()) if found else frozenset()


def give(connection: Connection, user_id: int, client_row: int, scopes: tuple[str, ...]) -> None:
    """Remember what a user allows an application, with what they allowed before."""
    known = read(connection, user_id, client_row)
    withdraw(connection, user_id, client_row)
    row = insert(oidc_consents).values(
        user_id=user_id, client_id=client_row, scopes=" ".join(sorted({*known, *scopes}))
    )
    connection.execute(row)


def withdraw(connection: Connection, user_id: int, client_row: int) -> None:
    connection.execute(delete(oidc_consents).where(_C.user_id == user_id, _C.client_id == client_row))


def of_user(connection: Connection, user_id: int) -> list[OwnApp]:
    """Return the applications that know a user."""
    allowed = select(_C.client_id, _C.scopes, _C.given_at).where(_C.user_id == user_id).subquery()
    used = (
        select(_G.client_id, func.count().label("many"))
        .where(_G.user_id == user_id, _G.redeemed == 1)
        .group_by(_G.client_id)
        .subquery()
    )
    query = (
        select(_A.client_id, _A.name, _A.trusted, _A.scopes, allowed.c.scopes, allowed.c.given_at, used.c.many)
        .select_from(
            oidc_clients.outerjoin(allowed, allowed.c.client_id == _A.id).outerjoin(used, used.c.client_id == _A.id)
        )
        .where(allowed.c.client_id.is_not(None) | used.c.client_id.is_not(None))
        .order_by(func.lower(_A.name), _A.client_id)
    )
    return [
        OwnApp(name, title, trusted == 1, _ordered(asks if gave is None else gave), given_at, many or 0)
        for name, title, trusted, asks, gave, given_at, many in connection.execute(query)
    ]


def _ordered(text: str) -> tuple[str, ...]:
    return tuple(scope for scope in SCOPES if scope in text.split())
