"""Slices on this host's own cgroup v1: made, compared, changed under running processes, removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from diycloud.errors import HostError
from diycloud.host.slices import RESERVED_TASKS, Limits
from diycloud.system import Local
from diycloud.system.recording import Recording
from diycloud.units import Bytes, Cores
from tests.host.limits_support import HALF, controller_folder, remove_parent, v1_slices, wait_for, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture
def parent():
    name = f"dtslv{os.getpid()}"
    yield name
    remove_parent(name)


def join(parent: str, name: str, *argv: str) -> subprocess.Popen[bytes]:
    """Start a program in the slice."""
    files = [controller_folder(c, parent, name, leaf, "cgroup.procs") for c, leaf in
             (("cpuacct", ""), ("memory", ""), ("cpu", "main"), ("pids", "main"))]  # fmt: skip

    def enter() -> None:
        for file in files:
            file.write_text(str(os.getpid()))

    return subprocess.Popen(argv, preexec_fn=enter, stdout=subprocess.PIPE)


def value(controller: str, parent: str, *parts: str) -> str:
    return controller_folder(controller, parent, *parts).read_text().strip()


def test_made_then_left_alone(parent):
    slices = v1_slices(parent)
    assert slices.read("dta", 1) is None
    assert slices.read_limits("dta", 1) is None
    assert slices.ensure("dta", 1, HALF) is True
    assert value("cpu", parent, "dta", "cpu.cfs_quota_us") == "50000"
    assert value("cpu", parent, "dta", "cpu.cfs_period_us") == "100000"
    assert value("cpu", parent, "dta", "cpu.shares") == "512"
    assert value("memory", parent, "dta", "memory.limit_in_bytes") == str(HALF.memory)
    assert value("memory", parent, "dta", "memory.memsw.limit_in_bytes") == str(HALF.memory)
    assert value("pids", parent, "dta", "pids.max") == str(HALF.tasks + RESERVED_TASKS)
    assert value("pids", parent, "dta", "main", "pids.max") == str(HALF.tasks)
    assert value("pids", parent, "dta", "rescue", "pids.max") == str(RESERVED_TASKS)
    assert slices.read_limits("dta", 1) == HALF

    recording = Recording(Local())
    again = v1_slices(parent)
    again._system = recording
    assert again.ensure("dta", 1, HALF) is False
    assert recording.effects == []


@pytest.mark.parametrize("memory", [512 << 20, 64 << 20, (100 << 20) + 123])
def test_memory_moves_both_ways_with_swap(parent, memory):
    slices = v1_slices(parent)
    slices.ensure("dta", 1, HALF)
    wish = HALF._replace(memory=Bytes(memory))
    assert slices.ensure("dta", 1, wish) is True
    assert value("memory", parent, "dta", "memory.limit_in_bytes") == str(memory // 4096 * 4096)
    assert value("memory", parent, "dta", "memory.memsw.limit_in_bytes") == str(memory // 4096 * 4096)
    assert slices.ensure("dta", 1, wish) is False


def test_drift_is_mended(parent):
    slices = v1_slices(parent)
    slices.ensure("dta", 1, HALF)
    controller_folder("cpu", parent, "dta", "cpu.cfs_quota_us").write_text("-1")
    controller_folder("pids", parent, "dta", "main").rmdir()
    assert slices.ensure("dta", 1, HALF) is True
    assert slices.read_limits("dta", 1) == HALF


def test_memory_below_use_is_refused_and_nothing_else_changes(parent):
    slices = v1_slices(parent)
    slices.ensure("dta", 1, HALF)
    code = "x = bytearray(120 << 20); print('full', flush=True); import time; time.sleep(60)"
    child = join(parent, "dta", sys.executable, "-c", code)
    try:
        assert child.stdout.readline() == b"full\n"
        assert slices.read("dta", 1).memory > 120 << 20
        with pytest.raises(HostError, match="dta under"):
            slices.ensure("dta", 1, Limits(Cores(1.0), Bytes(64 << 20), 32))
        assert slices.read_limits("dta", 1) == HALF
        assert child.poll() is None
    finally:
        child.kill()
        child.communicate()


def test_stop_ends_even_a_fork_bomb_that_ignores_sigterm(parent):
    slices = v1_slices(parent)
    slices.ensure("dta", 1, HALF)
    bomb = (
        "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "while 1:\n try: os.fork()\n except OSError: pass"
    )
    child = join(parent, "dta", sys.executable, "-c", bomb)
    try:
        # Three cores' worth of processes on half a core: the slice stays full while they keep trying.
        assert wait_for(lambda: slices.read("dta", 1).tasks >= HALF.tasks)
        start = time.monotonic()
        assert slices.stop("dta", 1) >= HALF.tasks
        print(f"stopped in {time.monotonic() - start:.2f} s")
        assert slices.processes("dta", 1) == []
        assert slices.read_limits("dta", 1) == HALF
        assert value("pids", parent, "dta", "pids.max") == str(HALF.tasks + RESERVED_TASKS)
        assert slices.remove("dta", 1) is True
        assert slices.remove("dta", 1) is False
    finally:
        child.kill()
        child.communicate()


def test_limits_raised_while_two_stops_run_stay(parent):
    slices = v1_slices(parent)
    slices.ensure("dta", 1, HALF)
    child = join(parent, "dta", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.2; done")
    try:
        assert child.stdout.readline() == b"ready\n"
        with ThreadPoolExecutor() as threads:
            stops = [threads.submit(slices.stop, "dta", 1) for _ in range(2)]
            time.sleep(1)
            slices.ensure("dta", 1, HALF._replace(tasks=300))
            assert all(stop.result() for stop in stops)
        assert slices.processes("dta", 1) == []
        assert slices.read_limits("dta", 1) == HALF._replace(tasks=300)
        assert value("pids", parent, "dta", "pids.max") == str(300 + RESERVED_TASKS)
    finally:
        child.kill()
        child.communicate()


def test_a_memory_cgroup_that_was_removed_by_hand_is_made_again(parent):
    slices = v1_slices(parent)
    slices.ensure("dta", 1, HALF)
    controller_folder("memory", parent, "dta").rmdir()
    assert slices.read_limits("dta", 1) is None
    assert slices.ensure("dta", 1, HALF) is True
    assert value("memory", parent, "dta", "memory.limit_in_bytes") == str(HALF.memory)
    assert slices.read_limits("dta", 1) == HALF


def test_stop_lets_programs_end_by_themselves(parent):
    slices = v1_slices(parent)
    slices.ensure("dta", 1, HALF)
    child = join(parent, "dta", "sleep", "60")
    assert slices.stop("dta", 1) == 1
    assert child.wait() == -signal.SIGTERM
    child.communicate()


def test_remove_refuses_while_processes_run(parent):
    slices = v1_slices(parent)
    slices.ensure("dta", 1, HALF)
    child = join(parent, "dta", "sleep", "60")
    try:
        with pytest.raises(HostError, match="busy"):
            slices.remove("dta", 1)
    finally:
        child.kill()
        child.communicate()
    slices.ensure("dta", 1, HALF)
    assert slices.remove("dta", 1) is True
