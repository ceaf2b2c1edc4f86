"""People try to get past their limits, through real sshd, su and cron, with no agent running.

The bed (limits_support.world) is this host's own PAM stacks with the hook installed, and a managed file as the agent
writes it. Figures are printed: run with -s.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from diycloud.host.slices import RESERVED_TASKS, Limits
from diycloud.units import Bytes, Cores
from tests.host.limits_support import (
    ALICE,
    BOB,
    FALLBACK,
    FREE,
    HALF,
    OUTSIDE,
    SYSTEM,
    World,
    cgroups_of,
    controller_folder,
    cron,
    wait_for,
    why_not,
    world,
)

pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not()), pytest.mark.slow]

LEAF = {"cpu": "/main", "pids": "/main", "cpuacct": "", "memory": ""}
HOG = f'{sys.executable} -c "x = bytearray(700 << 20); print(len(x))"'


@pytest.fixture(scope="module")
def the_world():
    with world() as bed:
        yield bed


@pytest.fixture
def bed(the_world: World):
    assert the_world.sshd.poll() is None, f"sshd ended: {(the_world.folder / 'sshd.log').read_text()[-2000:]}"
    the_world.manage(**{ALICE: HALF, BOB: HALF})
    yield the_world
    the_world.clear()


def assert_in_slice(bed: World, text: str, name: str) -> None:
    found = cgroups_of(text)
    assert {c: found[c] for c in LEAF} == {c: f"/{bed.parent}/{name}{leaf}" for c, leaf in LEAF.items()}


def assert_outside(bed: World, text: str) -> None:
    assert text and bed.parent not in text


# Where sessions land


@pytest.mark.parametrize("entry", ["ssh", "su"])
def test_session_lands_in_a_slice_made_from_the_managed_file(bed, entry):
    bed.manage(**{ALICE: Limits(Cores(0.25), Bytes(100 << 20), 33)})
    done = bed.run(entry, ALICE, "cat /proc/self/cgroup")
    assert done.returncode == 0, done.stderr
    assert_in_slice(bed, done.stdout, ALICE)
    assert bed.slices.read_limits(ALICE, 0) == Limits(Cores(0.25), Bytes(100 << 20), 33)
    # The script leaves nothing for the agent to mend: every value is the one that CgroupV1Slices wants.
    assert bed.slices.ensure(ALICE, 0, Limits(Cores(0.25), Bytes(100 << 20), 33)) is False


@pytest.mark.parametrize("entry", ["ssh", "su"])
def test_daemons_that_a_session_leaves_behind_stay_in_the_slice(bed, entry):
    done = bed.run(entry, ALICE, "setsid -f sleep 300 >/dev/null 2>&1 </dev/null; echo started")
    assert done.stdout == "started\n"
    assert wait_for(lambda: len(bed.slices.processes(ALICE, 0)) == 1)
    assert bed.slices.stop(ALICE, 0) == 1


def test_cron_job_lands_in_the_slice(bed):
    out = bed.folder / "cron-out"
    out.mkdir(exist_ok=True)
    out.chmod(0o1777)
    tables = {
        ALICE: f"* * * * * cat /proc/self/cgroup > {out}/{ALICE}\n",
        "root": f"* * * * * cat /proc/self/cgroup > {out}/root\n",
    }
    with cron(bed.folder, tables):
        assert wait_for(lambda: len(SYSTEM.list_dir(out)) == 2 and (out / ALICE).stat().st_size > 0, 75)
    assert_in_slice(bed, (out / ALICE).read_text(), ALICE)
    assert_outside(bed, (out / "root").read_text())


def test_su_by_another_user_lands_in_the_target_s_slice(bed):
    """The hook is root then too (seteuid): su's real UID is the caller's."""
    subprocess.run(["chpasswd"], input=f"{ALICE}:Correct-Horse-9\n", text=True, check=True)
    inner = f"su {ALICE} -s /bin/sh -c 'id -un; cat /proc/self/cgroup'"
    done = subprocess.run(
        bed.argv("su", BOB, inner), input="Correct-Horse-9\n", capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    name, _, groups = done.stdout.partition("\n")
    assert name.endswith(ALICE)
    assert_in_slice(bed, groups, ALICE)


def test_the_caller_s_environment_never_reaches_the_hook(bed):
    seen = bed.folder / "environment"
    script = bed.hook.script
    original = script.read_text()
    try:
        script.write_text(f"#!/bin/sh\n/usr/bin/env > {seen}\n/usr/bin/id -u >> {seen}\n")
        hostile = {
            "PATH": f"{bed.folder}:/bin:/usr/bin",
            "IFS": "x",
            "ENV": "/tmp/x",
            "BASH_ENV": "/tmp/x",
            "LD_PRELOAD": "",
        }
        subprocess.run(bed.argv("su", ALICE, "true"), env=hostile, check=True, timeout=30)
    finally:
        script.write_text(original)
    lines = seen.read_text().split()
    assert {line.partition("=")[0] for line in lines if "=" in line} >= {"PAM_USER", "PAM_TYPE", "PAM_SERVICE"}
    assert not [
        line for line in lines if line.startswith(("IFS=", "ENV=", "BASH_ENV=", "LD_", "PATH=" + str(bed.folder)))
    ]
    assert lines[-1] == "0"


# Who is refused, and who never


@pytest.mark.parametrize("entry", ["ssh", "su"])
def test_locked_account_is_refused_with_the_reason(bed, entry):
    bed.write_managed({ALICE: (HALF, "locked"), BOB: (HALF, "active")})
    done = bed.run(entry, ALICE, "echo in")
    assert done.returncode != 0
    assert "in\n" not in done.stdout
    if entry == "ssh":
        assert "DIY Cloud: this account is locked." in done.stdout + done.stderr
    print(f"{entry} says: {done.stdout + done.stderr!r}")
    if entry == "su":  # without -l, su keeps PAM's messages to itself
        done = subprocess.run(["su", "-l", ALICE], input="echo in\n", capture_output=True, text=True, timeout=30)
        assert "in\n" not in done.stdout
        assert "DIY Cloud: this account is locked." in done.stdout + done.stderr
    assert bed.run(entry, BOB, "echo in").stdout == "in\n"


@pytest.mark.parametrize("entry", ["ssh", "su"])
def test_unmanaged_accounts_are_left_alone(bed, entry):
    for name in (FREE, OUTSIDE):
        done = bed.run(entry, name, "cat /proc/self/cgroup")
        assert done.returncode == 0, done.stderr
        assert_outside(bed, done.stdout)


@pytest.mark.parametrize("entry", ["ssh", "su"])
def test_managed_account_is_refused_when_its_slice_cannot_be_made(bed, entry):
    # The kernel refuses a limit of 0 processes' worth of CPU time: the file is wrong, the slice cannot be made.
    bed.write_managed({ALICE: (HALF._replace(cpu=Cores(0.0)), "active"), BOB: (HALF, "active")})
    assert bed.run(entry, ALICE, "echo in").stdout != "in\n"
    assert bed.run(entry, FREE, "echo in").stdout == "in\n"
    assert bed.run("su", "root", "echo in").stdout == "in\n"


BROKEN = {
    "missing": None,
    "empty": "",
    "not a program": "\x00\x01\x02",
    "no such shell": "#!/nowhere/sh\n",
    "syntax error": "#!/bin/sh\nif\n",
    "fails": "#!/bin/sh\nexit 1\n",
    "killed": "#!/bin/sh\nkill -9 $$\n",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_root_and_unmanaged_ranges_sign_in_whatever_becomes_of_the_script(bed, broken):
    script = bed.hook.script
    original, text = script.read_text(), BROKEN[broken]
    try:
        script.unlink()
        if text is not None:
            script.write_text(text)
            script.chmod(0o755)
        for name in ("root", OUTSIDE):
            assert bed.run("su", name, "echo in").stdout == "in\n"
            assert bed.run("ssh", name, "echo in").stdout == "in\n" or name == "root"  # root's keys are its own
        if broken != "empty":  # an empty script is a program that succeeds, as far as the kernel can tell
            assert bed.run("su", ALICE, "echo in").stdout != "in\n"
    finally:
        script.write_text(original)
        script.chmod(0o755)
    assert bed.run("su", ALICE, "echo in").stdout == "in\n"


@pytest.mark.parametrize("text", [None, "", "diycloud-managed 2 52100\n", "\x00" * 512])
def test_lost_managed_file_gives_the_whole_range_the_default_limits(bed, text):
    managed = bed.hook.managed
    managed.unlink()
    if text is not None:
        managed.write_text(text)
    for name in (ALICE, FREE):
        done = bed.run("su", name, "cat /proc/self/cgroup")
        assert_in_slice(bed, done.stdout, name)
        assert bed.slices.read_limits(name, 0) == FALLBACK
    assert bed.run("su", OUTSIDE, "echo in").stdout == "in\n"


def test_names_and_uids_are_matched_whole(bed):
    """Lines that look like Alice's, but are not."""
    lines = [
        "xdtslalice 1 1 locked 1 1 1",
        "dtslalice2 520010 1 locked 1 1 1",
        "other 5200 1 locked 1 1 1",
        "a52001 7 52001 locked 1 1 1",
    ]
    SYSTEM.write(bed.hook.managed, "diycloud-managed 1 52001\n" + "\n".join(lines) + "\n", mode=0o600)
    done = bed.run("su", ALICE, "cat /proc/self/cgroup")
    assert done.returncode == 0
    assert_outside(bed, done.stdout)


