"""All SQL about who users are elsewhere."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, insert, or_, select, update

from diycloud.db.engine import Prepared
from diycloud.db.sign_in_tables import api_tokens, identities, oidc_grants
from diycloud.db.tables import sessions, users
from diycloud.errors import Conflict
from diycloud.users import repository
from diycloud.users.models import Row


class Identity(NamedTuple):
    """One link of a user's."""

    provider: str
    subject: str
    linked_at: str
    last_used: str | None


_SUBJECT = Prepared(
    select(identities.c.subject).where(
        identities.c.user_id == bindparam("user_id"), identities.c.provider == bindparam("provider")
    )
)


def external_id(provider: str, subject: str) -> str:
    """Return what the column external_id holds of who is linked by it: set by an administrator, or when the user was made."""
    plain = f"{provider}:{subject}"
    return plain if len(plain) <= 200 else f"{provider}:sha256:{hashlib.sha256(subject.encode()).hexdigest()}"


def user_of(connection: Connection, provider: str, subject: str) -> int | None:
    """Return the user that somebody elsewhere is linked to.

    The column external_id counts as a link of a user who has none yet: an import may set it.
    """
    linked = select(identities.c.user_id).where(identities.c.provider == provider, identities.c.subject == subject)
    found: int | None = connection.execute(linked).scalar()
    if found is not None:
        return found
    named = select(users.c.id).where(users.c.external_id == external_id(provider, subject))
    found = connection.execute(named).scalar()
    return found if found is not None and subject_of(connection, found, provider) is None else None


def subject_of(connection: Connection, user_id: int, provider: str) -> str | None:
    """Return who a user is to a provider, None if they are not linked to it."""
    found = _SUBJECT.fetch_one(connection, user_id=user_id, provider=provider)
    return str(found[0]) if found else None


def of_user(connection: Connection, user_id: int) -> list[Identity]:
    """Return a user's links, in the order of their providers' names."""
    columns = (identities.c[name] for name in Identity._fields)
    query = select(*columns).where(identities.c.user_id == user_id).order_by(identities.c.provider, identities.c.id)
    return [Identity(*row) for row in connection.execute(query)]


def is_vouched(connection: Connection, user_id: int, provider: str) -> bool:
    """Tell whether an administrator said who a user is to a provider, or the user was made with that link."""
    here = (identities.c.user_id == user_id) & (identities.c.provider == provider)
    return bool(connection.execute(select(identities.c.vouched).where(here)).scalar())


def link(connection: Connection, user_id: int, provider: str, subject: str, *, vouched: bool = False) -> bool:
    """Link a user; False if it was done before. vouched: see db/sign_in_tables.py.

    Raises Conflict if another user is linked so, or this one to somebody else there.
    """
    if user_of(connection, provider, subject) not in (None, user_id):
        raise Conflict("Another user is linked to this already.", "Remove that link first.")
    before = subject_of(connection, user_id, provider)
    if before not in (None, subject):
        raise Conflict(f"This user is linked to somebody else at {provider}.", "Remove that link first.")
    if before is None:
        connection.execute(
            insert(identities).values(user_id=user_id, provider=provider, subject=subject, vouched=int(vouched))
        )
    return before is None


def link_for_sure(connection: Connection, user_id: int, provider: str, subject: str) -> bool:
    """Link a user on an administrator's word, which counts for a link that is there, too. As `link`."""
    new = link(connection, user_id, provider, subject)
    here = (identities.c.user_id == user_id) & (identities.c.provider == provider)
    connection.execute(update(identities).where(here).values(vouched=1))
    return new


def unlink(connection: Connection, user_id: int, provider: str) -> list[str]:
    """Remove a user's links to a provider; returns the subjects."""
    here = (identities.c.user_id == user_id) & (identities.c.provider == provider)
    found = list(connection.execute(select(identities.c.subject).where(here)).scalars())
    connection.execute(delete(identities).where(here))
    return found


def used(connection: Connection, user_id: int, provider: str) -> None:
    """Note that a link was used just now."""
    here = (identities.c.user_id == user_id) & (identities.c.provider == provider)
    connection.execute(update(identities).where(here).values(last_used=repository.NOW))


def by_email(connection: Connection, email: str) -> Row | None:
    """Return the user with an address, whatever its capitals."""
    query = select(users.c.id).where(func.lower(users.c.email) == email.lower())
    found = connection.execute(query).scalars().all()
    return repository.by_id(connection, found[0]) if len(found) == 1 else None


def let_in(connection: Connection, provider: str) -> list[tuple[int, str, str]]:
    """Return id, name and subject of the users of a provider who have a session, an API token or a sign-in at an application."""
    query = select(users.c.id, users.c.username, identities.c.subject).select_from(
        identities.join(users, users.c.id == identities.c.user_id)
    )
    has = (
        select(table.c.id).where(table.c.user_id == users.c.id).exists()
        for table in (sessions, api_tokens, oidc_grants)
    )
    return [tuple(row) for row in connection.execute(query.where(identities.c.provider == provider, or_(*has)))]
