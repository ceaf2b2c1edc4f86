"""POSIX groups of people who work together: the group, its shared folder, who is in it.

Groups are made and removed by the host's own tools. Membership is a field of one line, and a batch of accounts changes it at
once, so it is written here under the lock that all such programs take (docs/decisions/0007-password-field.md).

The shared folder is root's with the group's GID: members write in it, nobody else gets in, and none of them can rename or
remove the folder itself.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from diycloud.errors import Conflict, PermissionDenied, Unsupported
from diycloud.host import homes
from diycloud.host.accounts import LOCK, NEVER_GROUPS, WAIT_S, HostAccounts, refuse_taken, run_patiently
from diycloud.host.names import is_reserved
from diycloud.system.contract import Owner, System

GROUP, GSHADOW = "/etc/group", "/etc/gshadow"
MODE = 0o2770
ACL = "system.posix_acl_default"
NO_ACL = "Its file system has no access control lists: with the usual umask, members can read each other's files only."
_USER_OBJ, _GROUP_OBJ, _OTHER = 0x01, 0x04, 0x20
_NO_ID = 0xFFFF_FFFF
_COLONS = 2
"""After the name, in a line of group(5) and of gshadow(5)."""


def render_acl(user: int, group: int, other: int) -> bytes:
    """Return an access control list of the three classes alone, as the kernel takes it. Each: the sum of r=4, w=2, x=1.

    Source: linux/posix_acl_xattr.h; as a directory's default it stands in for the umask of who makes a file (acl(5)).
    """
    entries = ((_USER_OBJ, user), (_GROUP_OBJ, group), (_OTHER, other))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, _NO_ID) for tag, bits in entries)


def check_new_group(host: HostAccounts, name: str) -> None:
    """Refuse a name that exists, is reserved, or has rights waiting in sudoers. Holds for root too.

    Raises Conflict or PermissionDenied with the reason.
    """
    if is_reserved(name) or name in NEVER_GROUPS:
        raise PermissionDenied(f"The name {name} is reserved for the system.", "Choose another name.")
    if host.is_name_of_sudoer(name):
        raise PermissionDenied(
            f"sudoers or doas.conf gives rights to the name {name}.", "Take it out there, or choose another name."
        )
    if host.has_group(name) or host.get(name) is not None:
        what = "a group" if host.has_group(name) else "an account"
        raise Conflict(f"{name} exists on the host as {what}.", "Choose another name.")


def add_group(system: System, name: str, gid: int) -> None:
    """Add a group. Raises Conflict if name or number is taken, also in a directory (LDAP) that the files do not show."""
    refuse_taken(run_patiently(system, ["groupadd", "-g", str(gid), name], ok=(0, 4, 9)), name, gid)


def remove_group(system: System, name: str, gid: int) -> bool:
    """Remove a group, if it has the number given. True if there was one. Raises Conflict if an account needs it."""
    if HostAccounts(system).group_id(name) != gid:
        return False
    # 6: it is gone already; 8: it is the private group of someone.
    if run_patiently(system, ["groupdel", name], ok=(0, 6, 8)) == 8:
        raise Conflict(f"{name} is the first group of an account.", "Give that account another one: usermod -g.")
    return True


def ensure_base(system: System, base: str) -> None:
    """Make the folder of the shared folders."""
    for missing in [path for path in reversed(Path(base).parents) if not system.exists(path)]:
        system.make_dir(missing)
    system.make_dir(base)


def ensure_folder(system: System, base: str, name: str, gid: int) -> tuple[bool, str]:
    """Make base/name the group's folder. Returns whether anything changed, and what the file system cannot do.

    One that is there keeps what is in it; owner, mode and default list are put right. Raises Conflict if something else
    is in its place.
    """
    folder, staged = Path(base) / name, Path(base) / homes.STAGING / name
    if check_folder(base, name):
        return _furnish(system, folder, gid)
    system.make_dir(staged.parent, mode=0o700)
    system.remove_tree(staged)  # of a start that was cut off
    _, lacks = _furnish(system, staged, gid)
    system.rename(staged, folder)
    return True, lacks


def _furnish(system: System, folder: Path, gid: int) -> tuple[bool, str]:
    changed = system.make_dir(folder, mode=MODE, owner=Owner(0, gid))
    try:
        return system.set_attribute(folder, ACL, render_acl(7, 7, 0)) or changed, ""
    except Unsupported:
        return changed, NO_ACL


def check_folder(base: str, name: str) -> bool:
    """Tell whether the folder is there. Raises Conflict if what is there is no directory."""
    try:
        info = os.lstat(Path(base) / name)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(info.st_mode):
        raise Conflict(f"{base}/{name} exists and is no folder.", "Move it away.")
    return True


def trash_folder(system: System, base: str, name: str, gid: int, now: float) -> bool:
    """Rename a group's folder into the trash. True if there was one. now: seconds since 1970.

    Raises Conflict if something else is in its place, or something is mounted in it.
    """
    system.remove_tree(Path(base) / homes.STAGING / name)
    if not check_folder(base, name):
        return False
    homes.check_no_mount(system, Path(base) / name)
    trash = Path(base) / homes.TRASH
    system.make_dir(trash, mode=0o700)
    system.rename(Path(base) / name, trash / f"{name}.{gid}.{int(now)}")
    return True


def read_memberships(system: System, groups: Collection[str]) -> Mapping[str, frozenset[str]]:
    """Return account → those of some groups whose list in /etc/group has it."""
    return _lists(system.read(GROUP) or "", frozenset(groups)).memberships if groups else {}


class _Lists(NamedTuple):
    """What a file says of some groups. known: those it has; memberships: account → groups that list it."""

    known: frozenset[str]
    memberships: Mapping[str, frozenset[str]]


# By content, as in host/accounts.py: to split a file of 10,000 groups costs 5 ms, to see that it is the same 0.3.
@lru_cache(maxsize=4)
def _lists(text: str, groups: frozenset[str]) -> _Lists:
    known: set[str] = set()
    found: dict[str, set[str]] = {}
    for line in text.split("\n"):
        group, _, rest = line.partition(":")
        if group in groups and rest.count(":") == _COLONS:
            known.add(group)
            for member in filter(None, rest.rpartition(":")[2].split(",")):
                found.setdefault(member, set()).add(group)
    return _Lists(frozenset(known), {member: frozenset(theirs) for member, theirs in found.items()})


def set_memberships(system: System, groups: Collection[str], wanted: Mapping[str, Collection[str]]) -> set[str]:
    """Make some accounts' membership in some groups what is wanted, by one write. Returns the accounts that it changed.

    groups: those that it is about; others are left alone, and so are members who are not named. wanted: account → the
    groups to be in, among those. Raises HostError if another program holds the lock for too long.
    """
    if not groups or not any(_differs(system.read(path) or "", frozenset(groups), wanted) for path in (GROUP, GSHADOW)):
        return set()
    changed: set[str] = set()
    with system.locked(LOCK, patience_s=WAIT_S):
        for path in (GROUP, GSHADOW):
            before = system.read(path)
            text, moved = _with_members(before or "", groups, wanted)
            if before is not None and text != before:
                system.replace(path, text)
                changed |= moved
    return changed


def _differs(text: str, groups: frozenset[str], wanted: Mapping[str, Collection[str]]) -> bool:
    known, now = _lists(text, groups)
    return any(now.get(name, frozenset()) != known.intersection(theirs) for name, theirs in wanted.items())


def _with_members(text: str, groups: Collection[str], wanted: Mapping[str, Collection[str]]) -> tuple[str, set[str]]:
    """Return the text of group(5) or gshadow(5) with other members, and which accounts came or went.

    In both files the name is the first of four fields, and the members are the last.
    """
    moved: set[str] = set()
    lines = text.split("\n")
    for number, line in enumerate(lines):
        group, _, rest = line.partition(":")
        if group not in groups or rest.count(":") != _COLONS:
            continue  # a broken line is grpck's
        head, _, listed = rest.rpartition(":")
        members = list(dict.fromkeys(filter(None, listed.split(","))))
        out = {member for member in members if member in wanted and group not in wanted[member]}
        new = [name for name, theirs in wanted.items() if group in theirs and name not in members]
        if out or new:
            moved |= out | set(new)
            kept = [member for member in members if member not in out]
            lines[number] = f"{group}:{head}:{','.join(kept + new)}"
    return "\n".join(lines), moved
