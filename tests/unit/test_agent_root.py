"""What holds on root's word only: what is refused before anything is changed, on a host in memory."""

from __future__ import annotations

import io
import os
import socket
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from diycloud.agent import adopt, archive, changes, sudo
from diycloud.agent.administrators import Administrators, Guesses
from diycloud.agent.handlers import TABLE, handler_for
from diycloud.agent.protocol import (
    Account,
    AdoptAccounts,
    ChangeOwnPassword,
    EmptyTrash,
    FindAdoptable,
    GrantSudo,
    Limits,
    ListTrash,
    Message,
    PurgeAccount,
    State,
    Wish,
)
from diycloud.agent.registry import Registry
from diycloud.agent.state import Agent, Caller, Role
from diycloud.config import AgentSettings
from diycloud.errors import (
    Conflict,
    DiyCloudError,
    HostError,
    PermissionDenied,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from diycloud.host import packing, shadow
from diycloud.host import sudo as host_sudo
from diycloud.host.archive import find_archive, pack_home
from diycloud.host.cgroup import Tree, entering
from diycloud.host.systemd_slices import SystemdSlices
from diycloud.system import Local, Owner, Result
from diycloud.system.fake import Fake, File

STATE = "/var/lib/diycloud/agent"
ALICE = "alice 20000 3 active 50000 67108864 50\n"
LIMITS = Limits(0.5, 64 << 20, 50)
ROOT, SERVER = Caller(0, 1, Role.ROOT), Caller(990, 1, Role.SERVER)
ME = Owner(os.getuid(), os.getgid())
HASH = shadow.hash_password("the old one", "$6$")
NEW = "$6$abcdefgh$" + "x" * 86


def make(
    home: Path, *more: str, allow_sudo: bool = True, sudoers: str = "root ALL=(ALL:ALL) ALL\n"
) -> tuple[Fake, Agent]:
    """An agent on a host in memory, without limits; the homes are real. more: lines of passwd, `NAME:UID:HOME`."""
    accounts = [("alice", 20_000, f"{home}/alice"), *((n, int(u), h) for n, u, h in (line.split(":") for line in more))]
    (home / "alice").mkdir(exist_ok=True)
    fake = Fake(
        {
            "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\n"
            + "".join(f"{name}:x:{uid}:{uid}:{name} Full,,:{place}:/bin/bash\n" for name, uid, place in accounts),
            "/etc/group": "root:x:0:\nsudo:x:27:erin\n" + "".join(f"{name}:x:{uid}:\n" for name, uid, _ in accounts),
            "/etc/shadow": "".join(f"{name}:{HASH}:1:0:9:7:::\n" for name, _, _ in accounts),
            "/etc/shells": "/bin/bash\n/bin/sh\n", "/etc/sudoers": sudoers, "/etc/sudoers.d/README": "",
            "/proc/meminfo": "MemTotal: 8000000 kB\n", "/proc/self/mountinfo": "",
            f"{STATE}/started": "", f"{STATE}/managed": "diycloud-managed 1 20001\n" + ALICE,
        },
        {f"visudo -c -q -f {host_sudo.STAGED}": ""},
    )  # fmt: skip
    settings = AgentSettings(home=str(home), allow_sudo=allow_sudo, archive=str(home / "archives"), uid_max=20_100)
    registry = Registry(fake, Path(f"{STATE}/managed"), uid_min=20_000, uid_max=20_100)
    return fake, Agent(fake, settings, registry, None, grace_s=0)


def agent_after_a_restart(fake: Fake, agent: Agent) -> Agent:
    registry = Registry(fake, Path(f"{STATE}/managed"), uid_min=20_000, uid_max=20_100)
    return Agent(fake, agent.settings, registry, None, grace_s=0)


@pytest.mark.parametrize(
    "message",
    [FindAdoptable(), AdoptAccounts([Wish("bob", 1, LIMITS)]), GrantSudo("alice", True), ListTrash(), EmptyTrash(["/t/a.1.1"])],
    ids=lambda message: type(message).__name__,
)  # fmt: skip
def test_root_alone_may_ask(message: Message) -> None:
    assert handler_for(message, ROOT) is TABLE[type(message)]
    with pytest.raises(PermissionDenied, match="server may not"):
        handler_for(message, SERVER)


# -- sudo


@pytest.fixture
def with_visudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_sudo.shutil, "which", lambda program, path: f"/usr/sbin/{program}")


