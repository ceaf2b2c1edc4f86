"""What rows of an import are checked beside: the database, the rows before them, the host, who imports."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from diycloud.actions.dispatcher import Context
from diycloud.actions.turns import Turns
from diycloud.agent import protocol as wire
from diycloud.errors import DiyCloudError, FieldError, InvalidInput, PermissionDenied, Unavailable
from diycloud.groups import repository as groups
from diycloud.host.names import is_reserved
from diycloud.units import format_size
from diycloud.users import placing, repository, service
from diycloud.users.actions import CreateUser
from diycloud.users.models import Status
from diycloud.users.rows import Candidate, Kept

UNSET = msgspec.UNSET
_UNIQUE = {"email": "another user has this address", "external_id": "another user has this id"}


class _Others(NamedTuple):
    """taken: by column, what other users have (addresses in lower case); lines: where a value of a column was first."""

    taken: dict[str, set[str]]
    teams: set[str]
    """Names that groups have: an account's private group has its user's name too."""
    lines: dict[tuple[str, str], int]
    groups: dict[str, str]
    """Each group's domain."""
    capacity: wire.HostCapacity | None
    places: dict[tuple[object, ...], placing.Place | DiyCloudError]


async def check_rows(ctx: Context, found: list[Candidate], *, update: bool = False) -> list[Candidate]:
    """Return the rows with a password each, and with what is wrong in them, among them and beside what exists.

    update: a row of a user that exists is to change that user; what it may change is checked elsewhere (bulk.check).
    """
    others = await _others(ctx, [c for c in found if c.action])
    checked, turns = [], Turns()
    for c in found:
        await turns.give_way()
        if not c.action:
            checked.append(c)
        elif update and c.username in others.taken["username"]:
            checked.append(_existing(c, others))
        else:
            checked.append(await _checked(ctx, c, others))
    return checked


async def _others(ctx: Context, found: list[Candidate]) -> _Others:
    wanted = {
        "username": [c.username for c in found],
        "email": [c.wanted.email.lower() for c in found if c.wanted.email],
        "external_id": [c.wanted.external_id for c in found if c.wanted.external_id],
        "uuid": [c.kept.uuid for c in found if c.kept.uuid is not UNSET],
    }
    names = sorted({name for c in found for name in c.wanted.groups})
    database = ctx.services.database
    taken = await database.read_long(lambda c: {k: repository.existing(c, k, v) for k, v in wanted.items()})
    teams = await database.read_long(groups.taken, wanted["username"])
    try:
        capacity = await ctx.services.capacity()
    except Unavailable:
        capacity = None
    return _Others(taken, teams, {}, await database.read_long(placing.domains_of_groups, names), capacity, {})


def _existing(c: Candidate, others: _Others) -> Candidate:
    """Return a row that is to change a user: what it cannot change is left as it is, with a word about it."""
    errors = _twice(c, "username", c.username, others)
    left = [name for name in ("password", "password_hash") if c.given.get(name)]
    warnings = (f"Left as they are: {', '.join(left)}.",) if left else ()
    return c._replace(exists=True, errors=tuple(errors), warnings=warnings)


async def _checked(ctx: Context, c: Candidate, others: _Others) -> Candidate:
    a = c.wanted
    errors = _name_errors(c, others)
    where, allocation = await _place(ctx, a, others), c.allocation
    try:
        if isinstance(where, DiyCloudError):
            raise where
        allocation = placing.allocation_of(a, where.policy)
        if c.kept.disk_hard is not None:
            allocation = msgspec.structs.replace(allocation, disk_hard=c.kept.disk_hard)
            if allocation.disk_hard < allocation.disk:
                errors.append(FieldError("disk_hard", "is below disk"))
            most = where.policy.max_disk
            if most is not None and allocation.disk_hard > 2 * most:
                rule = f"at most {format_size(2 * most)} by the policy {where.policy.name}"
                errors.append(FieldError("disk_hard", rule))
        errors += service.beyond_host(others.capacity, allocation) if others.capacity else []
        errors += _group_errors(a, where.domain, others)
    except InvalidInput as error:
        errors.extend(error.errors)
    except PermissionDenied as error:
        errors.append(FieldError("row", str(error)))
    for column, message in _UNIQUE.items():
        value = getattr(a, column) or ""
        value = value.lower() if column == "email" else value
        if value and value in others.taken[column]:
            errors.append(FieldError(column, message))
        elif value:
            errors += _twice(c, column, value, others)
    kept, warnings = _keep(ctx, c, others, errors)
    password = ""
    if c.kept.password_hash is UNSET:
        try:
            own = (c.username, a.full_name or "", a.email or "")
            password, weak = service.choose_password(ctx, a.password, own)
            warnings += weak
        except InvalidInput as error:
            errors.extend(error.errors)
    elif a.password is not UNSET:
        errors.append(FieldError("password_hash", "is there beside a password"))
    return c._replace(
        errors=tuple(errors), password=password, warnings=warnings, allocation=allocation, kept=kept,
        where=None if isinstance(where, DiyCloudError) else where,
    )  # fmt: skip


def _name_errors(c: Candidate, others: _Others) -> list[FieldError]:
    if is_reserved(c.username):
        return [FieldError("username", "is a name of the system's")]
    if c.username in others.taken["username"]:
        return [FieldError("username", "there is such a user already")]
    if c.username in others.teams:
        return [FieldError("username", "there is a group of this name")]
    return _twice(c, "username", c.username, others)


def _twice(c: Candidate, column: str, value: str, others: _Others) -> list[FieldError]:
    first = others.lines.setdefault((column, value), c.line)
    return [] if first == c.line else [FieldError(column, f"is on line {first} too")]


def _group_errors(a: CreateUser, domain: str, others: _Others) -> list[FieldError]:
    missing = [name for name in a.groups if others.groups.get(name) != domain]
    return [FieldError("groups", f"there is no group {name} in the domain {domain}") for name in missing]


def _keep(ctx: Context, c: Candidate, others: _Others, errors: list[FieldError]) -> tuple[Kept, tuple[str, ...]]:
    """Return what of a row is restored, with warnings for what is not; adds errors."""
    kept, warnings = c.kept, tuple[str, ...]()
    if (kept.password_hash is not UNSET or kept.portal_only) and not ctx.actor.is_root:
        column = "portal_only" if kept.portal_only else "password_hash"
        errors.append(FieldError(column, "only root on the host itself brings it in"))
    if kept.status in (Status.PURGING, Status.PURGE_ERROR):
        kept = msgspec.structs.replace(kept, status=Status.DELETED)
        warnings = ("A purge was under way there; here the user is deleted.",)
    if ctx.bound is not None and (kept.uuid is not UNSET or kept.created_at is not UNSET):
        kept = msgspec.structs.replace(kept, uuid=UNSET, created_at=UNSET)
    if kept.uuid is not UNSET and kept.uuid in others.taken["uuid"]:
        errors.append(FieldError("uuid", "another user has it"))
    elif kept.uuid is not UNSET:
        errors += _twice(c, "uuid", kept.uuid, others)
    return kept, warnings


async def _place(ctx: Context, a: CreateUser, others: _Others) -> placing.Place | DiyCloudError:
    """Return where a row's user goes, or why nowhere: asked once for all rows that say the same of it."""
    key = tuple(getattr(a, name) for name in ("domain", *placing.ADMINS_FIELDS))
    if key not in others.places:
        try:
            others.places[key] = await placing.place(ctx, a)
        except (InvalidInput, PermissionDenied) as error:
            others.places[key] = error
    return others.places[key]
