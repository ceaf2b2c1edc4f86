"""All SQL about domains. Functions over a Connection; services decide when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from diycloud.actions.roles import Role
from diycloud.db.tables import domains, groups, users
from diycloud.domains.models import Domain


def policy_of(connection: Connection, name: str) -> str | None:
    """Return the policy of a domain's new users, None if there is no such domain."""
    return connection.execute(select(domains.c.policy).where(domains.c.name == name)).scalar()


def every(connection: Connection, name: str | None = None) -> list[Domain]:
    """Return domains by name, or the one of a name: four statements, however many there are."""
    query = select(domains).order_by(domains.c.name)
    if name is not None:
        query = query.where(domains.c.name == name)
    people = _counts(connection, users.c.domain)
    teams = _counts(connection, groups.c.domain)
    admins: dict[str, list[str]] = {}
    found = select(users.c.domain, users.c.username).where(users.c.role == Role.DOMAIN_ADMIN).order_by(users.c.username)
    for row in connection.execute(found):
        admins.setdefault(row[0], []).append(row[1])
    return [
        Domain(
            name=row.name,
            description=row.description,
            policy=row.policy,
            users=people.get(row.name, 0),
            groups=teams.get(row.name, 0),
            admins=tuple(admins.get(row.name, ())),
            created_at=row.created_at,
            updated_at=row.updated_at,
        )
        for row in connection.execute(query)
    ]


def count(connection: Connection) -> int:
    """Return how many domains there are."""
    return int(connection.execute(select(func.count()).select_from(domains)).scalar_one())


def _counts(connection: Connection, column: Any) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(select(column, func.count()).group_by(column))}


def add(connection: Connection, values: Mapping[str, Any]) -> None:
    connection.execute(insert(domains).values(values))


def change(connection: Connection, name: str, values: Mapping[str, Any]) -> None:
    changed = {**values, "updated_at": func.current_timestamp()}
    connection.execute(update(domains).where(domains.c.name == name).values(changed))


def remove(connection: Connection, name: str) -> None:
    connection.execute(delete(domains).where(domains.c.name == name))
