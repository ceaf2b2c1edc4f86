"""Export: every user with all that import takes, as CSV or JSON, made in pages in the thread for long reads.

The columns are CreateUser's and those of importing.Kept, so that what goes out comes in again unchanged, on another machine
too; uid, sudo and last_login are there to be read, and import leaves them out. Passwords never leave; their hashes only on
root's word.
"""

from __future__ import annotations

import csv
import datetime
import io
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam

from diycloud.actions.dispatcher import Context
from diycloud.actions.download import Download, pages
from diycloud.actions.roles import Role
from diycloud.db.engine import Prepared
from diycloud.db.tables import users
from diycloud.errors import PermissionDenied
from diycloud.units import format_size
from diycloud.users import host, listing, repository
from diycloud.users.actions import ExportUsers
from diycloud.users.models import Row, Status

PAGE = 500
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Exported(msgspec.Struct, frozen=True):
    """A user as a file has it. disk_hard: None for twice the disk limit; password_hash: only on root's word."""

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


_size = lru_cache(maxsize=4096)(format_size)
_encode = msgspec.json.Encoder().encode


def exported(row: Row, *, hashes: bool) -> Exported:
    """Return a user as a file has it."""
    limits = row.allocation
    return Exported(
        username=row.username,
        status=row.status,
        email=row.email,
        full_name=row.full_name or None,
        description=row.description or None,
        role=row.role,
        domain=row.domain,
        groups=host.names(row.groups),
        policy=row.policy,
        cpu=limits.cpu,
        memory=_size(limits.memory),
        disk=_size(limits.disk),
        disk_hard=None if limits.disk_hard == 2 * limits.disk else _size(limits.disk_hard),
        tasks=limits.tasks,
        gpu=limits.gpu,
        shell=row.shell,
        external_id=row.external_id,
        allowed_client_ip=host.names(row.allowed_client_ip),
        container_uid=row.container_uid,
        container_gid=row.container_gid,
        container_gids=host.numbers(row.container_gids),
        must_change_password=row.must_change_password,
        ssh_keys=tuple(row.ssh_keys.splitlines()),
        portal_only=row.portal_only,
        uuid=row.uuid,
        created_at=row.created_at,
        uid=row.uid,
        sudo=row.sudo,
        last_login=row.last_login,
        password_hash=row.password_hash if hashes else msgspec.UNSET,
    )


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
        found = _page(shape).fetch_all(connection, **values, after=after, rows=PAGE)
        rows = [repository.to_row(row) for row in found]
        following = rows[-1].id if len(rows) == PAGE else None
        people = [exported(row, hashes=action.with_hashes) for row in rows]
        return render(people, first=after == 0, last=following is None, hashes=action.with_hashes), following

    kind = "application/json" if action.format == "json" else "text/csv; charset=utf-8"
    name = f"users-{datetime.datetime.now(datetime.UTC):%Y-%m-%d}.{action.format}"
    return Download(kind, name, pages(ctx.services.database, read, 0))


@lru_cache(maxsize=64)
def _page(shape: listing.Shape) -> Prepared:
    query = repository.ROW.where(users.c.id > bindparam("after"), *listing.conditions(shape))
    return Prepared(query.order_by(users.c.id).limit(bindparam("rows")))


def _json(people: list[Exported], *, first: bool, last: bool, hashes: bool) -> bytes:
    """Return a part of an array, an object a line."""
    lines = b",\n".join(map(_encode, people))
    start = b"[\n" if first else b",\n" if lines else b""
    return start + lines + (b"\n]\n" if last else b"")


def _csv(people: list[Exported], *, first: bool, last: bool, hashes: bool) -> bytes:
    columns = Exported.__struct_fields__ if hashes else Exported.__struct_fields__[:-1]
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
        return ("\n" if name == "ssh_keys" else " ").join(map(str, value))  # a key has blanks
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
