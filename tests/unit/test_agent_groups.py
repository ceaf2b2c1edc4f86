"""Groups in the agent: its file, what it refuses, who is a member, and what reconcile mends."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TypeVar

import pytest

from diycloud.agent import changes, groups, reconcile
from diycloud.agent.group_registry import GroupRegistry
from diycloud.agent.protocol import Account, GroupRemains, Limits, Outcome, SyncReport, Wish
from diycloud.agent.registry import Registry
from diycloud.agent.state import PURGES_AN_HOUR, Agent, Caller, Role
from diycloud.config import AgentSettings
from diycloud.errors import Conflict, HostError, InvalidInput, PermissionDenied, TooManyRequests, Unavailable
from diycloud.host.accounts import HostAccounts
from diycloud.system import ROOT as ROOT_OWNER
from diycloud.system import Owner, Result, System
from diycloud.system.fake import Fake
from tests.unit.agents import finish

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a home to its user")
T = TypeVar("T")
STATE = Path("/var/lib/diycloud/agent")
FILE, MARK = STATE / "groups", STATE / "groups-started"
HEAD = "diycloud-groups 1 10002\n"
CHEM, BIO = "chem 10000\n", "bio 10001\n"
PASSWD = "root:x:0:0:root:/root:/bin/bash\n{name}:x:20000:20000::{home}/{name}:/bin/bash\n"
GROUP = "root:x:0:\nsudo:x:27:\nalice:x:20000:\nchem:x:10000:\nbio:x:10001:alice\nteam:x:900:\n"
ALICE = "alice 20000 3 active 50000 67108864 50\n"
LIMITS = Limits(0.5, 64 << 20, 50)
ROOT, SERVER = Caller(0, 1, Role.ROOT), Caller(990, 1, Role.SERVER)


def registry(system: System) -> GroupRegistry:
    return GroupRegistry(system, FILE, gid_min=10_000, gid_max=10_009, never=range(10_005, 10_008))


def with_file(text: str) -> Fake:
    return Fake({str(FILE): text, str(MARK): ""})


def make(home: Path, *, lines: str = HEAD + CHEM + BIO, group: str = GROUP, sudoers: str = "") -> tuple[Fake, Agent]:
    """An agent on a host in memory, without limits; homes and shared folders are real and empty."""
    (home / "alice").mkdir(exist_ok=True)
    os.chown(home / "alice", 20_000, 20_000)
    fake = Fake(
        {
            "/etc/passwd": PASSWD.format(home=home, name="alice"), "/etc/group": group, "/etc/gshadow": "chem:!::\n",
            "/etc/shadow": "alice:!:1:0:9:7:::\n", "/etc/shells": "/bin/bash\n", "/etc/sudoers": sudoers,
            "/proc/meminfo": "MemTotal: 8000000 kB\n", f"{STATE}/started": "", str(MARK): "",
            f"{STATE}/managed": "diycloud-managed 1 20001\n" + ALICE, str(FILE): lines, f"{home}/alice/x": "",
        }
    )  # fmt: skip
    settings = AgentSettings(home=str(home), shared=str(home / "shared"))
    accounts = Registry(fake, STATE / "managed", uid_min=20_000, uid_max=20_010)
    return fake, Agent(fake, settings, accounts, None, grace_s=0)


def ensure(agent: Agent, *wanted: str, name: str = "alice", caller: Caller = SERVER) -> Outcome:
    account = Account(Wish(name, 5, LIMITS, groups=list(wanted)))
    return changes.ensure_accounts(agent, caller, [account])[0]


def members(fake: Fake, group: str) -> str:
    lines = (fake.read("/etc/group") or "").splitlines()
    return next(line.split(":")[3] for line in lines if line.startswith(f"{group}:"))


def sync(agent: Agent, *wishes: Wish) -> SyncReport:
    return finish(reconcile.reconcile(agent, SERVER, wishes, time.monotonic()))


# -- the file


def test_the_first_start_writes_a_header_for_root_only() -> None:
    fake = Fake({f"{STATE}/started": ""})
    assert (registry(fake).problem, registry(fake).gids) == ("", {})
    assert (fake.files[str(FILE)].text, fake.files[str(FILE)].mode) == ("diycloud-groups 1 10000\n", 0o600)


def test_gids_are_never_given_twice_nor_taken_from_the_host_or_the_accounts() -> None:
    fake = with_file(HEAD + CHEM + BIO)
    found = registry(fake)
    assert found.free_numbers(3, {10_002}) == [10_003, 10_004, 10_008], "10005–10007 are accounts'"
    found.put({"physics": 10_003})
    found.forget(["physics", "chem", "nobody"])
    assert fake.read(FILE) == "diycloud-groups 1 10004\n" + BIO
    assert registry(fake).free_numbers(1, ()) == [10_004]
    with pytest.raises(Unavailable, match="used up"):
        registry(fake).free_numbers(4, ())


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", "diycloud-groups 2 10002\n", HEAD + CHEM[:-1], HEAD + CHEM + CHEM, HEAD + CHEM + "\n", HEAD + "chem 0\n",
        HEAD + "chem x\n", HEAD + "chem 10002\n", HEAD + "chem 10000\nbio 10000\n", HEAD + "Chem 10000\n",
        HEAD + "chem 10000 7\n", HEAD + "5 10000\n", HEAD + "-x 10000\n", "diycloud-groups 1 x\n",
        "diycloud-managed 1 10002\n", HEAD.replace("\n", " \n") + CHEM,
    ],
)  # fmt: skip
def test_a_broken_file_is_said_and_stops_changes(text: str) -> None:
    fake = with_file(text)
    found = registry(fake)
    assert found.problem
    assert (found.gids, fake.read(FILE)) == ({}, text), "it is left for people to look at"
    with pytest.raises(Unavailable):
        found.require_sound()


def test_a_file_that_was_lost_is_not_an_empty_one() -> None:
    fake = with_file(HEAD)
    fake.remove(FILE)
    assert registry(fake).problem


def test_a_disk_that_is_full_changes_nothing_in_memory() -> None:
    class Full(Fake):
        def write(self, path: str | Path, text: str, *, mode: int = 0o644, owner: Owner = ROOT_OWNER) -> bool:
            raise HostError("No space left on device")

    found = registry(Full({str(FILE): HEAD + CHEM, str(MARK): ""}))
    for act in (lambda: found.put({"bio": 10_002}), lambda: found.forget(["chem"])):
        with pytest.raises(HostError):
            act()
    assert (dict(found.gids), found.next_number) == ({"chem": 10_000}, 10_002)


def test_with_a_broken_file_nothing_of_groups_is_done_and_the_rest_goes_on(tmp_path: Path) -> None:
    fake, agent = make(tmp_path, lines="x\n", group=GROUP.replace("10001:alice", "10001:"))
    before = fake.read("/etc/group")
    assert "chem" in ensure(agent, "chem").warning
    assert agent.registry.entries["alice"].generation == 5
    for act in (lambda: groups.ensure_groups(agent, SERVER, ["new"]), lambda: groups.remove_group(agent, ROOT, "chem")):
        with pytest.raises(Unavailable, match="broken"):
            act()
    assert (fake.read("/etc/group"), fake.read(FILE)) == (before, "x\n")


# -- ensure and remove


def test_a_group_is_made_with_a_number_of_the_agents_own(tmp_path: Path) -> None:
    fake, agent = make(tmp_path, group=GROUP + "other:x:10002:\n")
    fake.commands["groupadd -g 10003 physics"] = ""
    (outcome,) = groups.ensure_groups(agent, SERVER, ["physics"])
    assert outcome == Outcome("physics", 10_003, changed=True, made=True)
    assert fake.read(FILE) == "diycloud-groups 1 10004\n" + CHEM + BIO + "physics 10003\n"
    folder = fake.files[f"{tmp_path}/shared/physics"]
    assert (folder.mode, folder.owner, list(folder.attributes)) == (0o2770, (0, 10_003), ["system.posix_acl_default"])


@pytest.mark.parametrize("caller", [SERVER, ROOT])
@pytest.mark.parametrize(
    "name", ["docker", "sudo", "wheel", "team", "root", "alice", "ops", "carol", "systemd-x", "gone", "taken"]
)
def test_names_that_are_no_new_group(tmp_path: Path, name: str, caller: Caller) -> None:
    """Of the host, of sudoers, of the system, of an account of the agent's that is missing, of a folder that is there."""
    fake, agent = make(tmp_path, sudoers="%ops ALL=ALL\ncarol ALL=ALL\n")
    agent.registry.store([agent.registry.entries["alice"]._replace(name="gone", uid=20_005)])
    (tmp_path / "shared/taken").mkdir(parents=True)
    before = dict(fake.files)
    (outcome,) = groups.ensure_groups(agent, caller, [name])
    assert outcome.code in ("conflict", "permission-denied"), outcome
    assert outcome.uid is None
    assert (fake.ran, fake.files) == ([], before)


