"""Scopes of systemd in a user's slice: how one is made, bounded, and follows the slice (host/systemd_slices.py).

Where systemd keeps v1 controllers, the kernel refuses a slice less CPU time than a scope in it was given, and a scope more
than its slice has (sched-bwc.rst, "Hierarchical considerations"). systemd only logs that, and the old value stays. So a
scope has a bound of its own there only while that is tighter than the slice's.

Sources: systemd.resource-control(5), systemd.scope(5), org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import PurePath

from diycloud.errors import HostError
from diycloud.host import cgroup
from diycloud.host.parts import Bounds, Part
from diycloud.system import System
from diycloud.units import CPU_PERIOD_US, Cores, cpu_quota_us

MANAGER = [
    "busctl", "--quiet", "--timeout=20", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
]  # fmt: skip
OOM_POLICY = ["OOMPolicy", "s", "continue"]
"""The kernel's choice dies when memory is out, as in logind's sessions, and not all that is in the scope."""
ARRIVE_S = 10.0
INFINITY = 2**64 - 1
"""No bound, as systemd's properties say it."""


def set_properties(system: System, unit: str, properties: Mapping[str, int], *, ok: tuple[int, ...] = (0,)) -> None:
    """Change what a unit that runs has, until it ends. Raises HostError unless busctl's status is one of `ok`."""
    pairs = [word for key, value in properties.items() for word in (key, "t", str(value))]
    call = [*MANAGER, "SetUnitProperties", "sba(sv)", unit, "true", str(len(properties)), *pairs]
    system.run(call, ok=ok, timeout=30)


def quota_us(cpu: Cores) -> int:
    """Return CPU time in each period, in the steps that CPUQuota= can say: a hundredth of a percent, 10 µs."""
    return cpu_quota_us(cpu) // 10 * 10


def quota_property(quota: int) -> dict[str, int]:
    """Return systemd's word for CPU time in each period. quota: µs, -1 for no bound."""
    return {"CPUQuotaPerSecUSec": quota * (1_000_000 // CPU_PERIOD_US) if quota >= 0 else INFINITY}


def lift_bounds_above(system: System, slice_: str, quota: int) -> bool:
    """Take from our scopes in a v1 slice their own bounds on CPU that are as high as `quota`, µs, or above.

    slice_: its folder below `cpu`. True if there was one. The slice's own bound holds in their place.
    """
    found = False
    for unit in system.list_dir(slice_):
        path = f"{slice_}/{unit}/cpu.cfs_quota_us"
        ours = unit.startswith("diycloud-") and unit.endswith(".scope")
        if ours and (cgroup.read_int(system, path) or -1) >= quota:
            set_properties(system, unit, quota_property(-1), ok=(0, 1))  # 1: it is gone with its last process
            wait_for(system, path, -1)
            found = True
    return found


def wait_for(system: System, path: str, value: int) -> None:
    """Wait a moment until the kernel has a value: systemd answers before it writes."""
    end = time.monotonic() + 1
    while cgroup.read_int(system, path) not in (value, None) and time.monotonic() < end:
        time.sleep(0.01)


class Scope(Part):
    """A part of the slice as a transient scope: systemd adopts the first process, and collects it after the last."""

    def __init__(self, system: System, folders: Mapping[str, str], *, is_v2: bool, unit: str, slice_: str) -> None:
        super().__init__(system, folders, is_v2=is_v2)
        self._unit, self._slice = unit, slice_

    def hold(self, pid: int, bounds: Bounds) -> None:
        properties = [
            *("PIDs", "au", "1", str(pid)),
            *("Slice", "s", self._slice),
            *("TasksMax", "t", str(bounds.tasks)),
            *("CollectMode", "s", "inactive-or-failed"),
            *(
                word
                for name in ("CPUAccounting", "MemoryAccounting", "TasksAccounting")
                for word in (name, "b", "true")
            ),
        ]
        numbers: dict[str, int] = {}
        if (quota := self._own_quota(bounds.cpu)) > 0:
            numbers |= quota_property(quota)
        if bounds.memory:
            numbers |= {"MemoryMax": bounds.memory, "MemoryHigh": cgroup.memory_high(bounds.memory)}
        properties += [word for key, value in numbers.items() for word in (key, "t", str(value))]
        count = 7 + len(numbers)
        start = [*MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", self._unit, "fail"]
        # OOMPolicy= of a scope is refused before systemd 253; the last scope of the name may be collected a moment late.
        for policy in (OOM_POLICY, [], OOM_POLICY, []):
            number = str(count + bool(policy))
            if self._system.run([*start, number, *properties, *policy, "0"], ok=(0, 1), timeout=30).ok:
                break
            time.sleep(0.1)
        end = time.monotonic() + ARRIVE_S
        while pid not in self.processes():
            if time.monotonic() > end or not self._system.exists(f"/proc/{pid}"):
                raise HostError(
                    f"systemd did not take the process {pid} into {self._unit}.", f"See systemctl status {self._unit}."
                )
            time.sleep(0.01)

    def follow(self, cpu: Cores) -> bool:
        path = f"{self._at['cpu']}/cpu.cfs_quota_us"
        now = None if self._is_v2 else cgroup.read_int(self._system, path)
        quota = self._own_quota(cpu)
        if now is None or now == quota:
            return False
        set_properties(self._system, self._unit, quota_property(quota), ok=(0, 1))
        wait_for(self._system, path, quota)
        return True

    def _own_quota(self, cpu: Cores) -> int:
        """Return its own bound on CPU, µs in each period, -1 for none: v1 refuses one beyond the slice's."""
        own = quota_us(cpu) if cpu else -1
        above = f"{PurePath(self._at['cpu']).parent}/cpu.cfs_quota_us"
        slices = None if self._is_v2 else cgroup.read_int(self._system, above)
        return own if slices is None or slices < 0 or own < slices else -1

    def _forbid_forks(self) -> None:
        set_properties(self._system, self._unit, {"TasksMax": 1}, ok=(0, 1))  # 1: it is gone with its last process
        self._system.run(["systemctl", "kill", "--signal=SIGKILL", self._unit], ok=(0, 1, 5))

    def _remove(self) -> None:
        end = time.monotonic() + ARRIVE_S
        while self._system.exists(self._at["pids"]) and time.monotonic() < end:
            time.sleep(0.01)
