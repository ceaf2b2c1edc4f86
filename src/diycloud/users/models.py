"""What a user is, as others see it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from diycloud.actions.roles import Role


class Status(StrEnum):
    """Where an account is in its life."""

    PENDING = "pending"
    ACTIVE = "active"
    INACTIVE = "inactive"
    DELETED = "deleted"
    PURGING = "purging"
    PURGE_ERROR = "purge-error"


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.ACTIVE, Status.INACTIVE, Status.DELETED}),
    Status.ACTIVE: frozenset({Status.INACTIVE, Status.DELETED}),
    Status.INACTIVE: frozenset({Status.ACTIVE, Status.DELETED}),
    Status.DELETED: frozenset({Status.ACTIVE, Status.PURGING}),
    Status.PURGING: frozenset({Status.PURGE_ERROR}),
    Status.PURGE_ERROR: frozenset({Status.PURGING}),
}
"""Every allowed change; all others are refused."""

SIGN_IN = frozenset({Status.PENDING, Status.ACTIVE})


class Allocation(msgspec.Struct, frozen=True):
    """The limits of a user. cpu: cores; memory, disk, disk_hard: bytes; tasks: processes and threads."""

    cpu: float = 1.0
    memory: int = 2 << 30
    disk: int = 5 << 30
    disk_hard: int = 10 << 30
    tasks: int = 512
    gpu: bool = False


class Row(msgspec.Struct, frozen=True):
    """A user with everything the platform knows; never leaves the process."""

    id: int
    username: str
    password_hash: str
    email: str | None
    created_at: str
    last_login: str | None
    role: Role
    uuid: str
    status: Status
    full_name: str
    description: str
    shell: str
    portal_only: bool
    uid: int | None
    generation: int
    host_generation: int
    host_problem: str
    shadow_hash: str | None
    shadow_set: bool
    password_void: bool
    must_change_password: bool
    password_changed_at: str
    updated_at: str
    last_login_ip: str | None
    domain: str
    policy: str
    allowed_client_ip: str
    external_id: str | None
    sudo: bool
    container_uid: int | None
    container_gid: int | None
    container_gids: str
    ssh_keys: str
    groups: str
    allocation: Allocation


class Limits(msgspec.Struct, frozen=True):
    """The limits as people read them: cores, sizes such as 2G, a number of processes."""

    cpu: float
    memory: str
    disk: str
    disk_hard: str
    tasks: int
    gpu: bool


class User(msgspec.Struct, frozen=True):
    """A user as the API, the command line and the portal show it.

    settled: the host is as the database says; host_problem: why not, if it refused. version: grows with every change
    that the host must know. allowed_client_ip: networks, none means from anywhere. container_*: what containers run as,
    where it is not the user's own.
    """

    username: str
    status: Status
    role: Role
    domain: str
    groups: tuple[str, ...]
    policy: str
    full_name: str
    email: str | None
    description: str
    limits: Limits
    shell: str
    uid: int | None
    uuid: str
    external_id: str | None
    allowed_client_ip: tuple[str, ...]
    container_uid: int | None
    container_gid: int | None
    container_gids: tuple[int, ...]
    sudo: bool
    portal_only: bool
    must_change_password: bool
    settled: bool
    host_problem: str
    created_at: str
    updated_at: str
    last_login: str | None
    last_login_ip: str | None
    version: int


class Created(msgspec.Struct, frozen=True):
    """A new user. password: the generated one, shown this once; None if it was given."""

    user: User
    password: str | None = None
    warnings: tuple[str, ...] = ()


class Changed(msgspec.Struct, frozen=True):
    """A changed user, and what people should know about the change."""

    user: User
    password: str | None = None
    warnings: tuple[str, ...] = ()


class Page(msgspec.Struct, frozen=True):
    """A page of a list. next, previous: cursors, None at the ends; total: rows that match."""

    users: list[User]
    total: int
    next: str | None = None
    previous: str | None = None


class PurgePlan(msgspec.Struct, frozen=True):
    """What a purge would remove. home_size: bytes on disk as text.

    groups: whose shared folders keep what the user put there; history: rows of the audit that name the user.
    """

    username: str
    status: Status
    uid: int | None
    home: str
    home_size: str
    home_files: int
    processes: int
    groups: tuple[str, ...] = ()
    history: int = 0


class Purged(msgspec.Struct, frozen=True):
    """What a purge removed. archive: path of the packed home, empty if none was asked for; archive_size: as text.

    handed_over: files and folders in groups' folders that are somebody else's now.
    """

    username: str
    home_in_trash: bool
    archive: str = ""
    archive_size: str = ""
    handed_over: int = 0
    warnings: tuple[str, ...] = ()


class ImportRow(msgspec.Struct, frozen=True):
    """One row of an import. line: in the file, the heading is 1, or the place in a list of objects, from 1.

    outcome: new or change in a dry run; created, changed, pending or refused.
    """

    line: int
    username: str
    outcome: str
    password: str | None = None
    warnings: tuple[str, ...] = ()
    errors: tuple[tuple[str, str], ...] = ()
    """Column and what is wrong there."""


class ImportReport(msgspec.Struct, frozen=True):
    """What an import did, or would do."""

    dry_run: bool
    rows: list[ImportRow]
    created: int
    refused: int
    pending: int = 0
    changed: int = 0
    warnings: tuple[str, ...] = ()


class BulkRow(msgspec.Struct, frozen=True):
    """What became of one change. row: its place in the list, from 1. password: a generated one, shown this once.

    outcome: possible (dry run), done, pending (the host follows), refused, failed, left-out (one before it failed).
    """

    row: int
    username: str
    action: str
    outcome: str
    password: str | None = None
    warnings: tuple[str, ...] = ()
    errors: tuple[tuple[str, str], ...] = ()
    """Field and what is wrong there."""


class BulkReport(msgspec.Struct, frozen=True):
    """What became of many changes, in their order. failed: refused ones with them."""

    dry_run: bool
    rows: list[BulkRow]
    done: int
    failed: int
    pending: int = 0
    left_out: int = 0


class Reading(msgspec.Struct, frozen=True):
    """One budget line. used and limit in the same unit: cores, bytes or processes."""

    used: float
    limit: float


class Usage(msgspec.Struct, frozen=True):
    """What a user uses now, beside the budget. at: Unix seconds of the reading; None: no reading yet."""

    username: str
    at: float | None
    cpu: Reading
    memory: Reading
    tasks: Reading
    oom_kills: int = 0
