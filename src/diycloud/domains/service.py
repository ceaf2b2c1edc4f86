"""What domains' actions do."""

from __future__ import annotations

from msgspec import UNSET

from diycloud.actions.dispatcher import Context
from diycloud.actions.services import Services
from diycloud.domains import repository
from diycloud.domains.actions import CreateDomain, ListDomains, ModifyDomain, RemoveDomain, ShowDomain
from diycloud.domains.models import DEFAULT, Domain, DomainList
from diycloud.errors import Conflict, NotFound
from diycloud.policies.service import rules_of
from diycloud.units import counted


async def _show(services: Services, name: str) -> Domain:
    found = await services.database.read_long(repository.every, name)
    if not found:
        raise NotFound(f"There is no domain {name!r}.", "`diycloud domain list` shows them.")
    return found[0]


async def list_domains(ctx: Context, action: ListDomains) -> DomainList:
    return DomainList(await ctx.services.database.read_long(repository.every, ctx.bound))


async def show_domain(ctx: Context, action: ShowDomain) -> Domain:
    return await _show(ctx.services, action.name)


async def create_domain(ctx: Context, action: CreateDomain) -> Domain:
    if await ctx.services.database.read(repository.policy_of, action.name):
        raise Conflict(f"name: there is a domain {action.name!r} already.", "Choose another name.")
    await rules_of(ctx.services, action.policy)
    ctx.domain = action.name
    values = {"name": action.name, "description": action.description or "", "policy": action.policy}
    await ctx.write(repository.add, values)
    return await _show(ctx.services, action.name)


async def modify_domain(ctx: Context, action: ModifyDomain) -> Domain:
    before = await _show(ctx.services, action.name)
    given: dict[str, str] = {}
    if action.description is not UNSET:
        given["description"] = action.description or ""
    if action.policy is not UNSET:
        given["policy"] = action.policy
    if "policy" in given:
        await rules_of(ctx.services, given["policy"])
    changes = {n: [getattr(before, n), value] for n, value in given.items() if getattr(before, n) != value}
    ctx.changes = changes
    if changes:
        await ctx.write(repository.change, action.name, {name: given[name] for name in changes})
    return await _show(ctx.services, action.name)


async def remove_domain(ctx: Context, action: RemoveDomain) -> None:
    found = await _show(ctx.services, action.name)
    if action.name == DEFAULT:
        raise Conflict("The domain default stays: every user without another belongs to it.")
    if found.users or found.groups:
        raise Conflict(
            f"The domain {action.name} has {counted(found.users, 'user')} and {counted(found.groups, 'group')}.",
            "Move or purge the users, and remove the groups, first; the deleted users count too.",
        )
    ctx.domain = action.name
    await ctx.write(repository.remove, action.name)