def granted(agent: Agent, name: str = "alice") -> None:
    sudo.grant_sudo(agent, ROOT, GrantSudo(name, True))


def test_where_the_setting_is_off_nobody_gets_sudo(tmp_path: Path, with_visudo: None) -> None:
    fake, agent = make(tmp_path, allow_sudo=False)
    before = dict(fake.files)
    with pytest.raises(PermissionDenied) as refused:
        granted(agent)
    assert "agent.allow_sudo" in refused.value.hint
    assert (fake.files, fake.ran) == (before, [])


@pytest.mark.parametrize("name", ["bob", "root"])
def test_only_managed_accounts_get_sudo(tmp_path: Path, with_visudo: None, name: str) -> None:
    fake, agent = make(tmp_path, f"bob:20050:{tmp_path}/bob")
    with pytest.raises(PermissionDenied):
        granted(agent, name)
    assert str(host_sudo.DROP_IN) not in fake.files


def test_a_drop_in_that_visudo_does_not_accept_takes_no_place(tmp_path: Path, with_visudo: None) -> None:
    fake, agent = make(tmp_path)
    fake.files[str(host_sudo.DROP_IN)] = File("the old one\n", 0o440)
    fake.commands[f"visudo -c -q -f {host_sudo.STAGED}"] = Result(1, "", "syntax error near line 2")
    with pytest.raises(HostError, match="syntax error"):
        granted(agent)
    assert fake.files[str(host_sudo.DROP_IN)].text == "the old one\n"
    assert str(host_sudo.STAGED) not in fake.files


def test_without_sudo_it_is_unsupported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, agent = make(tmp_path)
    monkeypatch.setattr(host_sudo.shutil, "which", lambda program, path: None)
    with pytest.raises(Unsupported, match="sudo is not installed"):
        granted(agent)


def test_who_has_sudo_is_known_after_a_restart_and_a_revoke_ends_it(tmp_path: Path, with_visudo: None) -> None:
    fake, agent = make(tmp_path)
    granted(agent)
    assert fake.files[f"{STATE}/administrators"] == File("alice\n", 0o600)
    assert fake.files[str(host_sudo.DROP_IN)].mode == 0o440
    agent = agent_after_a_restart(fake, agent)
    assert agent.administrators.names == {"alice"}
    assert sudo.grant_sudo(agent, ROOT, GrantSudo("alice", False)).changed
    assert not sudo.grant_sudo(agent, ROOT, GrantSudo("alice", False)).changed
    assert str(host_sudo.DROP_IN) not in fake.files and agent_after_a_restart(fake, agent).administrators.names == set()


def test_a_broken_list_of_administrators_stops_every_grant(tmp_path: Path, with_visudo: None) -> None:
    fake, agent = make(tmp_path)
    fake.files[f"{STATE}/administrators"] = File("alice\nALL ALL=(ALL) NOPASSWD: ALL\n", 0o600)
    agent.administrators = Administrators(fake, Path(f"{STATE}/administrators"))
    with pytest.raises(Unavailable, match="broken"):
        granted(agent)
    assert str(host_sudo.DROP_IN) not in fake.files


def ensure(agent: Agent, caller: Caller = SERVER, *, password: str | None = None, **others: object) -> str:
    fields = {"full_name": "alice Full", "generation": 5, "limits": LIMITS} | others
    wanted = Account(Wish("alice", **fields), shadow=password)  # type: ignore[arg-type]
    return changes.ensure_accounts(agent, caller, [wanted])[0].code


