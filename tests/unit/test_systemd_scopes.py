"""Scopes under systemd on cgroup v1, where the kernel refuses what systemd then only logs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from diycloud.errors import HostError
from diycloud.host import systemd_slices
from diycloud.host.parts import Bounds
from diycloud.host.slices import RESERVED_TASKS, Limits
from diycloud.host.systemd_scopes import INFINITY, Scope
from diycloud.host.systemd_slices import SystemdSlices
from diycloud.system import Result
from diycloud.units import Bytes, Cores
from tests.unit.test_slices import C, Kernel, mounts

UID = 20001
SLICE = f"user-{UID}.slice"
LIMITS = Limits(Cores(2.0), Bytes(200 << 20), 64)
FILES = {"MemoryMax": ("memory", "memory.limit_in_bytes"), "TasksMax": ("pids", "pids.max")}


class Systemd(Kernel):
    """systemd over v1 controllers: writes what the kernel takes, and drops what it does not without a word."""

    def __init__(self) -> None:
        super().__init__(mounts("cpu", "cpuacct", "memory", "pids"), {"/proc/77/stat": "", "/proc/78/stat": ""})
        for folder in ("/etc", "/etc/systemd", "/etc/systemd/system", "/run", "/run/systemd", "/run/systemd/system"):
            self.make_dir(folder)
        for controller in ("cpu", "cpuacct", "memory", "pids"):
            self.make_dir(f"{C}/{controller}/user.slice")
            self.make_dir(f"{C}/{controller}/user.slice/{SLICE}")
        self.called: list[str] = []

    def quota(self, unit: str = "") -> str:
        return self.read(f"{C}/cpu/user.slice/{SLICE}/{unit and f'{unit}/'}cpu.cfs_quota_us") or ""

    def _execute(self, argv: Sequence[str], input: str | None) -> Result:
        words = [*argv]
        method = next(word for word in words if word in ("SetUnitProperties", "StartTransientUnit"))
        unit = words[words.index(method) + 2]
        self.called.append(unit)
        below = "" if unit == SLICE else f"{unit}/"
        if method == "StartTransientUnit":
            for controller in ("cpu", "cpuacct", "memory", "pids"):
                self.make_dir(f"{C}/{controller}/user.slice/{SLICE}/{unit}")
            self.set_value(f"{C}/pids/user.slice/{SLICE}/{unit}/cgroup.procs", words[words.index("PIDs") + 3])
        for name, value in self._numbers(words):
            if name == "CPUQuotaPerSecUSec":
                self._set_quota(unit, below, -1 if value == INFINITY else value // 10)
            elif name in FILES:
                controller, file = FILES[name]
                self.set_value(f"{C}/{controller}/user.slice/{SLICE}/{below}{file}", str(value))
        return Result(0, "", "")

    @staticmethod
    def _numbers(words: list[str]) -> list[tuple[str, int]]:
        return [(words[at - 1], int(words[at + 1])) for at, word in enumerate(words) if word == "t"]

    def _set_quota(self, unit: str, below: str, value: int) -> None:
        """Keep the kernel's rule (sched-bwc.rst): nobody has more than whoever is above."""
        folder = f"{C}/cpu/user.slice/{SLICE}"
        children = [
            int(self.quota(name)) for name in self.list_dir(folder) if self.exists(f"{folder}/{name}/cgroup.procs")
        ]
        above = int(self.quota())
        refused = value < max(children, default=-1) if unit == SLICE else value > above > 0
        if not refused or value < 0:
            self.set_value(f"{folder}/{below}cpu.cfs_quota_us", str(value))


@pytest.fixture
def host() -> Systemd:
    return Systemd()


@pytest.fixture
def slices(host: Systemd, monkeypatch: pytest.MonkeyPatch) -> SystemdSlices:
    monkeypatch.setattr(systemd_slices, "_APPLY_S", 0)
    tree = systemd_slices.cgroup.read_tree(host)
    assert isinstance(tree, systemd_slices.Tree)
    found = SystemdSlices(host, tree)
    assert found.ensure("alice", UID, LIMITS)
    return found


def start(slices: SystemdSlices, cpu: float, part: str = "notebook", pid: int = 77) -> Scope:
    scope = slices.part("alice", UID, part)
    scope.hold(pid, Bounds(Cores(cpu), Bytes(0), 64))
    return scope


