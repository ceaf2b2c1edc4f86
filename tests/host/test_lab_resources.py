"""Lab shows the slice's numbers, and says so when a kernel was killed for memory: a real server in a real cgroup."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import cannot_run
from tests.notebooks import environment
from tests.stack import ROOT, remove_cgroups

CGROUP = "dtnoteb"
LIMIT = 400 << 20
USER, UID = "dtnbslice", 58_690
TOKEN = "a-token-of-this-test"
SERVER = """
import json, os, sys
from pathlib import Path
from jupyterlab.labapp import LabApp
from diycloud.launcher import lab_settings
from diycloud.launcher.request import parse_request
request = parse_request(sys.stdin.readline().encode())
os.environ.update(lab_settings.environment(request, os.environ), JUPYTER_RUNTIME_DIR=str(request.runtime))
app = LabApp.initialize_server(
    argv=[f"--ServerApp.sock={request.socket}", "--IdentityProvider.token=" + sys.argv[1]], config=lab_settings.settings(request)
)
app.start()
"""


class Server:
    """Lab as the launcher sets it, in a cgroup with a limit that others of the same slice count against."""

    def __init__(self, lab: Path, folder: Path) -> None:
        self.lab, self.folder, self.socket = lab, folder, folder / "lab.sock"
        self.slice = {name: Path(f"/sys/fs/cgroup/{name}/{CGROUP}/{USER}") for name in ("memory", "cpuacct", "cpu")}
        for path in self.slice.values():
            (path / "notebook").mkdir(parents=True)
        for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
            (self.slice["memory"] / name).write_text(str(LIMIT))
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        request = {
            "name": USER, "uid": UID, "gid": UID, "home": str(self.folder), "shell": "/bin/bash", "tmp": "/tmp",
            "runtime": str(self.folder / "runtime"), "record": "/nonexistent", "log": "/nonexistent",
            "socket": str(self.socket),
            "kills": {"file": str(self.slice["memory"] / "notebook/memory.oom_control"), "key": "oom_kill"},
            "slice": {
                "memory": str(self.slice["memory"] / "notebook/memory.usage_in_bytes"), "memory_limit": 1,
                "cpu": str(self.slice["cpuacct"] / "notebook/cpuacct.usage"), "cpu_limit": 1.5,
                "cpu_quota": str(self.slice["cpu"] / "notebook/cpu.cfs_quota_us"),
            },
        }  # fmt: skip
        process = self.enter([str(self.lab / "bin/python"), "-c", SERVER, TOKEN], "notebook")
        assert process.stdin is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.close()
        for _ in range(400):
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(self.socket)) == 0:
                    return process
            assert process.poll() is None, self.log()
            time.sleep(0.05)
        raise AssertionError(self.log())

    def enter(self, argv: list[str], leaf: str) -> subprocess.Popen[str]:
        """Run a program as the user in the slice, or in a leaf of it."""
        into = "".join(f"echo $$ > {path / leaf}/cgroup.procs; " for path in self.slice.values())
        become = f"exec setpriv --reuid={UID} --regid={UID} --clear-groups -- "
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "USER": USER, "LANG": "C.UTF-8"}
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(
                ["sh", "-c", f'{into}{become}"$@"', "sh", *argv], cwd=self.folder, env=env, text=True,
                stdin=subprocess.PIPE, stdout=log, stderr=log,
            )  # fmt: skip

    def ask(self, **what: Any) -> dict[str, Any]:
        """Do what tests/lab.py can."""
        done = subprocess.run(
            [self.lab / "bin/python", ROOT / "tests/lab.py"], capture_output=True, text=True, check=False, timeout=120,
            input=json.dumps({"socket": str(self.socket), "token": TOKEN, "cells": [], **what}),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:] + self.log()
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def log(self) -> str:
        return (self.folder / "log").read_text()[-4000:]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if reason := cannot_run():
        pytest.skip(reason)
    try:
        lab = environment("lab")
    except RuntimeError as error:
        pytest.skip(str(error))
    folder = Path(f"/var/tmp/dtnb-slice-{os.getpid()}")
    folder.mkdir(mode=0o700)
    subprocess.run(["useradd", "-M", "-U", "-u", str(UID), "-d", str(folder), USER], check=True)
    try:
        os.chown(folder, UID, pwd.getpwnam(USER).pw_gid)
        running = Server(lab, folder)
        yield running
        running.process.terminate()
        running.process.wait(20)
    finally:
        remove_cgroups(CGROUP)
        subprocess.run(["userdel", USER], check=True, capture_output=True)
        shutil.rmtree(folder)


@pytest.mark.slow
def test_the_numbers_are_the_slices(server: Server) -> None:
    fill = "import time; data = bytearray(120 << 20); print('filled', flush=True); time.sleep(600)"
    other = server.enter(["/usr/bin/python3", "-c", fill], "")
    try:
        time.sleep(1)
        busy = "import time\nend = time.process_time() + 2\nwhile time.process_time() < end: pass\nprint('done')"
        told = server.ask(before=["/api/metrics/v1"], cells=[busy], after=["/api/metrics/v1", "/api/metrics/v1"])
    finally:
        other.kill()
        other.communicate()
    first, second, third = told["before"][0], *told["after"]
    assert first["limits"]["memory"]["rss"] == LIMIT, "the kernel's file, not what was told at the start"
    assert first["rss"] > (120 + 50) << 20, "what runs beside the server counts too"
    stat = (server.slice["memory"] / "memory.stat").read_text()
    assert "total_inactive_file" in stat
    assert first["limits"]["cpu"]["cpu"] == 1.5, "neither has a bound: what was told at the start"
    assert 1 < second["cpu_percent"] <= 100 * (os.cpu_count() or 1), "as much of a core as others on the host left it"
    assert third["cpu_percent"] == second["cpu_percent"]
    assert not first["limits"]["memory"]["warn"]


@pytest.mark.slow
def test_limits_that_change_are_shown_and_the_tighter_counts(server: Server) -> None:
    """A server's own or the slice's, as they are by now."""

    def shown() -> tuple[float, int, int]:
        (now,) = server.ask(before=["/api/metrics/v1"])["before"]
        return now["limits"]["cpu"]["cpu"], now["limits"]["memory"]["rss"], now["rss"]

    cpu, memory = server.slice["cpu"], server.slice["memory"]
    aside = server.enter(["/usr/bin/python3", "-c", "import time; x = bytearray(64 << 20); time.sleep(600)"], "")
    try:
        time.sleep(1)
        (cpu / "cpu.cfs_quota_us").write_text("100000")
        *limits, together = shown()
        assert limits == [1.0, LIMIT]
        (cpu / "notebook/cpu.cfs_quota_us").write_text("70000")
        (memory / "notebook/memory.limit_in_bytes").write_text(str(LIMIT - (4 << 20)))
        *limits, own = shown()
        assert limits == [0.7, LIMIT - (4 << 20)]
        assert own < together - (60 << 20), "and what counts against it: the server's alone"
        (cpu / "notebook/cpu.cfs_quota_us").write_text("50000")
        (cpu / "cpu.cfs_quota_us").write_text("50000")
        assert shown()[:2] == (0.5, LIMIT - (4 << 20))
        (memory / "memory.limit_in_bytes").write_text(str(LIMIT - (8 << 20)))
        assert shown()[1] == LIMIT - (8 << 20)
    finally:
        aside.kill()
        aside.communicate()
        for path in (cpu / "notebook/cpu.cfs_quota_us", cpu / "cpu.cfs_quota_us"):
            path.write_text("-1")
        (memory / "memory.limit_in_bytes").write_text(str(LIMIT))
        (memory / "notebook/memory.limit_in_bytes").write_text("-1")


@pytest.mark.slow
def test_warns_near_the_limit_and_tells_of_a_kill(server: Server) -> None:
    usage = Path(server.slice["memory"] / "memory.usage_in_bytes")
    room = LIMIT - int(usage.read_text())
    fill = f"data = bytearray(b'x') * {room - (75 << 20)}\nprint('near')"
    hog = "print('before', flush=True)\nmore = []\nwhile True: more.append(bytearray(b'y') * (8 << 20))"
    told = server.ask(cells=[fill, hog, "print('after')"], after=["/api/kernels"])
    near, killed, after = told["cells"]
    assert near["stdout"] == "near\n"
    assert killed["last"] == "restarting"
    assert killed["stdout"] == "before\n"
    assert "killed because all of your memory (0.391 GiB) was in use" in killed["stderr"]
    assert "Its variables are lost; your files are not." in killed["stderr"]
    assert killed["seconds"] < 15
    assert after["stdout"] == "after\n", "the kernel starts anew"
    assert "all of your memory" in told["after"][0][0]["reason"]
    assert "was killed because all of your memory" in server.log()
    assert server.process.poll() is None, "the server itself goes on"


@pytest.mark.slow
def test_a_kernel_that_ends_otherwise_is_not_said_to_be_killed_for_memory(server: Server) -> None:
    told = server.ask(cells=["import os\nos.kill(os.getpid(), 9)", "print('again')"], after=["/api/kernels"])
    assert told["cells"][0]["last"] == "restarting"
    assert told["cells"][0]["stderr"] == ""
    assert told["cells"][1]["stdout"] == "again\n"
    assert not told["after"][0][-1].get("reason")


@pytest.mark.slow
def test_settings_of_a_shared_host(server: Server) -> None:
    look = (
        "import os, json, stat\nfrom ipykernel.connect import get_connection_file\n"
        "found = json.load(open(get_connection_file()))\n"
        "folder = os.path.dirname(found['ip'])\n"
        "print(json.dumps([found['transport'], stat.S_IMODE(os.stat(folder).st_mode) & 0o777, os.environ['OMP_NUM_THREADS'],"
        "open('/proc/self/oom_score_adj').read().strip(), os.environ['CPU_LIMIT']]))"
    )
    told = server.ask(cells=[look], before=["/lab", "/lab/api/settings"])
    transport, mode, threads, score, cores = json.loads(told["cells"][0]["stdout"])
    assert (transport, mode, threads, score, cores) == ("ipc", 0o700, "2", "300", "1.5")
    page, settings = told["before"]
    config = json.loads(
        page.partition('<script id="jupyter-config-data" type="application/json">')[2].partition("</script>")[0]
    )
    assert config["terminalsAvailable"] is True
    assert config["news"] == {"disabled": True}
    # The line at the bottom says the same as the one at the top, in other units.
    assert {*config["disabledExtensions"]} == {
        "@jupyterlab/apputils-extension:announcements",
        "@jupyter-server/resource-usage:status-item",
    }
    assert config["extensionManager"]["can_install"] is False
    shown = {found["id"]: found["schema"].get("properties") for found in settings["settings"]}
    assert shown["@jupyter-server/resource-usage:topbar-item"]["enable"]["default"] is True
    assert shown["@jupyterlab/apputils-extension:themes"]["adaptive-theme"]["default"] is True


V2 = {
    "memory.current": "734003200\n",
    "memory.max": "1073741824\n",
    "memory.stat": "anon 524288000\nfile 209715200\ninactive_anon 0\nactive_file 104857600\ninactive_file 104857600\n",
    "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n",
}
"""A slice's files as cgroup-v2.rst describes them."""


