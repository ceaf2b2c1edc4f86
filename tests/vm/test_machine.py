"""The virtual machine itself: what the tests of the platform rest on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bare.debian import CannotBuild, Mirrors, pip_folders, read_mirrors
from tests.vm.machine import Machine, MachineError

pytestmark = pytest.mark.slow
PASSWORD = "Correct-horse-9"


@pytest.fixture(scope="module")
def booted() -> Iterator[Machine]:
    """A machine of the bare image with one ordinary account, saved as `clean`."""
    machine = Machine(f"self-{os.getpid()}")
    try:
        seconds = machine.up("trixie", "base", fresh=True, owned=True)
    except CannotBuild as reason:
        pytest.skip(f"no virtual machine: {reason}")
    print(f"booted in {seconds:.0f} s")
    machine.run("useradd --create-home --shell /bin/bash carol && chpasswd", input=f"carol:{PASSWORD}\n")
    machine.save("clean")
    yield machine
    machine.remove()


@pytest.fixture
def machine(booted: Machine) -> Machine:
    booted.reset("clean")
    return booted


def test_is_a_bare_server_with_systemd_and_one_cgroup_tree(machine: Machine) -> None:
    assert machine.run(["cat", "/proc/1/comm"]).stdout == "systemd\n"
    assert machine.run("systemctl --failed --no-legend").stdout == ""
    assert {"cpu", "memory", "pids"} <= set(machine.run("cat /sys/fs/cgroup/cgroup.controllers").stdout.split())
    for program in ("nginx", "pip3"):
        assert machine.run(["sh", "-c", f"command -v {program}"], ok=None).returncode != 0


def test_a_person_signs_in_with_a_password_and_systemd_makes_their_slice(machine: Machine) -> None:
    done = machine.login("carol", PASSWORD, "id -un; cat /proc/self/cgroup")
    assert done.stdout.startswith("carol\n0::/user.slice/user-1000.slice/session-")
    assert machine.login("carol", "wrong", "id -un", ok=None).returncode == 255


def test_quotas_of_home_and_data_are_on(machine: Machine) -> None:
    mounts = {line.split()[1]: line.split() for line in machine.run("cat /proc/mounts").stdout.splitlines()}
    assert mounts["/home"][2] == "ext4"
    assert mounts["/data"][2] == "xfs"
    for place in ("/home", "/data"):
        assert {"usrquota", "prjquota"} <= set(mounts[place][3].split(","))


def test_it_reaches_packages(machine: Machine) -> None:
    machine.run("apt-get -qq update", timeout=300)
    assert machine.run("apt-cache policy nginx | grep Candidate").stdout.strip() != "Candidate: (none)"


def test_reset_brings_memory_disk_and_clock_back(machine: Machine) -> None:
    machine.run("touch /root/after /run/after; systemctl stop cron")
    began = time.monotonic()
    machine.reset("clean")
    print(f"reset in {time.monotonic() - began:.1f} s")
    assert machine.run("ls /root/after /run/after", ok=None).returncode == 2
    assert machine.run(["systemctl", "is-active", "cron"]).stdout == "active\n"
    assert abs(int(machine.run(["date", "+%s"]).stdout) - time.time()) < 30


def test_disks_and_snapshots_outlive_the_process(machine: Machine) -> None:
    machine.run("echo kept > /root/kept; sync")
    machine.save("kept")
    machine.down()
    assert machine.pid is None
    machine.reset("kept")
    assert machine.run(["cat", "/root/kept"]).stdout == "kept\n"


def test_push_and_statuses(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "it's here").write_text("text")
    machine.push(tmp_path, "/srv/a b")
    assert machine.run(["cat", "/srv/a b/it's here"]).stdout == "text"
    assert machine.run("exit 7", ok=(7,)).returncode == 7
    with pytest.raises(MachineError, match="ended with 7"):
        machine.run("echo no; exit 7")
    assert machine.run("cat", input="given").stdout == "given"


def test_mirrors_are_read_from_both_formats(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://no.example/debian x main\ndeb [arch=amd64] http://a.example/debian/ x main\n"
    )
    (tmp_path / "sources.list.d/s.sources").write_text(
        "Types: deb\nURIs: http://b.example/debian-security\nSuites: x\n"
    )
    assert read_mirrors(tmp_path) == Mirrors("http://a.example/debian", "http://b.example/debian-security")
    (tmp_path / "sources.list").unlink()
    with pytest.raises(CannotBuild, match="no Debian archive"):
        read_mirrors(tmp_path)


def test_pip_folders_are_those_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "index/simple").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    settings = {
        "extra-index-url": f"https://index.example/simple file://{tmp_path}/index/simple",
        "find-links": f"{tmp_path}/wheels {tmp_path}/missing",
    }
    assert pip_folders(settings) == [tmp_path / "index", tmp_path / "wheels"]