@pytest.fixture
def administrator(tmp_path: Path, with_visudo: None) -> tuple[Fake, Agent]:
    fake, agent = make(tmp_path)
    (tmp_path / "alice").chmod(0o750)
    if ME.uid == 0:
        os.chown(tmp_path / "alice", 20_000, 20_000)
    granted(agent)
    return fake, agent


@pytest.mark.parametrize(
    "wanted", [{"password": NEW}, {"shell": "/bin/sh"}, {"full_name": "Mallory"}], ids=["password", "shell", "name"]
)
def test_the_server_changes_nothing_that_opens_a_way_into_an_administrator(
    administrator: tuple[Fake, Agent], wanted: dict[str, str]
) -> None:
    fake, agent = administrator
    before, ran = dict(fake.files), list(fake.ran)
    assert ensure(agent, **wanted) == "permission-denied"
    assert (fake.files, fake.ran) == (before, ran)


@pytest.mark.skipif(ME.uid != 0, reason="the home must be the account's")
def test_the_server_locks_an_administrator_and_cannot_open_the_lock(administrator: tuple[Fake, Agent]) -> None:
    fake, agent = administrator
    fake.commands["usermod -L -e 1970-01-02 alice"] = lambda argv, _: lock(fake)
    assert ensure(agent, state=State.LOCKED) == ""
    assert fake.ran[-1] == "usermod -L -e 1970-01-02 alice"
    assert ensure(agent, state=State.LOCKED) == "" and len([line for line in fake.ran if "usermod" in line]) == 1
    assert ensure(agent) == "permission-denied", "opening it is root's"
    assert agent.registry.entries["alice"].state is State.LOCKED


def lock(fake: Fake) -> Result:
    fake.files["/etc/shadow"] = File(f"alice:!{HASH}:1:0:9:7::1:\n", 0o640)
    return Result(0, "", "")


def test_an_administrator_made_by_hand_is_still_left_alone_altogether(tmp_path: Path) -> None:
    fake, agent = make(tmp_path, sudoers="alice ALL=(ALL:ALL) ALL\n")
    before = dict(fake.files)
    assert ensure(agent) == ensure(agent, state=State.LOCKED) == "permission-denied"
    assert (fake.files, fake.ran) == (before, [])


def test_a_purge_of_an_administrator_is_roots(administrator: tuple[Fake, Agent]) -> None:
    _, agent = administrator
    with pytest.raises(PermissionDenied):
        changes.purge_account(agent, SERVER, PurgeAccount("alice", 9))
    assert agent.administrators.names == {"alice"}


# -- one's own password


def change(agent: Agent, old: str, name: str = "alice") -> None:
    sudo.change_own_password(agent, SERVER, ChangeOwnPassword(name, old, NEW))


def test_the_old_password_opens_the_new_one(tmp_path: Path) -> None:
    fake, agent = make(tmp_path)
    change(agent, "the old one")
    assert (fake.read("/etc/shadow") or "").startswith(f"alice:{NEW}:")


@pytest.mark.parametrize("field", ["", "*", "!", "!" + HASH, "x", "$6$", "$9$nonsense$x", HASH[:-1]])
def test_no_password_fits_a_field_that_has_none(tmp_path: Path, field: str) -> None:
    fake, agent = make(tmp_path)
    fake.files["/etc/shadow"] = File(f"alice:{field}:1:0:9:7:::\n", 0o640)
    for old in ("the old one", field or "x", "!", "*"):
        with pytest.raises((Unauthenticated, TooManyRequests)):
            change(agent, old)
    assert NEW not in (fake.read("/etc/shadow") or "")