def test_one_that_fails_holds_up_no_other_and_is_taken_back(tmp_path: Path) -> None:
    fake, agent = make(tmp_path)
    for name, gid in (("elsewhere", 10_002), ("physics", 10_003)):
        fake.commands[f"groupadd -g {gid} {name}"] = ""
    fake.commands["groupadd -g 10002 elsewhere"] = Result(9, "", "it exists")
    refused, made, known = groups.ensure_groups(agent, SERVER, ["elsewhere", "physics", "sudo"])
    assert ([refused.code, made.code, known.code], refused.uid) == (["conflict", "", "permission-denied"], None)
    assert agent.groups.get("elsewhere") is None
    assert agent.groups.next_number == 10_004, "a number below another that was given stays used up"


def test_what_is_refused_again_and_again_uses_up_no_numbers(tmp_path: Path) -> None:
    fake, agent = make(tmp_path)
    for name, gid in (("one", 10_002), ("two", 10_003)):
        fake.commands[f"groupadd -g {gid} {name}"] = Result(9, "", "it exists")
    for _ in range(3):
        assert [outcome.code for outcome in groups.ensure_groups(agent, SERVER, ["one", "two"])] == ["conflict"] * 2
        assert fake.read(FILE) == HEAD + CHEM + BIO


def test_a_folder_that_cannot_be_made_takes_the_group_back(tmp_path: Path) -> None:
    class Full(Fake):
        def make_dir(self, path: str | Path, *, mode: int = 0o755, owner: Owner = ROOT_OWNER) -> bool:
            raise HostError(f"Cannot make directory {path}: No space left on device.")

    fake, agent = make(tmp_path)
    agent.system = Full()
    agent.system.files = fake.files
    added = f"{GROUP}physics:x:10002:\n"
    agent.system.commands = {
        "groupadd -g 10002 physics": lambda argv, input: Result(0, str(fake.write("/etc/group", added)), ""),
        "groupdel physics": lambda argv, input: Result(0, str(fake.write("/etc/group", GROUP)), ""),
    }
    (outcome,) = groups.ensure_groups(agent, SERVER, ["physics"])
    assert (outcome.code, outcome.uid, fake.read(FILE)) == ("host-error", None, HEAD + CHEM + BIO)
    assert agent.system.ran == ["groupadd -g 10002 physics", "groupdel physics"]
    (outcome,) = groups.ensure_groups(agent, SERVER, ["chem"])
    assert (outcome.code, outcome.uid, agent.groups.get("chem")) == ("host-error", 10_000, 10_000)


