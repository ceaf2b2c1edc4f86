"""Notebook servers where systemd keeps cgroup v1 controllers: limits that change hold at once for what runs, and Lab says so.

The kernel refuses a slice less CPU time than a scope in it has, and a scope more than its slice; systemd only logs that.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator

import pytest

from tests.visitor import Browser, Kernel
from tests.vm.conftest import MIB, PASSWORD, Bed, wait_until, with_platform
from tests.vm.test_vm_notebooks import LAB, browsing, open_lab

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

BUSY = "import subprocess\nloop = subprocess.Popen(['sh', '-c', 'while :; do :; done'])"
PROFILE = "notebooks: {profiles: {small: {cpu: 0.6, memory: 512M}}}"


@pytest.fixture(scope="module", params=["v1", "hybrid"])
def old(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """The platform on Debian 12 with the old controllers, by systemd's own tree of both kinds."""
    with with_platform("bookworm", request.param) as bed:
        yield bed


@pytest.fixture
def browser(old: Bed) -> Iterator[Browser]:
    """Alice with Lab open, in a server of a profile that is smaller than what she may have."""
    old.machine.reset("installed")
    old.machine.run("diycloud limits set alice --cpu 0.9 --memory 1G --tasks 120")
    old.machine.run(f"echo '{PROFILE}' >> /etc/diycloud/config.yaml; systemctl restart diycloud-agent")
    with browsing(old) as alice:
        up = lambda: alice.ask("GET", "/jupyter/hub/health").status_code == 200  # noqa: E731
        wait_until("the hub answers", up, 600)
        assert alice.sign_in("alice", PASSWORD).status_code == 200
        began = time.monotonic()
        open_lab(alice)
        print(f"Lab's page after {time.monotonic() - began:.0f} s")
        yield alice


def quotas(bed: Bed) -> list[str]:
    """The CPU quota, µs in each 100 ms, of alice's slice and of her server."""
    at = f"/sys/fs/cgroup/cpu/user.slice/user-{bed.alice.uid}.slice"
    scope = f"{at}/diycloud-notebook-{bed.alice.uid}.scope"
    return bed.machine.run(["cat", f"{at}/cpu.cfs_quota_us", f"{scope}/cpu.cfs_quota_us"]).stdout.split()


def use(bed: Bed, seconds: float = 6) -> float:
    """The cores that alice's slice had, over some seconds of the machine's own clock."""
    look = f"cat /proc/uptime /sys/fs/cgroup/cpuacct/user.slice/user-{bed.alice.uid}.slice/cpuacct.usage"
    began, _, before, ended, _, after = bed.machine.run(f"{look}; sleep {seconds}; {look}").stdout.split()
    return (int(after) - int(before)) / 1e9 / (float(ended) - float(began))


def shown(browser: Browser) -> tuple[float, int]:
    """The cores and the bytes that Lab's indicators show as the limit."""
    told = browser.ask("GET", f"{LAB}api/metrics/v1").json()
    return told["limits"]["cpu"]["cpu"], told["limits"]["memory"]["rss"]


def test_limits_that_change_hold_for_what_runs_and_lab_shows_them(old: Bed, browser: Browser) -> None:
    set_cpu: Callable[[str], object] = lambda cpu: old.machine.run(["diycloud", "limits", "set", "alice", "--cpu", cpu])  # noqa: E731
    with contextlib.closing(Kernel(browser, LAB)) as kernel:
        groups = kernel.run("print(open('/proc/self/cgroup').read())", 300)
        scope = f"/user.slice/user-{old.alice.uid}.slice/diycloud-notebook-{old.alice.uid}.scope"
        for controller in ("cpu", "memory", "pids"):
            assert re.search(rf"^[0-9]+:[a-z,]*\b{controller}\b[a-z,]*:{re.escape(scope)}$", groups, re.M), controller
        kernel.run(BUSY, 300)
    assert (quotas(old), shown(browser)) == (["90000", "60000"], (0.6, 512 * MIB))
    wide = use(old)

    set_cpu("0.3")
    assert (quotas(old), shown(browser)) == (["30000", "-1"], (0.3, 512 * MIB))
    narrow = use(old)
    print(f"a busy loop: {wide:.2f} cores at 0.6, {narrow:.2f} at 0.3")
    assert narrow < 0.45 < wide < 0.75

    set_cpu("0.8")
    assert (quotas(old), shown(browser)) == (["80000", "60000"], (0.6, 512 * MIB))
    old.machine.run("diycloud limits set alice --memory 400M")
    assert shown(browser) == (0.6, 400 * MIB)


def test_a_bound_of_somebody_elses_that_keeps_limits_from_holding_is_told(old: Bed) -> None:
    """A unit of root's in the slice has more CPU time than the slice is to have: the kernel refuses that."""
    old.machine.reset("installed")
    old.machine.run("diycloud limits set alice --cpu 0.9")
    unit = f"--slice=user-{old.alice.uid}.slice --uid=alice -p CPUQuota=70% sleep 900"
    old.machine.run(f"systemd-run --quiet --unit=theirs {unit}")
    told = old.machine.run("diycloud limits set alice --cpu 0.5")
    assert "The kernel did not take all limits" in told.stderr + told.stdout
    assert "0.9 cores" in told.stderr + told.stdout
    old.machine.run("systemctl stop theirs; diycloud limits set alice --cpu 0.5")
    at = f"/sys/fs/cgroup/cpu/user.slice/user-{old.alice.uid}.slice/cpu.cfs_quota_us"
    assert old.machine.run(["cat", at], ok=(0, 1)).stdout in ("50000\n", ""), "the slice ends with its last process"
