"""Servers are started, read and stopped through the agent: as their users, by whom, with what profile; and what is refused."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

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
from diycloud.errors import Conflict, InvalidInput, PermissionDenied, TooManyRequests, Unavailable, Unsupported
from tests.host.notebook_agent import CONTROLLERS, HUB_UID, SERVER_UID, NotebookHost, is_there, part, pids
from tests.host.notebook_servers.support import ALICE, BOB, MIB, NEEDED, has_run, nothing_left, uids
from tests.waiting import until

pytestmark = NEEDED


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
    until(lambda: not is_there(notebook.pid), 5)
    until(lambda: nothing_left(host, ALICE), 5)
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
        until(lambda: part("pids", ALICE).exists())
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
            until(part("pids", ALICE, name).exists)
        with pytest.raises(TooManyRequests, match=f"2 notebook servers of {ALICE} are starting"):
            host.start(ALICE, "b")
        assert host.start(BOB).state == "running"
        has_run(host, BOB, hangs)
        slow.append(pool.submit(host.start, BOB, "x"))
        until(part("pids", BOB, "x").exists)
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
    until(lambda: not any(part("pids", ALICE, name).exists() for name in ("", "a")), 5)
    subprocess.run(["rm", "-r", f"/home/{BOB}/.jupyter"], check=True)