def test_a_name_twice_and_a_range_that_is_used_up(tmp_path: Path) -> None:
    _, agent = make(tmp_path)
    with pytest.raises(InvalidInput, match="twice"):
        groups.ensure_groups(agent, SERVER, ["a", "a"])
    agent.groups.next_number = 20_000
    with pytest.raises(Unavailable, match="gid_max"):
        groups.ensure_groups(agent, SERVER, ["physics"])


def test_a_group_with_another_number_on_the_host_is_left_to_people(tmp_path: Path) -> None:
    fake, agent = make(tmp_path, group=GROUP.replace("chem:x:10000", "chem:x:27"))
    (outcome,) = groups.ensure_groups(agent, SERVER, ["chem"])
    assert (outcome.code, outcome.uid) == ("conflict", 10_000)
    with pytest.raises(Conflict, match="by hand"):
        groups.remove_group(agent, ROOT, "chem")
    assert "chem" in ensure(agent, "chem", "bio").warning
    assert (members(fake, "chem"), members(fake, "bio")) == ("", "alice")


def test_what_is_not_managed_is_left_alone(tmp_path: Path) -> None:
    fake, agent = make(tmp_path)
    before = dict(fake.files)
    for name in ("team", "sudo", "nothing"):
        assert groups.remove_group(agent, SERVER, name) == Outcome(name)
        with pytest.raises(PermissionDenied):
            groups.preview_group(agent, name)
    assert (fake.ran, fake.files) == ([], before)


