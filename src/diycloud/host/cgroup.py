"""What every way of keeping a slice shares: where the controllers are, and reading and clearing a cgroup's folder.

Sources: the kernel's cgroup-v1/*.rst and cgroup-v2.rst; proc_pid_mountinfo(5).
"""

from __future__ import annotations

import errno
import resource
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from diycloud.distro.mounts import Mount, parse_mountinfo
from diycloud.errors import HostError, Unsupported
from diycloud.host.slices import RESERVED_TASKS, Counters, Limits
from diycloud.system import System
from diycloud.units import Bytes, Cores, human_size

NEEDED = ("cpu", "memory", "pids")
MEASURED = ("cpuacct", *NEEDED)
GRACE_S = 3.0
"""Between SIGTERM and SIGKILL."""

# The kernel's own names in a cgroup's folder; what else is there is a cgroup below.
_PLAIN_FILES = {"tasks", "notify_on_release", "release_agent"}
_PREFIXES = {"cgroup", "cpu", "cpuacct", "cpuset", "memory", "pids", "io", "irq", "hugetlb", "rdma", "misc", "dmem"}


class Tree(NamedTuple):
    """Where cgroups are. v2: the unified mount, or empty; v1: controller → mount for all of MEASURED, or none."""

    v2: str
    v1: Mapping[str, str]


def read_tree(system: System) -> Tree | Unsupported:
    """Find the controllers. Where both hierarchies are mounted ("hybrid"), the controllers are v1's."""
    mounts = parse_mountinfo(system.read("/proc/self/mountinfo") or "")
    v1 = {
        name: mount
        for mount in reversed(mounts)
        if mount.kind == "cgroup"
        for name in mount.super_options & {*MEASURED}
    }
    v2 = next((mount for mount in mounts if mount.kind == "cgroup2"), None)
    if v1:
        fault = _fault(MEASURED, v1)
        return fault or Tree("", {name: mount.point for name, mount in v1.items()})
    if v2 is None:
        return Unsupported("No cgroup controllers are mounted.", "Limits need them: see docs/how-to/cgroups.md.")
    offered = (system.read(f"{v2.point}/cgroup.controllers") or "").split()
    return _fault(NEEDED, {name: v2 for name in NEEDED if name in offered}) or Tree(v2.point, {})


def _fault(needed: tuple[str, ...], offered: Mapping[str, Mount]) -> Unsupported | None:
    missing = [name for name in needed if name not in offered]
    if missing:
        hint = "The kernel was built or started without: see docs/how-to/cgroups.md."
        return Unsupported(f"This host has no cgroup controller for {', '.join(missing)}.", hint)
    frozen = sorted({mount.point for name, mount in offered.items() if name in needed and "ro" in mount.options})
    if frozen:
        hint = "In a container, its host has to mount them writable."
        return Unsupported(f"The cgroup controllers are mounted read-only at {', '.join(frozen)}.", hint)
    return None


def page_floor(value: int) -> int:
    """Return the bytes the kernel keeps of a memory limit: whole pages. What is compared must be rounded alike."""
    page = resource.getpagesize()
    return value // page * page


def read_text(system: System, path: str) -> str | None:
    """Read a file of a cgroup; None if it is missing, or has no answer.

    ENODEV: the cgroup ended between open and read. EOPNOTSUPP: a threaded cgroup (users may make them in what their own
    service manager was given), whose processes are in the list of the one above.
    """
    try:
        return system.read(path)
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):
            return None
        raise


def ensure_value(system: System, path: str, value: int | str) -> bool:
    """Make a kernel file read `value`. True if it had to be written."""
    text = str(value)
    if (read_text(system, path) or "").strip() == text:
        return False
    system.set_value(path, text)
    return True


def read_int(system: System, path: str) -> int | None:
    """Read a file of one number; None if it is missing or says `max`."""
    text = (read_text(system, path) or "").strip()
    return int(text) if text.lstrip("-").isdigit() else None


