"""Notebook servers through the real agent and the real launcher, on this host's own cgroups (v1).

What a user's kernels would do is done by ~/.jupyter/jupyter_server_config.py, which the server runs as the user.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from diycloud.agent.notebooks import Notebooks
from diycloud.agent.protocol import (
    Account,
    EnsureAccounts,
    Limits,
    Notebook,
    Outcome,
    PurgeAccount,
    ReadNotebooks,
    StartNotebook,
    StopNotebook,
    StopWorkloads,
    Wish,
)
from diycloud.config import Paths
from diycloud.config_notebooks import NotebookSettings
from diycloud.errors import (
    Conflict,
    InvalidInput,
    PermissionDenied,
    TooManyRequests,
    Unavailable,
    Unsupported,
)
from diycloud.host.notebooks import Record, ServerKey, start_of
from diycloud.system import Local
from tests.host.limits_support import why_not as why_no_limits
from tests.host.notebook_agent import (
    CONTROLLERS,
    HUB_UID,
    SERVER_UID,
    NotebookHost,
    is_there,
    part,
    pids,
    running_host,
    wait_until,
)
from tests.notebooks import environment, why_not

WHY_NOT = why_no_limits() or why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

SETTINGS = """\
  start_seconds: 8
  named_servers: 2
  at_once: 3
  profiles:
    all: {title: Everything}
    small: {memory: 160M, cpu: 0.2}
    huge: {memory: 900G, cpu: 4000}
    boxed: {kind: docker, image: lab}
"""
ALICE, BOB = "dtnaalice", "dtnabob"
MIB = 1 << 20


@pytest.fixture(scope="module")
def running() -> Iterator[NotebookHost]:
    yield from running_host(environment("lab"), SETTINGS)


@pytest.fixture
def host(running: NotebookHost) -> Iterator[NotebookHost]:
    """Alice with half a core and 512 MiB, and no server."""
    running.ensure(ALICE, cpu=0.5, memory=512 * MIB)
    yield running
    for notebook in running.read():
        running.stop(notebook.name, notebook.server)
    jupyter = Path("/home", ALICE, ".jupyter")
    if jupyter.exists():
        subprocess.run(["rm", "-r", str(jupyter)], check=True)
    assert nothing_left(running, ALICE)


def nothing_left(host: NotebookHost, name: str) -> bool:
    """Whether nothing at all tells of a user's servers."""
    stems = [path for path in host.paths.notebooks.glob("*/*") if path.name.partition(".")[0].partition("+")[0] == name]
    return not stems and not any(part(controller, name).exists() for controller in CONTROLLERS)


def has_run(host: NotebookHost, name: str, code: str) -> None:
    """Have a user's next server run some Python as it starts."""
    home, uid = Path("/home", name), host.ensure(name, cpu=0.5, memory=512 * MIB)
    folder = home / ".jupyter"
    folder.mkdir(exist_ok=True)
    (folder / "jupyter_server_config.py").write_text(code)
    for path in (folder, folder / "jupyter_server_config.py"):
        os.chown(path, uid, uid)


def uids(pid: int) -> set[int]:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Uid:"))
    return {int(word) for word in line.split()[1:]}


# -- start, read, stop


