"""Slices without a host: choosing the way, what is written where, what is left alone."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from diycloud.errors import HostError, Unsupported
from diycloud.host import cgroup
from diycloud.host.cgroup import Tree, memory_high, read_tree
from diycloud.host.cgroup_v1 import CgroupV1Slices
from diycloud.host.cgroup_v2 import CgroupV2Slices
from diycloud.host.slices import Counters, Limits, detect_slices
from diycloud.host.systemd_slices import SystemdSlices, parse_slice, render_manager, render_slice
from diycloud.system import ROOT, Owner, Result
from diycloud.system.fake import Fake
from diycloud.units import Bytes, Cores

HALF = Limits(Cores(0.5), Bytes(200 << 20), 64)
UNLIMITED = "9223372036854771712"
C = "/sys/fs/cgroup"

V1_FILES = {
    "cpu": {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "-1", "cpu.shares": "1024",
            "cpu.stat": "nr_periods 5\nnr_throttled 2\nthrottled_time 7000000\n"},
    "cpuacct": {"cpuacct.usage": "123456789"},
    "memory": {"memory.limit_in_bytes": UNLIMITED, "memory.memsw.limit_in_bytes": UNLIMITED,
               "memory.usage_in_bytes": "5000", "memory.stat": "cache 9\ntotal_inactive_file 1000\n",
               "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "memory.swappiness": "60"},
    "pids": {"pids.max": "max", "pids.current": "4"},
}  # fmt: skip
V2_FILES = {
    "cgroup.subtree_control": "", "memory.current": "5000", "memory.max": "max", "memory.high": "max",
    "memory.swap.max": "max", "memory.stat": "inactive_file 1000\nfile 2000\n", "memory.events": "oom 2\noom_kill 1\n",
    "cpu.max": "max 100000", "cpu.weight": "100", "pids.max": "max", "pids.current": "4",
    "cpu.stat": "usage_usec 42\nthrottled_usec 7\n",
}  # fmt: skip


class Kernel(Fake):
    """A Fake whose cgroup folders come with the kernel's files, and which notes what is written."""

    def __init__(self, mountinfo: str, files: dict[str, str] | None = None) -> None:
        mounts = {line.split()[4] for line in mountinfo.splitlines() if " cgroup" in line}
        extra = {f"{point}/cgroup.procs": "" for point in mounts}
        extra |= {f"{point}/memory.memsw.limit_in_bytes": UNLIMITED for point in mounts if point.endswith("/memory")}
        super().__init__({"/proc/self/mountinfo": mountinfo, **extra, **(files or {})})
        self.effects: list[str] = []

    def make_dir(self, path: str | Path, *, mode: int = 0o755, owner: Owner = ROOT) -> bool:
        made = super().make_dir(path, mode=mode, owner=owner)
        if made and str(path).startswith(C):
            self.effects.append(f"mkdir {path}")
            controllers = Path(path).relative_to(C).parts[0].split(",")
            files = {k: v for c in controllers for k, v in V1_FILES.get(c, {}).items()} or V2_FILES
            for name, text in {"cgroup.procs": "", **files}.items():
                super().write(f"{path}/{name}", text)
        return made

    def set_value(self, path: str | Path, value: str) -> None:
        self.effects.append(f"{path} = {value}")
        old = self.read(path)
        if str(path).endswith("subtree_control"):
            value = " ".join(sorted({*(old or "").split(), *(word.lstrip("+") for word in value.split())}))
        super().set_value(path, value)

    def remove(self, path: str | Path) -> bool:
        # rmdir of a cgroup takes the kernel's files along.
        if str(path).startswith(C) and self.exists(path):
            if (self.read(f"{path}/cgroup.procs") or "").strip():
                raise HostError(f"Cannot remove {path}: Device or resource busy.")
            return self.remove_tree(path)
        return super().remove(path)


