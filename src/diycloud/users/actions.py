"""What can be done with users: data and permission, nothing else. How: users/service.py and its neighbours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from diycloud.actions.action import Action, Audited, Kind, Permission, action
from diycloud.actions.download import Download
from diycloud.actions.fields import (
    ContainerGid,
    ContainerGids,
    ContainerUid,
    Cores,
    Cursor,
    Description,
    DiskSize,
    DomainName,
    Email,
    ExternalId,
    Flag,
    FullName,
    Gpu,
    GroupName,
    GroupNames,
    MemorySize,
    Networks,
    PageSize,
    Password,
    PolicyName,
    RoleField,
    Search,
    Shell,
    Tasks,
    Username,
)
from diycloud.actions.roles import Role
from diycloud.users.models import (
    BulkReport,
    Changed,
    Created,
    ImportReport,
    Page,
    Purged,
    PurgePlan,
    Status,
    Usage,
    User,
)

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

UserObjects = Annotated[
    tuple[dict[str, object], ...],
    Meta(
        max_length=10_000,
        extra={"rule": "at most 10000 objects", "help": "users, as an export has them", "secret": True},
    ),
]
Changes = Annotated[
    tuple[dict[str, object], ...],
    Meta(
        max_length=10_000,
        extra={
            "rule": "at most 10000 objects with action, username and the action's fields",
            "help": "what is to be done, a row for each user",
            "secret": True,
        },
    ),
]
ExportFormat = Annotated[Literal["csv", "json"], Meta(extra={"rule": "csv or json", "help": "csv or json"})]


@action("user.create", needs=Permission.USERS_CREATE, kind=Kind.NEW)
class CreateUser(Action[Created], frozen=True):
    """Create a user: portal account, POSIX account, home, slice and limits.

    A limit that is not given is the policy's; the policy that is not given is the domain's.
    """

    username: Username
    password: Password | UnsetType = UNSET
    email: Email | None = None
    full_name: FullName | None = None
    description: Description | None = None
    role: RoleField = Role.USER
    domain: DomainName | UnsetType = UNSET
    groups: GroupNames = ()
    policy: PolicyName | UnsetType = UNSET
    cpu: Cores | UnsetType = UNSET
    memory: MemorySize | UnsetType = UNSET
    disk: DiskSize | UnsetType = UNSET
    tasks: Tasks | UnsetType = UNSET
    gpu: Gpu | UnsetType = UNSET
    shell: Shell = "/bin/bash"
    external_id: ExternalId | None = None
    allowed_client_ip: Networks = ()
    container_uid: ContainerUid | None = None
    container_gid: ContainerGid | None = None
    container_gids: ContainerGids = ()
    must_change_password: Annotated[
        Flag | UnsetType,
        Meta(extra={"help": "make the user choose a password at the first sign-in (default: if generated)"}),
    ] = UNSET


@action("user.show", needs=Permission.USERS_READ, audited=Audited.NO)
class ShowUser(Action[User], frozen=True):
    """Show one user."""

    username: Username


@action("user.list", needs=Permission.USERS_READ, audited=Audited.NO, target="")
class ListUsers(Action[Page], frozen=True):
    """List users: search, sort, filter, page by page."""

    search: Search = ""
    status: StatusFilter | None = None
    role: RoleField | None = None
    domain: DomainName | None = None
    group: GroupName | None = None
    policy: PolicyName | None = None
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
    domain: DomainName | UnsetType = UNSET
    groups: GroupNames | UnsetType = UNSET
    policy: PolicyName | UnsetType = UNSET
    shell: Shell | UnsetType = UNSET
    external_id: ExternalId | UnsetType | None = UNSET
    allowed_client_ip: Networks | UnsetType | None = UNSET
    container_uid: ContainerUid | UnsetType | None = UNSET
    container_gid: ContainerGid | UnsetType | None = UNSET
    container_gids: ContainerGids | UnsetType | None = UNSET
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
    archive: Annotated[
        Flag, Meta(extra={"help": "pack the home into agent.archive first, as its owner; nothing goes if that fails"})
    ] = False
    hand_over_to: Annotated[
        Username | UnsetType, Meta(extra={"help": "who gets what the user has in groups' folders; else it stays there"})
    ] = UNSET
    history: Annotated[
        Literal["keep", "anonymous"],
        Meta(
            extra={
                "rule": "keep or anonymous",
                "help": "the audit's rows: keep the user's name, or put a pseudonym for it and drop what was changed",
            }
        ),
    ] = "keep"


HostUid = Annotated[
    int, Meta(ge=1000, le=4_294_967_293, extra={"rule": "a whole number from 1000", "help": "the account's number"})
]
HostFullName = Annotated[
    str,
    Meta(
        pattern=r"\A[^\x00-\x1f\x7f:,]{0,100}\Z",
        extra={"rule": "at most 100 characters, no colon or comma", "help": "as the host has it"},
    ),
]


@action("user.adopt", needs=Permission.ROOT, kind=Kind.NEW)
class AdoptUser(Action[Changed], frozen=True):
    """Make a user of an account that the host has; its files and password stay as they are.

    Root's command line sends it, tells the agent to adopt the account, and sends it again.
    """

    username: Username
    uid: HostUid
    shell: Shell
    full_name: HostFullName = ""
    domain: DomainName | UnsetType = UNSET
    policy: PolicyName | UnsetType = UNSET
    cpu: Cores | UnsetType = UNSET
    memory: MemorySize | UnsetType = UNSET
    disk: DiskSize | UnsetType = UNSET
    tasks: Tasks | UnsetType = UNSET
    gpu: Gpu | UnsetType = UNSET


@action("user.set-sudo", needs=Permission.ROOT)
class SetSudo(Action[Changed], frozen=True):
    """Record that root made a user an administrator of the host, or no longer."""

    username: Username
    granted: Annotated[Flag, Meta(extra={"help": "whether the user has sudo"})]


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
    """Create users from CSV or JSON: every row is checked before the first is created.

    The columns are CreateUser's fields and what an export has beside them.
    """

    csv: CsvText = ""
    users: UserObjects = ()
    update: Annotated[
        Flag, Meta(extra={"help": "change the users that exist by their rows, else they are refused"})
    ] = False
    dry_run: Annotated[Flag, Meta(extra={"help": "check only, change nothing"})] = False


@action("user.export", needs=Permission.USERS_EXPORT, audited=Audited.EXPORT, target="")
class ExportUsers(Action[Download], frozen=True):
    """Export users as CSV or JSON, with all that an import takes."""

    format: ExportFormat = "json"
    search: Search = ""
    status: StatusFilter = "all"
    role: RoleField | None = None
    domain: DomainName | None = None
    group: GroupName | None = None
    policy: PolicyName | None = None
    with_hashes: Annotated[
        Flag, Meta(extra={"help": "with the hashes of the passwords, so that they go on; for root only"})
    ] = False


@action("user.bulk", needs=Permission.USERS_MODIFY, target="")
class BulkUsers(Action[BulkReport], frozen=True):
    """Do many actions on users, one for each user; all are checked before the first is done."""

    changes: Changes
    on_error: Annotated[
        Literal["stop", "continue"],
        Meta(
            extra={
                "rule": "stop or continue",
                "help": "stop: nothing is done if a row is at fault, and nothing more after one fails",
            }
        ),
    ] = "stop"
    dry_run: Annotated[Flag, Meta(extra={"help": "check only, change nothing"})] = False


@action("user.usage", needs=Permission.USAGE_READ, audited=Audited.NO)
class ReadUsage(Action[Usage], frozen=True):
    """Show what a user uses now, beside the budget."""

    username: Username


BULK: dict[str, type[Action[Any]]] = {
    "create": CreateUser,
    "modify": ModifyUser,
    "set-limits": SetLimits,
    "set-password": SetPassword,
    "disable": DisableUser,
    "enable": EnableUser,
    "delete": DeleteUser,
    "restore": RestoreUser,
    "purge": PurgeUser,
}
"""What a row of BulkUsers can ask for."""
