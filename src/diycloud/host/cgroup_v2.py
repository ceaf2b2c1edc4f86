"""Slices on cgroup v2 without systemd: user/NAME in the unified tree, written directly.

    user/NAME           has the limits
    user/NAME/main      holds the processes; as many tasks as the limit
    user/NAME/rescue    RESERVED_TASKS more, for a sign-in while `main` is full; the same CPU weight as `main`
    user/NAME/notebook… a notebook server each (host/parts.py)

A cgroup that hands controllers down may hold no process itself ("no internal processes"), which the two leaves give
without more ado. user/NAME/main is made last: where it is, all limits are set (templates/pam/pam-session relies on it).
memory.oom.group stays 0: one hog is killed, not the person's editor with it.

Source: kernel cgroup-v2.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from diycloud.errors import HostError
from diycloud.host import cgroup
from diycloud.host.cgroup import ensure_value, page_floor
from diycloud.host.parts import PartV2, follow_v2
from diycloud.host.slices import RESERVED_TASKS, Counters, Limits
from diycloud.system import System
from diycloud.units import cpu_max, cpu_weight


class CgroupV2Slices:
    """Slices in <mount>/<parent>/NAME. mount: of the unified hierarchy (cgroup.read_tree)."""

    kind = "cgroup v2"

    def __init__(self, system: System, mount: str, parent: str = "user") -> None:
        self._system = system
        self._mount = mount
        self._root = f"{mount}/{parent}"
        self._has_swap: bool | None = None

    def ensure(self, name: str, uid: int, limits: Limits) -> bool:
        slice_ = f"{self._root}/{name}"
        fresh = not all(self._system.exists(f"{slice_}/{leaf}") for leaf in ("main", "rescue"))
        if fresh:
            self._make_groups(slice_)
        memory = page_floor(limits.memory)
        if memory < (cgroup.read_int(self._system, f"{slice_}/memory.max") or 0):
            cgroup.refuse_below_use(name, self.read(name, uid), limits)
        changed = follow_v2(self._system, slice_, limits)
        for path, value in (
            ("memory.high", cgroup.memory_high(memory)),
            ("memory.max", memory),
            *((("memory.swap.max", 0),) if self._limits_swap(slice_) else ()),
            ("cpu.max", cpu_max(limits.cpu)),
            ("cpu.weight", cpu_weight(limits.cpu)),
            ("pids.max", limits.tasks + RESERVED_TASKS),
            ("rescue/pids.max", RESERVED_TASKS),
        ):
            changed |= ensure_value(self._system, f"{slice_}/{path}", value)
        if fresh:
            self._system.make_dir(f"{slice_}/main")
        return ensure_value(self._system, f"{slice_}/main/pids.max", limits.tasks) or changed or fresh

    def ensure_many(self, users: list[tuple[str, int, Limits]]) -> list[bool]:
        return [self.ensure(name, uid, limits) for name, uid, limits in users]

    def read(self, name: str, uid: int) -> Counters | None:
        return cgroup.read_counters_v2(self._system, f"{self._root}/{name}")

    def read_limits(self, name: str, uid: int) -> Limits | None:
        found = cgroup.read_limits_v2(self._system, f"{self._root}/{name}")
        tasks = cgroup.read_tasks(self._system, f"{self._root}/{name}")
        return Limits(found[0], found[1], tasks) if found and tasks is not None else None

    def processes(self, name: str, uid: int) -> list[int]:
        return cgroup.read_pids(self._system, f"{self._root}/{name}")

    def within(self, name: str, uid: int) -> list[str]:
        return cgroup.entering([f"{self._root}/{name}/main"])

    def take_in(self, name: str, uid: int, pids: Iterable[int]) -> int:
        return cgroup.take_in(self._system, [f"{self._root}/{name}/main"], pids)

    def part(self, name: str, uid: int, part: str) -> PartV2:
        return PartV2(self._system, f"{self._root}/{name}/{part}")

    def stop(self, name: str, uid: int) -> int:
        return cgroup.stop_below(self._system, f"{self._root}/{name}")

    def remove(self, name: str, uid: int) -> bool:
        return cgroup.remove_groups(self._system, f"{self._root}/{name}")

    def _make_groups(self, slice_: str) -> None:
        self._hand_down(self._mount)
        if self._system.make_dir(self._root):
            # All users together weigh as much as the machine has cores, as each does by their limit.
            ensure_value(self._system, f"{self._root}/cpu.weight", cpu_weight(os.cpu_count() or 1))
        self._hand_down(self._root)
        self._system.make_dir(slice_)
        self._hand_down(slice_)
        self._system.make_dir(f"{slice_}/rescue")

    def _hand_down(self, folder: str) -> None:
        control = f"{folder}/cgroup.subtree_control"
        missing = {*cgroup.NEEDED} - {*(self._system.read(control) or "").split()}
        if not missing:
            return
        try:
            self._system.set_value(control, " ".join(f"+{name}" for name in sorted(missing)))
        except HostError as error:
            raise HostError(
                error.message, "In a container, processes in its top cgroup forbid this: see docs/how-to/cgroups.md."
            ) from error

    def _limits_swap(self, slice_: str) -> bool:
        """Tell whether the kernel accounts for swap (it may be built or started without)."""
        if self._has_swap is None:
            self._has_swap = self._system.exists(f"{slice_}/memory.swap.max")
        return self._has_swap
