"""What the agent refuses before it changes anything, and what it tells of wishes that it did not apply."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from diycloud.agent import changes, reconcile
from diycloud.agent.handlers import TABLE
from diycloud.agent.protocol import LIFE, Account, Limits, Outcome, PurgeAccount, Shadow, State, Sync, SyncReport, Wish
from diycloud.agent.registry import Registry
from diycloud.agent.state import MAX_LISTS, Agent, Caller, Role, Session
from diycloud.config import AgentSettings
from diycloud.errors import HostError, InvalidInput, PermissionDenied, Unavailable
from diycloud.system.fake import Fake
from tests.unit.agents import finish

T = TypeVar("T")
MANAGED = "/var/lib/diycloud/agent/managed"
ALICE = "alice 20000 3 active 50000 67108864 50\n"
PASSWD = "root:x:0:0:root:/root:/bin/bash\nalice:x:20000:20000::{home}/alice:/bin/bash\n"
GROUP = "root:x:0:\nalice:x:20000:\ndocker:x:999:erin\nteam:x:900:frank\n"
SUDOERS = "root ALL=(ALL:ALL) ALL\n%dtradm ALL=(ALL) NOPASSWD: ALL\nDefaults mailto=x # no bob\ncarol, #20001 ALL=ALL\n"
LIMITS = Limits(0.5, 64 << 20, 50)
ROOT, SERVER = Caller(0, 1, Role.ROOT), Caller(990, 1, Role.SERVER)


def make(home: Path, *, passwd: str = PASSWD, sudoers: str = SUDOERS) -> tuple[Fake, Agent]:
    """An agent on a host in memory, without limits; the homes are real and empty."""
    (home / "alice").mkdir(exist_ok=True)
    fake = Fake(
        {
            "/etc/passwd": passwd.format(home=home), "/etc/group": GROUP, "/etc/shadow": "alice:!:1:0:9:7:::\n",
            "/etc/shells": "/bin/bash\n", "/etc/sudoers": sudoers, "/proc/meminfo": "MemTotal: 8000000 kB\n",
            "/var/lib/diycloud/agent/started": "", MANAGED: "diycloud-managed 1 20001\n" + ALICE, f"{home}/alice/x": "",
        }
    )  # fmt: skip
    settings = AgentSettings(home=str(home), allowed_groups=("team", "docker"))
    registry = Registry(fake, Path(MANAGED), uid_min=20_000, uid_max=20_010)
    return fake, Agent(fake, settings, registry, None, grace_s=0)


def ensure(agent: Agent, name: str, generation: int = 5, caller: Caller = SERVER, **others: object) -> Outcome:
    account = Account(Wish(name, generation, LIMITS), create=True)
    return changes.ensure_accounts(agent, caller, [msgspec.structs.replace(account, **others)])[0]


def sync(agent: Agent, *wishes: Wish) -> SyncReport:
    return finish(reconcile.reconcile(agent, SERVER, wishes, time.monotonic()))


@pytest.mark.parametrize("caller", [SERVER, ROOT])
@pytest.mark.parametrize(
    "name",
    ["dtradm", "carol", "erin", "docker", "lxd", "incus-admin", "wheel", "postgres", "google-sudoers", "systemd-oom", "render"],
)  # fmt: skip
def test_no_name_brings_rights_that_wait_on_the_host(tmp_path: Path, name: str, caller: Caller) -> None:
    """Names of sudoers, of groups' lists, of packages that are not installed yet: also for root."""
    fake, agent = make(tmp_path)
    before = dict(fake.files)
    outcome = ensure(agent, name, caller=caller)
    assert outcome.code in ("permission-denied", "conflict"), outcome
    assert outcome.uid is None, "nothing is there that the server might take back"
    assert (fake.ran, fake.files) == ([], before)


def test_a_known_name_gets_no_rights_either_when_its_account_is_made_again(tmp_path: Path) -> None:
    without = PASSWD.splitlines(keepends=True)[0]
    fake, agent = make(tmp_path, passwd=without, sudoers="alice ALL=(ALL) NOPASSWD: ALL\n")
    for caller in (SERVER, ROOT):
        outcome = ensure(agent, "alice", caller=caller)
        assert (outcome.code, outcome.uid) == ("permission-denied", 20_000)
    assert [failed.name for failed in sync(agent, Wish("alice", 3, LIMITS)).failed] == ["alice"]
    assert fake.ran == []


def test_a_number_of_sudoers_is_given_to_nobody(tmp_path: Path) -> None:
    from diycloud.host.accounts import HostAccounts

    fake, agent = make(tmp_path, sudoers="%#20002 ALL=ALL\nbob, #20001 ALL=ALL\n# alice 20003\n")
    assert agent.registry.free_numbers(2, HostAccounts(fake).ids) == [20_003, 20_004]


def test_an_orphan_is_given_to_no_new_user_until_its_row_is_back(tmp_path: Path) -> None:
    fake, agent = make(tmp_path)
    fake.commands["usermod -e 1970-01-02 alice"] = ""
    assert sync(agent).orphans == ["alice"]
    ran = list(fake.ran)
    for caller in (SERVER, ROOT):
        outcome = ensure(agent, "alice", caller=caller)
        assert (outcome.code, outcome.uid) == ("conflict", None), "the number is not the new user's"
        assert "purge" in outcome.message
    assert fake.ran == ran
    assert agent.registry.entries["alice"].state is State.LOCKED
    report = sync(agent, Wish("alice", 5, LIMITS))
    assert (report.orphans, agent.orphans) == ([], set())
    assert agent.registry.entries["alice"].state is State.ACTIVE


