"""From root to a user, for good: what a server process does before it runs a line that the user could have a hand in."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

from diycloud.launcher import linux
from diycloud.launcher.request import Refused, Request

OPEN_FILES = 65_536
"""Descriptors that a server may have open, and each of its kernels."""
RUNTIME_BYTES, RUNTIME_FILES = 16 << 20, 8192
"""Of a server's runtime folder: some kilobytes and six files for each kernel."""
_SHARED = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - the folders that are replaced
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def become_user(request: Request) -> None:
    """Give up everything of root's. Raises OSError if the kernel refuses a step, Refused if root could be had back."""
    drop_to(request.uid, request.gid, request.groups)
    linux.die_with_parent(signal.SIGTERM)
    linux.allow_own_reading()


def drop_to(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Become a user with exactly these groups, and without a way back."""
    linux.drop_bounding_set()
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    linux.forbid_new_privileges()
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3:
        raise Refused("the process is not the user's")
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        return
    raise Refused("the process could be root's again")


def bound_process() -> None:
    """Set what the launcher's own process may have had otherwise: open files, core dumps, the order of kills for memory."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    Path("/proc/self/oom_score_adj").write_text("0", encoding="ascii")


def close_all_but(kept: Iterable[int]) -> None:
    """Close every descriptor but those."""
    keep = frozenset(kept)
    for number in [int(name) for name in os.listdir("/proc/self/fd")]:  # noqa: PTH208 - numbers
        if number not in keep:
            try:
                os.close(number)
            except OSError:  # the one that listed them
                pass


def isolate_tmp(tmp: Path, visible: Iterable[Path]) -> None:
    """Let this process and those it starts see the user's own folder as /tmp and /var/tmp.

    visible: places of the platform's own that stay where they are, should they be below one of the two.
    """
    linux.own_mounts()
    kept = [(path, os.open(path, _FOLDER)) for path in visible]  # before they are covered
    own = os.open(tmp, _FOLDER)
    for shared in _SHARED:
        target = os.open(shared, _FOLDER)
        linux.bind(own, target)
        os.close(target)
        linux.forbid_devices(shared)
        for path, source in kept:
            if path.is_relative_to(shared):
                place = _make_folders(shared, path.relative_to(shared).parts)
                linux.bind(source, place)
                os.close(place)
    for descriptor in (own, *(source for _, source in kept)):
        os.close(descriptor)


def own_runtime(runtime: Path, uid: int, gid: int) -> None:
    """Put memory of the user's in the place of the runtime folder, for this process and those it starts.

    The folder is below /run, where the whole host's services keep what they need: a user who could write there could fill
    it. What is in memory is bounded, counts as the user's, and is gone with the last process that sees it.
    """
    linux.mount_memory(runtime, size=RUNTIME_BYTES, files=RUNTIME_FILES, uid=uid, gid=gid)


def _make_folders(base: Path, parts: tuple[str, ...]) -> int:
    """Return a descriptor of a folder below one that the user may write to: no link is followed on the way."""
    folder = os.open(base, _FOLDER)
    for part in parts:
        try:
            os.mkdir(part, 0o755, dir_fd=folder)
        except FileExistsError:
            pass
        below = os.open(part, _FOLDER, dir_fd=folder)
        os.close(folder)
        folder = below
    return folder