def test_guessing_gets_slower_and_the_right_one_does_not_help_meanwhile(tmp_path: Path) -> None:
    now = [0.0]
    fake, agent = make(tmp_path)
    agent.guesses = Guesses(clock=lambda: now[0])
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            change(agent, "a guess")
    waits = []
    for _ in range(14):
        with pytest.raises(TooManyRequests) as slow:
            change(agent, "the old one")
        waits.append(slow.value.retry_after)
        now[0] += waits[-1]
        with pytest.raises(Unauthenticated):
            change(agent, "a guess")
    assert waits[:3] == [3, 5, 9] and waits[-1] == 3601
    assert NEW not in (fake.read("/etc/shadow") or "")
    now[0] += 3601
    change(agent, "the old one")
    agent.guesses.check("alice")


def test_accounts_that_are_not_managed_are_not_asked_about(tmp_path: Path) -> None:
    _, agent = make(tmp_path, f"bob:20050:{tmp_path}/bob")
    with pytest.raises(PermissionDenied):
        change(agent, "the old one", "bob")


# -- adopt


def found(agent: Agent) -> dict[str, str]:
    return {account.name: account.problem for account in adopt.find_adoptable(agent, "")}


def test_what_is_in_the_way_of_an_adoption(tmp_path: Path) -> None:
    place = str(tmp_path)
    fake, agent = make(
        tmp_path, f"erin:1001:{place}/erin", f"far:20101:{place}/far", f"system:999:{place}/s", f"gone:1002:{place}/gone",
        f"other:1003:{place}/someone", f"stolen:1004:{place}/stolen", f"linked:1005:{place}/linked", f"one:1006:{place}/one",
        f"two:1006:{place}/two", f"last:20099:{place}/last", f"operator:1007:{place}/operator", "Ada:1008:/home/Ada",
    )  # fmt: skip
    (tmp_path / "stolen").mkdir()
    os.chown(tmp_path / "stolen", *(54_321, 54_321) if ME.uid == 0 else ME)
    (tmp_path / "linked").symlink_to("/etc")
    before = dict(fake.files)
    problems = found(agent)
    words = {
        "erin": "group sudo", "gone": "no home", "other": "someone", "stolen": "belongs to number", "linked": "no directory",
        "one": "another name", "two": "another name", "last": "few numbers", "operator": "reserved", "Ada": "letters",
    }  # fmt: skip
    assert set(problems) == set(words), "far, system and alice, who is managed, are no candidates"
    for name, word in words.items():
        assert word in problems[name], (name, problems[name])
        if name != "Ada":
            outcome = adopt.adopt_accounts(agent, ROOT, [Wish(name, 1, LIMITS, full_name=f"{name} Full")])[0]
            assert word in outcome.message and outcome.code
    assert fake.files == before and set(agent.registry.entries) == {"alice"}


@pytest.mark.skipif(ME.uid != 0, reason="the home must be the account's")
def test_an_adopted_account_has_a_line_and_nothing_else_is_changed(tmp_path: Path) -> None:
    fake, agent = make(tmp_path, f"bob:20050:{tmp_path}/bob")
    (tmp_path / "bob").mkdir()
    os.chown(tmp_path / "bob", 20_050, 20_050)
    before = {path: file for path, file in fake.files.items() if path != f"{STATE}/managed"}
    wish = Wish("bob", 7, LIMITS, full_name="bob Full")
    stale = Wish("bob", 7, LIMITS, full_name="Bob")
    assert adopt.adopt_accounts(agent, ROOT, [stale])[0].code == "conflict", "the line in passwd would be changed"
    assert [adopt.adopt_accounts(agent, ROOT, [wish])[0].changed for _ in range(2)] == [True, False]
    assert {path: file for path, file in fake.files.items() if path != f"{STATE}/managed"} == before
    assert fake.ran == []
    agent = agent_after_a_restart(fake, agent)
    assert agent.registry.entries["bob"].uid == 20_050
    assert agent.registry.free_numbers(1, []) == [20_051], "no number is given twice"
    assert "bob" not in found(agent)


