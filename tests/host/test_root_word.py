"""What holds only on root's word, with real accounts, slices, sudo and archives: adopt, sudo, archive, trash."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diycloud.agent import adopt, archive, changes, reconcile
from diycloud.agent import sudo as root_words
from diycloud.agent.client import call_blocking
from diycloud.agent.protocol import (
    Account,
    Archived,
    ArchiveHome,
    ChangeOwnPassword,
    EnsureAccounts,
    GrantSudo,
    Limits,
    ListTrash,
    Outcome,
    PurgeAccount,
    State,
    StopWorkloads,
    Trashed,
    Wish,
)
from diycloud.agent.registry import Registry
from diycloud.agent.state import Agent, Caller, Role
from diycloud.config import AgentSettings
from diycloud.errors import DiyCloudError, PermissionDenied, TooManyRequests, Unauthenticated, Unavailable, Unsupported
from diycloud.host import shadow, sudo
from diycloud.host.accounts import stop_processes
from diycloud.host.slices import detect_slices
from diycloud.system import Local, System
from tests.host.agent_process import as_user
from tests.killing import every_step
from tests.stack import SERVER_USER, Stack, remove_cgroups

UID_MIN, UID_MAX, CGROUP = 57_000, 57_099, "dtroot"
KILLED = "dtrootk"
ARCHIVES = Path("/var/tmp/dtroot-archives")
OUTSIDE = 57_950
"""A number above the range."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.getuid() != 0, reason="accounts can be made by root only"),
]


def clean() -> None:
    for account in list(pwd.getpwall()):
        if account.pw_name.startswith("dtroot"):
            subprocess.run(["userdel", "-f", account.pw_name], capture_output=True, check=False)
            shutil.rmtree(account.pw_dir, ignore_errors=True)
    shutil.rmtree(ARCHIVES, ignore_errors=True)
    for path in (sudo.DROP_IN, sudo.STAGED):
        path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    clean()
    settings = f"  allow_sudo: true\n  archive: {ARCHIVES}\n"
    with Stack(uid_min=UID_MIN, uid_max=UID_MAX, cgroup=CGROUP, settings=settings) as stack:
        yield stack
    clean()


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    for account in list(pwd.getpwall()):
        if account.pw_name.startswith("dtroot"):
            stop_processes(Local(), account.pw_uid)


def socket_of(stack: Stack) -> Path:
    return stack.prefix / "run/diycloud/agent/agent.sock"


def as_root(stack: Stack, message, answer):
    return call_blocking(socket_of(stack), message, answer)


def as_server(stack: Stack, message, answer):
    server = pwd.getpwnam(SERVER_USER)
    return as_user(server.pw_uid, lambda: call_blocking(socket_of(stack), message, answer), server.pw_gid)


def free_uid(stack: Stack) -> int:
    """A number of the range that neither an account has nor the agent will give before it was adopted."""
    following = int((stack.prefix / "var/lib/diycloud/agent/managed").read_text().split()[2])
    return max([following, *(a.pw_uid + 1 for a in pwd.getpwall() if UID_MIN <= a.pw_uid <= UID_MAX)])


def make_account(name: str, uid: int, *options: str) -> Path:
    subprocess.run(["useradd", "-m", "-U", "-u", str(uid), "-s", "/bin/bash", *options, name], check=True)
    home = Path(f"/home/{name}")
    (home / "thesis.txt").write_text("years of work")
    (home / "odd").mkdir(mode=0o2775)
    (home / "link").symlink_to("/etc/passwd")
    for path in (home / "thesis.txt", home / "odd", home / "link"):
        os.chown(path, uid, uid, follow_symlinks=False)
    (home / "odd").chmod(0o2775)
    home.chmod(0o711)
    return home


def tree(folder: Path) -> list[tuple]:
    """Everything about a folder that a look at it can tell, but the times of access."""
    found = []
    for path in [folder, *sorted(folder.rglob("*"))]:
        info = path.lstat()
        text = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(info.st_mode) else ""
        found.append((str(path), info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_ctime_ns, text))
    return found


