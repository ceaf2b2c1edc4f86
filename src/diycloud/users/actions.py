"""What can be done with users: data and permission, nothing else. How: users/service.py and its neighbours."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from diycloud.actions.action import Action, Audited, Permission, action
from diycloud.actions.fields import (
    Cores,
    Cursor,
    Description,
    DiskSize,
    Email,
    Flag,
    FullName,
    Gpu,
    MemorySize,
    PageSize,
    Password,
    RoleField,
    Search,
    Tasks,
    Username,
)
from diycloud.actions.roles import Role
from diycloud.users.models import Changed, Created, ImportReport, Page, Purged, PurgePlan, Status, Usage, User

SORTS = ("username", "created_at", "last_login", "cpu", "memory", "status", "role", "full_name")
Sort = Annotated[
    Literal["username", "created_at", "last_login", "cpu", "memory", "status", "role", "full_name"],
    Meta(extra={"rule": f"one of: {', '.join(SORTS)}", "help": "column to sort by"}),
]
StatusFilter = Annotated[
    Literal["all", "pending", "active", "inactive", "deleted", "purging", "purge-error"],
    Meta(
        extra={"rule": f"all or one of: {', '.join(Status)}", "help": "show only this status; all includes the deleted"}
    ),
]
CsvText = Annotated[
    str,
    Meta(
        max_length=8 << 20,
        extra={"rule": "CSV text of at most 8 MiB with a heading line", "help": "the file's text", "secret": True},
    ),
]


@action("user.create", needs=Permission.USERS_CREATE)
class CreateUser(Action[Created], frozen=True):
    """Create a user: portal account, POSIX account, home, slice and limits."""

    username: Username
    password: Password | UnsetType = UNSET
    email: Email | None = None
    full_name: FullName | None = None
    description: Description | None = None
    role: RoleField = Role.USER
    cpu: Cores = 1.0
    memory: MemorySize = 2 << 30
    disk: DiskSize = 5 << 30
    tasks: Tasks = 512
    gpu: Gpu = False
    must_change_password: Annotated[
        Flag | UnsetType,
        Meta(extra={"help": "make the user choose a password at the first sign-in (default: if generated)"}),
    ] = UNSET


@action("user.show", needs=Permission.USERS_READ, own=Permission.OWN_READ, audited=Audited.NO)
class ShowUser(Action[User], frozen=True):
    """Show one user."""

    username: Username


@action("user.list", needs=Permission.USERS_READ, audited=Audited.NO)
class ListUsers(Action[Page], frozen=True):
    """List users: search, sort, filter, page by page."""

    search: Search = ""
    status: StatusFilter | None = None
    role: RoleField | None = None
    sort: Sort = "username"
    descending: Annotated[Flag, Meta(extra={"help": "largest first"})] = False
    cursor: Cursor = ""
    limit: PageSize = 50


@action("user.modify", needs=Permission.USERS_MODIFY)
class ModifyUser(Action[Changed], frozen=True):
    """Change fields of a user; what is left out stays, null clears."""

    username: Username
    email: Email | UnsetType | None = UNSET
    full_name: FullName | UnsetType | None = UNSET
    description: Description | UnsetType | None = UNSET
    role: RoleField | UnsetType = UNSET
    cpu: Cores | UnsetType = UNSET
    memory: MemorySize | UnsetType = UNSET
    disk: DiskSize | UnsetType = UNSET
    tasks: Tasks | UnsetType = UNSET
    gpu: Gpu | UnsetType = UNSET
    force: Annotated[Flag, Meta(extra={"help": "set a memory limit below what is used now"})] = False


@action("limits.set", needs=Permission.USERS_LIMITS)
class SetLimits(Action[Changed], frozen=True):
    """Change a user's limits, in force at once on what already runs."""

    username: Username
    cpu: Cores | UnsetType = UNSET
    memory: MemorySize | UnsetType = UNSET
    disk: DiskSize | UnsetType = UNSET
    tasks: Tasks | UnsetType = UNSET
    gpu: Gpu | UnsetType = UNSET
    force: Annotated[Flag, Meta(extra={"help": "set a memory limit below what is used now"})] = False


@action("user.disable", needs=Permission.USERS_STATUS)
class DisableUser(Action[Changed], frozen=True):
    """Disable a user: no sign-in anywhere; what runs is stopped unless it is to be kept."""

    username: Username
    keep_running: Annotated[Flag, Meta(extra={"help": "leave running programs alone"})] = False


@action("user.enable", needs=Permission.USERS_STATUS)
class EnableUser(Action[Changed], frozen=True):
    """Enable a disabled user."""

    username: Username


@action("user.delete", needs=Permission.USERS_DELETE)
class DeleteUser(Action[Changed], frozen=True):
    """Delete a user softly: disabled and hidden, everything kept; restore undoes it."""

    username: Username


@action("user.restore", needs=Permission.USERS_DELETE)
class RestoreUser(Action[Changed], frozen=True):
    """Restore a deleted user with the same UID, files and limits."""

    username: Username


@action("user.purge-preview", needs=Permission.USERS_PURGE, audited=Audited.NO)
class PreviewPurge(Action[PurgePlan], frozen=True):
    """Show what a purge of a user would remove."""

    username: Username


@action("user.purge", needs=Permission.USERS_PURGE)
class PurgeUser(Action[Purged], frozen=True):
    """Remove a deleted user for good: workloads, account, slice; the home goes to the trash."""

    username: Username


@action("user.set-password", needs=Permission.USERS_PASSWORD)
class SetPassword(Action[Changed], frozen=True):
    """Set or generate a user's password and sign them out everywhere."""

    username: Username
    password: Password | UnsetType = UNSET
    must_change_password: Annotated[
        Flag | UnsetType,
        Meta(extra={"help": "make the user choose another at the next sign-in (default: if generated)"}),
    ] = UNSET


@action("user.import", needs=Permission.USERS_CREATE, target="")
class ImportUsers(Action[ImportReport], frozen=True):
    """Create users from CSV: every row is checked before the first is created."""

    csv: CsvText
    dry_run: Annotated[Flag, Meta(extra={"help": "check only, change nothing"})] = False


@action("user.usage", needs=Permission.USAGE_READ, own=Permission.OWN_READ, audited=Audited.NO)
class ReadUsage(Action[Usage], frozen=True):
    """Show what a user uses now, beside the budget."""

    username: Username