def test_accounts_are_told_part_by_part(tmp_path: Path) -> None:
    lines = [f"user{number:03}:{2000 + number}:{tmp_path}/x" for number in range(450)]
    _, agent = make(tmp_path, *lines)
    names: list[str] = []
    while part := adopt.find_adoptable(agent, names[-1] if names else ""):
        names += [account.name for account in part]
    assert names == [f"user{number:03}" for number in range(450)]


# -- archives


def home_of(tmp_path: Path) -> Path:
    home = tmp_path / "ada"
    home.mkdir(mode=0o750)
    (home / "text").write_text("words")
    (home / "link").symlink_to("/etc/shadow")
    os.mkfifo(home / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "sock"))
    (home / "tool").write_text("x")
    (home / "tool").chmod(0o6755)
    for path in (home, *home.iterdir()):
        os.chown(path, *OWNER, follow_symlinks=False)
    (home / "tool").chmod(0o6755)
    return home


OWNER = Owner(54_321, 54_322)
as_root_only = pytest.mark.skipif(ME.uid != 0, reason="the packing program gives up root")


def pack(tmp_path: Path, **others: object) -> Path:
    options = {"now": time.time(), "still_wanted": lambda: None} | others
    return pack_home(Local(), tmp_path / "archives", str(tmp_path), "ada", OWNER, **options).path  # type: ignore[arg-type]