def test_a_server_is_its_users_in_a_cgroup_of_its_own_and_goes_without_a_trace(host: NotebookHost) -> None:
    notebook = host.start(ALICE)
    uid = os.stat(f"/home/{ALICE}").st_uid
    assert (notebook.state, notebook.profile, notebook.log) == ("running", "all", ())
    assert host.get(notebook)[0] == 200
    assert uids(notebook.pid) == {uid}
    for controller in CONTROLLERS:
        assert notebook.pid in pids(part(controller, ALICE))
    assert int((part("pids", ALICE).parent / "pids.current").read_text()) >= 2, "counted with what runs in sessions"
    info = os.stat(notebook.socket)
    assert (stat.S_IMODE(info.st_mode), info.st_uid) == (0o660, uid)
    assert info.st_gid != uid, "Nginx's group"
    assert os.stat(Path(notebook.socket).parent).st_uid == 0
    assert stat.S_IMODE(os.stat(Path(notebook.socket).parent).st_mode) == 0o711
    environ = Path(f"/proc/{notebook.pid}/environ").read_bytes()
    assert b"JUPYTERHUB_API_TOKEN" not in environ

    (told,) = host.read(ALICE, "")
    assert (told.pid, told.socket, told.state) == (notebook.pid, notebook.socket, "running")
    assert told.memory > MIB and told.cpu_us > 0 and told.tasks >= 2
    stopped = host.stop(ALICE)
    assert (stopped.state, stopped.exit_code, stopped.socket) == ("stopped", 0, "")
    assert not is_there(notebook.pid)
    assert host.read(ALICE) == []
    assert nothing_left(host, ALICE)
    assert host.stop(ALICE) == Notebook(ALICE, "", "stopped"), "as often as one likes"


def test_the_next_server_takes_the_place_of_the_one_before(host: NotebookHost) -> None:
    has_run(host, ALICE, "import subprocess\nsubprocess.Popen(['setsid', 'sleep', '1000'])\n")
    first = host.start(ALICE)
    old = pids(part("pids", ALICE))
    assert len(old) >= 3, "the shim, the server, what it started"
    second = host.start(ALICE)
    assert first.pid != second.pid
    assert not any(is_there(pid) for pid in old)
    assert [told.pid for told in host.read(ALICE)] == [second.pid]
    assert host.get(second)[0] == 200


def test_named_servers_are_bounded_and_told_apart(host: NotebookHost) -> None:
    servers = [host.start(ALICE, name) for name in ("", "a", "b-c")]
    assert [one.server for one in host.read(ALICE)] == ["", "a", "b-c"]
    with pytest.raises(Conflict, match="3 notebook servers"):
        host.start(ALICE, "d")
    host.start(ALICE, "a")  # in the place of itself
    host.stop(ALICE, "b-c")
    assert [is_there(one.pid) for one in servers] == [True, False, False]
    assert host.call(ReadNotebooks(after=ALICE), list[Notebook])[0].server == "a"
    assert host.call(ReadNotebooks(after=f"{ALICE}+a"), list[Notebook]) == []
    host.start(ALICE, "d")


def test_many_who_start_and_stop_the_same_server_leave_one_or_none(host: NotebookHost) -> None:
    def act(number: int) -> None:
        with contextlib.suppress(Conflict, TooManyRequests):
            host.stop(ALICE) if number % 3 == 2 else host.start(ALICE)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(act, range(18)))
    last = host.start(ALICE)
    assert host.get(last)[0] == 200
    shims = [pid for pid in pids(part("pids", ALICE)) if uids(pid) == {0}]
    assert len(shims) == 1
    host.stop(ALICE)


# -- budget


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
    wait_until(lambda: host.read(ALICE)[0].state != "running", 20)
    (told,) = host.read(ALICE, "")
    assert (told.state, told.exit_code, told.memory_kill) == ("failed", -signal.SIGKILL, True)
    assert not is_there(notebook.pid)
    wait_until(lambda: not Path(notebook.socket or "/nowhere").exists())
    wait_until(lambda: not part("memory", ALICE).exists(), 5)


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
    wait_until(lambda: (part("cpu", ALICE) / "cpu.cfs_quota_us").read_text().strip() == "20000", 5)


# -- what is refused


