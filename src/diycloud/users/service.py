"""What users' actions do. Each commits the wish first, then has the agent make the host equal to it (users/host.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection

from diycloud.actions.dispatcher import Context
from diycloud.actions.fields import Password
from diycloud.actions.roles import Role
from diycloud.actions.services import Services
from diycloud.agent import protocol as wire
from diycloud.auth import notices, old_passwords, passwords, proof
from diycloud.auth.ending import end_everything
from diycloud.config import ServerSettings
from diycloud.errors import Conflict, FieldError, InvalidInput, NotFound, Unavailable
from diycloud.host.names import is_reserved
from diycloud.notebooks import eviction
from diycloud.units import human_size
from diycloud.users import changing, host, listing, placing, repository, shown
from diycloud.users.actions import CreateUser, ListUsers, ModifyUser, SetLimits, SetPassword, ShowUser
from diycloud.users.models import SIGN_IN, TRANSITIONS, Allocation, Changed, Created, Page, Row, Status, User

UNSET = msgspec.UNSET


async def get(services: Services, username: str) -> Row:
    """Return a user. Raises NotFound."""
    row = await services.database.read(repository.by_name, username)
    if row is None:
        raise _no_such(username)
    return row


def _no_such(username: str) -> NotFound:
    return NotFound(f"There is no user {username!r}.", "`diycloud user list --status all` shows everyone.")


async def show_user(ctx: Context, action: ShowUser) -> User:
    user = await ctx.services.database.read(shown.by_name, action.username)
    if user is None:
        raise _no_such(action.username)
    return user


async def list_users(ctx: Context, action: ListUsers) -> Page:
    asked = {name: getattr(action, name) for name in ListUsers.__struct_fields__}
    asked["domain"] = ctx.within(action.domain)
    database = ctx.services.database
    if action.sort == "username" and not action.search and action.limit <= 100:  # one walk along an index
        found = await database.read(listing.page, **asked)
    else:
        found = await database.read_long(listing.page, **asked)
    return Page(*found)


async def create_user(ctx: Context, action: CreateUser) -> Created:
    services, database = ctx.services, ctx.services.database
    if is_reserved(action.username):
        raise InvalidInput.of([FieldError("username", f"{action.username} is a name of the system's")])
    await database.read(placing.check_name_free, action.username)
    await check_email(services, action.email)
    await check_external_id(services, action.external_id)
    where = await placing.place(ctx, action)
    password, warnings = choose_password(
        ctx, action.password, (action.username, action.full_name or "", action.email or "")
    )
    allocation = placing.allocation_of(action, where.policy)
    capacity = await check_size(services, allocation)
    hashed, shadow = await asyncio.gather(services.hasher.hash(password), shadow_hash(services, password))
    values = new_columns(action, where, hashed, shadow)

    def store(connection: Connection) -> tuple[int, tuple[str, ...]]:
        placing.check_name_free(connection, action.username)  # somebody else's create may have been quicker
        user_id = repository.add(connection, values, allocation)
        if action.groups:
            placing.join(connection, user_id, where.domain, action.groups)
        return user_id, over_promised(connection, services.settings.server, capacity, allocation)

    user_id, promises = await ctx.write(store)
    row, warnings = await by_id(services, user_id), warnings + promises
    try:
        outcome = (await host.ensure(services, [row]))[0]
    except Unavailable as error:
        warnings += (host.later(error),)
    else:
        if outcome.code:
            # The agent has taken back what it had made; the row is the rest of the undo.
            await ctx.write(repository.remove, row.id)
            raise host.failure(outcome)
        ctx.at_end(host.note, [row], [outcome])
        row = host.settled(row, outcome)
        warnings += (outcome.warning,) if outcome.warning else ()
    return Created(shown.view(row), None if action.password is not UNSET else password, warnings)


def new_columns(action: CreateUser, where: placing.Place, hashed: str, shadow: str | None) -> dict[str, Any]:
    """Return the columns of a new user, waiting for the host."""
    must_change = action.password is UNSET if action.must_change_password is UNSET else action.must_change_password
    return {
        "username": action.username,
        "password_hash": hashed,
        "shadow_hash": shadow,
        "email": action.email,
        "role": action.role,
        "full_name": action.full_name or "",
        "description": action.description or "",
        "must_change_password": int(must_change),
        "domain": where.domain,
        "policy": where.policy.name,
        "shell": action.shell,
        "external_id": action.external_id,
        "allowed_client_ip": ",".join(action.allowed_client_ip),
        "container_uid": action.container_uid,
        "container_gid": action.container_gid,
        "container_gids": ",".join(map(str, action.container_gids)),
    }


async def shadow_hash(services: Services, password: str) -> str | None:
    """Have the agent hash a password the host's way; None if the agent does not answer."""
    try:
        return (await services.agent.call(wire.HashPasswords([password]), list[str]))[0]
    except Unavailable:
        return None


