"""Parts of a slice: a cgroup of its own for one piece of a user's work, within all that the user may have.

Beside `main` (or, with systemd, beside the sessions' scopes) the slice holds one for each notebook server. A part can be
bounded more tightly than the slice; what is in it is counted by itself, found again by its folder, and ended as one.

    v1       CONTROLLER/user/NAME/PART for cpu, cpuacct, memory; pids/user/NAME/main/PART
    v2       user/NAME/PART
    systemd  user-UID.slice/diycloud-PART of UID.scope, a transient scope that adopts the first process

On v1 the tasks of all parts and of `main` count together, and what is kept free for a sign-in stays free. A cgroup of v2
that holds processes cannot bound others below it, so there, and with systemd, each part has the limit for itself, as each
session has, within the slice's.
"""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import PurePath
from typing import NamedTuple

from diycloud.errors import HostError
from diycloud.host import cgroup
from diycloud.host.cgroup import ensure_value, page_floor
from diycloud.host.slices import Counters, Limits
from diycloud.system import System
from diycloud.units import CPU_PERIOD_US, Bytes, Cores, cpu_max, cpu_quota_us

PREFIX = "notebook"
"""What a part's name begins with; the slice's own leaves are called otherwise."""
END_S = 10.0
LAST_S = 3.0
"""How long a part's subreaper may take to end after what it looked after."""


class Bounds(NamedTuple):
    """What one part may have, within what the slice has: the tighter of the two holds, also after the slice's changed.

    cpu: cores, memory: bytes, 0 for no bound of its own; tasks: processes and threads.
    """

    cpu: Cores
    memory: Bytes
    tasks: int


class Part(ABC):
    """One part, whether it is there or not. folders: controller → its cgroup's folder; is_v2: of the unified hierarchy."""

    def __init__(self, system: System, folders: Mapping[str, str], *, is_v2: bool) -> None:
        self._system = system
        self._at = folders
        self._is_v2 = is_v2

    @property
    def folders(self) -> list[str]:
        """The folders of its cgroup: one for each v1 hierarchy, or one."""
        return list(dict.fromkeys(self._at.values()))

    @property
    def kills(self) -> tuple[str, str]:
        """The file, and the key in it, that counts what was killed in it for memory."""
        return f"{self._at['memory']}/{'memory.events' if self._is_v2 else 'memory.oom_control'}", "oom_kill"

    @property
    def usage_files(self) -> tuple[str, str, str]:
        """The kernel's files of memory now, of CPU time, and of the bound on that. The slice's are one folder further up."""
        if self._is_v2:
            files = ("memory.current", "cpu.stat", "cpu.max")
        else:
            files = ("memory.usage_in_bytes", "cpuacct.usage", "cpu.cfs_quota_us")
        memory, used, quota = files
        return f"{self._at['memory']}/{memory}", f"{self._at['cpuacct']}/{used}", f"{self._at['cpu']}/{quota}"

    @abstractmethod
    def hold(self, pid: int, bounds: Bounds) -> None:
        """Make the part with its bounds, and move a process into it. Raises HostError if the host refuses."""

    def follow(self, cpu: Cores) -> bool:
        """Hold what runs in it to its own bound on CPU and to the slice's, which changed. True if anything was written.

        Most kernels do that by themselves.
        """
        return False

    def read(self) -> Counters | None:
        """Read its counters, None if it is not there."""
        if self._is_v2:
            return cgroup.read_counters_v2(self._system, self._at["pids"])
        return cgroup.read_counters_v1(self._system, self._at)

    def processes(self) -> list[int]:
        """Return the pids in it and below."""
        return cgroup.read_pids(self._system, self._at["pids"])

    def end(self, last: int = 0) -> int:
        """Kill what is in it until nothing is, then remove it. Returns how many processes there were. Repeatable.

        last: a subreaper in it that looks after the others, and ends by itself after them; until then it collects what was
        killed. What init collects instead counts against the slice's tasks until it does, which may take init seconds.
        Raises HostError if some outlive SIGKILL for ten seconds (they wait for a device).
        """
        there = self.processes()
        if there:
            self._forbid_forks()
        end, spared = time.monotonic() + END_S, 0.0
        while left := self.processes():
            now = time.monotonic()
            if now > end:
                raise HostError(f"{len(left)} processes outlive SIGKILL: {left[:8]}.", "They wait for a device.")
            if left == [last]:
                spared = spared or now + LAST_S
            for pid in left:
                if pid != last or (spared and now > spared):
                    self._system.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        self._wait_until_collected()
        self._remove()
        return len(there)

    def _wait_until_collected(self) -> None:
        """Give whoever is the parent of what was killed a moment: until then the kernel counts it among the slice's tasks."""
        end = time.monotonic() + LAST_S
        while cgroup.read_int(self._system, f"{self._at['pids']}/pids.current") and time.monotonic() < end:
            time.sleep(0.01)

    def _forbid_forks(self) -> None:
        try:
            self._system.set_value(f"{self._at['pids']}/pids.max", "0")
        except HostError:
            pass  # it is gone with its last process

    def _remove(self) -> None:
        for folder in self.folders:
            cgroup.remove_groups(self._system, folder)