def host_lines(name: str) -> list[str]:
    files = ("passwd", "shadow", "group", "gshadow")
    return [line for file in files for line in Path("/etc", file).read_text().splitlines() if f"{name}:" in line]


def row(stack: Stack, name: str) -> dict:
    return stack.json("user", "show", name)


# -- archives


def user_with_a_hostile_home(stack: Stack, name: str) -> Path:
    stack.cli("user", "create", name)
    uid, home = pwd.getpwnam(name).pw_uid, Path(f"/home/{name}")
    (home / "data/numbers").write_bytes(os.urandom(300_000))
    (home / "tool").write_text("#!/bin/sh\n")
    (home / "etc").symlink_to("/etc/shadow")
    os.mkfifo(home / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "socket"))
    with (home / "holes").open("wb") as file:
        file.write(b"start")
        file.seek(1 << 30)
        file.write(b"end")
    os.link(home / "tool", home / "tool-too")
    for path in home.rglob("*"):
        os.chown(path, uid, uid, follow_symlinks=False)
    (home / "tool").chmod(0o6755)
    (home / "not-mine").write_text("root's")
    (home / "not-mine").chmod(0o600)
    return home


def only_archive(name: str) -> Path:
    (found,) = [path for path in ARCHIVES.iterdir() if path.name.startswith(f"{name}-")]
    return found


def test_a_purge_packs_the_home_first_as_its_owner(stack: Stack) -> None:
    home = user_with_a_hostile_home(stack, "dtroota1")
    uid, numbers = pwd.getpwnam("dtroota1").pw_uid, (home / "data/numbers").read_bytes()
    stack.cli("user", "delete", "dtroota1")
    purged = stack.json("user", "purge", "dtroota1", "--archive", "--yes")
    path = only_archive("dtroota1")
    assert (purged["archive"], "3 entries" in purged["warnings"][0]) == (str(path), True)
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) == (0o600, 0)
    assert (stat.S_IMODE(ARCHIVES.stat().st_mode), path.name.startswith(f"dtroota1-{uid}-")) == (0o700, True)
    assert not home.exists()
    into = ARCHIVES / "out"
    into.mkdir()
    subprocess.run(["tar", "-xpf", str(path), "-C", str(into)], check=True)
    top = into / "dtroota1"
    assert (top / "data/numbers").read_bytes() == numbers
    assert stat.S_IMODE((top / "tool").stat().st_mode) == 0o755, "set-user-ID is gone"
    assert (top / "tool").samefile(top / "tool-too")
    assert os.readlink(top / "etc") == "/etc/shadow"
    assert not any((top / name).exists() for name in ("fifo", "socket", "not-mine"))
    assert (top / "holes").stat().st_size == (1 << 30) + 3 and path.stat().st_size < 2 << 20
    assert {(p.lstat().st_uid, p.lstat().st_gid) for p in top.rglob("*")} == {(uid, uid)}


def test_the_packing_process_is_the_user_in_the_users_slice(stack: Stack) -> None:
    stack.cli("user", "create", "dtroota2")
    uid, home = pwd.getpwnam("dtroota2").pw_uid, Path("/home/dtroota2")
    with (home / "data/big").open("wb") as file:
        for _ in range(400):
            file.write(os.urandom(1 << 20))
    os.chown(home / "data/big", uid, uid)
    stack.cli("user", "delete", "dtroota2")
    waiting = subprocess.Popen(
        [sys.executable, "-m", "diycloud.cli.main", "--prefix", str(stack.prefix), "user", "purge", "dtroota2",
         "--archive", "--yes"], stdout=subprocess.DEVNULL,
    )  # fmt: skip
    seen: set[tuple[int, str]] = set()
    end = time.monotonic() + 60
    while waiting.poll() is None and time.monotonic() < end:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if any(word.endswith(b"packing.py") for word in words) and b"python" in words[0]:
                    groups = (folder / "cgroup").read_text()
                    seen.add((folder.stat().st_uid, str(f"/{CGROUP}/dtroota2" in groups)))
            except OSError:
                continue
        time.sleep(0.02)
    assert waiting.wait(60) == 0
    assert (uid, "True") in seen, seen
    assert not [one for one in seen if one[0] == 0 and one[1] != "True"], "not even its first moment is outside"


