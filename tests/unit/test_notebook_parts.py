"""Where a notebook server's cgroup is, by each kind of slices, and how it follows the slice's limits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from diycloud.errors import HostError
from diycloud.host.cgroup import Tree
from diycloud.host.parts import Bounds
from diycloud.host.slices import Limits
from diycloud.host.systemd_slices import SystemdSlices
from diycloud.system import Result
from diycloud.system.fake import Fake
from diycloud.units import Bytes, Cores
from tests.unit.test_slices import v1, v2

LIMITS = Limits(Cores(0.5), Bytes(64 << 20), 50)


def test_a_part_on_v1_is_bounded_entered_and_follows_the_slices_limits() -> None:
    fake, slices = v1()
    slices.ensure("alice", 1, LIMITS)
    part = slices.part("alice", 1, "notebook")
    part.hold(77, Bounds(Cores(0.25), Bytes(32 << 20), 50))
    at = {c: f"/sys/fs/cgroup/{c}/user/alice/notebook" for c in ("cpu", "cpuacct", "memory")}
    at["pids"] = "/sys/fs/cgroup/pids/user/alice/main/notebook"
    assert [fake.read(f"{folder}/cgroup.procs") for folder in at.values()] == ["77"] * 4
    assert fake.read(f"{at['memory']}/memory.limit_in_bytes") == fake.read(
        f"{at['memory']}/memory.memsw.limit_in_bytes"
    )
    assert fake.read(f"{at['memory']}/memory.limit_in_bytes") == str(32 << 20)
    assert (fake.read(f"{at['cpu']}/cpu.cfs_quota_us"), fake.read(f"{at['pids']}/pids.max")) == ("25000", "max")
    assert part.processes() == [77]
    slices.ensure("alice", 1, Limits(Cores(0.1), Bytes(64 << 20), 20))
    assert fake.read(f"{at['cpu']}/cpu.cfs_quota_us") == "10000"
    other = slices.part("alice", 1, "notebook-b")
    other.hold(78, Bounds(Cores(0), Bytes(0), 50))
    assert fake.read("/sys/fs/cgroup/memory/user/alice/notebook-b/memory.limit_in_bytes") == "9223372036854771712"
    assert fake.read("/sys/fs/cgroup/cpu/user/alice/notebook-b/cpu.cfs_quota_us") == "-1"


def test_on_v1_a_part_follows_the_slices_cpu_up_and_down_and_its_own_bound_stays() -> None:
    """v1 alone refuses a part more than its slice has, so what a small slice took from it must be given back."""
    fake, slices = v1()
    slices.ensure("alice", 1, LIMITS)
    bounded, free = slices.part("alice", 1, "notebook"), slices.part("alice", 1, "notebook-b")
    bounded.hold(77, Bounds(Cores(2.0), Bytes(1 << 40), 50))
    free.hold(78, Bounds(Cores(0), Bytes(0), 50))

    def quotas() -> list[str | None]:
        return [
            fake.read(f"/sys/fs/cgroup/cpu/user/alice/{part}cpu.cfs_quota_us")
            for part in ("", "notebook/", "notebook-b/")
        ]

    assert quotas() == ["50000", "50000", "-1"], "its two cores are more than there is"
    for cpu, now in ((1.0, ["100000", "100000", "-1"]), (4.0, ["400000", "200000", "-1"]), (0.2, ["20000", "20000", "-1"]),
                     (3.0, ["300000", "200000", "-1"])):  # fmt: skip
        slices.ensure("alice", 1, LIMITS._replace(cpu=Cores(cpu)))
        bounded.follow(Cores(2.0)), free.follow(Cores(0))
        assert quotas() == now
        assert not bounded.follow(Cores(2.0)), "nothing is written twice"
    assert fake.read("/sys/fs/cgroup/memory/user/alice/notebook/memory.limit_in_bytes") == str(1 << 40)
    assert not slices.part("alice", 1, "notebook-none").follow(Cores(1.0)), "one that is not there is not made"
    assert not fake.exists("/sys/fs/cgroup/cpu/user/alice/notebook-none")


def test_a_slices_cpu_is_lowered_though_a_part_was_just_given_more() -> None:
    """A server that starts may get its share of the limit before this one, between two steps: the kernel then refuses."""
    fake, slices = v1()
    slices.ensure("alice", 1, LIMITS)
    slices.part("alice", 1, "notebook").hold(77, Bounds(Cores(0.4), Bytes(0), 50))
    quota = "/sys/fs/cgroup/cpu/user/alice/cpu.cfs_quota_us"
    write, refused = fake.set_value, list[str]()

    def refuse_once(path: str, value: str) -> None:
        if path == quota and not refused:
            refused.append(value)
            write("/sys/fs/cgroup/cpu/user/alice/notebook/cpu.cfs_quota_us", "40000")
            raise HostError("Invalid argument")
        write(path, value)

    fake.set_value = refuse_once  # type: ignore[method-assign, assignment]
    assert slices.ensure("alice", 1, LIMITS._replace(cpu=Cores(0.1)))
    assert refused == ["10000"]
    assert [fake.read(quota), fake.read("/sys/fs/cgroup/cpu/user/alice/notebook/cpu.cfs_quota_us")] == ["10000"] * 2


def test_a_part_on_v2_is_a_leaf_beside_main() -> None:
    fake, slices = v2()
    slices.ensure("alice", 1, LIMITS)
    part = slices.part("alice", 1, "notebook")
    part.hold(77, Bounds(Cores(0.25), Bytes(32 << 20), 50))
    at = "/sys/fs/cgroup/user/alice/notebook"
    assert part.folders == [at]
    assert part.kills == (f"{at}/memory.events", "oom_kill")
    assert [fake.read(f"{at}/{file}") for file in ("cgroup.procs", "memory.max", "cpu.max", "pids.max")] == [
        "77", str(32 << 20), "25000 100000", "50",
    ]  # fmt: skip
    assert part.usage_files == (f"{at}/memory.current", f"{at}/cpu.stat", f"{at}/cpu.max")


def test_with_systemd_a_scope_adopts_the_shim_and_no_two_people_share_one() -> None:
    folder = "/sys/fs/cgroup/user.slice/user-20000.slice/diycloud-notebook-20000-b.scope"
    ran: list[Sequence[str]] = []

    def start(argv: Sequence[str], _: str | None) -> Result:
        ran.append(argv)
        if "OOMPolicy" in argv:  # systemd before 253
            return Result(1, "", "Cannot set property OOMPolicy, or unknown property.")
        fake.files.update(Fake({f"{folder}/cgroup.procs": "77\n"}).files)
        return Result(0, "", "")

    class Systemd(Fake):
        def _execute(self, argv: Sequence[str], input: str | None) -> Result:
            return start(argv, input)

    fake = Systemd({"/proc/77/stat": ""})
    slices = SystemdSlices(fake, Tree("/sys/fs/cgroup", {}))
    part = slices.part("alice", 20_000, "notebook-b")
    part.hold(77, Bounds(Cores(0.25), Bytes(32 << 20), 50))
    line = " ".join(ran[-1])
    assert "StartTransientUnit ssa(sv)a(sa(sv)) diycloud-notebook-20000-b.scope fail" in line
    assert "PIDs au 1 77 Slice s user-20000.slice TasksMax t 50" in line
    assert "CPUQuotaPerSecUSec t 250000" in line
    assert f"MemoryMax t {32 << 20}" in line
    count = int(ran[-1][ran[-1].index("fail") + 1])
    assert count == sum(word in {"au", "s", "t", "b"} for word in ran[-1]), "as many properties as it says"
    assert part.folders == [folder]
    first, second = slices.part("a-b", 20_001, "notebook"), slices.part("a", 20_002, "notebook-b")
    assert first.folders != second.folders
    with pytest.raises(HostError, match="did not take the process 78"):
        part.hold(78, Bounds(Cores(0), Bytes(0), 50))
