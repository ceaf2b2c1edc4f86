"""Slices on cgroup v1 without systemd: CONTROLLER/user/NAME, written directly.

    cpuacct, memory    user/NAME            holds the processes
    cpu, pids          user/NAME            has the limits
                       user/NAME/main       holds the processes; as many tasks as the limit
                       user/NAME/rescue     RESERVED_TASKS more, for a sign-in while `main` is full
    all                a notebook server each, see host/parts.py

`rescue` has the same CPU shares as `main`, so a sign-in beside a fork bomb gets half of the user's CPU time, not one
part in a thousand. pids/user/NAME/main is made last: where it is, all limits are set. The PAM hook relies on that
(templates/pam/pam-session), and does the same steps where it is missing.

Sources: the kernel's cgroup-v1/memory.rst (5, 6.1), cgroup-v1/pids.rst, scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from diycloud.errors import HostError
from diycloud.host import cgroup
from diycloud.host.cgroup import ensure_value, page_floor
from diycloud.host.parts import PartV1, follow_v1
from diycloud.host.slices import RESERVED_TASKS, Counters, Limits
from diycloud.system import System
from diycloud.units import CPU_PERIOD_US, cpu_quota_us, cpu_shares


class CgroupV1Slices:
    """Slices in CONTROLLER/<parent>/NAME. mounts: controller → its mount point (cgroup.read_tree)."""

    kind = "cgroup v1"

    def __init__(self, system: System, mounts: Mapping[str, str], parent: str = "user") -> None:
        self._system = system
        self._roots = {controller: f"{mounts[controller]}/{parent}" for controller in cgroup.MEASURED}
        self._has_memsw = system.exists(f"{mounts['memory']}/memory.memsw.limit_in_bytes")

    def ensure(self, name: str, uid: int, limits: Limits) -> bool:
        at = self._folders(name)
        main = f"{at['pids']}/main"
        groups = self._groups(at)
        fresh = not all(self._system.exists(folder) for folder in (*groups, main))  # also if one was removed by hand
        if fresh:
            self._make_groups(groups)
        # Memory first: it alone can be refused, and then nothing else has changed.
        changed = self._ensure_memory(name, at["memory"], page_floor(limits.memory))
        changed |= self._ensure_quota(at, limits)
        for path, value in (
            (f"{at['cpu']}/cpu.shares", cpu_shares(limits.cpu)),
            (f"{at['pids']}/pids.max", limits.tasks + RESERVED_TASKS),
            (f"{at['pids']}/rescue/pids.max", RESERVED_TASKS),
        ):
            changed |= ensure_value(self._system, path, value)
        if fresh:
            self._system.make_dir(main)
        return ensure_value(self._system, f"{main}/pids.max", limits.tasks) or changed or fresh

    def ensure_many(self, users: list[tuple[str, int, Limits]]) -> list[bool]:
        return [self.ensure(name, uid, limits) for name, uid, limits in users]

    def read(self, name: str, uid: int) -> Counters | None:
        return cgroup.read_counters_v1(self._system, self._folders(name))

    def read_limits(self, name: str, uid: int) -> Limits | None:
        at = self._folders(name)
        found, tasks = cgroup.read_limits_v1(self._system, at), cgroup.read_tasks(self._system, at["pids"])
        return Limits(found[0], found[1], tasks) if found and tasks is not None else None

    def processes(self, name: str, uid: int) -> list[int]:
        return cgroup.read_pids(self._system, self._folders(name)["pids"])

    def within(self, name: str, uid: int) -> list[str]:
        return cgroup.entering(self._leaves(name))

    def take_in(self, name: str, uid: int, pids: Iterable[int]) -> int:
        return cgroup.take_in(self._system, self._leaves(name), pids)

    def _leaves(self, name: str) -> list[str]:
        at = self._folders(name)
        return [at["cpuacct"], at["memory"], f"{at['cpu']}/main", f"{at['pids']}/main"]

    def part(self, name: str, uid: int, part: str) -> PartV1:
        at = self._folders(name)
        above = {**at, "pids": f"{at['pids']}/main"}
        return PartV1(self._system, {controller: f"{folder}/{part}" for controller, folder in above.items()})

    def stop(self, name: str, uid: int) -> int:
        return cgroup.stop_below(self._system, self._folders(name)["pids"])

    def remove(self, name: str, uid: int) -> bool:
        # pids last and its `main` first in it: a removal cut short is not taken for a complete slice.
        at = self._folders(name)
        order = dict.fromkeys((at["pids"], at["cpu"], at["cpuacct"], at["memory"]))
        removed = False
        for folder in order:
            removed |= cgroup.remove_groups(self._system, folder)
        return removed

    def _folders(self, name: str) -> dict[str, str]:
        return {controller: f"{root}/{name}" for controller, root in self._roots.items()}

    @staticmethod
    def _groups(at: Mapping[str, str]) -> list[str]:
        """Return a slice's cgroups but the one that is made last, each after the one above it."""
        return [*dict.fromkeys(at.values()), f"{at['cpu']}/rescue", f"{at['cpu']}/main", f"{at['pids']}/rescue"]

    def _make_groups(self, groups: list[str]) -> None:
        for root in dict.fromkeys(self._roots.values()):
            if self._system.make_dir(root) and root == self._roots["cpu"]:
                # All users together weigh as much as the machine has cores, as each does by their limit.
                ensure_value(self._system, f"{root}/cpu.shares", cpu_shares(os.cpu_count() or 1))
        for folder in groups:
            self._system.make_dir(folder)

    def _ensure_quota(self, at: Mapping[str, str], limits: Limits) -> bool:
        changed = ensure_value(self._system, f"{at['cpu']}/cpu.cfs_period_us", CPU_PERIOD_US)
        quota = f"{at['cpu']}/cpu.cfs_quota_us", cpu_quota_us(limits.cpu)
        changed |= follow_v1(self._system, at, limits)
        try:
            return ensure_value(self._system, *quota) or changed
        except HostError:  # a server that was starting got a share of the limit before this one
            follow_v1(self._system, at, limits)
            return ensure_value(self._system, *quota) or changed

    def _ensure_memory(self, name: str, folder: str, limit: int) -> bool:
        """Set memory and memory+swap alike: nothing escapes into swap. The kernel wants memory ≤ memory+swap."""
        plain, with_swap = f"{folder}/memory.limit_in_bytes", f"{folder}/memory.memsw.limit_in_bytes"
        raised = limit > (cgroup.read_int(self._system, plain) or 0)
        try:
            if not self._has_memsw:
                changed = ensure_value(self._system, plain, limit)
                return ensure_value(self._system, f"{folder}/memory.swappiness", 0) or changed
            first, second = (with_swap, plain) if raised else (plain, with_swap)
            changed = ensure_value(self._system, first, limit)
            return ensure_value(self._system, second, limit) or changed
        except HostError as error:
            raise HostError(
                f"The kernel could not bring {name} under {limit} bytes of memory: {error.message}",
                "Stop some of their work first, or choose a higher limit.",
            ) from error