def test_a_home_that_cannot_be_packed_stops_the_purge_and_nothing_is_gone(stack: Stack) -> None:
    stack.cli("user", "create", "dtroota3")
    stack.cli("user", "delete", "dtroota3")
    ARCHIVES.mkdir(exist_ok=True)
    mine = Path("/home/dtroota3/data")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mine)], check=True)
    try:
        refused = stack.cli("user", "purge", "dtroota3", "--archive", "--yes", ok=6)
    finally:
        subprocess.run(["umount", str(mine)], check=True)
    assert "mounted" in refused.stderr
    assert (row(stack, "dtroota3")["status"], mine.is_dir()) == ("deleted", True)
    assert not [path for path in ARCHIVES.iterdir() if "dtroota3" in path.name]
    stack.cli("user", "purge", "dtroota3", "--archive", "--yes")
    assert only_archive("dtroota3").exists() and not mine.exists()


def test_a_disk_that_is_full_stops_the_purge(stack: Stack) -> None:
    stack.cli("user", "create", "dtroota4")
    (Path("/home/dtroota4") / "data/some").write_bytes(b"x" * 100_000)
    stack.cli("user", "delete", "dtroota4")
    ARCHIVES.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(ARCHIVES)], check=True)
    try:
        refused = stack.cli("user", "purge", "dtroota4", "--archive", "--yes", ok=8)
    finally:
        subprocess.run(["umount", str(ARCHIVES)], check=True)
    assert "free" in refused.stderr and "agent.archive" in refused.stderr
    assert row(stack, "dtroota4")["status"] == "deleted"
    assert Path("/home/dtroota4/data/some").exists()


def test_an_open_account_is_not_archived(stack: Stack) -> None:
    stack.cli("user", "create", "dtroota5")
    for ask in (as_root, as_server):
        with pytest.raises(DiyCloudError, match="not locked"):
            ask(stack, ArchiveHome("dtroota5"), Archived)


def test_an_archive_is_made_once_for_a_home_as_it_is(stack: Stack) -> None:
    stack.cli("user", "create", "dtroota6")
    stack.cli("user", "delete", "dtroota6")
    first = as_server(stack, ArchiveHome("dtroota6"), Archived)
    assert as_server(stack, ArchiveHome("dtroota6"), Archived) == first
    time.sleep(1.1)  # an archive's name has seconds
    Path("/home/dtroota6/new").touch()
    second = as_server(stack, ArchiveHome("dtroota6"), Archived)
    assert second.path != first.path and "dtroota6/new" in names_in(Path(second.path))


def names_in(path: Path) -> list[str]:
    done = subprocess.run(["tar", "-tf", str(path)], capture_output=True, text=True, check=True)
    return [line.rstrip("/") for line in done.stdout.splitlines()]


def fresh_agent(system: System, state: Path) -> Agent:
    """The agent as its start makes it, with what is on disk."""
    registry = Registry(system, state / "managed", uid_min=57_060, uid_max=UID_MAX)
    slices = detect_slices(system, KILLED)
    settings = AgentSettings(uid_min=57_060, uid_max=UID_MAX, cgroup=KILLED, archive=str(ARCHIVES), allow_sudo=True)
    agent = Agent(system, settings, registry, None if isinstance(slices, Unsupported) else slices, grace_s=0)
    for _ in reconcile.restore_limits(agent):
        pass
    return agent


ROOT = Caller(0, 1, Role.ROOT)


@pytest.fixture
def places() -> Iterator[None]:
    ARCHIVES.mkdir(mode=0o700, exist_ok=True)
    yield
    sudo.DROP_IN.unlink(missing_ok=True)
    remove_cgroups(KILLED)
    subprocess.run(["userdel", "-rf", KILLED], capture_output=True, check=False)


