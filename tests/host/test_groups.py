"""Groups on the real host: two who work in one folder, a third who does not, hands, and hostile names.

The agent is a process of its own under a folder in /tmp; the shared folders are there too.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diycloud.agent.protocol import (
    Account,
    EnsureAccounts,
    EnsureGroups,
    GroupPreview,
    GroupRemains,
    Outcome,
    PurgeAccount,
    RemoveGroup,
    SyncReport,
    Wish,
)
from diycloud.config import Paths
from diycloud.core.uninstall import UninstallOptions, _groups, _Removal, uninstall
from diycloud.errors import Conflict, HostError, InvalidInput, PermissionDenied
from diycloud.system import Local
from tests.conftest import cannot_run
from tests.host.agent_process import AgentProcess, as_user
from tests.host.groups_support import (
    ANNA,
    BERT,
    BIO,
    CGROUP,
    CHEM,
    CLEO,
    GID_MAX,
    GID_MIN,
    NEEDED,
    PREFIX,
    SERVER_UID,
    UID_MAX,
    UID_MIN,
    GroupsAgent,
    clean_up,
    members,
    wish,
)
from tests.stack import Stack

pytestmark = NEEDED


@pytest.fixture
def agent() -> Iterator[AgentProcess]:
    clean_up()
    process = GroupsAgent()
    try:
        yield process.start()
    finally:
        process.close()
        clean_up()


def shared(agent: AgentProcess) -> Path:
    return agent.prefix / "srv/shared"


def ensure(agent: AgentProcess, *names: str) -> list[Outcome]:
    return agent.call_as_server(EnsureGroups(list(names)), list[Outcome])


def put(agent: AgentProcess, *wishes: Wish) -> list[Outcome]:
    accounts = [Account(wish, create=True) for wish in wishes]
    return agent.call_as_server(EnsureAccounts(accounts), list[Outcome])


def team(agent: AgentProcess) -> Path:
    """Anna and Bert in one group, Cleo beside them; return its folder."""
    assert [outcome.code for outcome in ensure(agent, CHEM, BIO)] == ["", ""]
    outcomes = put(agent, wish(ANNA, CHEM), wish(BERT, CHEM, BIO), wish(CLEO))
    assert [(outcome.code, outcome.warning) for outcome in outcomes] == [("", "")] * 3
    return shared(agent) / CHEM


def does(name: str, script: str) -> bool:
    """Run a shell script in a fresh session of the user, with the usual umask. True if it succeeds."""
    done = subprocess.run(
        ["su", "-s", "/bin/sh", name, "-c", f"umask 022; cd /; {script}"], capture_output=True, check=False
    )
    return done.returncode == 0


def test_two_work_in_one_folder_and_a_third_does_not(agent: AgentProcess) -> None:
    folder = team(agent)
    assert does(ANNA, f"mkdir -p {folder}/draft/deep && echo anna > {folder}/draft/deep/file && echo x > {folder}/top")
    assert does(
        BERT, f"echo bert >> {folder}/draft/deep/file && echo y >> {folder}/top && touch {folder}/draft/deep/mine"
    )
    assert does(ANNA, f"echo again >> {folder}/draft/deep/mine && rm {folder}/draft/deep/mine {folder}/top")
    assert (folder / "draft/deep/file").read_text() == "anna\nbert\n"
    assert (folder / "draft/deep/file").stat().st_gid == grp.getgrnam(CHEM).gr_gid
    for forbidden in (
        f"cat {folder}/draft/deep/file",
        f"ls {folder}",
        f"touch {folder}/x",
        f"cd {folder}",
        f"rmdir {folder}",
    ):
        assert not does(CLEO, forbidden), forbidden
    for forbidden in (f"rmdir {folder}", f"mv {folder} {folder}2", f"chmod 777 {folder}", f"touch {shared(agent)}/x"):
        assert not does(ANNA, forbidden), f"a member may not {forbidden}"
    assert does(ANNA, f"echo private > {folder}/own && chmod 600 {folder}/own")
    assert not does(BERT, f"cat {folder}/own")


def test_who_leaves_a_group_has_no_way_in(agent: AgentProcess) -> None:
    folder = team(agent)
    assert does(ANNA, f"echo secret > {folder}/file")
    (outcome,) = put(agent, wish(BERT, BIO, generation=2))
    assert (outcome.code, outcome.changed, members(CHEM), members(BIO)) == ("", True, {ANNA}, {BERT})
    assert not does(BERT, f"cat {folder}/file")
    assert not put(agent, wish(BERT, BIO, generation=2))[0].changed


def test_a_purge_takes_the_account_out_of_every_list(agent: AgentProcess) -> None:
    team(agent)
    assert agent.call_as_server(PurgeAccount(BERT, 2), Outcome).code == ""
    assert (members(CHEM), members(BIO)) == ({ANNA}, set())
    assert BERT not in Path("/etc/group").read_text()


def test_a_group_is_removed_into_the_trash_and_its_number_never_given_again(agent: AgentProcess) -> None:
    folder = team(agent)
    gid = grp.getgrnam(CHEM).gr_gid
    assert does(ANNA, f"echo precious > {folder}/file")
    told = agent.call_as_server(GroupPreview(CHEM), GroupRemains)
    assert (told.gid, told.folder, told.files, told.members, told.more) == (gid, str(folder), 1, 2, False)
    assert told.bytes >= 4096

    assert agent.call_as_server(RemoveGroup(CHEM), Outcome) == Outcome(CHEM, gid, changed=True)
    assert agent.call_as_server(RemoveGroup(CHEM), Outcome) == Outcome(CHEM)
    with pytest.raises(KeyError):
        grp.getgrnam(CHEM)
    trash = shared(agent) / ".diycloud-trash"
    (kept,) = trash.glob(f"{CHEM}.{gid}.*")
    assert (kept / "file").read_text() == "precious\n"
    assert stat.S_IMODE(trash.stat().st_mode) == 0o700
    assert not does(ANNA, f"cat {kept}/file")
    agent.stop()
    agent.start()
    assert ensure(agent, CHEM)[0].uid not in (gid, None)
    assert list((shared(agent) / CHEM).iterdir()) == []
    assert "chem" not in put(agent, wish(ANNA, CHEM, generation=2))[0].warning
    assert members(CHEM) == {ANNA}, "nobody is a member by a list that is gone"


@pytest.mark.parametrize(
    "damage",
    [
        f"groupdel {CHEM}", f"gpasswd -d {ANNA} {CHEM}", f"gpasswd -a {CLEO} {CHEM}", f"gpasswd -M '' {CHEM}",
        "chmod 0755 {folder}", "chown nobody:nogroup {folder}", "rm -rf {folder}",
    ],
)  # fmt: skip
def test_what_hands_broke_is_mended(agent: AgentProcess, damage: str) -> None:
    folder = team(agent)
    gid = grp.getgrnam(CHEM).gr_gid
    wishes = (wish(ANNA, CHEM), wish(BERT, CHEM, BIO), wish(CLEO))
    assert (ensure(agent, CHEM, BIO)[0].changed, agent.sync(wishes)) == (False, SyncReport())
    subprocess.run(damage.format(folder=folder), shell=True, check=True, capture_output=True)
    ensured, report = ensure(agent, CHEM, BIO)[0], agent.sync(wishes)
    assert ensured.changed or report.mended
    assert (ensured.code, report.failed) == ("", [])
    assert (grp.getgrnam(CHEM).gr_gid, members(CHEM)) == (gid, {ANNA, BERT})
    assert does(ANNA, f"echo x > {folder}/file") and does(BERT, f"echo y >> {folder}/file")
    assert not does(CLEO, f"ls {folder}")
    assert (ensure(agent, CHEM, BIO)[0].changed, agent.sync(wishes)) == (False, SyncReport())


def test_a_group_that_no_list_names_is_left_alone(agent: AgentProcess) -> None:
    folder = team(agent)
    (folder / "file").write_text("precious")
    agent.stop()
    agent.start()  # who was made a moment ago is no orphan yet
    assert ensure(agent, BIO)[0].code == ""
    report = agent.sync([wish(ANNA), wish(CLEO)])
    assert (report.orphans, report.mended) == ([BERT], [ANNA])
    assert members(CHEM) == {BERT}, "who is locked is in the same groups when the row is back"
    assert (folder / "file").read_text() == "precious"
    assert agent.sync([wish(ANNA, CHEM), wish(BERT, CHEM), wish(CLEO)]).failed == []
    assert members(CHEM) == {ANNA, BERT}


def test_the_hosts_own_tools_beside_it_lose_nothing(agent: AgentProcess) -> None:
    team(agent)
    others = {f"{PREFIX}-t{number}": GID_MAX - number for number in range(50)}

    def work() -> list[int]:
        return [
            subprocess.run(["groupadd", "-g", str(gid), name], check=False, capture_output=True).returncode
            for name, gid in others.items()
        ]

    with ThreadPoolExecutor(1) as pool:
        tools = pool.submit(work)
        generation = 1
        while not tools.done() or generation % 2:
            generation += 1
            where = BIO if generation % 2 else CHEM
            assert [o.code for o in put(agent, wish(ANNA, where, generation=generation))] == [""]
    assert tools.result() == [0] * len(others)
    assert generation > 3, "they worked at the same time"
    assert {group.gr_name: group.gr_gid for group in grp.getgrall() if group.gr_name in others} == others
    assert (members(CHEM), members(BIO)) == ({ANNA, BERT}, {BERT})


def test_another_number_by_hand_is_told_and_not_followed(agent: AgentProcess) -> None:
    folder = team(agent)
    subprocess.run(["groupmod", "-g", str(GID_MAX), CHEM], check=True)
    outcome = ensure(agent, CHEM)[0]
    assert (outcome.code, outcome.uid) == ("conflict", GID_MIN)
    assert folder.stat().st_gid == GID_MIN
    with pytest.raises(Conflict):
        agent.call_as_server(RemoveGroup(CHEM), Outcome)


@pytest.mark.parametrize(
    "name", ["root\n", "-x", "x" * 33, "", "Chem", "a b", "a:b", "a,b", "../x", ".", "..", "a/b", "\u0441hem", "a\0", "1a"]
)  # fmt: skip
def test_names_that_are_none_are_refused_by_the_door(agent: AgentProcess, name: str) -> None:
    for message in (EnsureGroups([CHEM, name]), RemoveGroup(name), GroupPreview(name)):
        with pytest.raises(InvalidInput):
            agent.call_as_server(message, list[Outcome])
    with pytest.raises(InvalidInput):
        put(agent, wish(ANNA, name))
    assert not shared(agent).exists()


def test_no_message_reaches_what_is_not_managed(agent: AgentProcess) -> None:
    """Neither the server's nor root's: groups of the host get no member, no folder, and no end."""
    subprocess.run(["groupadd", "-g", str(GID_MAX), f"{PREFIX}-own"], check=True)
    names = ["root", "sudo", "docker", "shadow", "users", "nogroup", f"{PREFIX}-own"]
    before = {path: Path(path).read_text() for path in ("/etc/group", "/etc/gshadow")}
    for act in (lambda work: as_user(SERVER_UID, work), lambda work: work()):
        outcomes = act(lambda: agent.call(EnsureGroups(names), list[Outcome]))
        assert {outcome.code for outcome in outcomes} <= {"conflict", "permission-denied"}
        for name in names:
            assert act(lambda name=name: agent.call(RemoveGroup(name), Outcome)) == Outcome(name)
            with pytest.raises(PermissionDenied):
                act(lambda name=name: agent.call(GroupPreview(name), GroupRemains))
    assert before == {path: Path(path).read_text() for path in before}
    (outcome,) = put(agent, wish(ANNA, *names))
    assert (outcome.code, outcome.warning != "") == ("", True)
    assert os.getgrouplist(ANNA, pwd.getpwnam(ANNA).pw_gid) == [pwd.getpwnam(ANNA).pw_gid]
    assert not shared(agent).exists() or not list(shared(agent).iterdir())


@pytest.mark.parametrize("where", ["folder", "staging", "trash"])
def test_a_link_in_the_way_leads_nowhere(agent: AgentProcess, where: str) -> None:
    victim = agent.prefix / "victim"
    victim.mkdir(0o700)
    (victim / "precious").write_text("x")
    ensure(agent, CHEM)
    place = {"folder": CHEM, "staging": f".diycloud-new/{BIO}", "trash": ".diycloud-trash"}[where]
    if where == "folder":
        (shared(agent) / CHEM).rmdir()
    (shared(agent) / place).symlink_to(victim)
    outcomes = ensure(agent, CHEM, BIO)
    assert [outcome.code for outcome in outcomes] == ["conflict" if where == "folder" else "", ""]
    if where != "staging":
        with pytest.raises(Conflict if where == "folder" else HostError):
            agent.call(RemoveGroup(CHEM), Outcome)
        assert grp.getgrnam(CHEM).gr_gid == GID_MIN, "the group stays with its line"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o700
    assert [path.name for path in victim.iterdir()] == ["precious"]
    assert os.listxattr(victim) == []


def test_uninstalling_leaves_groups_and_with_the_homes_they_go(agent: AgentProcess) -> None:
    folder = team(agent)
    (folder / "file").write_text("precious")
    agent.stop()
    said: list[str] = []
    before = Path("/etc/group").read_text()
    plan = UninstallOptions(dry_run=True, remove_homes=True, prefix=str(agent.prefix))
    assert uninstall(Local(), plan, said.append) == 0
    assert any(f"groupdel {CHEM}" in line for line in said) and any(f"remove     {folder} and" in line for line in said)
    said.clear()
    assert uninstall(Local(), UninstallOptions(dry_run=True, prefix=str(agent.prefix)), said.append) == 0
    assert any("2 groups and their folders" in line for line in said)
    assert (Path("/etc/group").read_text(), (folder / "file").read_text()) == (before, "precious")


@pytest.mark.parametrize("others", [False, True])
def test_uninstalling_with_the_homes_takes_groups_folders_and_trash(agent: AgentProcess, others: bool) -> None:
    folder = team(agent)
    assert agent.call(RemoveGroup(BIO), Outcome).code == ""
    if others:
        (shared(agent) / "somebody-elses").mkdir()
    agent.stop()
    assert _groups(_Removal(Local(), UninstallOptions(prefix=str(agent.prefix)))) == "left alone"
    assert (folder.is_dir(), members(CHEM)) == (True, {ANNA, BERT})
    removal = _Removal(Local(), UninstallOptions(prefix=str(agent.prefix), remove_homes=True))
    for _ in range(2):  # safe to repeat
        assert _groups(removal) == "1 removed, with their folders"
        assert not {CHEM, BIO} & {group.gr_name for group in grp.getgrall()}
    left = list(shared(agent).iterdir()) if shared(agent).exists() else None
    assert left == ([shared(agent) / "somebody-elses"] if others else None)


def test_from_the_command_line_to_the_folder() -> None:
    if reason := cannot_run():
        pytest.skip(reason)
    with Stack(uid_min=UID_MIN, uid_max=UID_MAX, cgroup=CGROUP) as stack:
        for name in (ANNA, BERT, CLEO):
            stack.cli("user", "create", name, "--password", "-", input="a long pass phrase\n")
        stack.cli("group", "create", CHEM, "--members", f"{ANNA},{BERT}")
        folder = stack.prefix / "shared" / CHEM
        assert does(ANNA, f"echo anna > {folder}/file") and does(BERT, f"echo bert >> {folder}/file")
        assert not does(CLEO, f"cat {folder}/file")
        stack.cli("group", "remove-members", CHEM, "--members", BERT)
        assert not does(BERT, f"cat {folder}/file")
        stack.cli("user", "delete", ANNA)
        stack.cli("user", "purge", ANNA, "--yes")
        assert members(CHEM) == set()
        assert (folder / "file").read_text() == "anna\nbert\n"
        stack.cli("group", "remove", CHEM, "--yes")
        assert CHEM not in Path("/etc/group").read_text()
        assert not folder.exists()


def test_the_places_are_where_the_settings_say() -> None:
    assert Paths("/x").groups == Paths("/x").managed.with_name("groups")