def test_hook_is_quick_among_ten_thousand_accounts(bed):
    lines = [f"user{i:05} {100_000 + i} 1 active 100000 1073741824 512\n" for i in range(10_000)]
    lines.append(f"{ALICE} 52001 1 active 50000 268435456 64\n")
    SYSTEM.write(bed.hook.managed, "diycloud-managed 1 200000\n" + "".join(lines), mode=0o600)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        done = subprocess.run(
            ["sh", "-c", f"{bed.hook.script}; exit $?"],
            env={"PAM_TYPE": "open_session", "PAM_USER": ALICE},
            check=False,
        )
        times.append(time.perf_counter() - start)
        assert done.returncode == 0
    print(f"hook among 10,000 accounts: median {sorted(times)[10] * 1000:.1f} ms")


# What the limits do


def test_four_busy_loops_get_half_a_core_together_and_a_whole_one_after_a_raise(bed):
    loop = "while :; do :; done"
    children = [bed.start(entry, ALICE, loop) for entry in ("ssh", "su", "ssh", "su")]
    # 4 loops, and what carries them: sshd's two halves and a shell each, su and its shell.
    assert wait_for(lambda: bed.slices.read(ALICE, 0) is not None and bed.slices.read(ALICE, 0).tasks >= 8)
    time.sleep(2)
    assert bed.cores_used(ALICE) == pytest.approx(0.5, rel=0.05)
    pids = bed.slices.processes(ALICE, 0)
    before = bed.slices.read(ALICE, 0).throttled_us
    assert before > 0

    assert bed.slices.ensure(ALICE, 0, HALF._replace(cpu=Cores(1.0))) is True
    assert bed.cores_used(ALICE) == pytest.approx(1.0, rel=0.05)
    assert bed.slices.processes(ALICE, 0) == pids
    assert all(child.poll() is None for child in children)


