"""What groups' actions do. Each commits the wish first, then has the agent make the host equal to it (groups/host.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import UNSET
from sqlalchemy import Connection

from diycloud.actions.dispatcher import Context
from diycloud.actions.reach import check_rank
from diycloud.actions.services import Services
from diycloud.agent import protocol as wire
from diycloud.domains import repository as domains
from diycloud.errors import Conflict, FieldError, InvalidInput, NotFound, PermissionDenied, Unavailable
from diycloud.groups import host, repository
from diycloud.groups.actions import (
    AddMembers,
    CreateGroup,
    ListGroups,
    ModifyGroup,
    PreviewRemoveGroup,
    RemoveGroup,
    RemoveMembers,
    ShowGroup,
)
from diycloud.groups.models import Group, GroupChanged, GroupDetail, GroupPage, GroupPlan
from diycloud.groups.repository import Known, Person, Row
from diycloud.host.names import is_reserved
from diycloud.units import format_size, human_size
from diycloud.users import host as users_host
from diycloud.users import repository as users
from diycloud.users.models import Status

MAX_OF_ONE = 64
"""Groups of one user: what a wish to the agent holds."""
_GONE = frozenset({Status.DELETED, Status.PURGING, Status.PURGE_ERROR})


async def get(services: Services, name: str) -> Row:
    """Return a group. Raises NotFound."""
    row = await services.database.read(repository.by_name, name)
    if row is None:
        raise NotFound(f"There is no group {name!r}.", "`diycloud group list` shows them.")
    return row


async def _view(services: Services, name: str) -> Group:
    return view(services, await get(services, name))


def view(services: Services, row: Row) -> Group:
    """Return a group as others may see it."""
    return Group(
        name=row.name,
        domain=row.domain,
        description=row.description,
        gid=row.gid,
        folder="" if row.gid is None else f"{services.settings.agent.shared}/{row.name}",
        disk=None if row.disk is None else format_size(row.disk),
        members=row.members,
        removing=row.removing,
        host_problem=row.host_problem,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


async def list_groups(ctx: Context, action: ListGroups) -> GroupPage:
    domain = ctx.within(action.domain)
    asked: dict[str, Any] = {
        "search": action.search, "domain": domain, "after": action.after, "limit": action.limit,
    }  # fmt: skip
    database = ctx.services.database
    short = not action.search and domain is None and action.limit <= 100  # one walk along an index
    rows, more = await (database.read if short else database.read_long)(repository.page, **asked)
    return GroupPage([view(ctx.services, row) for row in rows], rows[-1].name if more else None)


async def show_group(ctx: Context, action: ShowGroup) -> GroupDetail:
    row = await get(ctx.services, action.name)
    names = await ctx.services.database.read_long(repository.member_names, row.id)
    return GroupDetail(view(ctx.services, row), tuple(names))


async def create_group(ctx: Context, action: CreateGroup) -> GroupChanged:
    """Create a group with its first members. A refusal by the host takes the row back; an agent that is away is a warning."""
    services = ctx.services
    domain = await _domain(ctx, action)
    if is_reserved(action.name):
        raise InvalidInput.of([FieldError("name", f"{action.name} is a name of the system's")])
    values = {
        "name": action.name, "domain": domain, "description": action.description or "", "disk": action.disk,
    }  # fmt: skip

    def store(connection: Connection) -> tuple[int, list[int]]:
        if repository.taken(connection, [action.name]):
            raise Conflict(f"name: there is a group {action.name!r} already.", "Choose another name.")
        if users.existing_names(connection, [action.name]):
            raise Conflict(f"name: there is a user {action.name!r}.", "On the host both would be a group of that name.")
        group_id = repository.add(connection, values)
        joining = _joining(ctx, connection, group_id, domain, action.members)
        repository.join(connection, group_id, joining)
        return group_id, joining

    async with services.group_changes:
        await _refuse_orphan(services, action.name)
        group_id, joined = await ctx.write(store)
        try:
            outcome = (await host.ensure(services, [Known(group_id, action.name, None, "")]))[0]
        except Unavailable as error:
            return GroupChanged(await _view(services, action.name), (users_host.later(error),))
        if outcome.code:
            # The agent has taken back what it had made; the rows are the rest of the undo.
            await ctx.write(repository.remove, group_id)
    if outcome.code:
        await host.settle_members(services, joined)
        raise users_host.failure(outcome)
    lacks = [outcome.warning] if outcome.warning else []
    warnings = (*lacks, *await host.settle_members(services, joined))
    return GroupChanged(await _view(services, action.name), warnings)


async def _domain(ctx: Context, action: CreateGroup) -> str:
    """Return where a new group goes. Raises PermissionDenied for a domain that is not the actor's, InvalidInput."""
    domain = action.domain if action.domain is not UNSET else ctx.bound or ctx.actor.domain or "default"
    if ctx.bound is not None and domain != ctx.bound:
        raise PermissionDenied(
            f"{ctx.actor.name} makes groups of the domain {ctx.bound} only.", "Ask an administrator."
        )
    ctx.domain = domain
    if await ctx.services.database.read(domains.policy_of, domain) is None:
        raise InvalidInput.of([FieldError("domain", f"there is no domain {domain}")])
    return domain


async def _refuse_orphan(services: Services, name: str) -> None:
    """Raise Conflict if the host has a group of the platform's that no row tells of: its folder is other people's."""
    if await services.database.read(repository.by_name, name):
        return
    try:
        left = await services.agent.call(wire.GroupPreview(name), wire.GroupRemains)
    except (PermissionDenied, Unavailable):  # not a group of the platform's; or the agent is away
        return
    raise Conflict(
        f"{name} is on the host without a group here: {left.folder} belongs to others.",
        "Put its row back (INSERT INTO groups (name, domain) …), then remove the group, or choose another name.",
    )


