"""Export: every user with all that import takes, as CSV or JSON, made in pages in the thread for long reads.

The columns are CreateUser's and those of importing.Kept, so that what goes out comes in again unchanged, on another machine
too; uid, sudo and last_login are there to be read, and import leaves them out. Passwords never leave; their hashes only on
root's word.
"""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, select

from diycloud.actions.dispatcher import Context
from diycloud.actions.download import Download, pages
from diycloud.actions.roles import Role
from diycloud.db.engine import Prepared
from diycloud.db.tables import users
from diycloud.errors import PermissionDenied
from diycloud.units import format_size
from diycloud.users import listing, repository, shown
from diycloud.users.actions import ExportUsers
from diycloud.users.models import Status

PAGE = 500
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Exported(msgspec.Struct, frozen=True):
    """A user as a file has it. disk_hard: None for twice the disk limit; password_*: only on root's word."""

    username: str
    status: Status
    email: str | None
    full_name: str | None
    description: str | None
    role: Role
    domain: str
    groups: tuple[str, ...]
    policy: str
    cpu: float
    memory: str
    disk: str
    disk_hard: str | None
    tasks: int
    gpu: bool
    shell: str
    external_id: str | None
    allowed_client_ip: tuple[str, ...]
    container_uid: int | None
    container_gid: int | None
    container_gids: tuple[int, ...]
    must_change_password: bool
    ssh_keys: tuple[str, ...]
    portal_only: bool
    uuid: str
    created_at: str
    uid: int | None
    sudo: bool
    last_login: str | None
    password_hash: str | msgspec.UnsetType = msgspec.UNSET
    password_changed_at: str | msgspec.UnsetType = msgspec.UNSET


_COLUMNS = (
    *shown.columns(
        "id", "username", "status", "email", "full_name", "description", "role", "domain", "policy", "shell",
        "external_id", "allowed_client_ip", "container_uid", "container_gid", "container_gids", "must_change_password",
        "ssh_keys", "portal_only", "uuid", "created_at", "uid", "sudo", "last_login",
    ),
    repository.GROUPS.label("groups"),
    *repository.LIMITS,
)  # fmt: skip
SECRET = ("password_hash", "password_changed_at")
_encode = msgspec.json.Encoder().encode


@lru_cache(maxsize=4096, typed=True)  # a thousand users share a dozen
def _limits(*values: object) -> tuple[float, str, str, str | None, int, bool]:
    """Return what a file has of the columns of an allocation."""
    given = repository.to_allocation(*values)
    hard = None if given.disk_hard == 2 * given.disk else format_size(given.disk_hard)
    return given.cpu, format_size(given.memory), format_size(given.disk), hard, given.tasks, given.gpu


def exported(values: Sequence[Any]) -> Exported:
    """Return a user as a file has it, of a row of `_page`; with SECRET if that stands last."""
    (
        _, username, status, email, full_name, description, role, domain, policy, shell, external_id, networks,
        container_uid, container_gid, container_gids, must_change, ssh_keys, portal_only, uuid, created_at, uid, sudo,
        last_login, groups, *limits,
    ) = values  # fmt: skip
    hashes = limits[len(repository.LIMITS) :]
    cpu, memory, disk, disk_hard, tasks, gpu = _limits(*limits[: len(repository.LIMITS)])
    return Exported(  # by place, in the order of the declaration: by name it takes three times as long
        username, shown.STATUSES[status], email, full_name or None, description or None, shown.ROLES[role], domain,
        shown.names(groups), policy, cpu, memory, disk, disk_hard, tasks, gpu, shell, external_id, shown.names(networks),
        container_uid, container_gid, shown.numbers(container_gids), bool(must_change), tuple(ssh_keys.splitlines()),
        bool(portal_only), uuid, created_at, uid, bool(sudo), last_login, *hashes,
    )  # fmt: skip


async def export_users(ctx: Context, action: ExportUsers) -> Download:
    """Send everyone who is asked for, in the order they were created. Raises PermissionDenied for hashes to others than root."""
    if action.with_hashes and not ctx.actor.is_root:
        raise PermissionDenied("Hashes of passwords leave only on root's word.", "As root on the host itself.")
    shape, given = listing.chosen(
        search=action.search, status=action.status, role=action.role, domain=ctx.within(action.domain),
        group=action.group, policy=action.policy,
    )  # fmt: skip
    values = {name: given[name] for name in listing.parameters(shape)}
    render = _json if action.format == "json" else _csv

    def read(connection: Connection, after: int) -> tuple[bytes, int | None]:
        found = _page(shape, hashes=action.with_hashes).fetch_all(connection, **values, after=after, rows=PAGE)
        following = found[-1][0] if len(found) == PAGE else None
        people = [exported(row) for row in found]
        return render(people, first=after == 0, last=following is None, hashes=action.with_hashes), following

    kind = "application/json" if action.format == "json" else "text/csv; charset=utf-8"
    name = f"users-{datetime.datetime.now(datetime.UTC):%Y-%m-%d}.{action.format}"
    return Download(kind, name, pages(ctx.services.database, read, 0))


@lru_cache(maxsize=64)
def _page(shape: listing.Shape, *, hashes: bool) -> Prepared:
    query = select(*_COLUMNS, *(shown.columns(*SECRET) if hashes else ())).select_from(repository.JOIN)
    query = query.where(users.c.id > bindparam("after"), *listing.conditions(shape))
    return Prepared(query.order_by(users.c.id).limit(bindparam("rows")))


def _json(people: list[Exported], *, first: bool, last: bool, hashes: bool) -> bytes:
    """Return a part of an array, an object a line."""
    lines = b",\n".join(map(_encode, people))
    start = b"[\n" if first else b",\n" if lines else b""
    return start + lines + (b"\n]\n" if last else b"")


def _csv(people: list[Exported], *, first: bool, last: bool, hashes: bool) -> bytes:
    columns = Exported.__struct_fields__ if hashes else Exported.__struct_fields__[: -len(SECRET)]
    out = io.StringIO()
    writer = csv.writer(out)
    if first:
        writer.writerow(columns)
    writer.writerows([_cell(name, getattr(one, name)) for name in columns] for one in people)
    return out.getvalue().encode()


def _cell(name: str, value: Any) -> str:
    """Return a cell. What a spreadsheet would run is in no field by its rule, but may have been written by hand."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        value = ("\n" if name == "ssh_keys" else " ").join(map(str, value))  # a key has blanks
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
