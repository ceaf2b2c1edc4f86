"""supervisord for real, in a private prefix."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from diycloud.config import Paths
from diycloud.distro.services import Folder, Hardening, Service
from diycloud.distro.supervisor import Supervisor
from diycloud.errors import HostError
from diycloud.system import Local
from diycloud.system.dry_run import DryRun
from tests.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: services run as other users")


@pytest.fixture
def paths():
    # Not tmp_path: its length depends on the test's name, and a socket's path is 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="dtk", dir="/tmp") as folder:
        for inside in ("etc", "run", "var", "var/log"):
            Path(folder, inside).mkdir()
        yield Paths(folder)


@pytest.fixture
def supervisor(paths):
    manager = Supervisor(Local(), paths)
    yield manager
    manager.down()


def sleeper(**fields) -> Service:
    values = {"name": "dtk-sleeper", "description": "sleeps", "command": ("/bin/sleep", "600"), **fields}
    return Service(**values)


def pid_of(supervisor: Supervisor, name: str = "dtk-sleeper") -> int:
    return int(supervisor._answer("pid", name).stdout)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def alive(pid: int) -> bool:
    try:
        return status_of(pid)["State"][0] != "Z"
    except FileNotFoundError:
        return False


def test_a_service_from_start_to_removal(supervisor):
    assert supervisor.ensure(sleeper())
    assert not supervisor.ensure(sleeper())
    assert not supervisor.is_active("dtk-sleeper")
    supervisor.enable("dtk-sleeper")
    supervisor.start("dtk-sleeper")
    assert supervisor.is_active("dtk-sleeper")
    assert supervisor.is_enabled("dtk-sleeper")
    first = pid_of(supervisor)
    supervisor.start("dtk-sleeper")
    assert pid_of(supervisor) == first
    supervisor.restart("dtk-sleeper")
    assert pid_of(supervisor) != first
    assert supervisor.remove("dtk-sleeper")
    assert not supervisor.remove("dtk-sleeper")
    assert supervisor.names() == []
    assert not alive(first)


def test_the_socket_is_roots_alone(supervisor, paths):
    supervisor.ensure(sleeper())
    supervisor.start("dtk-sleeper")
    for path in (paths.run / "supervisor", paths.run / "supervisor/supervisor.sock"):
        info = path.stat()
        assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (0, 0o700)


def test_a_strict_service_has_no_privileges(supervisor, paths):
    folder = str(paths.run / "own")
    supervisor.ensure(
        sleeper(
            user="daemon",
            group="daemon",
            hardening=Hardening.STRICT,
            environment={"PLAIN": 'a, "b" 5%'},
            folders=(Folder(folder, "daemon", "www-data", 0o2750),),
        )
    )
    supervisor.start("dtk-sleeper")
    pid = pid_of(supervisor)
    status = status_of(pid)
    assert status["Uid"].split() == ["1"] * 4
    assert status["Gid"].split() == ["1"] * 4
    assert {status[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert b'PLAIN=a, "b" 5%\0' in Path(f"/proc/{pid}/environ").read_bytes()
    info = Path(folder).stat()
    assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (1, 0o2750)


def test_a_service_that_dies_is_started_again(supervisor):
    supervisor.ensure(sleeper())
    supervisor.start("dtk-sleeper")
    first = pid_of(supervisor)
    os.kill(first, 9)
    deadline = time.monotonic() + 10
    while pid_of(supervisor) in (0, first):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert supervisor.is_active("dtk-sleeper")


def test_what_a_service_started_outlives_it(supervisor, tmp_path):
    script = f"/bin/sleep 60 & echo $! > {tmp_path}/child; exec /bin/sleep 600"
    supervisor.ensure(sleeper(command=("/bin/sh", "-c", script), leaves_children=True))
    supervisor.start("dtk-sleeper")
    child = int((tmp_path / "child").read_text())
    try:
        supervisor.down()
        assert alive(child)
    finally:
        os.kill(child, 9)


def test_a_service_that_cannot_run_is_an_error_with_its_log(supervisor):
    supervisor.ensure(sleeper(command=("/bin/sh", "-c", "echo out of luck; exit 3")))
    with pytest.raises(HostError, match="out of luck"):
        supervisor.start("dtk-sleeper")


def test_enabled_services_come_back_with_the_supervisor(supervisor):
    supervisor.ensure(sleeper())
    supervisor.enable("dtk-sleeper")
    supervisor.start("dtk-sleeper")
    first = pid_of(supervisor)
    supervisor.down()
    assert not supervisor.is_up()
    assert not alive(first)
    supervisor.up()
    supervisor.start("dtk-sleeper")
    assert supervisor.is_active("dtk-sleeper")


def test_after_the_supervisor_was_killed_nothing_runs_twice(supervisor, paths):
    seconds = f"600.{os.getpid()}"
    supervisor.ensure(sleeper(command=("/bin/sleep", seconds), user="daemon", group="daemon"))
    supervisor.enable("dtk-sleeper")
    supervisor.start("dtk-sleeper")
    orphan = pid_of(supervisor)
    os.kill(int(supervisor._answer("pid").stdout), 9)
    assert alive(orphan)
    Supervisor(Local(), paths).start("dtk-sleeper")
    assert not alive(orphan)
    argv = f"/bin/sleep\0{seconds}\0".encode()
    running = [path for path in Path("/proc").glob("[0-9]*/cmdline") if read_bytes(path) == argv]
    assert [int(path.parent.name) for path in running] == [pid_of(supervisor)]


def test_removal_ends_what_a_killed_supervisor_left_behind_and_nothing_in_a_container(supervisor):
    command = ("/bin/sleep", f"600.{os.getpid()}1")
    supervisor.ensure(sleeper(command=command))
    supervisor.start("dtk-sleeper")
    orphan = pid_of(supervisor)
    # Not of its own session: the namespace alone must protect it.
    contained = subprocess.Popen(["unshare", "--fork", "--kill-child", "--pid", *command])
    try:
        until(lambda: children(contained.pid))
        os.kill(int(supervisor._answer("pid").stdout), 9)
        assert alive(orphan)
        Supervisor(Local(), supervisor._paths).remove("dtk-sleeper")
        assert not alive(orphan)
        assert all(map(alive, children(contained.pid))) and contained.poll() is None
        supervisor._was_started = False  # it is gone
    finally:
        contained.kill()
        contained.wait()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_disable_leaves_it_running(supervisor):
    supervisor.ensure(sleeper())
    supervisor.enable("dtk-sleeper")
    supervisor.start("dtk-sleeper")
    supervisor.disable("dtk-sleeper")
    assert supervisor.is_active("dtk-sleeper")
    assert not supervisor.is_enabled("dtk-sleeper")


def test_dry_run_changes_nothing(paths):
    folder = Path(paths.prefix)
    before = sorted(folder.rglob("*"))
    lines: list[str] = []
    manager = Supervisor(DryRun(Local(), lines.append), paths)
    manager.ensure(sleeper())
    manager.enable("dtk-sleeper")
    manager.start("dtk-sleeper")
    assert sorted(folder.rglob("*")) == before
    assert any("supervisord -c" in line for line in lines)