def test_a_preview_tells_what_would_go(tmp_path: Path) -> None:
    _, agent = make(tmp_path)
    (tmp_path / "shared/bio").mkdir(parents=True)
    (tmp_path / "shared/bio/file").write_bytes(b"x" * 10_000)
    found = groups.preview_group(agent, "bio")
    assert found == GroupRemains("bio", 10_001, f"{tmp_path}/shared/bio", found.bytes, 1, 1)
    assert found.bytes >= 10_000
    assert groups.preview_group(agent, "chem") == GroupRemains("chem", 10_000, f"{tmp_path}/shared/chem", 0, 0, 0)


def test_more_than_an_hours_removals_need_root(tmp_path: Path) -> None:
    lines = "".join(f"g{number} {number}\n" for number in range(1, PURGES_AN_HOUR + 3))
    fake, agent = make(tmp_path, lines=HEAD + lines, group=GROUP)
    for number in range(1, PURGES_AN_HOUR + 1):
        assert groups.remove_group(agent, SERVER, f"g{number}").changed
    last = f"g{PURGES_AN_HOUR + 1}"
    with pytest.raises(TooManyRequests):
        groups.remove_group(agent, SERVER, last)
    assert agent.groups.get(last) is not None
    assert groups.remove_group(agent, ROOT, last) == Outcome(last, PURGES_AN_HOUR + 1, changed=True)
    assert fake.ran == []


# -- membership


def test_membership_is_what_is_wished_among_managed_groups(tmp_path: Path) -> None:
    fake, agent = make(tmp_path)
    assert ensure(agent, "chem", "nowhere") == Outcome(
        "alice", 20_000, changed=True, warning=ensure(agent, "chem", "nowhere").warning
    )  # fmt: skip
    assert "nowhere" in ensure(agent, "nowhere", "chem").warning
    assert (members(fake, "chem"), members(fake, "bio")) == ("alice", "")
    assert fake.read("/etc/gshadow") == "chem:!::alice\n"
    assert not ensure(agent, "chem").changed
    assert (fake.ran, ensure(agent).changed, members(fake, "chem")) == ([], True, "")


@pytest.mark.parametrize("caller", [SERVER, ROOT])
def test_no_wish_reaches_a_group_that_is_not_managed(tmp_path: Path, caller: Caller) -> None:
    fake, agent = make(tmp_path)
    outcome = ensure(agent, "sudo", "team", "root", "alice", "bio", caller=caller)
    assert (outcome.code, outcome.changed) == ("", True), "the generation alone is new"
    assert "sudo, team, root, alice." in outcome.warning
    assert fake.read("/etc/group") == GROUP