class Folder(Part):
    """A part without systemd: a folder of ours."""

    def hold(self, pid: int, bounds: Bounds) -> None:
        self._make(bounds)
        if not cgroup.take_in(self._system, self.folders, [pid]):
            raise HostError(f"The process {pid} could not be put into {self._at['pids']}.", "Did it end at once?")

    @abstractmethod
    def _make(self, bounds: Bounds) -> None:
        """Make its cgroup with these bounds, or set them anew. Raises HostError."""


class PartV1(Folder):
    """On cgroup v1 without systemd. Its tasks are bounded by the leaf that it is below."""

    def __init__(self, system: System, folders: Mapping[str, str]) -> None:
        super().__init__(system, folders, is_v2=False)

    def _make(self, bounds: Bounds) -> None:
        for folder in self.folders:
            self._system.make_dir(folder)
        if bounds.memory:
            limit = page_floor(bounds.memory)
            ensure_value(self._system, f"{self._at['memory']}/memory.limit_in_bytes", limit)
            with_swap = f"{self._at['memory']}/memory.memsw.limit_in_bytes"
            if self._system.exists(with_swap):
                ensure_value(self._system, with_swap, limit)
        ensure_value(self._system, f"{self._at['cpu']}/cpu.cfs_period_us", CPU_PERIOD_US)
        self.follow(bounds.cpu)

    def follow(self, cpu: Cores) -> bool:
        folder = self._at["cpu"]
        if not self._system.exists(folder):
            return False
        own = cpu_quota_us(cpu) if cpu else -1
        slices = cgroup.read_int(self._system, f"{PurePath(folder).parent}/cpu.cfs_quota_us")
        quota = min(own, slices) if own > 0 and slices is not None and slices > 0 else own
        return ensure_value(self._system, f"{folder}/cpu.cfs_quota_us", quota)


class PartV2(Folder):
    """On cgroup v2 without systemd."""

    def __init__(self, system: System, folder: str) -> None:
        super().__init__(system, dict.fromkeys(cgroup.MEASURED, folder), is_v2=True)

    def _make(self, bounds: Bounds) -> None:
        folder = self._at["pids"]
        self._system.make_dir(folder)
        if bounds.memory:
            limit = page_floor(bounds.memory)
            ensure_value(self._system, f"{folder}/memory.high", cgroup.memory_high(limit))
            ensure_value(self._system, f"{folder}/memory.max", limit)
        if bounds.cpu:
            ensure_value(self._system, f"{folder}/cpu.max", cpu_max(bounds.cpu))
        ensure_value(self._system, f"{folder}/pids.max", bounds.tasks)


def names_in(system: System, slice_: str) -> list[str]:
    """Return the names of the parts in a slice's folder (without systemd)."""
    return [name for name in system.list_dir(slice_) if name.startswith(PREFIX)]


def follow_v1(system: System, at: Mapping[str, str], limits: Limits) -> bool:
    """Hold a slice's parts to its new limits, before the slice has them. at: controller → the slice's folder.

    The kernel refuses a CPU quota that is below a part's own (sched-bwc.rst: "Hierarchical considerations"). Limits that
    grew reach the parts by Part.follow, after the slice has them.
    """
    changed = False
    for name in names_in(system, at["cpu"]):
        quota = f"{at['cpu']}/{name}/cpu.cfs_quota_us"
        if (cgroup.read_int(system, quota) or 0) > cpu_quota_us(limits.cpu):
            changed |= ensure_value(system, quota, cpu_quota_us(limits.cpu))
    return changed


def follow_v2(system: System, slice_: str, limits: Limits) -> bool:
    """Hold a slice's parts to its new limits. slice_: its folder."""
    changed = False
    for name in names_in(system, slice_):
        changed |= ensure_value(system, f"{slice_}/{name}/pids.max", limits.tasks)
    return changed
