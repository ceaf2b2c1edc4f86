"""What the agent does, seen on the real host through its real socket."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diycloud.agent.protocol import (
    Account,
    Capacity,
    CheckLimits,
    EnsureAccounts,
    HashPasswords,
    HostCapacity,
    Limits,
    Outcome,
    Ping,
    Pong,
    PurgeAccount,
    PurgePreview,
    Remains,
    State,
    StopWorkloads,
    SyncReport,
    Wish,
)
from diycloud.errors import Conflict, InvalidInput, PermissionDenied, TooManyRequests, Unavailable
from tests.host.agent_process import (
    CGROUP,
    PREFIX,
    UID_MAX,
    UID_MIN,
    AgentProcess,
    account_files,
    remove_groups,
    running_agent,
    wish,
)

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="accounts can be made by root only")


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentProcess]:
    yield from running_agent()


def ensure(agent: AgentProcess, *accounts: Account) -> list[Outcome]:
    return agent.call(EnsureAccounts(list(accounts)), list[Outcome])


def made(agent: AgentProcess, name: str, **others: object) -> Outcome:
    (outcome,) = ensure(agent, Account(wish(name, **others), create=True))
    assert outcome.code == "", outcome
    return outcome


def shadow_of(name: str) -> list[str]:
    return next(line for line in Path("/etc/shadow").read_text().splitlines() if line.startswith(f"{name}:")).split(":")


def test_an_account_is_made_whole(agent: AgentProcess) -> None:
    name = f"{PREFIX}whole"
    (hashed,) = agent.call(HashPasswords(["correct horse"]), list[str])
    (outcome,) = ensure(agent, Account(wish(name, full_name="Zoë Smith-O'Neil"), shadow=hashed, create=True))
    assert (outcome.code, outcome.changed, outcome.warning) == ("", True, "")
    entry = pwd.getpwnam(name)
    assert UID_MIN <= entry.pw_uid == entry.pw_gid == outcome.uid <= UID_MAX
    assert (entry.pw_gecos, entry.pw_dir, entry.pw_shell) == ("Zoë Smith-O'Neil", f"/home/{name}", "/bin/bash")
    home = Path(entry.pw_dir)
    for folder in (home, home / "notebooks", home / "data"):
        info = folder.lstat()
        assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o750, outcome.uid, outcome.uid)
    assert (home / ".profile").stat().st_uid == outcome.uid
    assert shadow_of(name)[1] == hashed
    check = subprocess.run(["su", "-", name, "-c", "id -un; pwd"], capture_output=True, text=True, check=True)
    assert check.stdout.split() == [name, str(home)]
    for limit in Path("/sys/fs/cgroup/memory").glob(f"*/{name}/memory.limit_in_bytes"):
        assert limit.read_text().strip() == str(64 << 20)


def test_what_is_right_costs_nothing(agent: AgentProcess) -> None:
    name = f"{PREFIX}twice"
    made(agent, name)
    before = account_files(), os.stat(f"/home/{name}").st_ctime_ns, agent.paths.managed.stat().st_ino
    (outcome,) = ensure(agent, Account(wish(name), create=True))
    assert (outcome.code, outcome.changed) == ("", False)
    assert (account_files(), os.stat(f"/home/{name}").st_ctime_ns, agent.paths.managed.stat().st_ino) == before


def test_locked_means_no_password_no_key_no_cron_and_back(agent: AgentProcess) -> None:
    name = f"{PREFIX}lock"
    (hashed,) = agent.call(HashPasswords(["correct horse"]), list[str])
    ensure(agent, Account(wish(name), shadow=hashed, create=True))
    ensure(agent, Account(wish(name, 2, State.LOCKED)))
    field = shadow_of(name)
    assert (field[1], field[7]) == (f"!{hashed}", "1")
    refused = subprocess.run(["su", name, "-s", "/bin/sh", "-c", "true"], user=0, capture_output=True, check=False)
    assert refused.returncode != 0, "PAM's account check, which keys and cron go through, lets nobody in"
    assert b"expired" in refused.stderr
    ensure(agent, Account(wish(name, 3)))
    field = shadow_of(name)
    assert (field[1], field[7]) == (hashed, "")
    subprocess.run(["su", name, "-c", "true"], check=True)


def test_a_password_can_change_while_locked(agent: AgentProcess) -> None:
    name = f"{PREFIX}lockpw"
    first, second = agent.call(HashPasswords(["one one one", "two two two"]), list[str])
    ensure(agent, Account(wish(name, 1, State.LOCKED), shadow=first, create=True))
    assert shadow_of(name)[1] == f"!{first}"
    assert shadow_of(name)[7] == "1"
    ensure(agent, Account(wish(name, 2, State.LOCKED), shadow=second))
    assert shadow_of(name)[1] == f"!{second}"
    ensure(agent, Account(wish(name, 3)))
    assert shadow_of(name)[1] == second


def test_name_and_shell_follow_the_wish_and_the_telephone_stays(agent: AgentProcess) -> None:
    name = f"{PREFIX}mend"
    made(agent, name)
    subprocess.run(["usermod", "-c", "Old Name,Room 7,555", "-s", "/bin/sh", name], check=True)
    ensure(agent, Account(wish(name, 2, full_name="New Name", shell="/bin/bash")))
    entry = pwd.getpwnam(name)
    assert (entry.pw_gecos, entry.pw_shell) == ("New Name,Room 7,555", "/bin/bash")


def test_a_shell_that_is_none_is_refused(agent: AgentProcess) -> None:
    (outcome,) = ensure(agent, Account(wish(f"{PREFIX}shell", shell="/bin/cat"), create=True))
    assert outcome.code == "invalid-input"
    assert "/bin/bash" in outcome.message


def test_one_bad_account_does_not_hold_up_the_others(agent: AgentProcess) -> None:
    outcomes = ensure(
        agent,
        Account(wish(f"{PREFIX}good1"), create=True),
        Account(wish("daemon"), create=True),
        Account(wish(f"{PREFIX}good2"), create=True),
    )
    assert [outcome.code for outcome in outcomes] == ["", "conflict", ""]
    assert pwd.getpwnam("daemon").pw_uid == 1


def test_a_name_the_host_has_is_refused_and_left_alone(agent: AgentProcess) -> None:
    name, group = f"{PREFIX}byhand", f"{PREFIX}group"
    subprocess.run(["useradd", "-M", "-u", "57900", name], check=True)
    subprocess.run(["groupadd", "-g", "57901", group], check=True)
    before = account_files()
    outcomes = ensure(agent, *(Account(wish(n), create=True) for n in (name, group)))
    assert [outcome.code for outcome in outcomes] == ["conflict", "conflict"]
    assert account_files() == before


def test_a_home_that_is_there_is_never_taken_over(agent: AgentProcess) -> None:
    name = f"{PREFIX}squat"
    trap = Path(f"/home/{name}")
    for make in (lambda: trap.mkdir(), lambda: trap.symlink_to("/etc"), lambda: trap.write_text("x")):
        make()
        (outcome,) = ensure(agent, Account(wish(name), create=True))
        assert outcome.code == "conflict"
        with pytest.raises(KeyError):
            pwd.getpwnam(name)
        trap.rmdir() if trap.is_dir() and not trap.is_symlink() else trap.unlink()
    assert os.stat("/etc").st_uid == 0


def test_uids_are_never_given_twice(agent: AgentProcess) -> None:
    first = made(agent, f"{PREFIX}uid1")
    agent.call(PurgeAccount(f"{PREFIX}uid1", 1), Outcome)
    second = made(agent, f"{PREFIX}uid2")
    assert second.uid is not None and first.uid is not None
    assert second.uid > first.uid


def test_an_older_generation_is_refused(agent: AgentProcess) -> None:
    name = f"{PREFIX}gen"
    made(agent, name, generation=7)
    (outcome,) = ensure(agent, Account(wish(name, 6, State.LOCKED)))
    assert outcome.code == "conflict"
    assert shadow_of(name)[7] == ""
    with pytest.raises(Conflict):
        agent.call(PurgeAccount(name, 6), Outcome)
    assert Path(f"/home/{name}").exists()


def test_limits_are_checked_against_the_host_and_present_use(agent: AgentProcess) -> None:
    name = f"{PREFIX}limits"
    made(agent, name)
    host = agent.call(Capacity(), HostCapacity)
    assert host.cores == len(os.sched_getaffinity(0))
    good = Limits(host.cores, 128 << 20, 50)
    assert agent.call(CheckLimits(name, good), Outcome).code == ""
    for bad in (Limits(host.cores + 1, 128 << 20, 50), Limits(1, host.memory * 2, 50)):
        with pytest.raises(InvalidInput):
            agent.call(CheckLimits(name, bad), Outcome)
        (outcome,) = ensure(agent, Account(Wish(name, 2, bad)))
        assert outcome.code == "invalid-input"


def test_workloads_stop_also_outside_the_slice(agent: AgentProcess) -> None:
    outcome = made(agent, f"{PREFIX}stop")
    assert outcome.uid is not None
    with subprocess.Popen(["sleep", "60"], user=outcome.uid, group=outcome.uid, extra_groups=[]) as process:
        assert agent.call(PurgePreview(f"{PREFIX}stop"), Remains).processes == 1
        assert agent.call(StopWorkloads(f"{PREFIX}stop"), int) == 1
        assert process.wait(5) < 0
    assert agent.call(StopWorkloads(f"{PREFIX}stop"), int) == 0


def test_purge_leaves_nothing_but_the_trash(agent: AgentProcess) -> None:
    name = f"{PREFIX}purge"
    outcome = made(agent, name)
    (Path("/home") / name / "data" / "thesis").write_text("x" * 100_000)
    Path(f"/var/mail/{name}").touch()
    before = agent.call(PurgePreview(name), Remains)
    assert before.home == f"/home/{name}"
    assert 100_000 < before.home_bytes < 300_000
    assert before.home_files >= 6
    assert agent.call(PurgeAccount(name, 2), Outcome).changed is True
    with pytest.raises(KeyError):
        pwd.getpwnam(name)
    assert f"{name}:" not in Path("/etc/group").read_text()
    assert not Path(f"/home/{name}").exists()
    assert not Path(f"/var/mail/{name}").exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/*/{name}"))
    assert name not in agent.paths.managed.read_text()
    trash = list(Path("/home/.diycloud-trash").glob(f"{name}.{outcome.uid}.*"))
    assert len(trash) == 1
    assert (trash[0] / "data" / "thesis").exists()
    assert stat.S_IMODE(trash[0].parent.stat().st_mode) == 0o700
    assert agent.call(PurgeAccount(name, 2), Outcome) == Outcome(name), "a purge can be repeated"


def test_a_purged_name_is_free_again_and_starts_empty(agent: AgentProcess) -> None:
    name = f"{PREFIX}again"
    made(agent, name)
    (Path("/home") / name / "old").touch()
    agent.call(PurgeAccount(name, 1), Outcome)
    (late,) = ensure(agent, Account(wish(name, 1), create=True))
    assert late.code == "conflict", "a wish from before the purge does not bring the account back"
    made(agent, name, generation=2)
    assert not (Path("/home") / name / "old").exists()


def test_a_link_in_a_home_is_not_followed_by_a_purge(agent: AgentProcess, tmp_path: Path) -> None:
    name = f"{PREFIX}links"
    made(agent, name)
    (tmp_path / "precious").write_text("x")
    (Path("/home") / name / "trap").symlink_to(tmp_path)
    assert agent.call(PurgePreview(name), Remains).home_bytes < 1_000_000
    agent.call(PurgeAccount(name, 1), Outcome)
    assert (tmp_path / "precious").read_text() == "x"


def test_the_log_tells_every_change_and_no_secret(agent: AgentProcess) -> None:
    name = f"{PREFIX}log"
    (hashed,) = agent.call(HashPasswords(["very secret phrase"]), list[str])
    ensure(agent, Account(wish(name), shadow=hashed, create=True))
    assert agent.logged(event="account ensured", name=name, caller=0)
    assert "very secret phrase" not in agent.raw_log()
    assert hashed not in agent.raw_log()


def test_another_holder_of_the_passwd_lock_is_waited_for(agent: AgentProcess) -> None:
    """lckpwdf(3) in another process for two seconds: the create waits, then is done."""
    code = "import ctypes,time; c=ctypes.CDLL(None); assert c.lckpwdf()==0; print('held',flush=True); time.sleep(2)"
    with subprocess.Popen(["python3", "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        start = time.monotonic()
        made(agent, f"{PREFIX}waits")
        assert 1.0 < time.monotonic() - start < 20


def test_a_caller_who_does_not_wait_is_told_and_the_work_is_done(agent: AgentProcess) -> None:
    name = f"{PREFIX}late"
    with pytest.raises(Unavailable, match="in time"):
        agent.call(EnsureAccounts([Account(wish(name), create=True)]), list[Outcome], deadline=0.001)
    for _ in range(100):
        if agent.logged(event="account ensured", name=name):
            break
        time.sleep(0.05)
    assert ensure(agent, Account(wish(name), create=True))[0].code == ""


def test_sync_makes_the_host_equal_and_the_second_time_does_nothing() -> None:
    for agent in running_agent():
        names = [f"{PREFIX}s{number}" for number in range(12)]
        wishes = [wish(name) for name in names]
        report = agent.sync(wishes)
        assert (sorted(report.created), report.failed, report.stopped) == (sorted(names), [], "")
        assert agent.sync(wishes) == SyncReport()
        subprocess.run(["usermod", "-s", "/bin/sh", names[0]], check=True)
        subprocess.run(["passwd", "-q", "-d", names[1]], check=True)
        subprocess.run(["userdel", names[2]], check=True)
        for limit in Path("/sys/fs/cgroup/cpu").glob(f"*/{names[3]}/cpu.cfs_quota_us"):
            limit.write_text("-1")
        report = agent.sync(wishes)
        assert set(report.mended) >= {names[0], names[2], names[3]}
        assert pwd.getpwnam(names[2]).pw_uid == os.stat(f"/home/{names[2]}").st_uid, "the home was kept, with its UID"
        assert agent.sync(wishes) == SyncReport(foreign=[names[1]]), "passwd -d is somebody else's word on a password"


def test_orphans_are_locked_never_removed_and_many_at_once_not_at_all() -> None:
    for agent in running_agent():
        names = [f"{PREFIX}o{number}" for number in range(8)]
        agent.sync([wish(name) for name in names])
        agent.stop()
        agent.start()  # forgets what was changed within the last minutes
        report = agent.sync([wish(name) for name in names[:3]])
        assert sorted(report.orphans) == names[3:]
        assert "5 of 8" in report.stopped
        assert [shadow_of(name)[7] for name in names] == [""] * 8
        report = agent.sync([wish(name) for name in names[:6]])
        assert (sorted(report.orphans), report.stopped) == (names[6:], "")
        assert [shadow_of(name)[7] for name in names] == [""] * 6 + ["1"] * 2
        assert all(Path(f"/home/{name}").is_dir() for name in names)
        assert sorted(agent.sync([wish(name) for name in names[:6]]).orphans) == names[6:]
        report = agent.sync([wish(name) for name in names])
        assert sorted(report.mended) == names[6:]
        assert [shadow_of(name)[7] for name in names] == [""] * 8


def test_an_orphans_home_is_given_to_no_new_user() -> None:
    for agent in running_agent():
        name = f"{PREFIX}orph"
        first = made(agent, name)
        secret = Path("/home") / name / "secret"
        secret.write_text("of the one before")
        agent.stop()
        agent.start()
        assert agent.sync([]).orphans == [name]
        (refused,) = ensure(agent, Account(wish(name, 2), create=True))
        assert (refused.code, refused.uid) == ("conflict", None)
        assert shadow_of(name)[7] == "1"
        report = agent.sync([wish(name, 2)])  # the row is back
        assert (report.mended, report.orphans, shadow_of(name)[7]) == ([name], [], "")
        agent.call(PurgeAccount(name, 3), Outcome)
        second = made(agent, name, generation=4)
        assert second.uid != first.uid
        assert not secret.exists()
        (again,) = ensure(agent, Account(wish(name, 4), create=True))
        assert again.code == ""


def test_a_second_agent_does_not_start(agent: AgentProcess) -> None:
    done = subprocess.run(agent.process.args, capture_output=True, text=True, check=False, timeout=20)  # type: ignore[call-overload]
    assert done.returncode == 8
    assert "Another agent" in done.stderr
    assert agent.call(Ping(), Pong).problem == ""


def test_a_home_with_a_mount_in_it_is_not_purged(agent: AgentProcess, tmp_path: Path) -> None:
    name = f"{PREFIX}mount"
    made(agent, name)
    (tmp_path / "course").write_text("precious")
    inside = Path("/home") / name / "data"
    if subprocess.run(["mount", "--bind", str(tmp_path), str(inside)], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(Conflict, match="umount"):
            agent.call(PurgeAccount(name, 2), Outcome)
        assert (tmp_path / "course").exists()
        assert shadow_of(name)[7] == "1", "locked in the meantime"
    finally:
        subprocess.run(["umount", str(inside)], check=True)
    assert agent.call(PurgeAccount(name, 2), Outcome).changed is True


def test_a_new_account_is_no_orphan_of_a_list_gathered_before() -> None:
    for agent in running_agent():
        made(agent, f"{PREFIX}fresh")
        report = agent.sync([])
        assert (report.orphans, report.stopped) == ([], "")
        assert shadow_of(f"{PREFIX}fresh")[7] == ""


def test_the_server_cannot_clear_the_house() -> None:
    for agent in running_agent():
        names = [f"{PREFIX}p{number}" for number in range(22)]
        agent.sync([wish(name) for name in names])
        for name in names[:20]:
            agent.call_as_server(PurgeAccount(name, 1), Outcome)
        with pytest.raises(TooManyRequests) as slowed:
            agent.call_as_server(PurgeAccount(names[20], 1), Outcome)
        assert 3000 < slowed.value.retry_after <= 3600
        agent.stop()
        agent.start()
        with pytest.raises(TooManyRequests):
            agent.call_as_server(PurgeAccount(names[20], 1), Outcome)
        assert Path(f"/home/{names[20]}").is_dir()
        assert agent.call(PurgeAccount(names[20], 1), Outcome).changed is True


def test_a_broken_file_stops_changes_and_says_so() -> None:
    for agent in running_agent():
        name = f"{PREFIX}broken"
        made(agent, name)
        agent.stop()
        good = agent.paths.managed.read_text()
        for broken in (good.replace("active", "actve"), good[:-1], "", good + good.splitlines()[1] + "\n"):
            agent.paths.managed.write_text(broken)
            agent.start()
            assert "broken" in agent.call(Ping(), Pong).problem
            assert "broken" in agent.call(Capacity(), HostCapacity).unsupported
            for message in (EnsureAccounts([Account(wish(f"{PREFIX}new"), create=True)]), PurgeAccount(name, 9)):
                with pytest.raises(Unavailable):
                    agent.call(message, list[Outcome])
            for limit in Path("/sys/fs/cgroup/memory").glob(f"*/{name}/memory.limit_in_bytes"):
                assert limit.read_text().strip() == str(2 << 30), "the default limits hold for the whole range"
            agent.stop()
        agent.paths.managed.unlink()
        agent.start()
        assert agent.call(Ping(), Pong).problem, "a file that was lost is not an empty one"
        agent.stop()
        agent.paths.managed.write_text(good)
        agent.start()
        assert agent.call(Ping(), Pong).problem == ""


def test_limits_are_back_after_a_boot_before_the_server_is_up() -> None:
    for agent in running_agent():
        name = f"{PREFIX}boot"
        made(agent, name)
        agent.stop()
        limits = list(Path("/sys/fs/cgroup/memory").glob(f"*/{name}/memory.limit_in_bytes"))
        if not limits:
            pytest.skip("no cgroup v1 memory controller")
        for folder in Path("/sys/fs/cgroup").glob(f"*/{CGROUP}/{name}"):
            remove_groups(folder)
        agent.start()
        assert limits[0].read_text().strip() == str(64 << 20)


def test_sigterm_finishes_what_runs() -> None:
    for agent in running_agent():
        names = [f"{PREFIX}t{number}" for number in range(20)]
        pid = os.fork()
        if pid == 0:
            try:
                ensure(agent, *(Account(wish(name), create=True) for name in names))
                os._exit(0)
            except BaseException:
                os._exit(1)
        time.sleep(0.1)
        assert agent.stop() == 0
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the caller got its answer"
        assert all(Path(f"/home/{name}").is_dir() for name in names)


def test_root_only(agent: AgentProcess) -> None:
    argv = ["setpriv", "--reuid=57991", "--clear-groups", *agent.process.args]  # type: ignore[misc]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode != 0


def test_only_managed_accounts_can_be_purged(agent: AgentProcess) -> None:
    for name in ("root", "daemon", "nobody"):
        with pytest.raises(PermissionDenied):
            agent.call(PurgeAccount(name, 2**40), Outcome)
