"""What a group is: a team within a domain, with a folder that its members share."""

from __future__ import annotations

import msgspec


class Group(msgspec.Struct, frozen=True):
    """A group. gid, folder: on the host, empty until it has them; host_problem: why not, if it refused.

    disk: quota of the folder, None for none; members: how many. removing: it is being taken off the host.
    """

    name: str
    domain: str
    description: str
    gid: int | None
    folder: str
    disk: str | None
    members: int
    removing: bool
    host_problem: str
    created_at: str
    updated_at: str


class GroupDetail(msgspec.Struct, frozen=True):
    """A group with the names of its members."""

    group: Group
    members: tuple[str, ...]


class GroupPage(msgspec.Struct, frozen=True):
    """A page of groups, by name. next: what `after` asks for the following page, None at the end."""

    groups: list[Group]
    next: str | None = None


class GroupChanged(msgspec.Struct, frozen=True):
    """A changed group, and what people should know about the change."""

    group: Group
    warnings: tuple[str, ...] = ()


class GroupPlan(msgspec.Struct, frozen=True):
    """What the removal of a group would take away. gid: None if the host has no such group; folder_size: bytes as text."""

    name: str
    gid: int | None
    folder: str
    folder_size: str
    folder_files: int
    members: int
