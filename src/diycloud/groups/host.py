"""From groups' rows to the host: what is wished of the agent, and what is made of its answers.

Whoever has the host make or remove groups holds `Services.group_changes`: reconcile sends a list that was read before, and
must not bring back a group that is removed meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import get_args

import structlog
from sqlalchemy import Connection

from diycloud.actions.services import Services
from diycloud.agent import protocol as wire
from diycloud.errors import DiyCloudError, InvalidInput, TooManyRequests, Unavailable
from diycloud.groups import repository
from diycloud.groups.repository import Known
from diycloud.users import host as users_host
from diycloud.users import repository as users
from diycloud.users.models import Status

log = structlog.get_logger()
MAX_NAMED = 10
"""Members that did not follow, named in warnings; of more only how many."""
_NAME = re.compile(get_args(wire.Name)[1].pattern)
NO_NAME = "This name can have no group: 1–32 characters a–z, 0–9, _ and -, starting with a letter or _."


async def ensure(services: Services, wanted: list[Known]) -> list[wire.Outcome]:
    """Have some groups on the host; returns each answer, in their order, and notes what is new in it.

    A name that somebody wrote by hand and that cannot be holds up no other. Raises Unavailable if the agent does not answer.
    """
    answers: dict[str, wire.Outcome] = {}
    names = [group.name for group in wanted if possible(group.name)]
    for start in range(0, len(names), wire.MAX_GROUPS):
        message = wire.EnsureGroups(names[start : start + wire.MAX_GROUPS])
        answers |= {outcome.name: outcome for outcome in await services.agent.call(message, list[wire.Outcome])}
    nothing = wire.Outcome("", code=InvalidInput.code, message=NO_NAME)
    outcomes = [answers.get(group.name, nothing) for group in wanted]
    news = [
        (group.id, outcome)
        for group, outcome in zip(wanted, outcomes, strict=True)
        if (group.problem, group.gid) != (_problem(outcome), group.gid if outcome.uid is None else outcome.uid)
    ]
    if news:
        await services.database.write(_note, news)
    return outcomes


def possible(name: object) -> bool:
    """Tell whether the host can have a group of a name."""
    return isinstance(name, str) and _NAME.match(name) is not None


def _problem(outcome: wire.Outcome) -> str:
    return outcome.message[:500] if outcome.code else ""


def _note(connection: Connection, news: list[tuple[int, wire.Outcome]]) -> None:
    for group_id, outcome in news:
        repository.note(connection, group_id, gid=outcome.uid, problem=_problem(outcome))


async def finish_removal(services: Services, group: Known) -> None:
    """Take a group off the host, then out of the database. Raises what stops it, noted in the row."""
    async with services.group_changes:
        if not await services.database.read(repository.is_removing, group.id):
            return  # somebody else was through first, and the name may be another group's by now
        try:
            if possible(group.name):
                outcome = await services.agent.call(wire.RemoveGroup(group.name), wire.Outcome)
                if outcome.code:
                    raise users_host.failure(outcome)
        except (Unavailable, TooManyRequests):
            raise  # it stays `removing`: reconcile goes on when the agent is back, or takes more of the server's removals
        except DiyCloudError as error:
            await services.database.write(repository.note, group.id, gid=None, problem=error.message)
            raise
        await services.database.write(repository.remove, group.id)
    log.info("group removed", name=group.name, gid=group.gid)


async def settle_members(services: Services, user_ids: Collection[int]) -> tuple[str, ...]:
    """Have the host follow what some users are members of, in batches; returns warnings about those it could not."""
    rows = await services.database.read_long(users.by_ids, user_ids)
    rows = [row for row in rows if not row.portal_only and row.status is not Status.PURGING]
    warnings: list[str] = []
    for start in range(0, len(rows), wire.MAX_BATCH):
        batch = rows[start : start + wire.MAX_BATCH]
        try:
            outcomes = await users_host.settle(services, batch)
        except Unavailable as error:
            return (*_few(warnings), users_host.later(error))
        for outcome in outcomes:
            if text := outcome.message if outcome.code else outcome.warning:
                warnings.append(f"{outcome.name}: {text}")
    return _few(warnings)


def _few(warnings: list[str]) -> tuple[str, ...]:
    more = len(warnings) - MAX_NAMED
    return (*warnings[:MAX_NAMED], f"{more} more members could not follow yet.") if more > 0 else tuple(warnings)


async def reconcile(services: Services) -> None:
    """Have every group on the host, and finish removals that a crash or a refusal cut off. Safe to repeat.

    Raises Unavailable if the agent does not answer.
    """
    async with services.group_changes:
        await ensure(services, await services.database.read_long(repository.known, removing=False))
    for group in await services.database.read_long(repository.known, removing=True):
        try:
            await finish_removal(services, group)
        except DiyCloudError as error:
            log.warning("group not removed yet", name=group.name, reason=str(error))