def _joining(ctx: Context, connection: Connection, group_id: int, domain: str, names: Sequence[str]) -> list[int]:
    """Return the ids of those who are not members yet. Raises InvalidInput for every name that cannot be one, at once,
    PermissionDenied for who is above the actor.
    """
    found, errors = repository.people(connection, group_id, set(names)), []
    new: list[Person] = []
    for name in dict.fromkeys(names):
        person = found.get(name)
        if person is None or person.domain != domain:
            errors.append(FieldError("members", f"there is no user {name} in the domain {domain}"))
        elif person.inside:
            continue
        elif person.status in _GONE:
            errors.append(FieldError("members", f"{name} is {person.status}"))
        elif person.groups >= MAX_OF_ONE:
            errors.append(FieldError("members", f"{name} is in {person.groups} groups, as many as one can be in"))
        else:
            new.append(person)
    if errors:
        raise InvalidInput.of(errors)
    _check_ranks(ctx, new)
    return [person.id for person in new]


def _check_ranks(ctx: Context, changed: Sequence[Person]) -> None:
    """Raise PermissionDenied for who is above the administrator of a domain: what groups they are in is their own.

    A group that is removed goes with everybody in it: it is the domain's.
    """
    if ctx.bound is not None:
        for person in changed:
            check_rank(ctx.actor, person.username, person.role, sudo=person.sudo)


async def modify_group(ctx: Context, action: ModifyGroup) -> GroupChanged:
    given: dict[str, Any] = {}
    if action.description is not UNSET:
        given["description"] = action.description or ""
    if action.disk is not UNSET:
        given["disk"] = action.disk

    def store(connection: Connection) -> dict[str, Any]:
        row = _changeable(connection, action.name)
        changed = {name: value for name, value in given.items() if getattr(row, name) != value}
        if changed:
            repository.change(connection, row.id, changed)
        return {name: [_shown(getattr(row, name)), _shown(value)] for name, value in changed.items()}

    ctx.changes = await ctx.write(store)
    return GroupChanged(await _view(ctx.services, action.name))


def _shown(value: Any) -> Any:
    return format_size(value) if isinstance(value, int) else value


def _changeable(connection: Connection, name: str) -> Row:
    """Return a group that may be changed. Raises NotFound, Conflict."""
    row = repository.by_name(connection, name)
    if row is None:
        raise NotFound(f"There is no group {name!r}.", "`diycloud group list` shows them.")
    if row.removing:
        raise Conflict(f"The group {name} is being removed.")
    return row


async def add_members(ctx: Context, action: AddMembers) -> GroupChanged:
    """Put users into a group; who is in it already stays. Nobody joins if one name is wrong."""

    def store(connection: Connection) -> list[int]:
        row = _changeable(connection, action.name)
        new = _joining(ctx, connection, row.id, row.domain, action.members)
        repository.join(connection, row.id, new)
        return new

    return await _change_members(ctx, action.name, "joined", store)


async def remove_members(ctx: Context, action: RemoveMembers) -> GroupChanged:
    """Take users out of a group; who is not in it stays out. Nobody leaves if one name is nobody's."""

    def store(connection: Connection) -> list[int]:
        row = _changeable(connection, action.name)
        found = repository.people(connection, row.id, set(action.members))
        wrong = [
            FieldError("members", f"there is no user {name} in the domain {row.domain}")
            for name in dict.fromkeys(action.members)
            if name not in found or not (found[name].inside or found[name].domain == row.domain)
        ]
        if wrong:
            raise InvalidInput.of(wrong)
        leaving = [person for person in found.values() if person.inside]
        _check_ranks(ctx, leaving)
        return repository.leave(connection, row.id, [person.id for person in leaving])

    return await _change_members(ctx, action.name, "left", store)


async def _change_members(ctx: Context, name: str, said: str, store: Callable[[Connection], list[int]]) -> GroupChanged:
    """Commit who joins or leaves a group, then have the host follow. store: returns their ids; said: the audit's word."""

    def job(connection: Connection) -> tuple[list[int], list[str]]:
        changed = store(connection)
        return changed, users.names_of(connection, changed)

    changed, names = await ctx.write(job)
    ctx.changes = {said: names}
    warnings = await host.settle_members(ctx.services, changed)
    return GroupChanged(await _view(ctx.services, name), warnings)


async def preview_removal(ctx: Context, action: PreviewRemoveGroup) -> GroupPlan:
    row = await get(ctx.services, action.name)
    nothing = GroupPlan(row.name, None, "", "0B", 0, row.members)
    if not host.possible(row.name):
        return nothing
    try:
        left = await ctx.services.agent.call(wire.GroupPreview(row.name), wire.GroupRemains)
    except PermissionDenied:  # the host never had it
        return nothing
    size = ("more than " if left.more else "") + human_size(left.bytes)
    return GroupPlan(row.name, left.gid, left.folder, size, left.files, row.members)


async def remove_group(ctx: Context, action: RemoveGroup) -> None:
    """Remove a group for good. Can be repeated until it is through; reconcile goes on after a crash."""
    services = ctx.services
    row = await get(services, action.name)

    def store(connection: Connection) -> list[int]:
        if repository.change(connection, row.id, {"removing": 1}) == 0:
            raise NotFound("The group was removed meanwhile.")
        return repository.leave(connection, row.id)

    left = await ctx.write(store)
    ctx.changes = {"gid": [row.gid, None], "members": [row.members, 0]}
    await host.settle_members(services, left)
    try:
        await host.finish_removal(services, Known(row.id, row.name, row.gid, row.host_problem))
    except Unavailable as error:
        raise Unavailable(
            error.message, "The group is being removed: the host follows when the agent answers."
        ) from error