def choose_password(
    ctx: Context, given: Password | msgspec.UnsetType, own: tuple[str, ...]
) -> tuple[str, tuple[str, ...]]:
    """Return the given or a generated password, and warnings. Raises InvalidInput for a weak one.

    root may set what root likes, with a warning: scripts and class lists hold such passwords.
    """
    if given is UNSET:
        return passwords.generate_password(max(16, ctx.services.settings.server.password_min_length)), ()
    weakness = passwords.weakness(given, own=own, min_length=ctx.services.settings.server.password_min_length)
    if weakness is None:
        return given, ()
    if not ctx.actor.is_root:
        raise InvalidInput.of([FieldError("password", weakness)])
    return given, (f"The password is weak: it should have {weakness}.",)


async def check_email(services: Services, email: str | None, *, mine: str | None = None) -> None:
    """Raise Conflict if another user has the address."""
    if not email or email.lower() == (mine or "").lower():
        return
    if await services.database.read(repository.existing_emails, [email]):
        raise Conflict("email: another user has this address.", "Each address belongs to one user.")


async def check_external_id(services: Services, external_id: str | None, *, mine: str | None = None) -> None:
    """Raise Conflict if another user has the outside id."""
    if external_id and external_id != mine and await services.database.read(repository.has_external_id, external_id):
        raise Conflict("external_id: another user has this id.", "Each outside id belongs to one user.")


def beyond_host(capacity: wire.HostCapacity, wanted: Allocation) -> list[FieldError]:
    """Return what one user's limits ask for above the host's own size."""
    errors = []
    if wanted.cpu > capacity.cores:
        errors.append(FieldError("cpu", f"the host has {capacity.cores} cores"))
    if wanted.memory > capacity.memory:
        errors.append(FieldError("memory", f"the host has {human_size(capacity.memory)}"))
    return errors


async def check_size(services: Services, wanted: Allocation) -> wire.HostCapacity | None:
    """Return the host's size, None if the agent is away. Raises InvalidInput for limits above it."""
    try:
        capacity = await services.capacity()
    except Unavailable:
        return None
    if errors := beyond_host(capacity, wanted):
        raise InvalidInput.of(errors)
    return capacity


def over_promised(
    connection: Connection,
    settings: ServerSettings,
    capacity: wire.HostCapacity | None,
    wanted: Allocation,
    before: Allocation | None = None,
) -> tuple[str, ...]:
    """Return warnings if the limits that a transaction has just stored promise more than the settings' part of the host.

    Nothing more than before is no reason for one. Raises Conflict, and so undoes the transaction, where the settings
    refuse it: two administrators cannot both promise the last core.
    """
    more_cores = wanted.cpu - (before.cpu if before else 0)
    more_memory = wanted.memory - (before.memory if before else 0)
    if capacity is None or (more_cores <= 0 and more_memory <= 0):
        return ()
    cores, memory = repository.promised(connection)
    return overcommitment(settings, capacity, cores if more_cores > 0 else 0, memory if more_memory > 0 else 0)


def overcommitment(settings: ServerSettings, capacity: wire.HostCapacity, cores: float, memory: int) -> tuple[str, ...]:
    """Return what of so many promised cores and bytes is above the settings' part of the host.

    Raises Conflict where the settings refuse it.
    """
    found = []
    if cores > capacity.cores * settings.overcommit_cpu:
        found.append(f"CPU: {cores:g} cores promised on a host of {capacity.cores}.")
    if memory > capacity.memory * settings.overcommit_memory:
        found.append(f"Memory: {human_size(memory)} promised on a host of {human_size(capacity.memory)}.")
    if found and settings.refuse_overcommit:
        raise Conflict(" ".join(found), "Lower other limits, or set server.refuse_overcommit to false.")
    return tuple(found)


