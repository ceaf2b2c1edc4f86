"""The power is cut in the middle of changes: what was answered is there afterwards, what was not is done or undone.

QEMU is killed; what the machine had not flushed to its disks is lost (Machine.cut_power).
"""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.vm.conftest import PASSWORD, Bed, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

CREATE = """i=0; while :; do i=$((i+1))
echo %s | diycloud user create --username burst$i --cpu 0.3 --memory 128M --tasks 40 --password - >/dev/null && echo burst$i
done"""
LIMIT = """n=30; while :; do n=$((n+1)); diycloud limits set bob --cpu 0.$n >/dev/null && echo $n; done"""
SETTING = """n=30; while :; do n=$((n+1)); diycloud config set notebooks.idle_minutes $n >/dev/null && echo $n
diycloud jupyter setup >/dev/null 2>&1; done"""
SKELETON = "cd /etc/skel && find . -type f -exec cmp {} /home/%s/{} \\;"
TORN = "find /etc /etc/diycloud /var/lib/diycloud/agent /var/lib/diycloud/keys -maxdepth 1 -name '.*.????????' -newermt @%d"


class Loop:
    """A command that goes on until the power is cut, and writes a word for each time it was answered."""

    def __init__(self, bed: Bed, command: str) -> None:
        quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._ssh = bed.machine.spawn(command, stdout=subprocess.PIPE, **quiet)
        self._words: list[str] = []

    def wait_for(self, times: int) -> None:
        """Wait until it was answered so often."""
        assert self._ssh.stdout is not None
        while len(self._words) < times:
            line = self._ssh.stdout.readline()
            assert line, f"it ended after {self._words}"
            self._words.append(line.strip())

    def answered(self) -> list[str]:
        """Return what was answered; the power is off."""
        assert self._ssh.stdout is not None
        rest = self._ssh.stdout.read().split()  # ends with the connection
        self._ssh.wait(60)
        return self._words + rest


def cut(bed: Bed) -> None:
    """Cut the power, and come back to a platform that answers."""
    seconds = bed.machine.cut_power()
    began = time.monotonic()
    up = "diycloud user list --json >/dev/null && diycloud notebook list alice >/dev/null"
    wait_until("the platform answers", lambda: bed.machine.run(up, ok=None, timeout=120).returncode == 0, 300)
    print(
        f"root can sign in {seconds:.0f} s after the power is back, the platform answers {time.monotonic() - began:.0f} s later"
    )


def show(bed: Bed, name: str) -> dict:
    found = bed.machine.run(["diycloud", "user", "show", name, "--json"], ok=(0, 5))
    return json.loads(found.stdout) if found.returncode == 0 else {}


def managed(bed: Bed) -> dict[str, list[str]]:
    """The agent's own file: state and limits by name."""
    head, *lines = bed.machine.run("cat /var/lib/diycloud/agent/managed").stdout.splitlines()
    assert head.startswith("diycloud-managed 1 ")
    return {name: rest for name, _, _, *rest in map(str.split, lines)}


def check_sound(bed: Bed) -> None:
    """The database, and all that doctor looks at, once the hub is up, which takes it longest."""
    bed.machine.run("diycloud db check")
    healthy = "curl --silent --insecure --fail --output /dev/null https://localhost/jupyter/hub/health"
    wait_until("the hub answers", lambda: bed.machine.run(healthy, ok=None).returncode == 0, 600)
    bed.machine.run(["diycloud", "doctor"])
    assert bed.machine.run("systemctl --failed --plain --no-legend").stdout == ""


def test_who_was_created_is_whole_and_the_limits_that_were_set_hold(bed: Bed) -> None:
    machine = bed.machine
    began = int(machine.run("date +%s").stdout)
    creates, limits = Loop(bed, CREATE % PASSWORD), Loop(bed, LIMIT)
    creates.wait_for(3)
    limits.wait_for(1)
    machine.down()
    made, changed = creates.answered(), limits.answered()
    last = int(changed[-1])
    print(f"answered before: {made}, and 0.{last} cores")
    cut(bed)

    half = f"burst{len(made) + 1}"  # on its way: all of it, or nothing
    settled = lambda: show(bed, half).get("status") in (None, "active")  # noqa: E731
    wait_until(f"{half} is completed or was never begun", settled, 150)
    known = managed(bed)
    for name in [*made, *([half] if show(bed, half) else [])]:
        assert known[name] == ["active", "30000", str(128 << 20), "40"], name
        found = machine.run(f"id -u {name}; {SKELETON % name}; stat --format=%U /home/{name}/notebooks").stdout.split()
        assert found[0].isdigit() and found[1:] == [name], f"{name}: {found}"
    assert machine.login(made[-1], PASSWORD, "id -un").stdout == f"{made[-1]}\n"
    assert bed.portal_login(made[-1]) == 200
    cores = show(bed, "bob")["limits"]["cpu"]
    assert cores in (last / 100, (last + 1) / 100), "what was answered, or what was being done"
    assert known["bob"][1] == str(round(cores * 100_000))
    assert bed.login(bed.bob, f"cat {bed.bob.slice}/cpu.max").stdout.split()[0] == known["bob"][1]
    check_sound(bed)
    assert machine.run(TORN % began).stdout == "", "nothing half-written is left"


def test_settings_and_a_setup_that_was_cut_off(bed: Bed) -> None:
    machine = bed.machine
    began = int(machine.run("date +%s").stdout)
    for seconds in (1, 12):  # while the plan is made; while files are written and services started
        settings = Loop(bed, SETTING)
        settings.wait_for(1)
        time.sleep(seconds)
        machine.down()
        last = int(settings.answered()[-1])
        cut(bed)
        machine.run("diycloud config validate")
        said = machine.run("cat /etc/diycloud/config.yaml").stdout
        assert any(f"idle_minutes: {minutes}\n" in said for minutes in (last, last + 1)), said
    told = machine.run(["diycloud", "jupyter", "setup"], timeout=600)
    print(told.stdout)
    check_sound(bed)
    assert machine.run(TORN % began).stdout == "", "nothing half-written is left"
