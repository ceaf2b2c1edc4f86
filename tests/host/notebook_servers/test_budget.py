"""What servers may use: a user's CPU and memory are one, whatever runs beside them, and new limits hold at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.host.notebook_agent import NotebookHost, is_there, part
from tests.host.notebook_servers.support import ALICE, MIB, NEEDED, has_run
from tests.waiting import until

pytestmark = NEEDED


def test_servers_and_what_runs_beside_them_have_the_one_cpu_limit(host: NotebookHost) -> None:
    spin = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
    has_run(host, ALICE, spin * 2)
    host.start(ALICE)
    main = [Path("/sys/fs/cgroup", c, "dtnotea", ALICE, leaf, "cgroup.procs") for c, leaf in
            (("cpuacct", ""), ("memory", ""), ("cpu", "main"), ("pids", "main"))]  # fmt: skip
    beside = subprocess.Popen([sys.executable, "-c", "while True: pass"], user=os.stat(f"/home/{ALICE}").st_uid)
    try:
        for file in main:
            file.write_text(str(beside.pid))
        account = Path("/sys/fs/cgroup/cpuacct/dtnotea", ALICE)
        time.sleep(0.5)

        def used(folder: Path) -> int:
            return int((folder / "cpuacct.usage").read_text())

        stat_file = Path("/sys/fs/cgroup/cpu/dtnotea", ALICE, "cpu.stat")
        throttled = stat_file.read_text()
        before, in_part, began = used(account), used(account / "notebook"), time.monotonic_ns()
        time.sleep(2.0)
        took = time.monotonic_ns() - began
        share, of_notebook = (used(account) - before) / took, (used(account / "notebook") - in_part) / took
    finally:
        beside.kill()
        beside.wait()
    assert stat_file.read_text() != throttled
    assert 0.2 <= share <= 0.56, "half a core, together (less on a machine that is busy)"
    assert 0.05 <= of_notebook < share - 0.05, "both get something of it"


def test_memory_of_a_profile_holds_and_the_rest_of_the_slice_lives(host: NotebookHost) -> None:
    eat = "b = bytearray(400 << 20); b[::4096] = b'x' * len(b[::4096])"
    has_run(host, ALICE, f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {eat!r}]).wait()\n")
    other = host.start(ALICE, "other", profile="small")
    assert (part("memory", ALICE, "other") / "memory.limit_in_bytes").read_text().strip() == str(160 * MIB)
    assert (part("cpu", ALICE, "other") / "cpu.cfs_quota_us").read_text().strip() == "20000"
    (told,) = host.read(ALICE)
    assert (told.state, told.pid, told.memory_kill, told.memory_kills) == ("running", other.pid, True, 1)
    unbounded = host.start(ALICE, profile="huge")
    assert host.read(ALICE, "")[0].memory_kills == 0, "400 MiB fit the user's 512"
    assert int((part("memory", ALICE) / "memory.limit_in_bytes").read_text()) == 900 << 30, "the slice's holds"
    assert unbounded.profile == "huge"


def test_the_slices_memory_holds_for_a_server_without_bounds(host: NotebookHost) -> None:
    # A thread of the server itself takes more than the slice has.
    has_run(host, ALICE, "import threading\nthreading.Timer(1, lambda: bytes(bytearray(b'x') * (900 << 20))).start()\n")
    notebook = host.start(ALICE)
    until(lambda: host.read(ALICE)[0].state != "running", 20)
    (told,) = host.read(ALICE, "")
    assert (told.state, told.exit_code, told.memory_kill) == ("failed", -signal.SIGKILL, True)
    assert not is_there(notebook.pid)
    until(lambda: not Path(notebook.socket or "/nowhere").exists())
    until(lambda: not part("memory", ALICE).exists(), 5)


def test_new_limits_hold_for_what_runs_up_and_down(host: NotebookHost) -> None:
    """Of the user's limits and the profile's the tighter holds, whichever that is by now."""
    spin = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
    has_run(host, ALICE, spin)
    notebook = host.start(ALICE, profile="small")
    host.start(ALICE, "all")

    def quotas() -> list[str]:
        folders = (part("cpu", ALICE).parent, part("cpu", ALICE), part("cpu", ALICE, "all"))
        return [(folder / "cpu.cfs_quota_us").read_text().strip() for folder in folders]

    def memory(server: str = "") -> int:
        return int((part("memory", ALICE, server) / "memory.limit_in_bytes").read_text())

    assert quotas() == ["50000", "20000", "-1"]
    for cpu, of_slice, of_small in (
        (0.1, "10000", "10000"),
        (0.15, "15000", "15000"),
        (1.0, "100000", "20000"),
        (0.2, "20000", "20000"),
    ):
        host.ensure(ALICE, cpu=cpu, memory=400 * MIB, tasks=90)
        assert quotas() == [of_slice, of_small, "-1"]
        assert memory() == 160 * MIB and memory("all") > 1 << 50
        assert int((part("memory", ALICE).parent / "memory.limit_in_bytes").read_text()) == 400 * MIB
    assert (part("pids", ALICE).parent / "pids.max").read_text().strip() == "90"
    host.ensure(ALICE, cpu=0.1, memory=128 * MIB)
    assert memory() == 160 * MIB, "the slice's is tighter, and holds"
    host.ensure(ALICE, cpu=1.0, memory=1024 * MIB)
    usage = Path("/sys/fs/cgroup/cpuacct/dtnotea", ALICE, "notebook/cpuacct.usage")
    before, began = int(usage.read_text()), time.monotonic_ns()
    time.sleep(2.0)
    share = (int(usage.read_text()) - before) / (time.monotonic_ns() - began)
    assert 0.12 < share < 0.24, "a fifth of a core again, and no more (less on a machine that is busy)"
    assert is_there(notebook.pid)


def test_what_an_agent_that_died_left_too_tight_is_given_back(host: NotebookHost) -> None:
    """It had raised the slice's CPU again, and was killed before it came to the server's."""
    host.start(ALICE, profile="small")
    host.kill("agent")
    (part("cpu", ALICE) / "cpu.cfs_quota_us").write_text("10000")
    host.start_agent()
    until(lambda: (part("cpu", ALICE) / "cpu.cfs_quota_us").read_text().strip() == "20000", 5)