async def modify_user(ctx: Context, action: ModifyUser | SetLimits) -> Changed:
    """Change fields and limits; new limits are in force on what runs before this returns, or a warning says so."""
    services = ctx.services
    row = await get(services, action.username)
    if row.status in (Status.PURGING, Status.PURGE_ERROR):
        raise Conflict(f"{row.username} is being removed.")
    where = await placing.moved(ctx, row, action)
    values, changes = changing.fields(row, action)
    if "email" in values:
        await check_email(services, values["email"], mine=row.email)
    await check_external_id(services, values.get("external_id"), mine=row.external_id)
    if "allowed_client_ip" in values and not action.force:
        changing.keep_own_way_in(ctx, row, values["allowed_client_ip"])
    groups = changing.groups(row, action)
    if groups is not None:
        changes["groups"] = [",".join(shown.names(row.groups)), ",".join(sorted(groups))]
    if values.get("role", Role.ADMIN) is not Role.ADMIN:
        await keep_an_admin(ctx, row)
    allocation = changing.allocation(row.allocation, action)
    capacity = None
    if allocation != row.allocation:
        capacity = await check_size(services, allocation)
        if allocation.memory < row.allocation.memory and not action.force and not row.portal_only:
            await host.check_limits(services.agent, row, allocation)
        limits = changing.allocation_changes(row.allocation, allocation)
        placing.check_maxima(where.policy, allocation, limits)
        changes |= limits
    if "policy" in values:
        placing.check_maxima(where.policy, allocation)
    if "external_id" in values or values.get("role", Role.USER) is not Role.USER:  # another way in, or more behind it
        proof.require_of_session(ctx.actor)
    ctx.changes = changes
    if not changes:
        return Changed(shown.view(row))

    def store(connection: Connection) -> tuple[str, ...]:
        placing.check_unmoved(connection, row)
        before = repository.allocation_columns(row.allocation)
        after = repository.allocation_columns(allocation)
        repository.change(connection, row.id, values, {k: v for k, v in after.items() if v != before[k]})
        if "policy" in values:
            placing.check_within(connection, row, where.policy)
        told = _regroup(connection, row, where, groups, changes)
        told += _reseat(connection, services, row, values)
        eviction.ask_if_outside(connection, services, row, values)
        return told + over_promised(connection, services.settings.server, capacity, allocation, row.allocation)

    return await apply(ctx, row.id, await ctx.write(store) + await eviction.carry_out(services, row.username))


def _regroup(
    connection: Connection, row: Row, where: placing.Place, groups: set[str] | None, changes: dict[str, Any]
) -> tuple[str, ...]:
    """Put a user into the wished groups; a move without any leaves those of the domain before. Returns warnings."""
    if groups is not None:
        placing.join(connection, row.id, where.domain, groups)
        return ()
    gone = placing.leave_elsewhere(connection, row.id, where.domain) if where.domain != row.domain else []
    if not gone:
        return ()
    stay = [name for name in shown.names(row.groups) if name not in gone]
    changes["groups"] = [",".join(shown.names(row.groups)), ",".join(stay)]
    return (f"No member of {', '.join(gone)} any more, of the domain {row.domain}.",)


def _reseat(connection: Connection, services: Services, row: Row, values: Mapping[str, Any]) -> tuple[str, ...]:
    """End the sessions of a user whose rights change, and keep an administrator. Returns warnings."""
    if "role" in values or ("domain" in values and row.role is Role.DOMAIN_ADMIN):
        end_everything(connection, services, row.id)
        if row.role is Role.ADMIN:
            leave_an_admin(connection)
    if "domain" in values and values.get("role", row.role) is Role.DOMAIN_ADMIN:
        return (f"{row.username} administers the domain {values['domain']} now.",)
    return ()


async def apply(ctx: Context, user_id: int, warnings: tuple[str, ...] = (), *, strict: bool = False) -> Changed:
    """Make the host follow a stored wish; a host that cannot yet is a warning, for reconcile goes on.

    strict: a refusal by the host is raised (somebody who is not locked out must not look so); the wish stays.
    """
    row = await by_id(ctx.services, user_id)
    if not row.portal_only and row.generation != row.host_generation:
        try:
            outcome = (await host.ensure(ctx.services, [row]))[0]
        except Unavailable as error:
            return Changed(shown.view(row), warnings=(*warnings, host.later(error)))
        ctx.at_end(host.note, [row], [outcome])
        if strict and outcome.code:
            raise host.failure(outcome)
        row = host.settled(row, outcome)
        warnings += tuple(text for text in (outcome.message if outcome.code else "", outcome.warning) if text)
    return Changed(shown.view(row), warnings=warnings)