def read_keys(system: System, path: str) -> dict[str, int]:
    """Read a file of `key number` lines (cpu.stat, memory.stat, memory.events)."""
    pairs = (line.split() for line in (read_text(system, path) or "").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def below(system: System, folder: str) -> list[str]:
    """Return the cgroups under a folder by name, each after those below it, and the folder itself last."""
    found, todo = list[str](), [folder]
    while todo:
        group = todo.pop()
        if not system.exists(f"{group}/cgroup.procs"):
            continue
        found.append(group)
        names = [name for name in system.list_dir(group) if name not in _PLAIN_FILES]
        todo += [f"{group}/{name}" for name in names if name.partition(".")[0] not in _PREFIXES]
    return found[::-1]


def read_pids(system: System, folder: str) -> list[int]:
    """Return the processes in a cgroup and below."""
    return [
        int(pid)
        for group in below(system, folder)
        for pid in (read_text(system, f"{group}/cgroup.procs") or "").split()
    ]


_ENTER = 'while [ "$1" != -- ]; do echo $$ >"$1" || exit 125; shift; done; shift; exec "$@"'


def entering(folders: Iterable[str]) -> list[str]:
    """Return the words ahead of a command that put its process into some cgroups first."""
    return ["/bin/sh", "-c", _ENTER, "enter", *(f"{folder}/cgroup.procs" for folder in folders), "--"]


def take_in(system: System, folders: Iterable[str], pids: Iterable[int]) -> int:
    """Move processes into some cgroups. Returns how many are in all of them; one that ended meanwhile is not."""
    folders, moved = list(folders), 0
    for pid in pids:
        try:
            for folder in folders:
                system.set_value(f"{folder}/cgroup.procs", str(pid))
        except HostError:
            continue
        moved += 1
    return moved


def remove_groups(system: System, folder: str, *, patience_s: float = 2.0) -> bool:
    """Remove a cgroup and those below. True if there was one.

    The last process that was killed holds its cgroup for a moment longer, hence the patience.
    Raises HostError if processes stay.
    """
    groups = below(system, folder)
    for group in groups:
        end = time.monotonic() + patience_s
        while True:
            try:
                system.remove(group)
                break
            except HostError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
    return bool(groups)


def end_processes(
    system: System, pids: Callable[[], list[int]], *, forbid_forks: Callable[[], None], grace_s: float = GRACE_S
) -> int:
    """End processes: SIGTERM, a grace, then no more forks and SIGKILL until none is left. Returns how many there were.

    Raises HostError if some outlive SIGKILL for ten seconds (they wait for a device).
    """
    first = pids()
    for pid in first:
        system.kill(pid, signal.SIGTERM)
    if not first or _emptied(pids, grace_s):
        return len(first)
    forbid_forks()
    end = time.monotonic() + 10
    while left := pids():
        if time.monotonic() > end:
            raise HostError(
                f"{len(left)} processes outlive SIGKILL: {left[:8]}.", "They wait for a device or a server."
            )
        for pid in left:
            system.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return len(first)


def _emptied(pids: Callable[[], list[int]], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while pids():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


# Memory that is counted is what a kill would be about: page cache that the kernel gives up at once is left out.


def read_counters_v1(system: System, folders: Mapping[str, str]) -> Counters | None:
    """Read a slice's counters. folders: controller → its folder. None if there is no slice."""
    cpu_ns = read_int(system, f"{folders['cpuacct']}/cpuacct.usage")
    memory = read_int(system, f"{folders['memory']}/memory.usage_in_bytes")
    if memory is None:
        return None
    cache = read_keys(system, f"{folders['memory']}/memory.stat").get("total_inactive_file", 0)
    # Version 1 counts a kill only where the victim was, so the cgroups below are summed.
    kills = sum(
        read_keys(system, f"{group}/memory.oom_control").get("oom_kill", 0)
        for group in below(system, folders["memory"])
    )
    return Counters(
        cpu_us=(cpu_ns or 0) // 1000,  # systemd makes no group in a cpuacct that is mounted apart from cpu
        memory=Bytes(max(0, memory - cache)),
        tasks=read_int(system, f"{folders['pids']}/pids.current") or 0,
        oom_kills=kills,
        throttled_us=read_keys(system, f"{folders['cpu']}/cpu.stat").get("throttled_time", 0) // 1000,
    )


def read_counters_v2(system: System, folder: str) -> Counters | None:
    """Read a slice's counters from its folder. None if there is no slice."""
    memory = read_int(system, f"{folder}/memory.current")
    if memory is None:
        return None
    cpu = read_keys(system, f"{folder}/cpu.stat")
    return Counters(
        cpu_us=cpu.get("usage_usec", 0),
        memory=Bytes(max(0, memory - read_keys(system, f"{folder}/memory.stat").get("inactive_file", 0))),
        tasks=read_int(system, f"{folder}/pids.current") or 0,
        oom_kills=read_keys(system, f"{folder}/memory.events").get("oom_kill", 0),
        throttled_us=cpu.get("throttled_usec", 0),
    )


def read_limits_v1(system: System, folders: Mapping[str, str]) -> tuple[Cores, Bytes, int] | None:
    """Read CPU, memory and pids.max from a slice's folders. None if there is no slice or one of them has no limit."""
    period = read_int(system, f"{folders['cpu']}/cpu.cfs_period_us")
    quota = read_int(system, f"{folders['cpu']}/cpu.cfs_quota_us")
    memory = read_int(system, f"{folders['memory']}/memory.limit_in_bytes")
    tasks = read_int(system, f"{folders['pids']}/pids.max")
    if not period or quota is None or quota < 0 or memory is None or tasks is None:
        return None
    return Cores(quota / period), Bytes(memory), tasks


def read_limits_v2(system: System, folder: str) -> tuple[Cores, Bytes, int] | None:
    """Read CPU, memory and pids.max from a slice's folder. None if there is no slice or one of them has no limit."""
    quota, _, period = (read_text(system, f"{folder}/cpu.max") or "").strip().partition(" ")
    memory = read_int(system, f"{folder}/memory.max")
    tasks = read_int(system, f"{folder}/pids.max")
    if not quota.isdigit() or not period.isdigit() or memory is None or tasks is None:
        return None
    return Cores(int(quota) / int(period)), Bytes(memory), tasks


def stop_below(system: System, slice_: str) -> int:
    """End every process in a pids cgroup that has the leaf `main`; see Slices.stop. slice_: its folder."""
    forbidden = False

    def forbid_forks() -> None:
        nonlocal forbidden
        forbidden = True
        system.set_value(f"{slice_}/pids.max", "0")

    try:
        return end_processes(system, lambda: read_pids(system, slice_), forbid_forks=forbid_forks)
    finally:
        # By the leaf as it is now: the limits may have been changed meanwhile, and another stop may have been here.
        tasks = read_int(system, f"{slice_}/main/pids.max") if forbidden else None
        if tasks is not None:
            ensure_value(system, f"{slice_}/pids.max", tasks + RESERVED_TASKS)


def read_tasks(system: System, slice_: str) -> int | None:
    """Read the limit on tasks of a slice with leaves; None if there is none, or the ceiling above them is another's."""
    tasks = read_int(system, f"{slice_}/main/pids.max")
    ceiling = read_int(system, f"{slice_}/pids.max")
    return tasks if tasks is not None and ceiling == tasks + RESERVED_TASKS else None


def memory_high(limit: int) -> int:
    """Return `memory.high`, bytes: 5 % below the limit, but at most 64 MiB.

    Above it the kernel reclaims and slows the allocating process, so caches go before anything is killed. A wider gap
    would let a hog crawl through it for minutes (mm/memcontrol.c, "memory.high breach": the delay grows with the square
    of the share above), and take memory that was promised.
    """
    return page_floor(limit - min(limit // 20, 64 << 20))


def refuse_below_use(name: str, counters: Counters | None, limits: Limits) -> None:
    """Raise HostError if a limit is below what is in use and cannot be given back, ahead of the kernel killing."""
    if counters is not None and counters.memory > limits.memory:
        raise HostError(
            f"{name} uses {human_size(counters.memory)} of memory now, more than {human_size(limits.memory)}.",
            "Stop some of their work first, or choose a higher limit.",
        )
