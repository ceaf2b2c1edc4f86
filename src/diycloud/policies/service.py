"""What policies' actions do."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection

from diycloud.actions.action import Action
from diycloud.actions.dispatcher import Context
from diycloud.actions.roles import Role
from diycloud.actions.services import Services
from diycloud.errors import Conflict, FieldError, InvalidInput, NotFound
from diycloud.policies import repository
from diycloud.policies.actions import (
    ApplyPolicy,
    CreatePolicy,
    ListPolicies,
    ModifyPolicy,
    RemovePolicy,
    ShowPolicy,
)
from diycloud.policies.models import DEFAULT, Policy, PolicyChanged, PolicyList
from diycloud.policies.repository import LIMITS, SIZES, Rules
from diycloud.units import counted, format_size
from diycloud.users import service
from diycloud.users.actions import ModifyUser
from diycloud.users.models import Changed

UNSET = msgspec.UNSET


async def rules_of(services: Services, name: str) -> Rules:
    """Return a policy's limits. Raises NotFound."""
    found = await services.database.read(repository.rules, name)
    if found is None:
        raise NotFound(f"There is no policy {name!r}.", "`diycloud policy list` shows them.")
    return found


async def _show(services: Services, name: str, *, within: str | None = None) -> Policy:
    found = await services.database.read_long(repository.every, name, within=within)
    if not found:
        raise NotFound(f"There is no policy {name!r}.", "`diycloud policy list` shows them.")
    return found[0]


def _within(ctx: Context) -> str | None:
    """Return the only domain that the actor may learn of from a policy, None for all: policies belong to no domain."""
    return ctx.actor.domain if ctx.actor.role is Role.DOMAIN_ADMIN else None


async def list_policies(ctx: Context, action: ListPolicies) -> PolicyList:
    return PolicyList(await ctx.services.database.read_long(repository.every, within=_within(ctx)))


async def show_policy(ctx: Context, action: ShowPolicy) -> Policy:
    return await _show(ctx.services, action.name, within=_within(ctx))


async def create_policy(ctx: Context, action: CreatePolicy) -> PolicyChanged:
    if await ctx.services.database.read(repository.rules, action.name):
        raise Conflict(f"name: there is a policy {action.name!r} already.", "Choose another name.")
    values = msgspec.structs.asdict(action)
    _check(values)
    await ctx.write(repository.add, values)
    return PolicyChanged(await _show(ctx.services, action.name))


async def modify_policy(ctx: Context, action: ModifyPolicy) -> PolicyChanged:
    """Change a policy. Users keep the limits they have; a warning tells how many have more than it now allows."""
    services = ctx.services
    await rules_of(services, action.name)
    given = {name: value for name, value in _given(action).items() if name != "name"}
    if "description" in given:
        given["description"] = given["description"] or ""

    def store(connection: Connection) -> dict[str, Any]:
        before = repository.rules(connection, action.name)
        if before is None:
            raise NotFound(f"The policy {action.name!r} was removed meanwhile.")
        old = _values(before)
        _check({**old, **given})
        changed = {name: value for name, value in given.items() if old[name] != value}
        if changed:
            repository.change(connection, action.name, changed)
        return {name: [_shown(name, old[name]), _shown(name, value)] for name, value in changed.items()}

    ctx.changes = await ctx.write(store)
    above = 0
    if any(name.startswith("max_") and name != "max_sessions" for name in ctx.changes):
        above = await services.database.read_long(repository.users_above, await rules_of(services, action.name))
    warnings = (f"{counted(above, 'user')} with more than this: it stays until it is changed.",) if above else ()
    return PolicyChanged(await _show(services, action.name), warnings)


def _given(action: Action[Any]) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(action).items() if value is not UNSET}


def _values(known: Rules) -> dict[str, Any]:
    maxima = {f"max_{name}": getattr(known, f"max_{name}") for name in LIMITS}
    others = {name: getattr(known, name) for name in ("description", "max_sessions", "second_factor")}
    return {name: getattr(known.defaults, name) for name in LIMITS} | maxima | others


def _shown(name: str, value: Any) -> Any:
    return format_size(value) if name in SIZES and isinstance(value, int) else value


def _check(values: dict[str, Any]) -> None:
    """Raise InvalidInput for a default above its own maximum."""
    errors = []
    for name in LIMITS:
        most = values[f"max_{name}"]
        if most is not None and values[name] > most:
            errors.append(FieldError(name, f"is above the policy's own max_{name}"))
    if errors:
        raise InvalidInput.of(errors)


async def remove_policy(ctx: Context, action: RemovePolicy) -> None:
    found = await _show(ctx.services, action.name)
    if action.name == DEFAULT:
        raise Conflict("The policy default stays: every user and domain without another has it.")
    if found.users or found.domains:
        users = counted(found.users, "user")
        where = f"{users} and the domains {', '.join(found.domains)}" if found.domains else users
        raise Conflict(f"The policy {action.name} is in use by {where}.", "Give them another policy first.")
    await ctx.write(repository.remove, action.name)


async def apply_policy(ctx: Context, action: ApplyPolicy) -> Changed:
    """Give a user their policy's limits, all of them."""
    row = await service.get(ctx.services, action.username)
    name = row.policy if action.policy is UNSET else action.policy
    given = (await rules_of(ctx.services, name)).defaults
    wanted = ModifyUser(
        username=row.username, policy=action.policy, cpu=given.cpu, memory=given.memory, disk=given.disk,
        tasks=given.tasks, gpu=given.gpu, force=action.force,
    )  # fmt: skip
    return await service.modify_user(ctx, wanted)