@pytest.fixture
def reachable(tmp_path: Path) -> Path:
    """tmp_path where another user can get at what is theirs."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != Path("/") and not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    return tmp_path


@as_root_only
@pytest.mark.parametrize("method", ["gzip", "zstd"])
def test_what_is_packed_and_what_is_left_out(reachable: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if method == "gzip":
        monkeypatch.setattr("diycloud.host.archive.shutil.which", lambda *_, **__: None)
    elif subprocess.run(["sh", "-c", "command -v zstd"], capture_output=True, check=False).returncode:
        pytest.skip("zstd is not installed")
    home_of(reachable)
    path = pack(reachable)
    assert path.name.endswith({"gzip": ".tar.gz", "zstd": ".tar.zst"}[method])
    unpack = {"gzip": ["gzip", "-dc"], "zstd": ["zstd", "-dc"]}[method]
    data = subprocess.run([*unpack, str(path)], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        entries = {entry.name: entry for entry in tar}
    assert set(entries) == {"ada", "ada/text", "ada/link", "ada/tool"}
    assert (entries["ada/tool"].mode, entries["ada/link"].linkname) == (0o755, "/etc/shadow")
    assert {(entry.uid, entry.gid) for entry in entries.values()} == {OWNER}
    assert [p.name for p in (reachable / "archives").iterdir()] == [path.name]


@as_root_only
@pytest.mark.parametrize("why", [Unavailable("The agent stops."), HostError("full")])
def test_an_archive_that_is_given_up_leaves_nothing(reachable: Path, why: DiyCloudError) -> None:
    home_of(reachable)

    def stop() -> None:
        raise why

    with pytest.raises(type(why)):
        pack(reachable, still_wanted=stop)
    assert list((reachable / "archives").iterdir()) == []


@as_root_only
def test_half_an_archive_is_none(reachable: Path) -> None:
    home = home_of(reachable)
    folder = reachable / "archives"
    folder.mkdir(mode=0o700)
    (folder / f".ada-{OWNER.uid}.part").write_bytes(b"half")
    assert find_archive(folder, "ada", OWNER.uid, home) is None
    path = pack(reachable)
    assert [p.name for p in folder.iterdir()] == [path.name]
    assert find_archive(folder, "ada", OWNER.uid, home).path == path  # type: ignore[union-attr]
    assert find_archive(folder, "ada", 54_399, home) is None, "an earlier owner of the name"
    (home / "more").touch()
    assert find_archive(folder, "ada", OWNER.uid, home) is None, "the home has changed since"


@as_root_only
def test_a_program_that_fails_is_told_by_its_last_words(reachable: Path) -> None:
    home_of(reachable)
    with pytest.raises(HostError, match="no such cgroup"):
        pack(reachable, within=["sh", "-c", "echo no such cgroup >&2; exit 125"])
    assert list((reachable / "archives").iterdir()) == []


def test_the_packing_program_does_nothing_as_root() -> None:
    argv = [sys.executable, "-I", "-S", packing.__file__, "0", "0", "/root", "root", "gzip"]
    done = subprocess.run(argv, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")


def test_the_server_cannot_fill_the_disk_with_archives(tmp_path: Path) -> None:
    fake, agent = make(tmp_path)
    if ME.uid == 0:
        os.chown(tmp_path / "alice", 20_000, 20_000)
    fake.files["/etc/shadow"] = File(f"alice:!{HASH}:1:0:9:7::1:\n", 0o640)
    with pytest.raises(Conflict, match="not locked"):
        archive.archive_home(agent, SERVER, "alice")
    agent.registry.store([agent.entry("alice")._replace(state=State.LOCKED)])
    folder = tmp_path / "archives"
    folder.mkdir()
    for number in range(archive.ARCHIVES_AN_HOUR):
        (folder / f"user-{20_001 + number}-20260101T000000Z.tar.gz").touch()
    with pytest.raises(TooManyRequests):
        archive.archive_home(agent, SERVER, "alice")


def test_one_home_is_packed_once_at_a_time(tmp_path: Path) -> None:
    _, agent = make(tmp_path)
    with agent.packing("alice"), agent.packing("bob"), pytest.raises(Unavailable), agent.packing("alice"):
        pass
    with agent.packing("alice"):
        pass


def test_a_command_is_in_its_cgroups_before_it_starts(tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in ("memory", "pids")]
    for folder in folders:
        Path(folder).mkdir()
    done = subprocess.run(
        [*entering(folders), "sh", "-c", 'echo "$$ $*"', "x", "a b"], capture_output=True, text=True, check=True
    )
    pid, rest = done.stdout.split(" ", 1)
    assert rest == "a b\n"
    assert [(Path(folder) / "cgroup.procs").read_text() for folder in folders] == [f"{pid}\n"] * 2
    refused = subprocess.run(
        [*entering([f"{tmp_path}/missing"]), "touch", str(tmp_path / "ran")], capture_output=True, check=False
    )
    assert refused.returncode == 125 and not (tmp_path / "ran").exists()


def test_with_systemd_a_command_runs_in_a_scope_of_the_users_slice() -> None:
    words = SystemdSlices(Fake(), Tree("/sys/fs/cgroup", {})).within("ada", 20_001)
    assert words == ["systemd-run", "--quiet", "--scope", "--collect", "--slice=user-20001.slice", "--"]


# -- trash


def test_only_what_is_in_the_trash_is_removed(tmp_path: Path) -> None:
    fake, agent = make(tmp_path)
    trash = f"{tmp_path}/.diycloud-trash"
    for path in (f"{trash}/ada.20000.1700000000/x", f"{tmp_path}/bob.1.1/x", "/etc/cron.d/x.1.1/y"):
        for parent in reversed(Path(path).parents):
            fake.files.setdefault(str(parent), File(None, 0o755))
        fake.files[path] = File("")
    for outside in (f"{tmp_path}/bob.1.1", "/etc/cron.d/x.1.1", f"{trash}/../bob.1.1"):
        with pytest.raises(PermissionDenied, match="not in the trash"):
            archive.remove_from_trash(agent, ROOT, [f"{trash}/ada.20000.1700000000", outside])
    assert f"{trash}/ada.20000.1700000000/x" in fake.files
    gone = archive.remove_from_trash(agent, ROOT, [f"{trash}/ada.20000.1700000000", f"{trash}/eve.1.1"])
    assert gone == [f"{trash}/ada.20000.1700000000"]