@pytest.mark.parametrize("rule", ["%chem ALL=ALL", "%#10000 ALL=ALL", "User_Alias X = %chem"])
def test_a_group_that_got_rights_in_sudoers_takes_nobody_in_and_makes_administrators(tmp_path: Path, rule: str) -> None:
    fake, agent = make(tmp_path, sudoers=f"{rule}\n")
    assert "chem" in ensure(agent, "chem", "bio").warning
    assert members(fake, "chem") == ""
    fake.write("/etc/group", GROUP.replace("chem:x:10000:", "chem:x:10000:alice"))
    assert ensure(agent, "chem", "bio").code == "permission-denied"
    assert members(fake, "chem") == "alice"


def test_a_member_of_managed_groups_is_an_ordinary_account(tmp_path: Path) -> None:
    fake, agent = make(tmp_path)
    entry = agent.entry("alice")
    assert agent.check_live(SERVER, entry, HostAccounts(fake)) is not None
    fake.write("/etc/group", GROUP.replace("team:x:900:", "team:x:900:alice"))
    with pytest.raises(PermissionDenied, match="team"):
        agent.check_live(SERVER, entry, HostAccounts(fake))


def test_long_warnings_name_a_few(tmp_path: Path) -> None:
    _, agent = make(tmp_path)
    warning = ensure(agent, *(f"{'x' * 30}{number}" for number in range(10, 74))).warning
    assert warning.endswith("and 59 more.")
    assert len(warning) < 300


def test_a_lock_that_is_held_fails_the_batch_and_changes_nothing(tmp_path: Path) -> None:
    class Held(Fake):
        def locked(self, path: str | Path, *, patience_s: float = 30) -> None:  # type: ignore[override]
            raise HostError(f"Another program holds {path}.")

    fake, agent = make(tmp_path)
    agent.system = Held()
    agent.system.files, agent.system.commands = fake.files, fake.commands
    assert ensure(agent, "chem").code == "host-error"
    assert fake.read("/etc/group") == GROUP


def test_reconcile_mends_membership_changed_by_hand(tmp_path: Path) -> None:
    fake, agent = make(tmp_path)
    wish = Wish("alice", 3, LIMITS, groups=["bio"])
    assert sync(agent, wish) == SyncReport()
    for by_hand in (GROUP.replace("10001:alice", "10001:"), GROUP.replace("10000:", "10000:alice,zoe")):
        fake.write("/etc/group", by_hand)
        assert sync(agent, wish).mended == ["alice"]
        assert members(fake, "bio") == "alice"
    assert members(fake, "chem") == "zoe", "who is not the platform's is root's to add and remove"
    assert fake.ran == []


def test_a_wish_for_a_group_that_is_not_there_is_no_difference_for_ever(tmp_path: Path) -> None:
    _, agent = make(tmp_path)
    wish = Wish("alice", 3, LIMITS, groups=["bio", "later"])
    assert sync(agent, wish) == SyncReport()


def test_a_group_is_no_name_for_an_account(tmp_path: Path) -> None:
    """Also when the group itself is missing on the host."""
    fake, agent = make(tmp_path, group=GROUP.replace("chem:x:10000:\n", ""))
    account = Account(Wish("chem", 5, LIMITS), create=True)
    (outcome,) = changes.ensure_accounts(agent, ROOT, [account])
    assert (outcome.code, outcome.uid, fake.ran) == ("conflict", None, [])


def test_the_trash_of_both_is_emptied(tmp_path: Path) -> None:
    _, agent = make(tmp_path)
    agent.system = Fake({f"{tmp_path}{base}/.diycloud-trash/old.1.1/x": "" for base in ("", "/shared")})
    assert reconcile.empty_trash(agent) == ["old.1.1", "old.1.1"]