def test_the_next_user_of_a_name_gets_nothing_of_the_last(tmp_path: Path) -> None:
    """A row was deleted by hand, and the name given again before any wish list told the agent."""
    fake, agent = make(tmp_path)
    assert agent.orphans == set()
    outcome = ensure(agent, "alice", 7 * LIFE)
    assert (outcome.code, outcome.uid) == ("conflict", None)
    report = sync(agent, Wish("alice", 7 * LIFE, LIMITS))
    assert ([failed.code for failed in report.failed], report.orphans) == (["conflict"], [])
    assert agent.registry.entries["alice"].generation == 3
    assert fake.ran == []
    # A row put back by hand says with its UID that it is the same person's.
    ensure(agent, "alice", 7 * LIFE, create=False)
    assert agent.registry.entries["alice"].generation == 7 * LIFE


def test_what_was_there_before_a_refused_call_is_told_by_its_uid(tmp_path: Path) -> None:
    _, agent = make(tmp_path)
    assert ensure(agent, "alice", 2) == Outcome(
        "alice", 20_000, code="conflict", message=ensure(agent, "alice", 2).message
    )  # fmt: skip
    (tmp_path / "zoe").mkdir()
    assert (ensure(agent, "zoe").code, ensure(agent, "zoe").uid) == ("conflict", None)


def test_wishes_of_a_restored_database_are_told_with_the_generation_to_beat(tmp_path: Path) -> None:
    _, agent = make(tmp_path)
    report = sync(agent, Wish("alice", 2, LIMITS))
    assert (report.overtaken, report.mended, report.failed) == ([("alice", 3)], [], [])
    assert sync(agent, Wish("alice", 3, LIMITS)).overtaken == []


def test_a_purge_of_what_is_gone_is_remembered_too(tmp_path: Path) -> None:
    _, agent = make(tmp_path)
    for number in range(50):  # and costs none of the hour's purges
        assert changes.purge_account(agent, SERVER, PurgeAccount("zoe", number)) == Outcome("zoe")
    agent.check_purge_rate(SERVER)
    assert "purged" in ensure(agent, "zoe", 49).message
    with pytest.raises(PermissionDenied):
        changes.purge_account(agent, SERVER, PurgeAccount("root", 1))


def test_a_home_that_cannot_be_removed_holds_up_no_other(tmp_path: Path) -> None:
    class Stuck(Fake):
        def remove_tree(self, path: str | Path) -> bool:
            if "bob" in str(path):
                raise HostError("Cannot remove: something is mounted inside.")
            return super().remove_tree(path)

    _, agent = make(tmp_path)
    trash = f"{tmp_path}/.diycloud-trash"
    agent.system = Stuck({f"{trash}/{name}.1.1/x": "" for name in ("alice", "bob", "carol")})
    assert reconcile.empty_trash(agent) == ["alice.1.1", "carol.1.1"]
    assert agent.system.list_dir(trash) == ["bob.1.1"]


def send(agent: Agent, session: Session, part: Sequence[Wish], *, first: bool, last: bool) -> object:
    return finish(TABLE[Sync].act(agent, session, Sync(list(part), first, last)))  # type: ignore[arg-type]


def test_one_list_for_each_caller_however_many_connections(tmp_path: Path) -> None:
    _, agent = make(tmp_path)
    old, new, roots = Session(SERVER), Session(SERVER), Session(ROOT)
    wishes = [Wish("alice", 3, LIMITS)]
    for session in (old, roots, new):
        send(agent, session, wishes, first=True, last=False)
    assert old.parts is None
    with pytest.raises(InvalidInput, match="another was begun"):
        send(agent, old, wishes, first=False, last=True)
    assert isinstance(send(agent, new, [], first=False, last=True), SyncReport)
    assert isinstance(send(agent, roots, [], first=False, last=True), SyncReport)


def test_lists_that_are_being_applied_are_bounded(tmp_path: Path) -> None:
    _, agent = make(tmp_path)
    running = []
    for _ in range(MAX_LISTS):
        running.append(TABLE[Sync].act(agent, Session(SERVER), Sync([Wish("alice", 3, LIMITS)], True, True)))
        next(running[-1])  # type: ignore[call-overload]
    with pytest.raises(Unavailable):
        send(agent, Session(SERVER), [], first=True, last=True)
    running.pop()
    assert isinstance(send(agent, Session(SERVER), [Wish("alice", 3, LIMITS)], first=True, last=True), SyncReport)


@pytest.mark.parametrize(
    ("field", "good"),
    [
        ("$y$j9T$abcdefgh$" + "x" * 43, True), ("$y$jBT$abcdefgh$" + "x" * 43, True), ("$6$salt$" + "x" * 86, True),
        ("$6$rounds=50000$salt$" + "x" * 86, True), ("$2b$10$" + "x" * 53, True), ("$5$rounds=5000$s$" + "x" * 43, True),
        ("$6$rounds=999999999$salt$" + "x" * 86, False), ("$y$jFT$abcdefgh$" + "x" * 43, False),
        ("$y$jD5....$abcdefgh$" + "x" * 43, False), ("$2b$31$" + "x" * 53, False), ("$7$DU..../....x$" + "x" * 43, False),
        ("$6$rounds=100000$salt$" + "x" * 86, False), ("$6$salt$" + "x" * 85, False), ("$y$$$" + "x" * 60, False),
    ],
)  # fmt: skip
def test_a_hash_that_would_keep_the_host_busy_is_refused(field: str, good: bool) -> None:
    if good:
        assert msgspec.convert(field, Shadow) == field
    else:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(field, Shadow)
