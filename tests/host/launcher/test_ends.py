"""How servers of the launcher's end: stopped, killed, for memory, by their own fault; and what is told of it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.host.launcher_support import ALICE, NEEDED, UIDS, Bed, alive, folders, private

pytestmark = NEEDED
DETACH = """import os, time, warnings
warnings.simplefilter('ignore')  # a kernel has threads, of which Python 3.12 warns whoever forks
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open('/home/dtlnalice/detached', 'w').write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
os.wait()
while not os.path.exists('/home/dtlnalice/detached') or not open('/home/dtlnalice/detached').read(): time.sleep(0.01)
print(open('/home/dtlnalice/detached').read())"""


@pytest.mark.parametrize("where", ["a sub-cgroup", "a scope of systemd's"])
def test_sigterm_ends_kernels_and_leaves_nothing(bed: Bed, where: str) -> None:
    Path("/home/dtlnalice/detached").unlink(missing_ok=True)
    server = bed.start(ALICE, **({} if where == "a sub-cgroup" else {"groups_of_processes": []}))
    kernel, detached = (int(said) for said in server.run("import os; print(os.getpid())", DETACH))
    assert alive(kernel)
    assert alive(detached)
    assert server.stop()["exit_code"] == 0
    assert not alive(kernel)
    assert not alive(detached)
    for folder in folders(ALICE, "notebook"):
        assert (folder / "cgroup.procs").read_text() == ""
    assert not Path(server.request["socket"]).exists()
    assert not Path(server.request["runtime"]).exists()


def test_sigterm_to_the_shim_ends_the_server(bed: Bed) -> None:
    server = bed.start(ALICE)
    os.kill(server.shim, signal.SIGTERM)
    assert server.wait_for_end()["exit_code"] == 0


def test_server_ends_with_its_shim(bed: Bed) -> None:
    server = bed.start(ALICE)
    os.kill(server.shim, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while alive(server.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    Path(server.request["socket"]).unlink()
    assert bed.start(ALICE).get("api")[0] == 200  # what the first left in its runtime folder is in nobody's way


def test_memory_hog_is_counted(bed: Bed) -> None:
    server = bed.start(ALICE)
    said = server.run("x = []\nwhile True: x.append(bytearray(b'x' * (1 << 20)))")
    assert "[restarting]" in said[0] or "[dead]" in said[0]
    assert server.get("api")[0] == 200  # the kernel was killed, not the server
    assert server.stop()["kills"] == 1


def test_killed_server_is_told(bed: Bed) -> None:
    server = bed.start(ALICE)
    os.kill(server.pid, signal.SIGKILL)
    assert server.wait_for_end()["exit_code"] == -signal.SIGKILL
    for folder in folders(ALICE, "notebook"):
        assert (folder / "cgroup.procs").read_text() == ""


def test_broken_configuration_is_told_with_its_last_lines(bed: Bed) -> None:
    folder = Path("/home/dtlnalice/.jupyter")
    folder.mkdir(exist_ok=True)
    (folder / "jupyter_server_config.py").write_text("c.ServerApp.max_body_size = 'the bell of dtln'\n")
    os.chown(folder, UIDS[ALICE], UIDS[ALICE])
    try:
        server = bed.start(ALICE)
    finally:
        (folder / "jupyter_server_config.py").unlink()
    assert server.failed["failed"].startswith("The server ended with status 1")
    assert any("the bell of dtln" in line for line in server.failed["log"])
    assert server.wait_for_end()["exit_code"] == 1
    assert not Path(server.request["socket"]).exists()


def test_no_home_is_told(bed: Bed) -> None:
    server = bed.start(ALICE, home="/home/dtln-is-not-there")
    assert any("dtln-is-not-there" in line for line in server.failed["log"])
    server.wait_for_end()


def test_no_process_more_is_told(bed: Bed) -> None:
    limit = folders(ALICE)[2] / "pids.max"
    limit.write_text("1")  # the shim itself
    try:
        server = bed.start(ALICE)
        assert "Resource temporarily unavailable" in server.failed["failed"]
    finally:
        limit.write_text("max")
    assert bed.start(ALICE).get("api")[0] == 200


def test_flood_of_output_is_bounded(bed: Bed) -> None:
    server = bed.start(ALICE)
    assert not server.run(f"f = open('/proc/{server.pid}/fd/1', 'w')\nfor _ in range(20000): print('y' * 999, file=f)")[
        0
    ]
    time.sleep(1.2)
    log = Path(server.request["log"])
    assert 60_000 < log.stat().st_size <= 65_536
    assert log.stat().st_mode & 0o777 == 0o600
    assert private(server.shim) < 8 << 20
    server.stop()
    assert log.stat().st_size <= 65_536
