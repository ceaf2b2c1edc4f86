"""What the host asks of users who sign in there with their password: the codes of their app (agent/sign_in.py)."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import structlog
from sqlalchemy import ColumnElement, Connection, Row, exists, false, or_, select, true

from diycloud.actions.services import Services
from diycloud.auth import forced, totp
from diycloud.config import ServerSettings
from diycloud.db.sign_in_tables import passkeys, totps
from diycloud.db.tables import policies, users
from diycloud.errors import HostError

log = structlog.get_logger()


class Asked(NamedTuple):
    """secret: of the codes, in base32, empty for none; last_step: the newest time step whose code was taken here.

    uncoded: a password alone does not do, and there are no codes.
    """

    secret: str = ""
    last_step: int = 0
    uncoded: bool = False


NOTHING = Asked()


async def asked(services: Services, ids: Collection[int] | None = None) -> dict[int, Asked]:
    """Return what is asked of some users (of all, if none are named), by id, those of whom nothing is left out.

    Whoever has a passkey and no app has a second factor that PAM cannot ask for, so their password alone does not do.
    """
    read = services.database.read_long if ids is None else services.database.read
    found = await read(_read, services.settings.server, ids)
    return {row.id: _asked(services, row) for row in found}


def _read(connection: Connection, server: ServerSettings, ids: Collection[int] | None) -> list[Row]:  # type: ignore[type-arg]
    has_passkey = exists().where(passkeys.c.user_id == users.c.id)
    of_policy = policies.c.second_factor == 1
    of_role = users.c.role.in_(server.second_factor_roles)
    query = (
        select(
            users.c.id,
            users.c.role,
            totps.c.secret,
            totps.c.last_step,
            has_passkey.label("passkey"),
            policies.c.second_factor,
        )
        .select_from(
            users.outerjoin(totps, (totps.c.user_id == users.c.id) & (totps.c.active == 1)).outerjoin(
                policies, policies.c.name == users.c.policy
            )
        )
        .where(users.c.portal_only == 0, or_(totps.c.id.is_not(None), has_passkey, of_policy, of_role), _one_of(ids))
    )
    return list(connection.execute(query))


def _one_of(ids: Collection[int] | None) -> ColumnElement[bool]:
    if ids is None:
        return true()
    return users.c.id.in_(ids) if ids else false()


def _asked(services: Services, row: Row) -> Asked:  # type: ignore[type-arg]
    if row.secret is not None:
        try:
            plain = services.vault.open(bytes(row.secret), purpose=totp.purpose(row.id))
            return Asked(plain.decode("ascii"), row.last_step)
        except (HostError, TypeError, ValueError) as error:  # people write text there, too
            log.error("codes cannot be read", user=row.id, reason=str(error))
            return Asked(uncoded=True)
    must = forced.must_enrol(services.settings.server, row.role, asked=row.second_factor, has_one=False)
    return Asked(uncoded=bool(row.passkey) or must)