def mounts(*controllers: str, options: str = "rw", unified: bool = False) -> str:
    lines = [
        f"{30 + i} 31 0:{i} / {C}/{c} {options},relatime - cgroup cgroup rw,{c}" for i, c in enumerate(controllers)
    ]
    if unified:
        lines.append(f"41 31 0:38 / {C}/unified rw,relatime - cgroup2 cgroup2 rw")
    return "22 1 254:0 / / rw - ext4 /dev/vda rw\n" + "\n".join(lines) + "\n"


UNIFIED = f"22 1 254:0 / / rw - ext4 /dev/vda rw\n31 22 0:28 / {C} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
ALL_V2 = {f"{C}/cgroup.controllers": "cpuset cpu io memory pids\n", f"{C}/cgroup.subtree_control": ""}
V1 = mounts("cpu", "cpuacct", "memory", "pids")


def v1(text: str = V1) -> tuple[Kernel, CgroupV1Slices]:
    kernel = Kernel(text)
    found = detect_slices(kernel)
    assert isinstance(found, CgroupV1Slices)
    return kernel, found


def v2() -> tuple[Kernel, CgroupV2Slices]:
    kernel = Kernel(UNIFIED, ALL_V2)
    found = detect_slices(kernel)
    assert isinstance(found, CgroupV2Slices)
    return kernel, found


class TestDetection:
    @pytest.mark.parametrize(
        ("text", "files", "kind"),
        [
            (V1, {}, "cgroup v1"),
            (mounts("cpu,cpuacct", "memory", "pids"), {}, "cgroup v1"),
            (mounts("cpu", "cpuacct", "memory", "pids", unified=True), {}, "cgroup v1"),
            (UNIFIED, ALL_V2, "cgroup v2"),
            (UNIFIED, {**ALL_V2, "/run/systemd/system/x": ""}, "systemd"),
            (mounts("cpu,cpuacct", "memory", "pids"), {"/run/systemd/system/x": ""}, "systemd"),
        ],
    )
    def test_way_of_the_host(self, text, files, kind):
        assert detect_slices(Kernel(text, files)).kind == kind

    @pytest.mark.parametrize(
        ("text", "files", "reason"),
        [
            ("22 1 254:0 / / rw - ext4 /dev/vda rw\n", {}, "No cgroup controllers are mounted"),
            (mounts("cpu", "cpuacct", "pids"), {}, "no cgroup controller for memory"),
            (mounts("memory"), {}, "no cgroup controller for cpuacct, cpu, pids"),
            (UNIFIED, {f"{C}/cgroup.controllers": "cpu io\n"}, "no cgroup controller for memory, pids"),
            (mounts("cpu", "cpuacct", "memory", "pids", options="ro"), {}, "read-only"),
            (UNIFIED.replace("rw,nosuid", "ro,nosuid"), ALL_V2, "read-only"),
            (mounts("cpuset", unified=True), {f"{C}/unified/cgroup.controllers": "hugetlb\n"}, "cpu, memory, pids"),
        ],
    )
    def test_what_is_missing_is_named(self, text, files, reason):
        found = detect_slices(Kernel(text, files))
        assert isinstance(found, Unsupported)
        assert reason in found.message

    def test_mount_points_are_the_host_s(self):
        tree = read_tree(Kernel(mounts("cpu,cpuacct", "memory", "pids")))
        assert isinstance(tree, Tree)
        assert tree.v1["cpu"] == tree.v1["cpuacct"] == f"{C}/cpu,cpuacct"