@pytest.mark.parametrize(
    ("profile", "error"), [("none-such", InvalidInput), ("boxed", Unsupported)], ids=["unknown", "container"]
)
def test_profiles_are_the_settings_own(host: NotebookHost, profile: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        host.start(ALICE, profile=profile)
    assert nothing_left(host, ALICE)


def test_the_hub_may_start_stop_and_read_and_nothing_else(host: NotebookHost) -> None:
    uid = host.ensure(ALICE)
    given = host.environment(ALICE)
    notebook = host.call_as(HUB_UID, StartNotebook(ALICE, environment=given), Notebook)
    assert [told.pid for told in host.call_as(SERVER_UID, ReadNotebooks(), list[Notebook])] == [notebook.pid]
    with pytest.raises(PermissionDenied, match="server may not ask for StartNotebook"):
        host.call_as(SERVER_UID, StartNotebook(ALICE, environment=given), Notebook)
    wish = Wish(ALICE, 999, Limits(0.5, 512 * MIB, 200))
    for message in (EnsureAccounts([Account(wish)]), StopWorkloads(ALICE), PurgeAccount(ALICE, 999)):
        with pytest.raises(PermissionDenied, match="hub may not ask for"):
            host.call_as(HUB_UID, message, list[Outcome])
    with pytest.raises((PermissionDenied, Unavailable)):
        host.call_as(uid, ReadNotebooks(), list[Notebook])
    assert host.call_as(SERVER_UID, StopNotebook(ALICE), Notebook).state == "stopped"
    for name in ("root", "daemon", "dtnanobody"):
        with pytest.raises(PermissionDenied):
            host.call_as(HUB_UID, StartNotebook(name), Notebook)


def test_a_locked_or_expired_account_gets_none_and_what_it_has_ends(host: NotebookHost) -> None:
    notebook = host.start(ALICE)
    host.ensure(ALICE, cpu=0.5, memory=512 * MIB, state="locked")
    with pytest.raises(Conflict, match="locked"):
        host.start(ALICE)
    wait_until(lambda: not is_there(notebook.pid), 5)
    wait_until(lambda: nothing_left(host, ALICE), 5)
    host.ensure(ALICE, cpu=0.5, memory=512 * MIB)
    subprocess.run(["usermod", "-e", "2020-01-01", ALICE], check=True)
    with pytest.raises(Conflict, match="expired"):
        host.start(ALICE)
    subprocess.run(["usermod", "-e", "", ALICE], check=True)
    host.start(ALICE)


def test_a_server_that_does_not_come_up_says_why_and_leaves_nothing_running(host: NotebookHost) -> None:
    has_run(host, ALICE, "print('the roof is on fire', flush=True)\nraise SystemExit(3)\n")
    with pytest.raises(Unavailable, match="did not start") as caught:
        host.start(ALICE)
    assert "the roof is on fire" in caught.value.hint
    (told,) = host.read(ALICE, "")
    assert (told.state, told.exit_code, told.socket) == ("failed", 3, "")
    assert any("the roof is on fire" in line for line in told.log)
    assert not part("pids", ALICE).exists()
    assert host.call(ReadNotebooks(), list[Notebook])[0].log == ()
    has_run(host, ALICE, "")
    assert host.start(ALICE).state == "running"


def test_a_server_that_hangs_is_ended_in_time_and_another_user_is_not_held_up(host: NotebookHost) -> None:
    has_run(host, ALICE, "import time; time.sleep(100)\n")
    host.ensure(BOB, cpu=1.0, memory=512 * MIB)
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        slow = pool.submit(host.start, ALICE)
        wait_until(lambda: part("pids", ALICE).exists())
        assert host.start(BOB).state == "running"
        assert time.monotonic() - began < 4
        with pytest.raises(Unavailable, match="did not answer in time"):
            slow.result()
        assert 7.5 <= time.monotonic() - began <= 11
    assert not part("pids", ALICE).exists()
    assert host.read(ALICE)[0].state == "failed"


def test_a_stop_ends_a_start_under_way_and_starts_are_bounded(host: NotebookHost) -> None:
    """Three in all, of one user two: the third place is for somebody else."""
    hangs = "import time; time.sleep(100)\n"
    has_run(host, ALICE, hangs)
    host.ensure(BOB)
    with ThreadPoolExecutor(3) as pool:
        slow = [pool.submit(host.start, ALICE, name) for name in ("", "a")]
        for name in ("", "a"):
            wait_until(part("pids", ALICE, name).exists)
        with pytest.raises(TooManyRequests, match=f"2 notebook servers of {ALICE} are starting"):
            host.start(ALICE, "b")
        assert host.start(BOB).state == "running"
        has_run(host, BOB, hangs)
        slow.append(pool.submit(host.start, BOB, "x"))
        wait_until(part("pids", BOB, "x").exists)
        with pytest.raises(TooManyRequests, match="3 notebook servers are starting"):
            host.start(BOB, "y")
        began = time.monotonic()
        host.stop(ALICE)
        host.stop(BOB, "x")
        host.call(StopWorkloads(ALICE), int)
        for start in slow:
            with pytest.raises((Conflict, Unavailable)):
                start.result()
        assert time.monotonic() - began < 6
    wait_until(lambda: not any(part("pids", ALICE, name).exists() for name in ("", "a")), 5)
    subprocess.run(["rm", "-r", f"/home/{BOB}/.jupyter"], check=True)


# -- what ends servers


def test_stopping_all_that_a_user_runs_and_purging_tidy_up(host: NotebookHost) -> None:
    uid = host.ensure(BOB)
    host.start(BOB)
    host.start(BOB, "x")
    tmp = host.paths.notebook_tmp / str(uid)
    assert (stat.S_IMODE(tmp.stat().st_mode), tmp.stat().st_uid) == (0o700, uid)
    assert host.call(StopWorkloads(BOB), int) >= 4
    assert host.read(BOB) == []
    assert nothing_left(host, BOB)
    assert tmp.exists(), "what is in /tmp may stay"
    notebook = host.start(BOB)
    host.call(PurgeAccount(BOB, 10_000), Outcome)
    assert not is_there(notebook.pid)
    assert nothing_left(host, BOB)
    assert not tmp.exists()
    assert host.read(BOB) == []
    with pytest.raises(PermissionDenied):
        host.start(BOB)


@pytest.mark.parametrize("victim", ["server", "shim"])
def test_a_server_that_dies_is_told_of_and_tidied_up_after(host: NotebookHost, victim: str) -> None:
    has_run(host, ALICE, "import subprocess\nsubprocess.Popen(['setsid', 'sleep', '1000'])\n")
    notebook = host.start(ALICE)
    everything = pids(part("pids", ALICE))
    (shim,) = [pid for pid in everything if uids(pid) == {0}]
    os.kill(notebook.pid if victim == "server" else shim, signal.SIGKILL)
    wait_until(lambda: not any(is_there(pid) for pid in everything), 5)
    (told,) = host.read(ALICE, "")
    assert (told.state, told.memory_kill) == ("failed", False)
    assert told.exit_code == (-signal.SIGKILL if victim == "server" else None)
    wait_until(lambda: not part("pids", ALICE).exists() and not Path(notebook.socket).exists(), 5)
    assert host.start(ALICE).state == "running"


def test_what_a_bomb_leaves_is_collected_before_the_next_server(host: NotebookHost) -> None:
    """Dead processes count among the user's until their parent takes note: the shim does, before the stop is done."""
    match = Path(f"/home/{ALICE}/match")
    bomb = (
        f"import os, time\nwhile not os.path.exists('{match}'): time.sleep(0.05)\n"
        "while True:\n    try:\n        if os.fork() == 0: os.setsid()\n    except OSError: pass\n"
    )
    has_run(host, ALICE, f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {bomb!r}])\n")
    notebook = host.start(ALICE)
    match.touch()  # lit once the server answers: beside the bomb it would not in its time
    tasks = part("pids", ALICE).parent / "pids.current"
    wait_until(lambda: int(tasks.read_text()) >= 195, 20)
    has_run(host, ALICE, "")  # the next one has none
    host.stop(ALICE)
    match.unlink()
    assert int(tasks.read_text()) == 0
    assert not is_there(notebook.pid)
    assert host.start(ALICE).state == "running"