def test_a_purge_with_archive_that_is_killed_is_completed_by_the_same(places: None, tmp_path: Path) -> None:
    """One archive, whole; one home in the trash; no account; whatever was cut off."""

    def prepare() -> None:
        for path in (*ARCHIVES.glob(f"*{KILLED}*"), *Path("/home/.diycloud-trash").glob(f"{KILLED}.*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        agent = fresh_agent(Local(), tmp_path)
        made = Account(Wish(KILLED, 1 << 20, Limits(0.5, 64 << 20, 50), State.LOCKED), create=True)
        (outcome,) = changes.ensure_accounts(agent, ROOT, [made])
        assert outcome.code == "", outcome
        Path(f"/home/{KILLED}/data/thesis").write_text("years of work")

    def purge(agent: Agent) -> None:
        archive.archive_home(agent, ROOT, KILLED)
        changes.purge_account(agent, ROOT, PurgeAccount(KILLED, (1 << 20) + 1))

    prepare()
    steps = 0
    for step in every_step(lambda system: purge(fresh_agent(system, tmp_path))):
        steps += 1
        archived = any(not path.name.startswith(".") for path in ARCHIVES.glob(f"*{KILLED}*"))
        assert archived or Path(f"/home/{KILLED}/data/thesis").exists(), (
            f"{step}: nothing goes before the archive is whole"
        )
        purge(fresh_agent(Local(), tmp_path))
        (packed,) = ARCHIVES.glob(f"*{KILLED}*")
        assert f"{KILLED}/data/thesis" in names_in(packed), step
        (trashed,) = Path("/home/.diycloud-trash").glob(f"{KILLED}.*")
        assert (trashed / "data/thesis").read_text() == "years of work", step
        with pytest.raises(KeyError):
            pwd.getpwnam(KILLED)
        (tmp_path / "managed").unlink()
        (tmp_path / "started").unlink()
        prepare()
    assert steps > 8, "the purge has steps"


def test_an_adoption_that_is_killed_is_completed_by_the_same(places: None, tmp_path: Path) -> None:
    home = make_account(KILLED, 57_070)
    before, lines = tree(home), host_lines(KILLED)
    wish = Wish(KILLED, 1 << 20, Limits(0.5, 64 << 20, 50))

    def adopted(system: System) -> Outcome:
        return adopt.adopt_accounts(fresh_agent(system, tmp_path), ROOT, [wish])[0]

    fresh_agent(Local(), tmp_path)  # its own file is there
    steps = 0
    for step in every_step(adopted):
        steps += 1
        agent = fresh_agent(Local(), tmp_path)
        outcome = adopt.adopt_accounts(agent, ROOT, [wish])[0]
        assert (outcome.code, outcome.uid, agent.registry.entries[KILLED].uid) == ("", 57_070, 57_070), step
        ensured = changes.ensure_accounts(agent, ROOT, [Account(wish)])[0]  # what the server sends then
        assert ensured.code == "", (step, ensured)
        assert agent.slices is None or agent.slices.read_limits(KILLED, 57_070) is not None, step
        assert (tree(home), host_lines(KILLED)) == (before, lines), step
        if agent.slices is not None:
            agent.slices.remove(KILLED, 57_070)
        agent.registry.forget([KILLED])
    assert steps > 3


@pytest.mark.skipif(shutil.which("visudo") is None, reason="sudo is not installed")
@pytest.mark.parametrize("granted", [True, False])
def test_a_grant_and_a_revoke_that_are_killed_are_completed_by_the_same(
    places: None, tmp_path: Path, granted: bool
) -> None:
    """And whoever has rights by a line of ours is in the agent's file, at every moment."""
    make = Account(Wish(KILLED, 1 << 20, Limits(0.5, 64 << 20, 50)), create=True)
    assert changes.ensure_accounts(fresh_agent(Local(), tmp_path), ROOT, [make])[0].code == ""

    def word(system: System, wanted: bool) -> None:
        root_words.grant_sudo(fresh_agent(system, tmp_path), ROOT, GrantSudo(KILLED, wanted))

    word(Local(), not granted)
    steps = 0
    for step in every_step(lambda system: word(system, granted)):
        steps += 1
        listed = (tmp_path / "administrators").exists() and KILLED in (tmp_path / "administrators").read_text()
        assert listed or not may_do_all(KILLED), step
        word(Local(), granted)
        assert may_do_all(KILLED) is granted, step
        assert (KILLED in (tmp_path / "administrators").read_text(), sudo.STAGED.exists()) == (granted, False), step
        word(Local(), not granted)
    assert steps >= 2


def test_an_agent_that_stops_gives_an_archive_up_and_leaves_no_half(stack: Stack) -> None:
    stack.cli("user", "create", "dtroota8")
    uid = pwd.getpwnam("dtroota8").pw_uid
    with Path("/home/dtroota8/data/big").open("wb") as file:
        for _ in range(300):
            file.write(os.urandom(1 << 20))
    os.chown("/home/dtroota8/data/big", uid, uid)
    stack.cli("user", "delete", "dtroota8")
    part = ARCHIVES / f".dtroota8-{uid}.part"
    with ThreadPoolExecutor(1) as thread:
        packing = thread.submit(as_root, stack, ArchiveHome("dtroota8"), Archived)
        while not (part.exists() and part.stat().st_size > 1 << 20):
            assert not packing.done(), packing.exception()
            time.sleep(0.01)
        started = time.monotonic()
        stack.stop_agent()
        assert time.monotonic() - started < 5
        with pytest.raises(Unavailable, match=r"gave up|does not answer"):
            packing.result()
    assert not part.exists() and not list(ARCHIVES.glob("dtroota8-*"))
    assert Path("/home/dtroota8/data/big").exists()
    stack.start_agent()
    assert as_root(stack, ArchiveHome("dtroota8"), Archived).bytes > 300 << 20


# -- adopt


def test_an_account_is_adopted_and_nothing_of_it_is_touched(stack: Stack) -> None:
    uid = free_uid(stack)
    home = make_account("dtroot-ada", uid, "-c", "Ada Lovelace,room 1")
    runs = subprocess.Popen(["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "sleep", "300"])
    before, lines = tree(home), host_lines("dtroot-ada")
    shown = stack.cli("user", "adopt", "--dry-run").stdout
    assert "dtroot-ada" in shown
    done = stack.json("user", "adopt", "dtroot-ada", "--memory", "256M")
    assert done["accounts"] == [{"username": "dtroot-ada", "outcome": "adopted", "uid": uid, "note": ""}]
    user = row(stack, "dtroot-ada")
    assert (user["uid"], user["status"], user["settled"], user["full_name"]) == (uid, "active", True, "Ada Lovelace")
    assert (tree(home), host_lines("dtroot-ada")) == (before, lines)
    for controller in ("memory", "pids", "cpu", "cpuacct"):
        assert f"/{CGROUP}/dtroot-ada" in Path(f"/proc/{runs.pid}/cgroup").read_text(), controller
    limit = Path(f"/sys/fs/cgroup/memory/{CGROUP}/dtroot-ada/memory.limit_in_bytes").read_text()
    assert int(limit) == 256 << 20
    runs.kill()
    runs.wait()
    again = stack.json("user", "adopt", "dtroot-ada")
    assert again["accounts"][0]["outcome"] == "adopted"
    stack.cli("limits", "set", "dtroot-ada", "--memory", "128M")
    assert tree(home) == before
    assert "dtroot-ada" not in stack.cli("user", "adopt", "--dry-run").stdout


def test_an_account_that_the_sign_in_hook_passes_by_is_adopted_with_a_warning(stack: Stack) -> None:
    make_account("dtroot-old", 1907)
    (done,) = stack.json("user", "adopt", "dtroot-old")["accounts"]
    assert done["outcome"] == "adopted" and "agent.uid_min to 1907 or lower" in done["note"]
    assert row(stack, "dtroot-old")["uid"] == 1907
    stack.cli("user", "create", "dtroot-new")
    assert UID_MIN <= row(stack, "dtroot-new")["uid"] <= UID_MAX, "the range is as it was"


def test_what_cannot_be_adopted_is_told_why(stack: Stack) -> None:
    make_account("dtroot-adm", free_uid(stack), "-G", "sudo")
    make_account("dtroot-far", OUTSIDE)
    home = make_account("dtroot-link", free_uid(stack))
    home.rename("/home/dtroot-moved")
    home.symlink_to("/home/dtroot-moved")
    make_account("dtroot-nosh", free_uid(stack), "-s", "/usr/sbin/nologin")
    number = str(pwd.getpwnam("dtroot-link").pw_uid)
    subprocess.run(["useradd", "-M", "-o", "-u", number, "dtroot-twin"], check=True)
    make_account("dtroot-lock", free_uid(stack))
    subprocess.run(["usermod", "-p", shadow.hash_password("x y z", "$6$"), "dtroot-lock"], check=True)
    subprocess.run(["usermod", "-L", "dtroot-lock"], check=True)
    try:
        found = {one["name"]: one["problem"] for one in _json_list(stack, "user", "adopt", "--dry-run")}
        words = {
            "dtroot-adm": "sudo", "dtroot-link": "another name", "dtroot-twin": "another name", "dtroot-nosh": "shell",
            "dtroot-lock": "locked",
        }  # fmt: skip
        for name, word in words.items():
            assert word in found[name], (name, found[name])
            refused = stack.json("user", "adopt", name, ok=2)["accounts"][0]
            assert (refused["outcome"], word in refused["note"]) == ("refused", True)
            stack.cli("user", "show", name, ok=5)
        assert "dtroot-far" not in found
        subprocess.run(["userdel", "-f", "dtroot-twin"], check=True)
        assert "is no directory" in stack.json("user", "adopt", "dtroot-link", ok=2)["accounts"][0]["note"]
    finally:
        home.unlink()
        shutil.rmtree("/home/dtroot-moved")


def _json_list(stack: Stack, *words: str) -> list[dict]:
    return stack.json(*words)  # type: ignore[return-value]


def test_the_server_alone_adopts_nobody(stack: Stack) -> None:
    from diycloud.agent.protocol import Adoptable, AdoptAccounts, FindAdoptable

    uid = free_uid(stack)
    make_account("dtroot-bob", uid)
    wish = Wish("dtroot-bob", 1 << 25, Limits(0.5, 64 << 20, 50), shell="/bin/bash")
    for message, answer in (
        (AdoptAccounts([wish]), list[Outcome]),
        (FindAdoptable(), list[Adoptable]),
        (GrantSudo("dtroot-bob", True), Outcome),
    ):
        with pytest.raises(PermissionDenied, match="server may not"):
            as_server(stack, message, answer)
    status, _, body = stack.http(
        "POST", "/api/v1/users/dtroot-bob/adopt", {"uid": uid, "shell": "/bin/bash"}
    )  # uid 0 at the socket: the row waits
    assert (status, body["user"]["settled"]) == (200, False)
    outcome = as_server(stack, EnsureAccounts([Account(wish, shadow.hash_password("abc", "$6$"))]), list[Outcome])[0]
    assert outcome.code == "conflict", "a row of the server's makes nobody managed"
    # A row whose account was never adopted is seen, and can be removed.
    assert row(stack, "dtroot-bob")["status"] == "pending"
    stack.cli("user", "delete", "dtroot-bob")
    stack.cli("user", "purge", "dtroot-bob", "--yes")
    stack.cli("user", "show", "dtroot-bob", ok=5)
    assert pwd.getpwnam("dtroot-bob").pw_uid == uid and Path("/home/dtroot-bob/thesis.txt").exists()


def test_an_adoption_that_was_cut_off_is_completed_by_the_same_command(stack: Stack) -> None:
    from diycloud.agent.protocol import AdoptAccounts

    uid = free_uid(stack)
    make_account("dtroot-eve", uid)
    asked = {"uid": uid, "shell": "/bin/bash"}
    stack.http("POST", "/api/v1/users/dtroot-eve/adopt", asked)  # the wish was stored, then came the kill
    assert stack.json("user", "adopt", "dtroot-eve")["accounts"][0]["outcome"] == "adopted"
    uid = free_uid(stack)
    make_account("dtroot-fay", uid)
    _, _, body = stack.http("POST", "/api/v1/users/dtroot-fay/adopt", asked | {"uid": uid})
    wish = Wish("dtroot-fay", body["user"]["version"], Limits(1.0, 64 << 20, 50), shell="/bin/bash")
    assert as_root(stack, AdoptAccounts([wish]), list[Outcome])[0].code == ""  # root's word was given, then the kill
    assert not row(stack, "dtroot-fay")["settled"]
    assert stack.json("user", "adopt", "dtroot-fay")["accounts"][0]["outcome"] == "adopted"
    assert row(stack, "dtroot-fay")["settled"]


def test_an_adopted_user_is_purged_like_any_other(stack: Stack) -> None:
    make_account("dtroot-gil", free_uid(stack))
    stack.cli("user", "adopt", "dtroot-gil")
    stack.cli("user", "delete", "dtroot-gil")
    stack.cli("user", "purge", "dtroot-gil", "--archive", "--yes")
    with pytest.raises(KeyError):
        pwd.getpwnam("dtroot-gil")
    assert "dtroot-gil/thesis.txt" in names_in(only_archive("dtroot-gil"))


# -- sudo


needs_sudo = pytest.mark.skipif(shutil.which("visudo") is None, reason="sudo is not installed")
PASSWORD = "correct horse battery"


def may_do_all(name: str) -> bool:
    done = subprocess.run(["sudo", "-n", "-l", "-U", name], capture_output=True, text=True, check=False)
    return "(ALL : ALL) ALL" in done.stdout


@needs_sudo
def test_sudo_is_granted_and_revoked_on_roots_word(stack: Stack) -> None:
    stack.cli("user", "create", "dtroots1", "--password", "-", input=PASSWORD + "\n")
    assert not may_do_all("dtroots1")
    stack.cli("user", "sudo", "dtroots1", "--grant")
    assert may_do_all("dtroots1") and row(stack, "dtroots1")["sudo"]
    assert sudo.DROP_IN.read_text().endswith("\ndtroots1 ALL=(ALL:ALL) ALL\n")
    assert (stat.S_IMODE(sudo.DROP_IN.stat().st_mode), sudo.DROP_IN.stat().st_uid) == (0o440, 0)
    assert not sudo.STAGED.exists()
    assert not as_root(stack, GrantSudo("dtroots1", True), Outcome).changed, "again changes nothing"
    stack.cli("user", "sudo", "dtroots1", "--revoke")
    assert not may_do_all("dtroots1") and not row(stack, "dtroots1")["sudo"] and not sudo.DROP_IN.exists()


@needs_sudo
def test_what_a_stolen_server_can_do_to_an_administrator(stack: Stack) -> None:
    """Lock, end programs, set limits; nothing that opens a way in."""
    stack.cli("user", "create", "dtroots2", "--password", "-", input=PASSWORD + "\n")
    stack.cli("user", "sudo", "dtroots2", "--grant")
    version, lines = row(stack, "dtroots2")["version"], host_lines("dtroots2")
    evil = shadow.hash_password("evil", "$6$")

    def ask(shadow_hash: str | None = None, **others) -> Outcome:
        fields = {"generation": version, "limits": Limits(0.5, 64 << 20, 50)} | others
        return as_server(
            stack, EnsureAccounts([Account(Wish("dtroots2", **fields), shadow=shadow_hash)]), list[Outcome]
        )[0]

    for outcome in (ask(evil), ask(shell="/bin/sh"), ask(full_name="Someone Else")):
        assert outcome.code == "permission-denied" and "--revoke" in outcome.message, outcome
    with pytest.raises(PermissionDenied):
        as_server(stack, ArchiveHome("dtroots2"), Archived)
    with pytest.raises(PermissionDenied):
        as_server(stack, PurgeAccount("dtroots2", version), Outcome)
    assert host_lines("dtroots2") == lines and may_do_all("dtroots2")
    assert ask().code == "", "limits"
    limit = Path(f"/sys/fs/cgroup/memory/{CGROUP}/dtroots2/memory.limit_in_bytes").read_text()
    assert int(limit) == 64 << 20
    assert as_server(stack, StopWorkloads("dtroots2"), int) == 0
    assert ask(state=State.LOCKED).code == "", "locking"
    assert pwd.getpwnam("dtroots2") and ":!$" in "\n".join(host_lines("dtroots2"))
    assert ask().code == "permission-denied", "and opening again is root's"
    stack.cli("user", "sudo", "dtroots2", "--revoke")
    assert ask().code == ""


@needs_sudo
def test_an_administrator_changes_the_password_with_the_old_one_only(stack: Stack) -> None:
    stack.cli("user", "create", "dtroots3", "--password", "-", input=PASSWORD + "\n")
    stack.cli("user", "sudo", "dtroots3", "--grant")
    token = stack.token("dtroots3", PASSWORD)
    assert stack.cli("user", "set-password", "dtroots3", ok=6).stderr.count("only they themselves")
    status, _, body = stack.http(
        "PUT", "/api/v1/account/password", {"current": PASSWORD, "password": "another long phrase"},
        headers={"Authorization": f"Bearer {token}", "X-Forwarded-For": "192.0.2.7"},
    )  # fmt: skip
    assert status == 200, body
    field = next(line for line in Path("/etc/shadow").read_text().splitlines() if line.startswith("dtroots3:")).split(
        ":"
    )[1]
    assert shadow.verify_password("another long phrase", field)
    assert stack.token("dtroots3", "another long phrase")
    stolen = ChangeOwnPassword("dtroots3", "a guess", shadow.hash_password("evil", "$6$"))
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            as_server(stack, stolen, Outcome)
    with pytest.raises(TooManyRequests):
        as_server(stack, stolen, Outcome)
    assert field in Path("/etc/shadow").read_text()


@needs_sudo
def test_a_purge_takes_the_line_for_sudo_out(stack: Stack) -> None:
    stack.cli("user", "create", "dtroots4")
    stack.cli("user", "sudo", "dtroots4", "--grant")
    stack.cli("user", "delete", "dtroots4")
    stack.cli("user", "purge", "dtroots4", "--yes", ok=4)
    assert as_root(stack, PurgeAccount("dtroots4", row(stack, "dtroots4")["version"]), Outcome).code == ""
    left = sudo.DROP_IN.read_text() if sudo.DROP_IN.exists() else ""
    assert "dtroots4" not in left and "dtroots4" not in Path("/etc/passwd").read_text()
    stack.cli("user", "purge", "dtroots4", "--yes")


# -- trash


def test_the_trash_is_listed_and_emptied_by_root(stack: Stack) -> None:
    from diycloud.agent.protocol import EmptyTrash

    for name in ("dtroott1", "dtroott2"):
        stack.cli("user", "create", name)
        stack.cli("user", "delete", name)
        stack.cli("user", "purge", name, "--yes")
    found = {item.name: item for item in as_root(stack, ListTrash(), list[Trashed])}
    assert {"dtroott1", "dtroott2"} <= found.keys() and found["dtroott1"].bytes > 0
    with pytest.raises(PermissionDenied, match="server may not"):
        as_server(stack, EmptyTrash([found["dtroott1"].folder]), list[str])
    for outside in ("/home/dtroott1.57000.1", "/home/.diycloud-trash/../dtroott1.1.1"):
        with pytest.raises(PermissionDenied, match="not in the trash"):
            as_root(stack, EmptyTrash([outside]), list[str])
    assert "dtroott1" in stack.cli("trash", "list").stdout
    assert "nothing to remove" in stack.cli("trash", "empty", "dtroott1", "--older-than", "1", "--yes").stdout
    stack.cli("trash", "empty", "dtroott1", ok=2)
    stack.cli("trash", "empty", "dtroott1", "--yes")
    assert not Path(found["dtroott1"].folder).exists() and Path(found["dtroott2"].folder).exists()
    stack.cli("trash", "empty", "dtroott1", "--yes", ok=5)
