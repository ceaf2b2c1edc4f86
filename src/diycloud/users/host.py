"""From a user's row to the host: what is wished of the agent, and what is made of its answers."""

from __future__ import annotations

import re

from sqlalchemy import Connection

from diycloud.actions.services import Agent
from diycloud.agent import protocol as wire
from diycloud.db.engine import Database
from diycloud.errors import BY_CODE, DiyCloudError, HostError, Unavailable
from diycloud.units import format_size
from diycloud.users import models, repository
from diycloud.users.models import Row, Status

LOCKED = frozenset({Status.INACTIVE, Status.DELETED, Status.PURGE_ERROR})


def wish(row: Row) -> wire.Wish:
    """Return what the host should make of a user."""
    return wire.Wish(
        name=row.username,
        generation=row.generation,
        limits=wire.Limits(cpu=row.allocation.cpu, memory=row.allocation.memory, tasks=row.allocation.tasks),
        state=wire.State.LOCKED if row.status in LOCKED else wire.State.ACTIVE,
        full_name=re.sub(r"[:,]", " ", row.full_name)[
            :100
        ],  # the two characters that passwd's GECOS field gives a meaning
        shell=row.shell,
    )


async def settle(database: Database, agent: Agent, rows: list[Row]) -> list[wire.Outcome]:
    """Make the host equal to some rows and note each answer. At most wire.MAX_BATCH rows.

    A row whose account is not there yet is created. Raises Unavailable if the agent does not answer; the wishes stay.
    """
    accounts = [wire.Account(wish(row), row.shadow_hash, create=row.status is Status.PENDING) for row in rows]
    outcomes = await agent.call(wire.EnsureAccounts(accounts), list[wire.Outcome])

    def note(connection: Connection) -> None:
        for row, outcome in zip(rows, outcomes, strict=True):
            repository.settle(
                connection, row.id, row.generation, uid=outcome.uid, problem=outcome.message if outcome.code else ""
            )

    await database.write(note)
    return outcomes


def failure(outcome: wire.Outcome) -> DiyCloudError:
    """Return the agent's refusal as the error it is."""
    return BY_CODE.get(outcome.code, HostError)(outcome.message)


async def check_limits(agent: Agent, row: Row, allocation: models.Allocation) -> None:
    """Raise if the host would refuse these limits now (memory below what is used). Passes if the agent is away."""
    limits = wire.Limits(cpu=allocation.cpu, memory=allocation.memory, tasks=allocation.tasks)
    try:
        outcome = await agent.call(wire.CheckLimits(row.username, limits), wire.Outcome)
    except Unavailable:
        return
    if outcome.code:
        raise failure(outcome)


def view(row: Row) -> models.User:
    """Return a user as others may see it."""
    given = row.allocation
    return models.User(
        username=row.username,
        status=row.status,
        role=row.role,
        full_name=row.full_name,
        email=row.email,
        description=row.description,
        limits=models.Limits(
            cpu=given.cpu,
            memory=format_size(given.memory),
            disk=format_size(given.disk),
            disk_hard=format_size(given.disk_hard),
            tasks=given.tasks,
            gpu=given.gpu,
        ),
        uid=row.uid,
        uuid=row.uuid,
        portal_only=row.portal_only,
        must_change_password=row.must_change_password,
        settled=row.portal_only or row.generation == row.host_generation,
        host_problem=row.host_problem,
        created_at=row.created_at,
        updated_at=row.updated_at,
        last_login=row.last_login,
        last_login_ip=row.last_login_ip,
        version=row.generation,
    )