async def set_password(ctx: Context, action: SetPassword) -> Changed:
    """Set or generate another's password; every session of theirs ends. Raises ProofNeeded, Conflict, InvalidInput."""
    services = ctx.services
    row = await get(services, action.username)
    if ctx.actor.user_id == row.id:  # or whoever finds a session open could keep the account
        raise Conflict(
            "Your own password changes with the old one.", "Use the account page or `diycloud account password`."
        )
    if row.sudo:
        raise Conflict(
            f"{row.username} has sudo, so only they themselves and root change the password.",
            f"As root on the host: passwd {row.username}, or diycloud user sudo {row.username} --revoke first.",
        )
    proof.require_of_session(ctx.actor)
    password, warnings = choose_password(ctx, action.password, (row.username, row.full_name, row.email or ""))
    if services.outside and await services.outside.subject(row) is not None:
        warnings += (f"{row.username} signs in with the directory's password; this one opens SSH only.",)
    generated = action.password is UNSET
    must_change = generated if action.must_change_password is UNSET else action.must_change_password
    await store_password(ctx, row, password, must_change=must_change)
    await notices.tell_of(ctx, row.id, notices.PASSWORD_SET)
    ctx.changes = {"password": "(secret)"}
    changed = await apply(ctx, row.id, warnings)
    return Changed(changed.user, password if generated else None, changed.warnings)


async def store_password(
    ctx: Context,
    row: Row,
    password: str,
    *,
    must_change: bool,
    keep_session: int | None = None,
    keep_tokens: bool = False,
) -> None:
    """Commit a new password as a wish, which the host follows. What was begun with the old one ends, but what is to be kept."""
    services = ctx.services
    if row.portal_only:
        hashed, shadow = await services.hasher.hash(password), None
    else:
        hashed, shadow = await asyncio.gather(services.hasher.hash(password), shadow_hash(services, password))
    if shadow is None and not row.portal_only:  # the old password would go on opening SSH
        raise Unavailable("The agent does not answer: a password changes on both sides or on none.", "Try again soon.")
    values = {"password_hash": hashed, "must_change_password": int(must_change), "shadow_hash": shadow}

    def store(connection: Connection) -> None:
        old_passwords.remember(connection, row, services.settings.server.password_history)
        repository.change(connection, row.id, {**values, "password_changed_at": repository.NOW})
        end_everything(connection, services, row.id, keep_session=keep_session, keep_tokens=keep_tokens)

    await ctx.write(store)
    await eviction.carry_out(services, row.username)


async def keep_an_admin(ctx: Context, row: Row) -> None:
    """Raise Conflict if a change would take the last administrator, or the actor's own way in."""
    if row.role is not Role.ADMIN or row.status not in SIGN_IN:
        return
    if ctx.actor.user_id == row.id:
        raise Conflict("You cannot take your own administrator's rights or account.", "Another administrator can.")
    if await ctx.services.database.read(repository.active_admins) <= 1:
        raise Conflict(f"{row.username} is the last administrator.", "Make another one first.")


def leave_an_admin(connection: Connection) -> None:
    """Raise Conflict, and so undo the transaction, if it leaves no administrator: two may take each other's rights at once."""
    if not repository.active_admins(connection):
        raise Conflict("That would leave no administrator.", "Make another one first.")


def check_transition(row: Row, to: Status) -> None:
    """Raise Conflict if a status may not follow another (models.TRANSITIONS)."""
    if to not in TRANSITIONS[row.status]:
        allowed = ", ".join(sorted(TRANSITIONS[row.status])) or "none"
        raise Conflict(f"{row.username} is {row.status} and cannot become {to}.", f"What can follow: {allowed}.")


async def by_id(services: Services, user_id: int) -> Row:
    """Return a user. Raises NotFound."""
    row = await services.database.read(repository.by_id, user_id)
    if row is None:
        raise NotFound("The user was removed meanwhile.")
    return row