class TestV1:
    def test_order_ends_with_main(self):
        kernel, slices = v1()
        assert slices.ensure("alice", 20001, HALF) is True
        base = "user/alice"
        assert kernel.effects[-2:] == [f"mkdir {C}/pids/{base}/main", f"{C}/pids/{base}/main/pids.max = 64"]
        written = [effect for effect in kernel.effects if " = " in effect and base in effect]
        assert written == [
            f"{C}/memory/{base}/memory.limit_in_bytes = {HALF.memory}",  # fresh: memory before memory+swap
            f"{C}/memory/{base}/memory.memsw.limit_in_bytes = {HALF.memory}",
            f"{C}/cpu/{base}/cpu.cfs_quota_us = 50000",
            f"{C}/cpu/{base}/cpu.shares = 512",
            f"{C}/pids/{base}/pids.max = 80",
            f"{C}/pids/{base}/rescue/pids.max = 16",
            f"{C}/pids/{base}/main/pids.max = 64",
        ]
        assert slices.read_limits("alice", 20001) == HALF

    def test_unchanged_writes_nothing(self):
        kernel, slices = v1()
        slices.ensure("alice", 20001, HALF)
        kernel.effects.clear()
        assert slices.ensure_many([("alice", 20001, HALF)]) == [False]
        assert kernel.effects == []

    def test_raising_moves_swap_first_and_lowering_last(self):
        kernel, slices = v1()
        slices.ensure("alice", 20001, HALF)
        for memory, first in ((400 << 20, "memsw."), (100 << 20, "limit")):
            kernel.effects.clear()
            slices.ensure("alice", 20001, HALF._replace(memory=Bytes(memory)))
            assert kernel.effects[0].startswith(f"{C}/memory/user/alice/memory.{first}")
            assert len(kernel.effects) == 2

    def test_without_swap_accounting_nothing_is_swapped(self):
        kernel, slices = v1()
        slices._has_memsw = False
        slices.ensure("alice", 20001, HALF)
        assert kernel.read(f"{C}/memory/user/alice/memory.swappiness") == "0"

    def test_controllers_mounted_together(self):
        kernel, slices = v1(mounts("cpu,cpuacct", "memory", "pids"))
        assert slices.ensure("alice", 20001, HALF) is True
        assert kernel.read(f"{C}/cpu,cpuacct/user/alice/cpu.cfs_quota_us") == "50000"
        assert slices.read("alice", 20001) is not None
        assert slices.remove("alice", 20001) is True
        assert [path for path in kernel.files if "alice" in path] == []

    def test_counters(self):
        kernel, slices = v1()
        slices.ensure("alice", 20001, HALF)
        kernel.make_dir(f"{C}/memory/user/alice/notebook")  # its kills are counted there alone
        assert slices.read("alice", 20001) == Counters(123456, Bytes(4000), 4, 6, 7000)
        assert slices.read("bob", 20002) is None

    def test_what_was_removed_by_hand_is_made_again(self):
        kernel, slices = v1()
        slices.ensure("alice", 20001, HALF)
        for folder in ("memory/user/alice", "cpuacct/user/alice", "cpu/user/alice/rescue", "pids/user/alice/rescue"):
            kernel.remove(f"{C}/{folder}")
            assert slices.ensure("alice", 20001, HALF) is True
            assert slices.read_limits("alice", 20001) == HALF
            assert kernel.exists(f"{C}/{folder}/cgroup.procs")
            assert slices.ensure("alice", 20001, HALF) is False

    @pytest.mark.slow
    def test_remove_takes_main_away_first(self):
        kernel, slices = v1()
        slices.ensure("alice", 20001, HALF)
        kernel.files[f"{C}/cpu/user/alice/cgroup.procs"] = kernel.files[f"{C}/cpu/user/alice/cgroup.procs"]._replace(
            text="1\n"
        )
        with pytest.raises(HostError, match="busy"):
            slices.remove("alice", 20001)
        assert not kernel.exists(f"{C}/pids/user/alice/main")
        assert slices.ensure("alice", 20001, HALF) is True  # and what is left is made whole again
        assert slices.read_limits("alice", 20001) == HALF


