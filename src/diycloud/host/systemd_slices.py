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

Where systemd still keeps v1 controllers it has no word for memory+swap: swap is then limited for nobody. There the kernel
may also refuse a value, which systemd only logs: what it then has is looked at.

Sources: systemd.resource-control(5), systemd.unit(5), org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from diycloud.errors import HostError
from diycloud.host import cgroup
from diycloud.host.cgroup import Tree, page_floor
from diycloud.host.slices import RESERVED_TASKS, Counters, Limits
from diycloud.host.systemd_scopes import (
    ARRIVE_S,
    MANAGER,
    OOM_POLICY,
    Scope,
    lift_bounds_above,
    quota_property,
    quota_us,
    set_properties,
)
from diycloud.system import System
from diycloud.units import CPU_PERIOD_US, Bytes, Cores, cpu_quota_us, cpu_weight, human_size

_UNITS = "/etc/systemd/system"
_DROP_IN = "50-diycloud.conf"
_APPLY_S = 1.0
"""How long the kernel's values may take to be there after systemd's answer."""


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
            self._bound(uid, limits)
            if self._system.exists(f"{self._folders(uid)['pids']}/user@{uid}.service"):
                set_properties(self._system, f"user@{uid}.service", {"TasksMax": limits.tasks})
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
        for policy in (OOM_POLICY, OOM_POLICY, []):
            strays = [pid for pid in strays if self._system.exists(f"/proc/{pid}")]
            if not strays or tasks is None or self._start_scope(uid, strays, tasks, policy):
                break
        # The call has only queued the job.
        end = time.monotonic() + ARRIVE_S
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
        return self._system.run([*MANAGER, *start, str(count), *properties, "0"], ok=(0, 1), timeout=30).ok

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
            set_properties(self._system, f"user-{uid}.slice", {"TasksMax": 1})
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
                set_properties(self._system, f"user-{uid}.slice", {"TasksMax": after})

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

    def _bound(self, uid: int, limits: Limits) -> None:
        """Give the slice its limits. Raises HostError if the kernel refuses one, as v1 may; systemd only logs that."""
        unit, wanted = f"user-{uid}.slice", _in_kernel(limits)
        for _ in range(2):  # a server that was starting may have got more CPU time than the slice now has
            if not self._tree.v2:
                lift_bounds_above(self._system, self._folders(uid)["cpu"], quota_us(limits.cpu))
            set_properties(self._system, unit, _properties(limits))
            if self._tree.v2:
                return
            end = time.monotonic() + _APPLY_S
            while (live := self._read_live(uid)) != wanted and time.monotonic() < end:
                time.sleep(0.01)
            if live == wanted or not self._exists(uid):  # it ends with its last process
                return
        raise HostError(
            f"The kernel did not take all limits of {unit}: it has {_told(live)}, and was to have {_told(wanted)}.",
            f"What runs in it may hold more, or be bounded by more: see journalctl -b _PID=1 and systemd-cgls -u {unit}.",
        )

    def _limit_sessions(self, uid: int, tasks: int) -> None:
        folder = self._folders(uid)["pids"]
        for scope in self._system.list_dir(folder):
            ours = scope.startswith(("session-", "diycloud-")) and scope.endswith(".scope")  # not a container's
            if ours and (cgroup.read_text(self._system, f"{folder}/{scope}/pids.max") or "").strip() != str(tasks):
                set_properties(self._system, scope, {"TasksMax": tasks})

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


def _in_kernel(limits: Limits) -> Limits:
    return Limits(
        Cores(quota_us(limits.cpu) / CPU_PERIOD_US), Bytes(page_floor(limits.memory)), limits.tasks + RESERVED_TASKS
    )


def _told(limits: Limits | None) -> str:
    return (
        f"{limits.cpu:g} cores, {human_size(limits.memory)} of memory, {limits.tasks} tasks"
        if limits
        else "not all of them"
    )


def _properties(limits: Limits) -> dict[str, int]:
    return {
        **quota_property(quota_us(limits.cpu)),
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
    quota = quota_us(limits.cpu)
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
