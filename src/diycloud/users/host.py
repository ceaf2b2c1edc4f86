"""From a user's row to the host: what is wished of the agent, and what is made of its answers."""

from __future__ import annotations

import re
from typing import get_args

import msgspec
from sqlalchemy import Connection

from diycloud.actions.services import Agent, Services
from diycloud.agent import framing
from diycloud.agent import protocol as wire
from diycloud.auth import demands
from diycloud.auth.addresses import readable
from diycloud.auth.demands import NOTHING, Asked
from diycloud.errors import BY_CODE, DiyCloudError, HostError, InvalidInput, Unavailable
from diycloud.users import models, repository
from diycloud.users.models import Row, Status
from diycloud.users.shown import names

LOCKED = frozenset({Status.INACTIVE, Status.DELETED, Status.PURGE_ERROR})


_NAME, _SHELL, _SHADOW = (re.compile(get_args(kind)[1].pattern) for kind in (wire.Name, wire.Shell, wire.Shadow))
_KEY, _NETWORK = (re.compile(get_args(kind)[1].pattern) for kind in (wire.KeyLine, wire.Network))
_NOT_IN_GECOS = re.compile(r"[\x00-\x1f\x7f:,]")
"""Control characters, and the two that passwd's GECOS field gives a meaning."""


def impossible(row: Row) -> str:
    """Return why a row that somebody wrote by hand can have no account, empty if it can.

    One such row must not hold up the others: the agent refuses a whole message for one value that cannot be.
    """
    if not isinstance(row.username, str) or not _NAME.match(row.username):
        return "This name can have no account: 1–32 characters a–z, 0–9, _ and -, starting with a letter or _."
    if not isinstance(row.generation, int) or not 0 <= row.generation <= 1 << 53:
        return "The column generation was changed by hand; it must be a whole number."
    return ""


def wish(row: Row, asked: Asked = NOTHING) -> wire.Wish:
    """Return what the host should make of a user. What people wrote by hand and cannot be gives way to the default.

    asked: what signing in there asks for beside the password (auth/demands.py).
    """
    return wire.Wish(
        name=row.username,
        generation=row.generation,
        limits=wire.Limits(cpu=row.allocation.cpu, memory=row.allocation.memory, tasks=row.allocation.tasks),
        state=wire.State.LOCKED if row.status in LOCKED else wire.State.ACTIVE,
        full_name=_NOT_IN_GECOS.sub(" ", row.full_name)[:100],
        shell=row.shell if _SHELL.match(row.shell) else "/bin/bash",
        groups=[name for name in names(row.groups) if _NAME.match(name)][:64],
        networks=_networks(row),
        secret=asked.secret,
        last_step=asked.last_step,
        uncoded=asked.uncoded,
        must_change_password=row.must_change_password,
    )


def _networks(row: Row) -> list[str]:
    """Return where a user may come from. Networks that nobody can read are no reason to let them in from anywhere."""
    networks = names(row.allowed_client_ip)
    if readable(row.allowed_client_ip) and len(networks) <= 64 and all(map(_NETWORK.match, networks)):
        return list(networks)
    return [wire.NOWHERE]


def later(error: Unavailable) -> str:
    """Return the warning about a wish that is stored, and that the host could not follow yet."""
    return f"{error.message.rstrip('.')}: the host follows as soon as it can."


async def ensure(services: Services, rows: list[Row]) -> list[wire.Outcome]:
    """Make the host equal to some rows; returns each answer, in their order. At most wire.MAX_BATCH rows.

    A row whose account never was there is created. Raises Unavailable if the agent does not answer; the wishes stay.
    """
    why = [impossible(row) for row in rows]
    asked = await demands.asked(services, [row.id for row in rows])
    accounts = [_account(row, asked.get(row.id, NOTHING)) for row, reason in zip(rows, why, strict=True) if not reason]
    answered: list[wire.Outcome] = []
    for part in framing.parts(accounts, wire.MAX_BATCH) if accounts else ():
        answered += await services.agent.call(wire.EnsureAccounts(part), list[wire.Outcome])
    answers = iter(answered)
    return [
        wire.Outcome(row.username, code=InvalidInput.code, message=reason) if reason else next(answers)
        for row, reason in zip(rows, why, strict=True)
    ]


def note(connection: Connection, rows: list[Row], outcomes: list[wire.Outcome]) -> None:
    """Write down the host's answers."""
    for row, outcome in zip(rows, outcomes, strict=True):
        problem = outcome.message if outcome.code else ""
        repository.settle(connection, row.id, row.generation, uid=outcome.uid, problem=problem, made=outcome.made)


async def settle(services: Services, rows: list[Row]) -> list[wire.Outcome]:
    """Ensure some rows and note each answer at once; raises as `ensure`."""
    outcomes = await ensure(services, rows)
    await services.database.write(note, rows, outcomes)
    return outcomes


def settled(row: Row, outcome: wire.Outcome) -> Row:
    """Return a row as `note` leaves it."""
    if outcome.code:
        return msgspec.structs.replace(row, host_problem=outcome.message)
    status = Status.ACTIVE if row.status is Status.PENDING else row.status
    uid = row.uid if outcome.uid is None else outcome.uid
    return msgspec.structs.replace(row, status=status, uid=uid, host_generation=row.generation, host_problem="")


def _account(row: Row, asked: Asked) -> wire.Account:
    shadow = row.shadow_hash if row.shadow_hash and _SHADOW.match(row.shadow_hash) else None
    lines = [line for line in row.ssh_keys.splitlines() if _KEY.match(line) and len(line) <= 3000][:32]
    return wire.Account(wish(row, asked), shadow, create=row.uid is None, keys=lines)


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
