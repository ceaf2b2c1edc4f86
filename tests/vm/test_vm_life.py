"""How people come and go on a machine with systemd: adopted with all that they run, purged with their home packed."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.vm.conftest import MIB, PASSWORD, Bed, Person, wait_until

pytestmark = pytest.mark.slow

CAROL = Person("carol", 1000, 0.3, 300 * MIB, 40)
AT_THE_LIMIT = """python3 -c '
import os, time
while True:
    try:
        if os.fork() == 0: time.sleep(900)
    except OSError:
        time.sleep(0.2)
'"""


def _cgroups(bed: Bed, who: Person) -> dict[str, str]:
    """Return the cgroup of each process of a person, by pid; the person's own service manager is left out."""
    lines = bed.machine.run(f"ps -u {who.uid} -ww -o pid=,cgroup=", ok=(0, 1)).stdout.splitlines()
    found = dict(line.split(maxsplit=1) for line in lines)
    return {pid: group.strip() for pid, group in found.items() if "/user@" not in group}


# -- adopted


def test_what_an_adopted_account_runs_comes_under_its_limits_and_goes_on(bed: Bed, background) -> None:
    machine = bed.machine
    machine.run(f"useradd --create-home --shell /bin/bash --uid {CAROL.uid} carol; echo carol:{PASSWORD} | chpasswd")
    bed.login(CAROL, "setsid sleep 801 >/dev/null 2>&1 </dev/null &")  # outlives its session
    background("head -c 100M /dev/zero | tail | sleep 802", CAROL)
    # Of root's session, of a service that starts programs for people as cron does, of a service of carol's own.
    machine.run("runuser -u carol -- nice sh -c 'while :; do :; done' >/dev/null 2>&1 </dev/null &")
    machine.run("systemd-run --quiet --unit=jobs sh -c 'runuser -u carol -- sleep 803; true'")
    machine.run("systemd-run --quiet --unit=carols --uid=carol sleep 804")
    wait_until("100 MiB are held", lambda: int(bed.value(CAROL, "memory.current")) > 100 * MIB)
    wait_until("all is read", lambda: machine.run("pgrep -u carol head", ok=(0, 1)).returncode == 1)
    before = _cgroups(bed, CAROL)
    outside = {pid for pid, group in before.items() if "/user-1000.slice/" not in group}
    assert len(outside) == 3

    refused = machine.run("diycloud user adopt carol --cpu 0.3 --memory 64M --tasks 40", ok=(2,)).stdout
    assert "refused" in refused and "of memory now, more than 64M" in refused
    assert (_cgroups(bed, CAROL), bed.value(CAROL, "memory.max")) == (before, "max")
    machine.run("diycloud limits set carol --memory 300M")
    told = machine.run("diycloud user adopt carol").stdout
    assert "adopted" in told and "1 of carol's processes run outside the limits until they end" in told

    after = _cgroups(bed, CAROL)
    assert after.keys() == before.keys()
    left = {pid: group for pid, group in after.items() if not group.startswith("0::/user.slice/user-1000.slice/")}
    assert list(left.values()) == ["0::/system.slice/carols.service"]
    assert bed.value(CAROL, "memory.max") == str(CAROL.memory)
    assert set(machine.run(f"cat {CAROL.slice}/*.scope/pids.max").stdout.split()) == {str(CAROL.tasks)}
    used = bed.cpu_use(CAROL, 5)
    print(f"a loop that ran before: {used:.2f} cores at {CAROL.cpu}")
    assert 0.2 <= used <= 0.45
    assert machine.run("systemctl is-active jobs carols").stdout == "active\nactive\n"


WITHOUT_SYSTEMD = """
import subprocess, sys, time
from diycloud.host.cgroup_v2 import CgroupV2Slices
from diycloud.host.slices import Limits
from diycloud.system import Local
uid = int(sys.argv[1])
slices = CgroupV2Slices(Local(), "/sys/fs/cgroup", "without-systemd")
become = ["setpriv", f"--reuid={uid}", "--clear-groups"]
loop = subprocess.Popen([*become, "sh", "-c", "while :; do :; done"])
sleep = subprocess.Popen([*become, "sleep", "900"])
slices.ensure("alice", uid, Limits(0.2, 64 << 20, 20))
print("moved", slices.take_in("alice", uid, [loop.pid, sleep.pid, 4194303]))
print("inside", sorted(slices.processes("alice", uid)) == sorted([loop.pid, sleep.pid]))
before, began = slices.read("alice", uid).cpu_us, time.monotonic()
time.sleep(5)
print("cores", (slices.read("alice", uid).cpu_us - before) / 1e6 / (time.monotonic() - began))
within = slices.within("alice", uid)
print("hog", subprocess.run([*within, *become, "tail", "/dev/zero"]).returncode)
print("alive", loop.poll() is None and sleep.poll() is None)
forks = "import os, time\\nfor i in range(40):\\n    if not os.fork(): time.sleep(5); os._exit(0)"
bomb = subprocess.run([*within, *become, "python3", "-c", forks], capture_output=True, text=True)
print("refused", "Resource temporarily unavailable" in bomb.stderr)
print("stopped", slices.stop("alice", uid) >= 2)
loop.wait(), sleep.wait()
print("removed", slices.remove("alice", uid), slices.read("alice", uid))
"""