@pytest.mark.parametrize("entry", ["ssh", "su"])
def test_memory_hog_dies_and_a_neighbour_lives(bed, entry):
    neighbour = bed.start("su", BOB, "sleep 100")
    bystander = bed.start(entry, ALICE, "sleep 100")
    assert wait_for(lambda: bed.slices.processes(BOB, 0) and bed.slices.processes(ALICE, 0))
    start = time.monotonic()
    done = bed.run(entry, ALICE, HOG)
    print(f"hog over {entry} ended with {done.returncode} after {time.monotonic() - start:.1f} s")
    assert done.returncode not in (0, 1)
    assert "734003200" not in done.stdout
    counters = bed.slices.read(ALICE, 0)
    assert counters.oom_kills == 1
    assert counters.memory < HALF.memory
    assert neighbour.poll() is None
    assert bystander.poll() is None  # only the hog dies, not the rest of the same user's work
    assert bed.slices.read(BOB, 0).oom_kills == 0
    assert bed.run(entry, ALICE, "echo in").stdout == "in\n"


@pytest.mark.parametrize("entry", ["ssh", "su"])
def test_fork_bomb_stops_at_the_limit_and_the_user_signs_in_and_ends_it(bed, entry):
    code = "import os\nwhile 1:\n try: os.fork()\n except OSError: pass"
    bed.start(entry, ALICE, f'exec {sys.executable} -c "$(printf %b "{code!r}" | tr -d "\'")"')
    bed.start("su", BOB, "sleep 100")
    main = controller_folder("pids", bed.parent, ALICE, "main", "pids.current")
    assert wait_for(lambda: main.exists() and int(main.read_text()) == HALF.tasks, 30), main.read_text()
    time.sleep(2)
    assert int(main.read_text()) <= HALF.tasks
    start = time.monotonic()
    done = bed.run("ssh", ALICE, "cat /proc/self/cgroup; kill -9 -1", timeout=60)
    print(f"signed in beside a fork bomb and ended it in {time.monotonic() - start:.1f} s")
    assert cgroups_of(done.stdout)["pids"] == f"/{bed.parent}/{ALICE}/rescue"
    assert wait_for(lambda: int(main.read_text()) < 8)
    assert bed.slices.read(BOB, 0).tasks >= 2
    assert_in_slice(bed, bed.run("ssh", ALICE, "cat /proc/self/cgroup").stdout, ALICE)


