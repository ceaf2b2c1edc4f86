"""What ends servers, what is told and collected then, and the agent and the launcher that come and go beside them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from diycloud.agent.notebooks import Notebooks
from diycloud.agent.protocol import Outcome, PurgeAccount, ReadNotebooks, StopWorkloads
from diycloud.config import Paths
from diycloud.config_notebooks import NotebookSettings
from diycloud.errors import PermissionDenied, Unavailable
from diycloud.host.notebooks import Record, ServerKey, start_of
from diycloud.system import Local
from tests.host.notebook_agent import NotebookHost, is_there, part, pids
from tests.host.notebook_servers.support import ALICE, BOB, NEEDED, has_run, nothing_left, uids
from tests.waiting import until

pytestmark = NEEDED


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
    until(lambda: not any(is_there(pid) for pid in everything), 5)
    (told,) = host.read(ALICE, "")
    assert (told.state, told.memory_kill) == ("failed", False)
    assert told.exit_code == (-signal.SIGKILL if victim == "server" else None)
    until(lambda: not part("pids", ALICE).exists() and not Path(notebook.socket).exists(), 5)
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
    until(lambda: int(tasks.read_text()) >= 195, 20)
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
            until(lambda: host.read(ALICE)[0].pid)
            assert host.get(host.read(ALICE)[0])[0] == 200
        else:
            until(lambda: not (host.paths.notebooks / "sockets" / f"{ALICE}.sock").exists(), 3)
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
    until(lambda: [path.name for path in run.glob("*/*") if "dtna" in path.name] == [f"{ALICE}.json"], 3)


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
