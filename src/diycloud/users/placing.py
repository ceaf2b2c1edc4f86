"""Where a user may be put and what they may be given: domain, groups, policy, and who may say so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, delete, insert, literal, select

from diycloud.actions.dispatcher import Context
from diycloud.actions.roles import Role
from diycloud.auth import proof
from diycloud.db.tables import group_members as members
from diycloud.db.tables import groups, users
from diycloud.domains import repository as domains
from diycloud.errors import Conflict, FieldError, InvalidInput, NotFound, PermissionDenied
from diycloud.groups import repository as teams
from diycloud.policies import repository as policies
from diycloud.policies.repository import Rules
from diycloud.users import repository
from diycloud.users.actions import CreateUser, ModifyUser, SetLimits
from diycloud.users.models import Allocation, Row

UNSET = msgspec.UNSET
ADMINS_FIELDS = ("role", "domain", "policy", "external_id", "container_uid", "container_gid", "container_gids")
"""What the administrators of a domain may not set: each would reach beyond the domain, or beyond its policy."""


class Place(NamedTuple):
    """domain and policy of a user who is to be made or changed."""

    domain: str
    policy: Rules


async def place(ctx: Context, action: CreateUser) -> Place:
    """Return where a new user goes. Raises PermissionDenied for a domain that is not the actor's, InvalidInput."""
    check_fields(ctx, action)
    domain = action.domain if action.domain is not UNSET else ctx.bound or ctx.actor.domain or "default"
    if ctx.bound is not None and domain != ctx.bound:
        raise PermissionDenied(f"{ctx.actor.name} makes users of the domain {ctx.bound} only.", "Ask an administrator.")
    ctx.domain = domain
    usual = await ctx.services.database.read(domains.policy_of, domain)
    if usual is None:
        raise InvalidInput.of([FieldError("domain", f"there is no domain {domain}")])
    return Place(domain, await _rules(ctx, usual if action.policy is UNSET else action.policy))


def check_fields(ctx: Context, action: CreateUser | ModifyUser | SetLimits) -> None:
    """Raise PermissionDenied for fields that only administrators of everything may set."""
    if isinstance(action, SetLimits):
        return
    if ctx.actor.scopes is not None and action.role not in (UNSET, Role.USER):
        raise PermissionDenied("role: no API token gives rights over others.", "Sign in for this.")
    if ctx.bound is None:
        if isinstance(action, CreateUser) and action.role is not Role.USER:
            proof.require_of_session(ctx.actor)
        return
    usual = {field.name: field.default for field in msgspec.structs.fields(action)}
    for name in ADMINS_FIELDS:
        given = getattr(action, name)
        own = name == "domain" and given == ctx.bound
        if given is not UNSET and given != usual[name] and not own:
            raise PermissionDenied(f"{name}: only an administrator of all domains sets it.", "Ask one.")


async def _rules(ctx: Context, policy: str) -> Rules:
    found = await ctx.services.database.read(policies.rules, policy)
    if found is None:
        raise InvalidInput.of([FieldError("policy", f"there is no policy {policy}")])
    return found


async def moved(ctx: Context, row: Row, action: ModifyUser | SetLimits) -> Place:
    """Return where a changed user will be. Raises as `place`."""
    check_fields(ctx, action)
    domain, policy = row.domain, row.policy
    if isinstance(action, ModifyUser):
        domain = row.domain if action.domain is UNSET else action.domain
        policy = row.policy if action.policy is UNSET else action.policy
    if domain != row.domain and await ctx.services.database.read(domains.policy_of, domain) is None:
        raise InvalidInput.of([FieldError("domain", f"there is no domain {domain}")])
    return Place(domain, await _rules(ctx, policy))


def check_unmoved(connection: Connection, row: Row) -> None:
    """Raise Conflict if what a change was decided upon (domain, policy, role) is another by now, NotFound if all is gone.

    Else two administrators at once could leave a user in another domain's groups, or above a policy's maxima, and a
    domain's own could change somebody who has just left it or got a role beyond it.
    """
    query = select(users.c.domain, users.c.policy, users.c.role).where(users.c.id == row.id)
    now = connection.execute(query).first()
    if now is None:
        raise NotFound("The user was removed meanwhile.")
    if tuple(now) != (row.domain, row.policy, row.role):
        raise Conflict(f"Somebody else changed {row.username} meanwhile.", "Look again, then repeat.")


