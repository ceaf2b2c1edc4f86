"""The bare root itself: what tests of the installation rest on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bare import debian
from tests.bare.bareroot import CGROUPS, BareRoot, CommandFailed
from tests.bare.tree import differences, snapshot

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "bare_root", ["bookworm", "trixie", pytest.param("sid", marks=pytest.mark.exhaustive)], indirect=True
)
def test_is_a_bare_debian_of_its_own(bare_root: BareRoot) -> None:
    release = dict(line.split("=", 1) for line in bare_root.run(["cat", "/etc/os-release"]).stdout.splitlines())
    version = debian.SUITES[bare_root.suite]
    assert release.get("VERSION_ID") == (f'"{version}"' if version else None)
    for program in ("python3", "nginx", "systemctl", "sudo"):
        assert bare_root.run(f"command -v {program}", ok=None).returncode != 0
    assert bare_root.run(["hostname"]).stdout == "bare\n"
    processes = bare_root.run("ls -d /proc/[0-9]*").stdout.split()
    assert len(processes) <= 3  # the holder, sh, ls
    assert bare_root.run("readlink /proc/1/root; ls /var/tmp").stdout == "/\n"


def test_a_fresh_one_is_quick(bare_root: BareRoot) -> None:
    began = time.monotonic()
    with BareRoot(bare_root.suite) as second:
        second.run(["true"])
        seconds = time.monotonic() - began
        print(f"a fresh root: {seconds:.2f} s")
        assert seconds < 10  # well under one on an idle machine; copying the tree would take longer than this
        assert second.pid != bare_root.pid


def test_two_do_not_see_each_other(bare_root: BareRoot) -> None:
    with BareRoot(bare_root.suite) as second:
        second.run("echo here > /root/mark; mkdir /run/mark")
        assert bare_root.run("ls /root/mark /run/mark", ok=None).returncode == 2


def test_packages_of_the_hosts_mirrors_install_and_start_no_daemon(bare_root: BareRoot) -> None:
    bare_root.run("apt-get -qq update && apt-get -qq -y --no-install-recommends install nginx-light ca-certificates")
    names = bare_root.run("cat /proc/[0-9]*/comm").stdout.split()
    assert "nginx" not in names
    trusted = bare_root.run(["cat", "/etc/ssl/certs/ca-certificates.crt"]).stdout
    for pem in debian.extra_certificates():
        assert pem in trusted


def test_what_a_command_leaves_running_lives_until_the_end(bare_root: BareRoot) -> None:
    bare_root.run("setsid sleep 600 & echo $! > /root/pid")  # holds our output open; run() must not wait for it
    inside = bare_root.run(["cat", "/root/pid"]).stdout.strip()
    assert bare_root.run(["cat", f"/proc/{inside}/comm"]).stdout == "sleep\n"
    outside = [pid for pid in _processes_of(bare_root) if "sleep" in Path(f"/proc/{pid}/comm").read_text()]
    bare_root.stop()
    assert len(outside) == 1
    assert not Path(f"/proc/{outside[0]}").exists()
    assert not bare_root.folder.exists()


def test_orphans_are_reaped(bare_root: BareRoot) -> None:
    bare_root.run("for i in 1 2 3 4 5; do (sleep 0.1 &) ; done")
    time.sleep(0.4)
    states = bare_root.run("cat /proc/[0-9]*/stat").stdout.splitlines()
    assert [line for line in states if ") Z " in line] == []


def test_it_dies_with_its_owner() -> None:
    """A test run that is killed leaves nothing behind but a folder, which the next root of that name removes."""
    name = f"owner-{os.getpid()}"
    script = (
        "import time; from tests.bare.bareroot import BareRoot;"
        f"BareRoot(name={name!r}).start(); print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        if owner.stdout.readline() != "up\n":
            pytest.skip("no bare root on this machine")
        root = BareRoot(name=name)
        assert root.pid is not None
        owner.kill()
    deadline = time.monotonic() + 5
    while root.pid is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert root.pid is None
    root.stop()
    assert not root.folder.exists()


@pytest.mark.skipif(not (CGROUPS / "pids").is_dir(), reason="needs cgroup v1")
def test_its_cgroups_are_its_own_and_bite(bare_root: BareRoot) -> None:
    bare_root.run("mkdir /sys/fs/cgroup/pids/user && echo 5 > /sys/fs/cgroup/pids/user/pids.max")
    assert not (CGROUPS / "pids/user").exists()
    script = "echo $$ > /sys/fs/cgroup/pids/user/cgroup.procs; for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait"
    assert "fork" in bare_root.run(script, ok=None).stderr.lower()
    bare_root.stop()
    assert list((CGROUPS / "pids").glob(f"bare-{bare_root.name}")) == []


def test_a_failing_or_endless_command_is_an_error(bare_root: BareRoot) -> None:
    with pytest.raises(CommandFailed, match="ended with 3"):
        bare_root.run("echo no such luck; exit 3")
    began = time.monotonic()
    with pytest.raises(CommandFailed):
        bare_root.run("sleep 60", timeout=0.3)
    assert time.monotonic() - began < 5
    assert "sleep" not in bare_root.run("cat /proc/[0-9]*/comm").stdout


def test_input_and_environment_reach_the_command(bare_root: BareRoot) -> None:
    assert bare_root.run("cat; echo $COLOUR", input="given\n", env={"COLOUR": "red"}).stdout == "given\nred\n"


def test_a_private_network_reaches_nothing(lonely_root: BareRoot) -> None:
    routes = lonely_root.run(["cat", "/proc/net/route"]).stdout.splitlines()
    assert len(routes) == 1  # the heading
    reached = lonely_root.run(["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/22"], ok=None)
    assert "Connection refused" in reached.stderr  # its loopback is up, and this machine's sshd is not behind it


def test_push_takes_what_git_would_track(bare_root: BareRoot, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text("secret\n")
    (tmp_path / "secret").write_text("no")
    (tmp_path / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "run.sh").chmod(0o755)
    bare_root.push(tmp_path, "/src/project")
    assert bare_root.run("cd /src/project && ls -A && ./run.sh && stat -c %u:%g run.sh").stdout.split() == [
        ".gitignore",
        "run.sh",
        "ran",
        "0:0",
    ]


def test_differences_name_every_kind_of_change(tmp_path: Path) -> None:
    for name in ("same", "text", "mode", "gone", "ignored"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("same")
    before = snapshot(tmp_path)
    (tmp_path / "text").write_text("TEXT")
    (tmp_path / "mode").chmod(0o600)
    (tmp_path / "gone").unlink()
    (tmp_path / "new").mkdir(mode=0o700)
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("text")
    (tmp_path / "ignored").unlink()
    (tmp_path / "ignored").mkdir()
    (tmp_path / "ignored/below").touch()
    found = differences(before, snapshot(tmp_path), ignore=["/ignored"])
    assert found.keys() == {"/text", "/mode", "/gone", "/new", "/link"}
    assert found["/mode"] == "changed: mode 0644 → 0600"
    assert found["/new"] == f"added: folder 0700 {os.getuid()}:{os.getgid()}"
    assert found["/gone"].startswith("removed: file 0644")
    assert found["/link"] == "changed: content same → text"
    assert "content" in found["/text"]


def test_snapshot_of_a_root_sees_changes_and_no_kernel_file_systems(bare_root: BareRoot) -> None:
    before = bare_root.snapshot()
    assert before["/etc/debian_version"].type == "file"
    assert not [path for path in before if path.startswith(("/proc/", "/sys/", "/dev/", "/run/"))]
    bare_root.run("useradd -m someone; touch /run/not-seen")
    changed = differences(before, bare_root.snapshot())
    assert {"/etc/passwd", "/etc/shadow", "/home/someone"} <= changed.keys()


def _processes_of(root: BareRoot) -> list[int]:
    """Return the pids, as this machine counts, of the processes in the root's pid namespace."""
    space = os.readlink(f"/proc/{root.pid}/ns/pid")
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(folder / "ns/pid") == space:
                found.append(int(folder.name))
        except OSError:
            continue
    return found