def test_reads_the_files_of_version_2(tmp_path: Path) -> None:
    try:
        lab = environment("lab")
    except RuntimeError as error:
        pytest.skip(str(error))
    own = tmp_path / "diycloud-notebook-20000.scope"
    own.mkdir()
    for name, text in V2.items():
        (tmp_path / name).write_text(text)
    for name, text in {
        **V2,
        "memory.current": "1048576\n",
        "memory.stat": "inactive_file 0\n",
        "memory.max": "max\n",
    }.items():
        (own / name).write_text(text)
    code = (
        "import json, sys; from pathlib import Path; from diycloud.launcher.resources import SliceUsage\n"
        "own = Path(sys.argv[1]); at = own.parent\n"
        "usage = SliceUsage(memory=str(own / 'memory.current'), memory_limit=5, cpu=str(own / 'cpu.stat'),\n"
        "                   cpu_quota=str(own / 'cpu.max'), cpu_limit=2.0)\n"
        "first = usage.shown(10.0); (at / 'memory.max').write_text('max\\n')\n"
        "(at / 'cpu.stat').write_text('usage_usec 5500000\\n'); second = usage.shown(12.0)\n"
        "(own / 'cpu.max').write_text('150000 100000\\n'); (at / 'cpu.max').write_text('250000 100000\\n')\n"
        "(own / 'memory.max').write_text('2097152\\n'); tighter = usage.shown(14.0)\n"
        "(at / 'cpu.max').write_text('50000 100000\\n'); lowered = usage.shown(16.0)\n"
        "(at / 'memory.current').unlink(); (own / 'memory.current').unlink(); third = usage.shown(16.1)\n"
        "print(json.dumps([first, second, tighter, lowered, third, SliceUsage(cpu_limit=2.0).shown(10.0)]))"
    )
    done = subprocess.run([lab / "bin/python", "-c", code, own], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second, tighter, lowered, third, nowhere = json.loads(done.stdout)
    assert first["rss"] == (700 - 100) << 20, "without the page cache that is given back at once"
    assert first["limits"]["memory"] == {"rss": 1 << 30, "pss": 1 << 30, "warn": False}
    assert (first["cpu_percent"], second["cpu_percent"], third["cpu_percent"]) == (0, 150, 150)
    assert (tighter["rss"], tighter["limits"]["memory"]["rss"], tighter["limits"]["cpu"]["cpu"]) == (
        1 << 20,
        2 << 20,
        1.5,
    )
    assert tighter["cpu_percent"] == 150, "another cgroup's CPU time is no difference to the one before"
    assert lowered["limits"]["cpu"]["cpu"] == 0.5
    assert (nowhere["rss"], nowhere["limits"]["cpu"]["cpu"]) == (0, 2.0), "a host without slices"
    assert second["limits"]["memory"]["rss"] == 5, "no limit of the slice's own: the one that was told"
    assert second["limits"]["memory"]["warn"] and not second["limits"]["cpu"]["warn"]
    assert third["rss"] == 0, "the slice ended"