# -- the agent and the launcher come and go


def test_servers_outlive_agent_and_launcher(host: NotebookHost) -> None:
    notebook = host.start(ALICE)
    before = host.read()
    for name in ("agent", "launcher"):
        host.kill(name)
    assert host.get(notebook)[0] == 200
    host.start_agent()
    after = host.read()
    assert [(one.pid, one.started, one.socket) for one in after] == [
        (one.pid, one.started, one.socket) for one in before
    ]
    with pytest.raises(Unavailable, match="launcher"):
        host.start(ALICE, "other")
    assert host.get(notebook)[0] == 200
    host.start_launcher()
    host.kill("agent", signal.SIGTERM)
    host.start_agent()
    host.start(ALICE, "other")
    assert [one.server for one in host.read(ALICE)] == ["", "other"]
    host.stop(ALICE)
    assert not is_there(notebook.pid)


def test_an_agent_that_dies_while_a_server_starts_leaves_one_or_none(host: NotebookHost) -> None:
    chance = random.Random(5)
    seen = set()
    for _ in range(14):
        with ThreadPoolExecutor(1) as pool:
            start = pool.submit(host.start, ALICE)
            time.sleep(chance.uniform(0.0, 0.12))
            host.kill("agent")
            with contextlib.suppress(Unavailable):
                start.result()
        host.start_agent()
        told = host.read(ALICE)
        there = pids(part("pids", ALICE)) if part("pids", ALICE).exists() else []
        shims = [pid for pid in there if uids(pid) == {0}]
        assert len(shims) == len([one for one in told if one.state == "running"]) <= 1, (told, there)
        seen.add(len(shims))
        if shims:
            wait_until(lambda: host.read(ALICE)[0].pid)
            assert host.get(host.read(ALICE)[0])[0] == 200
        else:
            wait_until(lambda: not (host.paths.notebooks / "sockets" / f"{ALICE}.sock").exists(), 3)
        if chance.random() < 0.5:
            host.stop(ALICE)
            assert nothing_left(host, ALICE)
        else:
            assert host.get(host.start(ALICE))[0] == 200
            assert len([pid for pid in pids(part("pids", ALICE)) if uids(pid) == {0}]) == 1
    assert seen == {0, 1}, "both ends of the race were seen"