def test_a_scope_follows_the_slices_cpu_down_and_up(host: Systemd, slices: SystemdSlices) -> None:
    bounded, free = start(slices, 1.0), start(slices, 0, "notebook-b", 78)
    unit, other = f"diycloud-notebook-{UID}.scope", f"diycloud-notebook-{UID}-b.scope"
    assert [host.quota(), host.quota(unit), host.quota(other)] == ["200000", "100000", "-1"]
    for cpu, now in ((0.5, ["50000", "-1"]), (1.0, ["100000", "-1"]), (1.5, ["150000", "100000"]),
                     (0.999, ["99900", "-1"]), (4.0, ["400000", "100000"])):  # fmt: skip
        slices.ensure("alice", UID, LIMITS._replace(cpu=Cores(cpu)))
        bounded.follow(Cores(1.0)), free.follow(Cores(0))
        assert [host.quota(), host.quota(unit)] == now
        assert host.quota(other) == "-1"
        host.called.clear()
        assert not bounded.follow(Cores(1.0)) and not free.follow(Cores(0))
        assert host.called == [], "nothing is said twice"


def test_a_scope_that_begins_in_a_small_slice_gets_its_bound_once_there_is_room(
    host: Systemd, slices: SystemdSlices
) -> None:
    slices.ensure("alice", UID, LIMITS._replace(cpu=Cores(0.5)))
    scope = start(slices, 1.0)
    assert host.quota(f"diycloud-notebook-{UID}.scope") == "-1", "the slice's holds; the kernel would refuse its own"
    slices.ensure("alice", UID, LIMITS)
    assert scope.follow(Cores(1.0))
    assert host.quota(f"diycloud-notebook-{UID}.scope") == "100000"
    assert scope.follow(Cores(0.25)), "also if the profile changed"
    assert host.quota(f"diycloud-notebook-{UID}.scope") == "25000"


def test_a_scope_that_begins_between_two_steps_is_lowered_too(
    host: Systemd, slices: SystemdSlices, monkeypatch: pytest.MonkeyPatch
) -> None:
    lift, late = systemd_slices.lift_bounds_above, list[Scope]()

    def lift_too_early(*words: object) -> bool:
        found = lift(*words)  # type: ignore[arg-type]
        if not late:
            late.append(start(slices, 1.0))
        return found

    monkeypatch.setattr(systemd_slices, "lift_bounds_above", lift_too_early)
    assert slices.ensure("alice", UID, LIMITS._replace(cpu=Cores(0.5)))
    assert [host.quota(), host.quota(f"diycloud-notebook-{UID}.scope")] == ["50000", "-1"]


def test_what_the_kernel_refuses_is_told(host: Systemd, slices: SystemdSlices) -> None:
    """A container with more CPU time than the slice is to have: systemd answers that all is well."""
    at = f"{C}/cpu/user.slice/{SLICE}/docker-1a.scope"
    host.make_dir(at)
    host.set_value(f"{at}/cpu.cfs_quota_us", "150000")
    with pytest.raises(
        HostError, match=r"did not take all limits of user-20001\.slice: it has 2 cores, 200M of memory"
    ):
        slices.ensure("alice", UID, LIMITS._replace(cpu=Cores(1.0)))
    assert host.quota("docker-1a.scope") == "150000", "it is not ours to change"
    host.set_value(f"{at}/cpu.cfs_quota_us", "-1")
    assert slices.ensure("alice", UID, LIMITS._replace(cpu=Cores(1.0)))
    assert slices.read_limits("alice", UID) == LIMITS._replace(cpu=Cores(1.0))
    assert host.read(f"{C}/pids/user.slice/{SLICE}/pids.max") == str(LIMITS.tasks + RESERVED_TASKS)


def test_a_slice_that_ends_meanwhile_is_no_error(
    host: Systemd, slices: SystemdSlices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the last process of its user; the drop-in holds for the next."""

    def end(*_: object, **__: object) -> None:
        for controller in ("cpu", "cpuacct", "memory", "pids"):
            host.remove_tree(f"{C}/{controller}/user.slice/{SLICE}")

    monkeypatch.setattr(systemd_slices, "set_properties", end)
    assert slices.ensure("alice", UID, LIMITS._replace(cpu=Cores(1.0)))
    assert slices.read_limits("alice", UID) == LIMITS._replace(cpu=Cores(1.0))