def test_fork_bomb_in_the_rescue_leaf_stops_there(bed):
    bed.start("su", ALICE, f"i=0; while [ $i -lt {HALF.tasks} ]; do sleep 100 & i=$((i+1)); done; wait")
    assert wait_for(lambda: bed.slices.read(ALICE, 0) is not None and bed.slices.read(ALICE, 0).tasks >= HALF.tasks - 1)
    bed.start("su", ALICE, "while :; do sleep 100 & done")
    rescue = controller_folder("pids", bed.parent, ALICE, "rescue", "pids.current")
    time.sleep(3)
    assert int(rescue.read_text()) <= RESERVED_TASKS
    assert bed.slices.read(ALICE, 0).tasks <= HALF.tasks + RESERVED_TASKS
    assert bed.slices.stop(ALICE, 0) > 0


def test_users_cannot_leave_or_loosen_their_slice(bed):
    tries = [
        f"echo $$ > {controller_folder('cpu', 'cgroup.procs')}",
        f"echo -1 > {controller_folder('cpu', bed.parent, ALICE, 'cpu.cfs_quota_us')}",
        f"echo $$ > {controller_folder('pids', bed.parent, BOB, 'main', 'cgroup.procs')}",
        f"mkdir {controller_folder('memory', bed.parent, ALICE, 'x')}",
        f"cat {bed.hook.managed}",
        f"echo > {bed.hook.script}",
    ]
    bed.slices.ensure(BOB, 0, HALF)
    for attempt in tries:
        assert bed.run("su", ALICE, f"{{ {attempt}; }} 2>/dev/null && echo done").stdout == ""
    assert_in_slice(bed, bed.run("su", ALICE, "cat /proc/self/cgroup").stdout, ALICE)


# Installing and removing


def test_installing_twice_changes_nothing_and_a_new_range_renews_the_lines(bed):
    from diycloud.host.pam import ensure_pam

    assert ensure_pam(SYSTEM, "debian", bed.hook) is False
    stack = Path("/etc/pam.d/common-session").read_text()
    assert stack.count("pam-session") == 1
    assert stack.index("pam_unix.so") < stack.index("pam-session")
    if "pam_systemd.so" in stack:
        assert stack.index("pam_systemd.so") < stack.index("pam-session")
    try:
        assert ensure_pam(SYSTEM, "debian", bed.hook._replace(uid_max=52_050)) is True
        stack = Path("/etc/pam.d/common-session-noninteractive").read_text()
        assert "uid le 52050" in stack
        assert "uid le 52099" not in stack
    finally:
        ensure_pam(SYSTEM, "debian", bed.hook)