def test_what_an_earlier_agent_left_is_tidied_up_and_strangers_files_are_no_servers(host: NotebookHost) -> None:
    run = host.paths.notebooks
    host.kill("agent")
    (run / "sockets" / f"{ALICE}+old.sock").touch()
    (run / "runtime" / f"{ALICE}+old").mkdir()
    (run / "records" / f"{ALICE}.json").write_text('{"name": "dtnaalice", "shim": 1, "shim_start": 5, "pid": 1}')
    (run / "records" / "dtnagone.json").write_text('{"name": "dtnagone", "shim": 1, "shim_start": 5, "pid": 1}')
    (run / "records" / f"{ALICE}+bad.json").write_text("[]")
    (run / "records" / f".{ALICE}.json.0badcafe").write_text("{")
    (run / "logs" / f"{ALICE}+old.new").write_text("half a log")
    host.start_agent()
    assert [(one.name, one.server, one.state) for one in host.read()] == [(ALICE, "", "failed")]
    wait_until(lambda: [path.name for path in run.glob("*/*") if "dtna" in path.name] == [f"{ALICE}.json"], 3)


def test_reading_fifty_servers_is_cheap(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path))
    notebooks = Notebooks(Local(), None, NotebookSettings(), paths, nginx_gid=0)
    notebooks.take_stock({}.get)
    shims = [subprocess.Popen(["sleep", "60"]) for _ in range(50)]
    try:
        for number, shim in enumerate(shims):
            key = ServerKey(f"dtn{number}", "")
            record = Record(*key, shim=shim.pid, shim_start=start_of(Local(), shim.pid), pid=shim.pid, started=1.0)
            (paths.notebooks / "records" / f"{key.stem}.json").write_bytes(msgspec.json.encode(record))
        notebooks.take_stock(lambda name: 58_150)
        assert len(notebooks.read(ReadNotebooks())) == 50
        began = time.process_time()
        for _ in range(20):
            notebooks.read(ReadNotebooks())
        assert (time.process_time() - began) / 20 < 0.010
        shims[7].kill()
        shims[7].wait()
        states = [one.state for one in notebooks.read(ReadNotebooks())]
        assert states.count("running") == 49
    finally:
        for shim in shims:
            shim.kill()
            shim.wait()
