"""What can be done with groups: data and permission, nothing else. How: groups/service.py."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from diycloud.actions.action import Action, Audited, Kind, Permission, action
from diycloud.actions.fields import Description, DiskSize, DomainName, GroupName, PageSize, Search, Username, Usernames
from diycloud.groups.models import GroupChanged, GroupDetail, GroupPage, GroupPlan

Quota = Annotated[DiskSize, Meta(extra={"help": "quota of the shared folder, such as 100G"})]
FirstMembers = Annotated[
    tuple[Username, ...],
    Meta(
        max_length=1000,
        extra={"rule": "at most 1000 names of users", "help": "its first members, with commas between"},
    ),
]


@action("group.create", needs=Permission.GROUPS, target="name", kind=Kind.NEW_GROUP)
class CreateGroup(Action[GroupChanged], frozen=True):
    """Create a group with a folder that its members share."""

    name: GroupName
    domain: DomainName | UnsetType = UNSET
    description: Description | None = None
    disk: Quota | None = None
    members: FirstMembers = ()


@action("group.list", needs=Permission.GROUPS_READ, audited=Audited.NO, target="")
class ListGroups(Action[GroupPage], frozen=True):
    """List groups by name, page by page."""

    search: Search = ""
    domain: DomainName | None = None
    after: Annotated[Search, Meta(extra={"help": "the last name of the page before"})] = ""
    limit: PageSize = 50


@action("group.show", needs=Permission.GROUPS_READ, audited=Audited.NO, target="name", kind=Kind.GROUP)
class ShowGroup(Action[GroupDetail], frozen=True):
    """Show one group with its members."""

    name: GroupName


@action("group.modify", needs=Permission.GROUPS, target="name", kind=Kind.GROUP)
class ModifyGroup(Action[GroupChanged], frozen=True):
    """Change a group; what is left out stays, null clears."""

    name: GroupName
    description: Description | UnsetType | None = UNSET
    disk: Quota | UnsetType | None = UNSET


@action("group.add-members", needs=Permission.GROUPS, target="name", kind=Kind.GROUP)
class AddMembers(Action[GroupChanged], frozen=True):
    """Put users of the group's domain into it; in force at their next sign-in."""

    name: GroupName
    members: Usernames


@action("group.remove-members", needs=Permission.GROUPS, target="name", kind=Kind.GROUP)
class RemoveMembers(Action[GroupChanged], frozen=True):
    """Take users out of a group; programs of theirs that run go on with its rights until they end."""

    name: GroupName
    members: Usernames


@action("group.remove-preview", needs=Permission.GROUPS, audited=Audited.NO, target="name", kind=Kind.GROUP)
class PreviewRemoveGroup(Action[GroupPlan], frozen=True):
    """Show what the removal of a group would take away."""

    name: GroupName


@action("group.remove", needs=Permission.GROUPS, target="name", kind=Kind.GROUP)
class RemoveGroup(Action[None], frozen=True):
    """Remove a group; its folder goes to the trash, where it is kept for a while."""

    name: GroupName