class TestV2:
    def test_limits_and_leaves(self):
        kernel, slices = v2()
        assert slices.ensure("alice", 20001, HALF) is True
        at = f"{C}/user/alice"
        values = {name: kernel.read(f"{at}/{name}") for name in
                  ("memory.max", "memory.high", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max")}  # fmt: skip
        assert values == {"memory.max": str(HALF.memory), "memory.high": str(HALF.memory - (10 << 20)),
                          "memory.swap.max": "0", "cpu.max": "50000 100000", "cpu.weight": "50", "pids.max": "80"}  # fmt: skip
        for folder in (C, f"{C}/user", at):
            assert kernel.read(f"{folder}/cgroup.subtree_control") == "cpu memory pids"
        assert kernel.read(f"{at}/main/pids.max") == "64"
        assert kernel.read(f"{at}/rescue/pids.max") == "16"
        assert kernel.effects[-2] == f"mkdir {at}/main"
        assert slices.read_limits("alice", 20001) == HALF
        kernel.effects.clear()
        assert slices.ensure("alice", 20001, HALF) is False
        assert kernel.effects == []

    def test_below_use_is_refused_instead_of_killing(self):
        kernel, slices = v2()
        slices.ensure("alice", 20001, HALF)
        kernel.set_value(f"{C}/user/alice/memory.current", str(150 << 20))
        kernel.effects.clear()
        with pytest.raises(HostError, match="alice uses 150M"):
            slices.ensure("alice", 20001, Limits(Cores(2.0), Bytes(100 << 20), 10))
        assert kernel.effects == []
        assert slices.ensure("alice", 20001, HALF._replace(memory=Bytes(160 << 20))) is True

    def test_counters_and_removal(self):
        _, slices = v2()
        slices.ensure("alice", 20001, HALF)
        assert slices.read("alice", 20001) == Counters(42, Bytes(4000), 4, 1, 7)
        assert slices.remove("alice", 20001) is True
        assert slices.remove("alice", 20001) is False
        assert slices.read_limits("alice", 20001) is None


@pytest.mark.parametrize(("make", "at"), [(v1, f"{C}/pids/user/alice"), (v2, f"{C}/user/alice")])
class TestStop:
    def stop(self, monkeypatch: pytest.MonkeyPatch, kernel, slices, at, *, meanwhile=lambda: None) -> None:
        """Stop one process that ends with the first SIGKILL, and do something else just before it does."""
        kernel.set_value(f"{at}/main/cgroup.procs", "4711\n")
        monkeypatch.setattr(cgroup, "_emptied", lambda pids, seconds: False)

        def kill(pid: int, sig: int = signal.SIGKILL) -> bool:
            if sig == signal.SIGKILL:
                assert kernel.read(f"{at}/pids.max") == "0", "no more forks"
                meanwhile()
                kernel.set_value(f"{at}/main/cgroup.procs", "")
            return True

        monkeypatch.setattr(kernel, "kill", kill)
        assert slices.stop("alice", 20001) == 1

    def test_limits_changed_meanwhile_stay(self, monkeypatch, make, at):
        kernel, slices = make()
        slices.ensure("alice", 20001, HALF)
        more = HALF._replace(tasks=300)

        def meanwhile() -> None:
            slices.ensure("alice", 20001, more)
            kernel.set_value(f"{at}/pids.max", "0")  # of a second stop, which is not done yet

        self.stop(monkeypatch, kernel, slices, at, meanwhile=meanwhile)
        assert slices.read_limits("alice", 20001) == more
        assert kernel.read(f"{at}/pids.max") == "316"

    def test_a_ceiling_that_was_left_at_nothing_is_seen_and_mended(self, monkeypatch, make, at):
        kernel, slices = make()
        slices.ensure("alice", 20001, HALF)
        kernel.set_value(f"{at}/pids.max", "0")
        assert slices.read_limits("alice", 20001) is None
        self.stop(monkeypatch, kernel, slices, at)
        assert slices.read_limits("alice", 20001) == HALF

    def test_who_ends_by_themselves_costs_no_write(self, make, at):
        kernel, slices = make()
        slices.ensure("alice", 20001, HALF)
        kernel.effects.clear()
        assert slices.stop("alice", 20001) == 0
        assert slices.stop("bob", 20002) == 0
        assert kernel.effects == []


BUSCTL = (
    "busctl --quiet --timeout=20 call org.freedesktop.systemd1 /org/freedesktop/systemd1 "
    "org.freedesktop.systemd1.Manager SetUnitProperties 'sba(sv)' "
)
SLICE_CALL = (
    BUSCTL + "user-20001.slice true 6 CPUQuotaPerSecUSec t 500000 CPUWeight t 50 MemoryMax t 209715200 "
    "MemoryHigh t 199229440 MemorySwapMax t 0 TasksMax t 80"
)


class TestSystemd:
    @pytest.fixture
    def kernel(self) -> Kernel:
        kernel = Kernel(UNIFIED, ALL_V2)
        for folder in ("/etc/systemd/system", "/run/systemd/system", f"{C}/user.slice"):
            for parent in [*reversed(Path(folder).parents), Path(folder)]:
                if not kernel.exists(parent):
                    kernel.make_dir(parent)
        return kernel

    @pytest.fixture
    def slices(self, kernel: Kernel) -> SystemdSlices:
        found = detect_slices(kernel)
        assert isinstance(found, SystemdSlices)
        return found

    def test_a_user_who_is_away_costs_two_files_and_no_call(self, kernel, slices):
        assert slices.ensure_many([("alice", 20001, HALF), ("bob", 20002, HALF)]) == [True, True]
        assert kernel.ran == []
        assert kernel.read("/etc/systemd/system/user-20001.slice.d/50-diycloud.conf") == render_slice(HALF)
        assert kernel.read("/etc/systemd/system/user@20001.service.d/50-diycloud.conf") == render_manager(HALF)
        assert slices.read_limits("alice", 20001) == HALF
        assert slices.ensure("alice", 20001, HALF) is False

    def test_a_live_slice_changes_at_once_with_its_sessions_but_not_its_containers(self, kernel, slices):
        at = f"{C}/user.slice/user-20001.slice"
        for folder in (at, f"{at}/user@20001.service", f"{at}/session-3.scope", f"{at}/docker-1a.scope"):
            kernel.make_dir(folder)
        kernel.commands = {
            SLICE_CALL: "",
            BUSCTL + "user@20001.service true 1 TasksMax t 64": "",
            BUSCTL + "session-3.scope true 1 TasksMax t 64": "",
        }
        assert slices.ensure("alice", 20001, HALF) is True
        assert len(kernel.ran) == 3

    def test_a_live_slice_that_holds_is_left_alone(self, kernel, slices):
        at = f"{C}/user.slice/user-20001.slice"
        slices.ensure("alice", 20001, HALF)
        kernel.make_dir(at)
        for name, value in (("cpu.max", "50000 100000"), ("memory.max", str(HALF.memory)), ("pids.max", "80")):
            kernel.set_value(f"{at}/{name}", value)
        assert slices.ensure("alice", 20001, HALF) is False
        assert slices.read_limits("alice", 20001) == HALF
        kernel.set_value(f"{at}/pids.max", "500")
        assert slices.read_limits("alice", 20001) == HALF._replace(tasks=484)
        kernel.commands = {SLICE_CALL: ""}
        assert slices.ensure("alice", 20001, HALF) is True

    def test_stop_gives_back_the_limits_as_they_are_by_then(self, kernel, slices, monkeypatch):
        at = f"{C}/user.slice/user-20001.slice"
        slices.ensure("alice", 20001, HALF)
        kernel.make_dir(at)
        kernel.set_value(f"{at}/cgroup.procs", "4711\n")
        kernel.set_value(f"{at}/pids.max", "1")  # of another stop
        monkeypatch.setattr(cgroup, "_emptied", lambda pids, seconds: False)
        monkeypatch.setattr(
            kernel, "kill", lambda pid, sig=9: sig != 9 or not kernel.set_value(f"{at}/cgroup.procs", "")
        )
        kernel.commands = {
            BUSCTL + "user-20001.slice true 1 TasksMax t 1": "",
            "systemctl kill --signal=SIGKILL user-20001.slice": "",
            BUSCTL + "user-20001.slice true 1 TasksMax t 80": "",
        }
        assert slices.stop("alice", 20001) == 1
        assert kernel.ran == list(kernel.commands)

    def test_strays_are_taken_in_by_systemd_but_not_what_units_and_containers_count_on(
        self, kernel, slices, monkeypatch
    ):
        """One ended between the look and the call, which systemd then refuses for all."""
        at = f"{C}/user.slice/user-20001.slice"
        slices.ensure("alice", 20001, HALF)
        kernel.make_dir(at)
        where = {
            11: "user.slice/user-0.slice/session-5.scope",
            12: "system.slice/cron.service",
            13: "system.slice/alices.service",
            14: "system.slice/docker-1a.scope",
            15: "system.slice/cron.service",
        }
        for parent in ("/proc/sys", "/proc/sys/kernel", "/proc/sys/kernel/random", *(f"/proc/{pid}" for pid in where)):
            kernel.make_dir(parent)
        kernel.write("/proc/sys/kernel/random/uuid", "1-2\n")
        for pid, group in where.items():
            kernel.write(f"/proc/{pid}/cgroup", f"0::/{group}\n")
        show = "systemctl show --property=User --value -- "
        kernel.commands = {show + "cron.service": "", show + "alices.service": "alice\n"}
        calls = []

        def run(argv, **options):
            calls.append(argv[argv.index("PIDs") :])
            if len(calls) == 1:
                kernel.remove_tree("/proc/15")
                return Result(1, "", "No such process")
            kernel.set_value(f"{at}/cgroup.procs", "11\n12\n")
            return Result(0, "", "")

        monkeypatch.setattr(kernel, "run", run)
        assert slices.take_in("alice", 20001, where) == 2
        assert calls[0][:6] == ["PIDs", "au", "3", "11", "12", "15"]
        rest = "Slice s user-20001.slice TasksMax t 64 CollectMode s inactive-or-failed OOMPolicy s continue 0"
        assert calls[1:] == [["PIDs", "au", "2", "11", "12", *rest.split()]]

    def test_removal_leaves_others_drop_ins(self, kernel, slices):
        slices.ensure("alice", 20001, HALF)
        kernel.write("/etc/systemd/system/user-20001.slice.d/90-admin.conf", "[Slice]\n")
        kernel.commands = {"systemctl stop user-20001.slice": ""}
        assert slices.remove("alice", 20001) is True
        left = [path for path in kernel.files if "20001" in path]
        assert left == [
            "/etc/systemd/system/user-20001.slice.d",
            "/etc/systemd/system/user-20001.slice.d/90-admin.conf",
        ]
        assert slices.remove("alice", 20001) is False

    @pytest.mark.parametrize("cores", [0.01, 0.33333, 0.5, 1.0, 2.25, 64.0])
    def test_drop_in_keeps_the_wish_exactly(self, cores):
        limits = Limits(Cores(cores), Bytes(1_000_000_001), 99)
        assert parse_slice(render_slice(limits)) == limits

    def test_a_drop_in_that_was_edited_counts_as_none(self):
        assert parse_slice(render_slice(HALF).replace("TasksMax=80", "TasksMax=8000")) is None
        assert parse_slice("") is None


def test_memory_high_is_a_little_below():
    assert memory_high(100 << 20) == 95 << 20
    assert memory_high(64 << 30) == (64 << 30) - (64 << 20)


def test_what_outlives_sigkill_is_an_error(monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(cgroup.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(cgroup.time, "sleep", lambda seconds: None)
    forbidden: list[bool] = []
    with pytest.raises(HostError, match="outlive SIGKILL"):
        cgroup.end_processes(Fake(), lambda: [7], forbid_forks=lambda: forbidden.append(True))
    assert forbidden == [True]
