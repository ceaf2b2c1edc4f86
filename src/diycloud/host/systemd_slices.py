"""Slices with systemd: user-UID.slice, limited through systemd, never by writing its files.

For each user two drop-ins of our own:

    /etc/systemd/system/user-UID.slice.d/50-diycloud.conf      the limits; there before the first process, after a
                                                                reboot, and whoever starts the slice
    /etc/systemd/system/user@UID.service.d/50-diycloud.conf    tasks of the user's own service manager: the limit, so
                                                                that RESERVED_TASKS stay free in the slice above it

Each session scope gets the limit on tasks from the PAM hook (templates/pam/pam-session), for the same reason.

systemd reads a drop-in when it loads a unit, and a slice is loaded when its first process comes, so a user who is away
costs two small files and no call (tried on 252 and 257). For a live slice `daemon-reload` is not the way: it reads the
files anew but leaves the kernel's values as they are (257), and is slow. SetUnitProperties acts at once on what runs,
takes milliseconds, and its files in /run sort before 50-diycloud.conf, which therefore wins at the next reload.

Where systemd still keeps v1 controllers it has no word for memory+swap: swap is then limited for nobody.

Sources: systemd.resource-control(5), systemd.unit(5), org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import PurePath

from diycloud.errors import HostError
from diycloud.host import cgroup
from diycloud.host.cgroup import Tree, page_floor
from diycloud.host.parts import Bounds, Part
from diycloud.host.slices import RESERVED_TASKS, Counters, Limits
from diycloud.system import System
from diycloud.units import CPU_PERIOD_US, Bytes, Cores, cpu_quota_us, cpu_weight

_UNITS = "/etc/systemd/system"
_DROP_IN = "50-diycloud.conf"
_MANAGER = [
    "busctl", "--quiet", "--timeout=20", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
]  # fmt: skip
_CALL = [*_MANAGER, "SetUnitProperties", "sba(sv)"]
_OOM_POLICY = ["OOMPolicy", "s", "continue"]
"""The kernel's choice dies when memory is out, as in logind's sessions, and not all that is in the scope."""
_ARRIVE_S = 10.0


class SystemdSlices:
    """Slices as units of systemd. tree: where its cgroups are, for reading."""

    kind = "systemd"

    def __init__(self, system: System, tree: Tree) -> None:
        self._system = system
        self._tree = tree

    def ensure(self, name: str, uid: int, limits: Limits) -> bool:
        live = self._read_live(uid)
        if live is not None and limits.memory < live.memory:
            cgroup.refuse_below_use(name, self.read(name, uid), limits)
        changed = self._write(f"user-{uid}.slice", render_slice(limits))
        changed |= self._write(f"user@{uid}.service", render_manager(limits))
        if self._exists(uid) and (changed or live != _in_kernel(limits)):
            self._set(f"user-{uid}.slice", _properties(limits))
            if self._system.exists(f"{self._folders(uid)['pids']}/user@{uid}.service"):
                self._set(f"user@{uid}.service", {"TasksMax": limits.tasks})
            self._limit_sessions(uid, limits.tasks)
            return True
        return changed

    def ensure_many(self, users: list[tuple[str, int, Limits]]) -> list[bool]:
        return [self.ensure(name, uid, limits) for name, uid, limits in users]

    def read(self, name: str, uid: int) -> Counters | None:
        at = self._folders(uid)
        return (
            cgroup.read_counters_v2(self._system, at["pids"])
            if self._tree.v2
            else cgroup.read_counters_v1(self._system, at)
        )

    def read_limits(self, name: str, uid: int) -> Limits | None:
        stored = self._read_stored(uid)
        if stored is None or not self._exists(uid):
            return stored
        # What is in force counts; where that is as stored, the stored value is the exact one: the kernel keeps pages.
        live = self._read_live(uid)
        if live == _in_kernel(stored):
            return stored
        return live and live._replace(tasks=live.tasks - RESERVED_TASKS)

    def _read_stored(self, uid: int) -> Limits | None:
        return parse_slice(self._system.read(f"{_UNITS}/user-{uid}.slice.d/{_DROP_IN}") or "")

    def processes(self, name: str, uid: int) -> list[int]:
        return cgroup.read_pids(self._system, self._folders(uid)["pids"])

    def within(self, name: str, uid: int) -> list[str]:
        return ["systemd-run", "--quiet", "--scope", "--collect", f"--slice=user-{uid}.slice", "--"]

    def take_in(self, name: str, uid: int, pids: Iterable[int]) -> int:
        """Have systemd move them into a scope of the slice, as the sign-in hook does with a session.

        What stays: processes of a unit that runs as this user by its own User=, of containers and of machines. systemd
        counts on finding those where it put them.
        """
        strays = [pid for pid in pids if self._is_loose(pid, name, uid)]
        tasks = stored.tasks if (stored := self._read_stored(uid)) else None
        # A process that ended meanwhile refuses the call for all, and so does OOMPolicy= before systemd 253.
        for policy in (_OOM_POLICY, _OOM_POLICY, []):
            strays = [pid for pid in strays if self._system.exists(f"/proc/{pid}")]
            if not strays or tasks is None or self._start_scope(uid, strays, tasks, policy):
                break
        # The call has only queued the job.
        end = time.monotonic() + _ARRIVE_S
        while missing := {*strays} - {*self.processes(name, uid)}:
            if time.monotonic() > end or not any(self._system.exists(f"/proc/{pid}") for pid in missing):
                break
            time.sleep(0.05)
        return len(strays) - len(missing)

    def _is_loose(self, pid: int, name: str, uid: int) -> bool:
        """Tell whether a process can leave its unit: it is in somebody's session, or a service started it for the user."""
        lines = (cgroup.read_text(self._system, f"/proc/{pid}/cgroup") or "").splitlines()
        paths = [line.split(":", 2)[2] for line in lines if line.startswith("0::/") or ":name=systemd:/" in line]
        names = [part for path in paths for part in path.split("/") if part.endswith((".service", ".scope"))]
        if not names:
            return False
        unit = names[0]
        if unit.endswith(".scope"):
            return unit.startswith("session-")
        found = self._system.query(["systemctl", "show", "--property=User", "--value", "--", unit])
        return found.ok and found.stdout.strip() not in {name, str(uid)}

    def _start_scope(self, uid: int, pids: list[int], tasks: int, policy: list[str]) -> bool:
        number = (self._system.read("/proc/sys/kernel/random/uuid") or "").strip()
        properties = [
            *("PIDs", "au", str(len(pids)), *map(str, pids)),
            *("Slice", "s", f"user-{uid}.slice"),
            *("TasksMax", "t", str(tasks)),
            *("CollectMode", "s", "inactive-or-failed"),
            *policy,
        ]
        start = ["StartTransientUnit", "ssa(sv)a(sa(sv))", f"diycloud-{number}.scope", "fail"]
        count = 5 if policy else 4
        return self._system.run([*_MANAGER, *start, str(count), *properties, "0"], ok=(0, 1), timeout=30).ok

    def part(self, name: str, uid: int, part: str) -> Scope:
        # By UID: names may hold `-`, and one unit must not be two people's.
        unit = f"diycloud-{part.replace('notebook', f'notebook-{uid}', 1)}.scope"
        at = {controller: f"{folder}/{unit}" for controller, folder in self._folders(uid).items()}
        return Scope(self._system, at, is_v2=bool(self._tree.v2), unit=unit, slice_=f"user-{uid}.slice")

    def stop(self, name: str, uid: int) -> int:
        before = cgroup.read_int(self._system, f"{self._folders(uid)['pids']}/pids.max")
        forbidden = False

        def forbid_forks() -> None:
            nonlocal forbidden
            self._set(f"user-{uid}.slice", {"TasksMax": 1})
            forbidden = True
            # Users may nest cgroups below their own service manager deeper than any path reaches; systemd sees all.
            self._system.run(["systemctl", "kill", "--signal=SIGKILL", f"user-{uid}.slice"], ok=(0, 1))

        try:
            return cgroup.end_processes(self._system, lambda: self.processes(name, uid), forbid_forks=forbid_forks)
        finally:
            # As the drop-in has it by now: the limits may have been changed meanwhile.
            stored = self._read_stored(uid)
            after = stored.tasks + RESERVED_TASKS if stored else before
            if forbidden and after is not None:
                self._set(f"user-{uid}.slice", {"TasksMax": after})

    def remove(self, name: str, uid: int) -> bool:
        left = self.processes(name, uid)
        if left:
            raise HostError(f"user-{uid}.slice is busy: {name} has {len(left)} processes in it.", "End them first.")
        removed = False
        for unit in (f"user-{uid}.slice", f"user@{uid}.service"):
            removed |= self._system.remove(f"{_UNITS}/{unit}.d/{_DROP_IN}")
            for folder in (f"{_UNITS}/{unit}.d", f"/run/systemd/system.control/{unit}.d"):
                if folder.startswith("/run"):
                    self._system.remove_tree(folder)
                elif self._system.exists(folder) and not self._system.list_dir(folder):
                    self._system.remove(folder)
        if removed:
            self._system.run(["systemctl", "stop", f"user-{uid}.slice"], timeout=60)
        return removed

    def _write(self, unit: str, text: str) -> bool:
        self._system.make_dir(f"{_UNITS}/{unit}.d")
        return self._system.write(f"{_UNITS}/{unit}.d/{_DROP_IN}", text)

    def _set(self, unit: str, properties: dict[str, int]) -> None:
        pairs = [word for key, value in properties.items() for word in (key, "t", str(value))]
        self._system.run([*_CALL, unit, "true", str(len(properties)), *pairs], timeout=30)

    def _limit_sessions(self, uid: int, tasks: int) -> None:
        folder = self._folders(uid)["pids"]
        for scope in self._system.list_dir(folder):
            ours = scope.startswith(("session-", "diycloud-")) and scope.endswith(".scope")  # not a container's
            if ours and (cgroup.read_text(self._system, f"{folder}/{scope}/pids.max") or "").strip() != str(tasks):
                self._set(scope, {"TasksMax": tasks})

    def _exists(self, uid: int) -> bool:
        return self._system.exists(self._folders(uid)["pids"])

    def _folders(self, uid: int) -> dict[str, str]:
        below = f"user.slice/user-{uid}.slice"
        if self._tree.v2:
            return dict.fromkeys(cgroup.MEASURED, f"{self._tree.v2}/{below}")
        return {name: f"{self._tree.v1[name]}/{below}" for name in cgroup.MEASURED}

    def _read_live(self, uid: int) -> Limits | None:
        """Read the slice's own values as the kernel has them: whole pages, and tasks with the reserve."""
        at = self._folders(uid)
        read = (
            cgroup.read_limits_v2(self._system, at["pids"])
            if self._tree.v2
            else cgroup.read_limits_v1(self._system, at)
        )
        return Limits(*read) if read else None


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
        count = 7
        if self._may_bound(bounds.cpu):
            quota = cpu_quota_us(bounds.cpu) // 10 * 10 * (1_000_000 // CPU_PERIOD_US)
            properties += ["CPUQuotaPerSecUSec", "t", str(quota)]
            count += 1
        if bounds.memory:
            properties += [
                "MemoryMax",
                "t",
                str(bounds.memory),
                "MemoryHigh",
                "t",
                str(cgroup.memory_high(bounds.memory)),
            ]
            count += 2
        start = [*_MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", self._unit, "fail"]
        # OOMPolicy= of a scope is refused before systemd 253; the last scope of the name may be collected a moment late.
        for policy in (_OOM_POLICY, [], _OOM_POLICY, []):
            number = str(count + bool(policy))
            if self._system.run([*start, number, *properties, *policy, "0"], ok=(0, 1), timeout=30).ok:
                break
            time.sleep(0.1)
        end = time.monotonic() + _ARRIVE_S
        while pid not in self.processes():
            if time.monotonic() > end or not self._system.exists(f"/proc/{pid}"):
                raise HostError(
                    f"systemd did not take the process {pid} into {self._unit}.", f"See systemctl status {self._unit}."
                )
            time.sleep(0.01)

    def _may_bound(self, cpu: Cores) -> bool:
        """Tell whether it gets a bound on CPU of its own: v1 refuses one beyond the slice's."""
        slices = (
            None
            if self._is_v2
            else cgroup.read_int(self._system, f"{PurePath(self._at['cpu']).parent}/cpu.cfs_quota_us")
        )
        return cpu > 0 and (slices is None or slices < 0 or cpu_quota_us(cpu) < slices)

    def _forbid_forks(self) -> None:
        limit = [*_CALL, self._unit, "true", "1", "TasksMax", "t", "1"]
        self._system.run(limit, ok=(0, 1), timeout=30)  # 1: it is gone with its last process
        self._system.run(["systemctl", "kill", "--signal=SIGKILL", self._unit], ok=(0, 1, 5))

    def _remove(self) -> None:
        end = time.monotonic() + _ARRIVE_S
        while self._system.exists(self._at["pids"]) and time.monotonic() < end:
            time.sleep(0.01)


def _in_kernel(limits: Limits) -> Limits:
    return Limits(
        Cores(_quota_us(limits) / CPU_PERIOD_US), Bytes(page_floor(limits.memory)), limits.tasks + RESERVED_TASKS
    )


def _quota_us(limits: Limits) -> int:
    """Return CPU time in each period, in the steps that CPUQuota= can say: a hundredth of a percent, 10 µs."""
    return cpu_quota_us(limits.cpu) // 10 * 10


def _properties(limits: Limits) -> dict[str, int]:
    return {
        "CPUQuotaPerSecUSec": _quota_us(limits) * (1_000_000 // CPU_PERIOD_US),
        "CPUWeight": cpu_weight(limits.cpu),
        "MemoryMax": limits.memory,
        "MemoryHigh": cgroup.memory_high(limits.memory),
        "MemorySwapMax": 0,
        "TasksMax": limits.tasks + RESERVED_TASKS,
    }


_HEAD = "# Kept by DIY Cloud; `diycloud limits set` changes it.\n"
_EXACT = "# limits:"


def render_slice(limits: Limits) -> str:
    """Return the drop-in of user-UID.slice. The comment keeps the limits as they were wished, to the microsecond."""
    quota = _quota_us(limits)
    return (
        f"{_HEAD}{_EXACT} {cpu_quota_us(limits.cpu)} {limits.memory} {limits.tasks}\n"
        "[Slice]\n"
        f"CPUQuota={quota // 1000}.{quota % 1000 // 10:02d}%\n"
        f"CPUWeight={cpu_weight(limits.cpu)}\n"
        f"MemoryMax={limits.memory}\n"
        f"MemoryHigh={cgroup.memory_high(limits.memory)}\n"
        "MemorySwapMax=0\n"
        f"TasksMax={limits.tasks + RESERVED_TASKS}\n"
    )


def render_manager(limits: Limits) -> str:
    """Return the drop-in of user@UID.service."""
    return f"{_HEAD}[Service]\nTasksMax={limits.tasks}\n"


def parse_slice(text: str) -> Limits | None:
    """Read back the limits that render_slice was given; None if the text is not what it writes."""
    line = next((line for line in text.splitlines() if line.startswith(_EXACT)), "")
    words = line.removeprefix(_EXACT).split()
    if len(words) != 3 or not all(word.isdecimal() for word in words):
        return None
    quota, memory, tasks = map(int, words)
    limits = Limits(Cores(quota / CPU_PERIOD_US), Bytes(memory), tasks)
    return limits if quota >= 1000 and text == render_slice(limits) else None