def check_within(connection: Connection, row: Row, policy: Rules) -> None:
    """Raise Conflict if a user's limits, as they are stored now, are above the policy that is given with this change.

    They were not when it was decided: somebody has raised one of them meanwhile, by the policy of before.
    """
    now = repository.by_id(connection, row.id)
    if now is not None and policies.beyond(policy, now.allocation):
        raise Conflict(f"Somebody else changed the limits of {row.username} meanwhile.", "Look again, then repeat.")


def check_name_free(connection: Connection, username: str) -> None:
    """Raise Conflict if a user has a name, or a group: an account's private group has it too."""
    if repository.existing_names(connection, [username]):
        raise Conflict(f"username: there is a user {username!r} already.", "A name is free again after a purge.")
    if teams.taken(connection, [username]):
        raise Conflict(f"username: there is a group {username!r}.", "On the host both would be a group of that name.")


def allocation_of(action: CreateUser, policy: Rules) -> Allocation:
    """Return the limits of a new user: what is given, else the policy's; the hard disk limit is twice the soft one.

    Raises InvalidInput for what is above the policy's maxima.
    """
    given = {n: v for n in policies.LIMITS if (v := getattr(action, n)) is not UNSET}
    wanted = msgspec.structs.replace(policy.defaults, **given)
    wanted = msgspec.structs.replace(wanted, disk_hard=2 * wanted.disk)
    check_maxima(policy, wanted)
    return wanted


def check_maxima(policy: Rules, wanted: Allocation, only: Iterable[str] = policies.LIMITS) -> None:
    """Raise InvalidInput for limits above a policy's maxima. only: those that are to be changed."""
    beyond = policies.beyond(policy, wanted, frozenset(only))
    if beyond:
        raise InvalidInput.of([FieldError(name, rule) for name, rule in beyond.items()])


def join(connection: Connection, user_id: int, domain: str, wanted: Iterable[str]) -> None:
    """Make a user the member of exactly these groups. Raises InvalidInput for one that is not in the domain."""
    names = sorted(set(wanted))
    found = connection.execute(
        select(groups.c.id, groups.c.name).where(
            groups.c.name.in_(names), groups.c.domain == domain, groups.c.removing == 0
        )
    ).all()
    missing = sorted(set(names) - {row.name for row in found})
    if missing:
        errors = [FieldError("groups", f"there is no group {name} in the domain {domain}") for name in missing]
        raise InvalidInput.of(errors)
    ids = [row.id for row in found]
    connection.execute(delete(members).where(members.c.user_id == user_id, members.c.group_id.notin_(ids)))
    here = select(members.c.group_id).where(members.c.user_id == user_id)
    new = select(groups.c.id, literal(user_id)).where(groups.c.id.in_(ids), groups.c.id.notin_(here))
    connection.execute(insert(members).from_select(["group_id", "user_id"], new))


def leave_elsewhere(connection: Connection, user_id: int, domain: str) -> list[str]:
    """Take a user out of the groups of other domains than one; returns their names."""
    query = select(groups.c.id, groups.c.name).select_from(members.join(groups, groups.c.id == members.c.group_id))
    query = query.where(members.c.user_id == user_id, groups.c.domain != domain).order_by(groups.c.name)
    left = connection.execute(query).all()
    ids = [row.id for row in left]
    connection.execute(delete(members).where(members.c.user_id == user_id, members.c.group_id.in_(ids)))
    return [row.name for row in left]


def domains_of_groups(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    """Return the domain of each group of these names that there is."""
    wanted, found = list(names), dict[str, str]()
    for start in range(0, len(wanted), 500):
        some = groups.c.name.in_(wanted[start : start + 500])
        query = select(groups.c.name, groups.c.domain).where(some, groups.c.removing == 0)
        found |= {row.name: row.domain for row in connection.execute(query)}
    return found