def test_without_systemd_what_runs_already_is_moved_into_the_slice(bed: Bed) -> None:
    """The same kernel, the cgroups written directly: as on a host with cgroup v2 and another init."""
    words = ["/opt/diycloud/venv/bin/python", "-I", "-c", WITHOUT_SYSTEMD, str(bed.alice.uid)]
    try:
        said = dict(line.split(" ", 1) for line in bed.machine.run(words).stdout.splitlines())
    finally:
        bed.machine.run("rmdir /sys/fs/cgroup/without-systemd")
    cores = float(said.pop("cores"))
    assert 0.12 <= cores <= 0.35
    right = {"moved": "2", "inside": "True", "hog": "-9", "alive": "True", "refused": "True", "stopped": "True"}
    assert said == {**right, "removed": "True None"}


# -- purged

FILL = """set -e
mkdir -p notes/deep; echo text > notes/deep/a; ln notes/deep/a twin; ln -s /etc/shadow secret; mkfifo pipe
cp /bin/true tool; chmod 6755 tool; chmod 2777 notes
truncate -s 1T huge; printf end >> huge
fallocate -l 1200M full
head -c 4M /dev/urandom > random; sha256sum random"""
LOOK = """until pid=$(pgrep -u alice -f packing.py); do sleep 0.2; done
cat /proc/$pid/cgroup; grep -E '^(Uid|Gid|Groups|CapEff)' /proc/$pid/status"""


def test_a_home_is_packed_as_its_owner_within_the_limits_before_it_goes(bed: Bed, background) -> None:
    """The owner filled the disk, holds a sparse file larger than any disk, and is at the limit of processes."""
    machine = bed.machine
    checksum = bed.login(bed.alice, FILL).stdout
    background(AT_THE_LIMIT, bed.alice)
    wait_until("no fork is left", lambda: int(bed.value(bed.alice, "pids.current")) >= bed.alice.tasks, 120)
    machine.run("diycloud user delete alice")
    watch = machine.spawn(LOOK, stdout=subprocess.PIPE)
    began = time.monotonic()
    told = json.loads(machine.run("diycloud user purge alice --archive --yes --json").stdout)
    print(f"packed and purged in {time.monotonic() - began:.0f} s: {told}")

    group, *status = watch.communicate(timeout=30)[0].splitlines()
    assert group.startswith(f"0::/user.slice/user-{bed.alice.uid}.slice/run-") and group.endswith(".scope")
    fields = {line.split(":")[0]: line.split()[1:] for line in status}
    assert fields["Uid"] == fields["Gid"] == [str(bed.alice.uid)] * 4
    assert fields["Groups"] == [] and int(fields["CapEff"][0], 16) == 0

    kept = machine.run("ls /var/backups/diycloud/alice-*").stdout.strip()
    modes = machine.run(["stat", "--format=%U %a", "/var/backups/diycloud", kept]).stdout.split("\n")
    assert modes[:2] == ["root 700", "root 600"]
    listed = {line.split()[5]: line.split() for line in machine.run(["tar", "-tvf", kept]).stdout.splitlines()}
    names = ("notes/deep/a", "twin", "secret", "tool", "huge", "full", "random", ".profile")
    assert {f"alice/{name}" for name in names} <= listed.keys() and "alice/pipe" not in listed
    assert (listed["alice/tool"][0], listed["alice/notes/"][0]) == ("-rwxr-xr-x", "drwxrwxrwx")
    assert (listed["alice/huge"][2], listed["alice/full"][2]) == (str((1 << 40) + 3), str(1200 * MIB))
    assert {entry[1] for entry in listed.values()} == {f"{bed.alice.uid}/{bed.alice.uid}"}
    machine.run(f"mkdir -m 700 /root/out && tar -xf {kept} -C /root/out alice/random alice/huge alice/twin alice/notes")
    assert machine.run("cd /root/out/alice && sha256sum random").stdout == checksum
    assert machine.run("cd /root/out/alice && cat twin && tail -c 3 huge && du -sm .").stdout.split()[:2] == [
        "text",
        "end5",
    ]

    assert machine.run("getent passwd alice", ok=(2,)).stdout == ""
    assert machine.run(f"ps -u {bed.alice.uid} -o pid=", ok=(1,)).stdout == ""
    left = f"ls -d /home/alice {bed.alice.slice} /etc/systemd/system/user*{bed.alice.uid}*"
    assert machine.run(left, ok=(2,)).stdout == ""
    assert machine.run("systemctl --failed --no-legend").stdout == ""
