"""Groups: made, changed, listed and removed on a host that refuses, is away or is cut off; whoever asks, and by hand."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy import Connection, event

from diycloud.agent import protocol as wire
from diycloud.db.engine import data_version
from diycloud.errors import Conflict, InvalidInput, NotFound, PermissionDenied, TooManyRequests, Unavailable
from diycloud.groups import repository
from diycloud.groups.actions import (
    AddMembers,
    CreateGroup,
    ListGroups,
    ModifyGroup,
    PreviewRemoveGroup,
    RemoveGroup,
    ShowGroup,
)
from diycloud.groups.models import Group
from diycloud.users import repository as users
from diycloud.users.actions import CreateUser, DeleteUser, ModifyUser, ShowUser
from tests.unit.tenants import Bench, with_two_domains


@pytest.fixture
def people(bench: Bench) -> Bench:
    return with_two_domains(bench)


def shown(bench: Bench, name: str) -> Group:
    found: Group = bench.run(ShowGroup(name=name)).group
    return found


def members(bench: Bench, name: str) -> tuple[str, ...]:
    found: tuple[str, ...] = bench.run(ShowGroup(name=name)).members
    return found


# -- create


def test_a_group_is_on_the_host_with_its_members_when_the_answer_comes(people: Bench) -> None:
    made = people.run(CreateGroup(name="lab", description="first floor", disk=5 << 30, members=("bob", "ada", "bob")))
    group = made.group
    assert (group.name, group.domain, group.description, group.disk) == ("lab", "default", "first floor", "5G")
    assert (group.gid, group.folder, group.members, made.warnings) == (10_000, "/srv/diycloud/lab", 2, ())
    assert people.host.members("lab") == {"ada", "bob"} == set(members(people, "lab"))
    assert people.run(ShowUser(username="ada")).settled, "the host's answer is noted"
    assert people.sql("SELECT gid, disk_quota, removing FROM groups") == [(10_000, "5G", 0)]


@pytest.mark.parametrize(
    ("name", "error"),
    [("ada", Conflict), ("gone", Conflict), ("lab", Conflict), ("sudo", InvalidInput), ("systemd-x", InvalidInput)],
)
def test_a_name_that_is_taken_or_the_systems(people: Bench, name: str, error: type[Exception]) -> None:
    people.run(CreateGroup(name="lab"))
    people.user("gone")
    people.run(DeleteUser(username="gone"))
    before = dict(people.host.gids)
    with pytest.raises(error, match=name):
        people.run(CreateGroup(name=name))
    assert people.host.gids == before and people.sql("SELECT count(*) FROM groups") == [(1,)]


def test_a_user_cannot_have_a_groups_name(people: Bench) -> None:
    people.run(CreateGroup(name="lab"))
    with pytest.raises(Conflict, match="there is a group 'lab'"):
        people.run(CreateUser(username="lab"))
    assert "lab" not in people.host.wishes


def test_a_user_and_a_group_of_one_name_at_once(bench: Bench) -> None:
    found = bench.both(CreateUser(username="lab"), CreateGroup(name="lab"))
    assert sorted(isinstance(answer, Conflict) for answer in found) == [False, True]
    rows = bench.sql("SELECT username FROM users UNION ALL SELECT name FROM groups")
    assert rows == [("lab",)] and (("lab" in bench.host.gids) != ("lab" in bench.host.wishes))


def test_of_two_who_make_the_same_user_one_is_told_that_there_is_one(bench: Bench) -> None:
    found = bench.both(CreateUser(username="ada"), CreateUser(username="ada"))
    (refused,) = [one for one in found if isinstance(one, Exception)]
    assert isinstance(refused, Conflict) and "there is a user 'ada' already" in str(refused)
    assert bench.sql("SELECT count(*) FROM users WHERE username = 'ada'") == [(1,)]


def test_two_administrators_create_the_same_group(people: Bench) -> None:
    found = people.both(CreateGroup(name="lab", members=("ada",)), CreateGroup(name="lab", members=("bob",)))
    assert [type(answer).__name__ for answer in found] == ["GroupChanged", "Conflict"]
    assert (members(people, "lab"), people.host.members("lab")) == (("ada",), {"ada"})


def test_a_refusal_by_the_host_takes_the_row_and_the_memberships_back(people: Bench) -> None:
    people.host.refuses["lab"] = Conflict("lab exists on the host as a group.")
    with pytest.raises(Conflict, match="exists on the host"):
        people.run(CreateGroup(name="lab", members=("ada",)))
    assert people.sql("SELECT (SELECT count(*) FROM groups), (SELECT count(*) FROM group_members)") == [(0, 0)]
    ada = people.run(ShowUser(username="ada"))
    assert (ada.groups, ada.settled) == ((), True)
    assert people.audited("group.create")[-1][2] == "refused"


def test_with_the_agent_away_the_group_waits_and_reconcile_completes_it(people: Bench) -> None:
    people.host.away = True
    made = people.run(CreateGroup(name="lab", members=("ada",)))
    assert (made.group.gid, made.group.folder) == (None, "") and "agent" in made.warnings[0]
    with pytest.raises(Unavailable):
        people.reconcile()
    people.host.away = False
    people.reconcile()
    assert (shown(people, "lab").gid, people.host.members("lab")) == (10_000, {"ada"})


def test_a_group_that_was_deleted_by_hand_is_not_handed_to_others(people: Bench) -> None:
    """Its folder on the host is still full of what its members wrote."""
    people.run(CreateGroup(name="lab", members=("ada",)))
    people.sql("DELETE FROM groups")
    people.reconcile()
    assert people.host.gids == {"lab": 10_000}, "reconcile removes nothing precious"
    with pytest.raises(Conflict, match="on the host without a group here"):
        people.run(CreateGroup(name="lab", domain="physics", members=("dora",)))
    people.sql("INSERT INTO groups (name) VALUES ('lab')")
    people.reconcile()
    assert shown(people, "lab").gid == 10_000


# -- change, list


def test_modify_leaves_sets_and_clears(people: Bench) -> None:
    people.run(CreateGroup(name="lab", description="old", disk=1 << 30))
    assert people.run(ModifyGroup(name="lab", disk=2 << 30)).group.disk == "2G"
    changed = people.run(ModifyGroup(name="lab", description=None, disk=None)).group
    assert (changed.description, changed.disk) == ("", None)
    assert [json.loads(row[3]) for row in people.audited("group.modify")] == [
        {"disk": ["1G", "2G"]}, {"description": ["old", ""], "disk": ["2G", None]},
    ]  # fmt: skip
    with pytest.raises(NotFound):
        people.run(ModifyGroup(name="other", disk=None))


def test_lists_go_page_by_page(people: Bench) -> None:
    for name, domain in (("b", "default"), ("a", "physics"), ("d", "default"), ("c", "physics")):
        people.run(CreateGroup(name=name, domain=domain, description=f"of {domain}"))
    people.run(AddMembers(name="d", members=("ada", "bob")))
    first = people.run(ListGroups(limit=3))
    assert ([g.name for g in first.groups], first.next) == (["a", "b", "c"], "c")
    last = people.run(ListGroups(limit=3, after="c"))
    assert ([(g.name, g.members) for g in last.groups], last.next) == ([("d", 2)], None)
    assert [g.name for g in people.run(ListGroups(domain="physics")).groups] == ["a", "c"]
    assert [g.name for g in people.run(ListGroups(search="OF PHYS")).groups] == ["a", "c"]
    assert people.run(ListGroups(search="%")).groups == []


@pytest.mark.sqlite
@pytest.mark.parametrize("domain", [None, "default"])
def test_a_page_costs_the_same_wherever_it_is(connection: Connection, domain: str | None) -> None:
    """One walk along the index of names; no member is read but by the index of its group."""
    asked: list[tuple[str, Any]] = []
    event.listen(connection, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
    repository.page(connection, search="", domain=domain, after="m", limit=50)
    ((statement, values),) = asked
    plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
    assert any("groups USING INDEX" in step and "name>?" in step for step in plan), plan
    assert not any("SCAN" in step or "TEMP B-TREE" in step for step in plan), plan


# -- remove


def test_removal_first_shows_what_it_would_take(people: Bench) -> None:
    people.run(CreateGroup(name="lab", members=("ada", "bob")))
    plan = people.run(PreviewRemoveGroup(name="lab"))
    assert (plan.gid, plan.folder, plan.folder_size, plan.folder_files, plan.members) == (
        10_000, "/srv/diycloud/lab", "3M", 7, 2,
    )  # fmt: skip
    assert people.host.gids == {"lab": 10_000}
    people.sql("INSERT INTO groups (name) VALUES ('waits')")
    assert people.run(PreviewRemoveGroup(name="waits")).gid is None


def test_a_removed_group_leaves_nothing_but_its_members(people: Bench) -> None:
    people.run(CreateGroup(name="lab", members=("ada",)))
    people.run(RemoveGroup(name="lab"))
    assert people.host.gids == {} and people.host.wishes["ada"].groups == []
    assert people.sql("SELECT (SELECT count(*) FROM groups), (SELECT count(*) FROM group_members)") == [(0, 0)]
    ada = people.run(ShowUser(username="ada"))
    assert (ada.groups, ada.settled) == ((), True)
    assert people.run(CreateGroup(name="lab")).group.gid == 10_001, "the name is free, the number is another"


@pytest.mark.parametrize(
    ("error", "noted"),
    [
        (TooManyRequests("Enough for this hour.", retry_after=60), ""),
        (Unavailable("Broken."), ""),
        (Conflict("Something is mounted in it."), "Something is mounted in it."),
    ],
)
def test_what_stops_a_removal_leaves_it_to_reconcile(people: Bench, error: Any, noted: str) -> None:
    people.run(CreateGroup(name="lab", members=("ada",)))
    people.host.refuses["lab"] = error
    with pytest.raises(type(error)):
        people.run(RemoveGroup(name="lab"))
    group = shown(people, "lab")
    assert (group.removing, group.host_problem, group.members) == (True, noted, 0)
    assert [g.removing for g in people.run(ListGroups()).groups] == [True]
    for refused in (AddMembers(name="lab", members=("ada",)), ModifyGroup(name="lab", disk=None)):
        with pytest.raises(Conflict, match="being removed"):
            people.run(refused)
    with pytest.raises(InvalidInput, match="no group lab"):
        people.run(ModifyUser(username="ada", groups=("lab",)))
    with pytest.raises(Conflict):
        people.run(CreateGroup(name="lab"))
    people.reconcile()
    assert shown(people, "lab").removing, "still in the way"
    people.host.refuses.clear()
    people.reconcile()
    assert people.host.gids == {} and people.sql("SELECT count(*) FROM groups") == [(0,)]


def test_a_removal_that_was_cut_off_after_the_host(people: Bench) -> None:
    people.run(CreateGroup(name="lab"))
    people.sql("UPDATE groups SET removing = 1")
    people.host.gids.clear()
    people.reconcile()
    assert people.sql("SELECT count(*) FROM groups") == [(0,)]


def test_two_administrators_remove_one_group(people: Bench) -> None:
    people.run(CreateGroup(name="lab"))
    found = people.both(RemoveGroup(name="lab"), RemoveGroup(name="lab"))
    assert all(answer is None or isinstance(answer, NotFound) for answer in found) and None in found
    assert people.host.gids == {}


def test_reconcile_does_not_bring_back_what_is_removed_meanwhile(people: Bench) -> None:
    """Its list was read before; the removal comes while it is on its way to the agent."""
    people.run(CreateGroup(name="lab"))

    async def both() -> None:
        removal: list[asyncio.Task[Any]] = []

        async def remove() -> None:
            removal.append(asyncio.create_task(people.start(RemoveGroup(name="lab"))))
            await asyncio.sleep(0.05)

        people.host.meanwhile[wire.EnsureGroups] = remove
        from diycloud.groups import host

        await host.reconcile(people.services)
        await removal[0]

    asyncio.run(both())
    assert people.host.gids == {} and people.sql("SELECT count(*) FROM groups") == [(0,)]


def test_an_old_removal_does_not_take_the_next_group_of_the_name(people: Bench) -> None:
    people.run(CreateGroup(name="lab", members=("ada",)))

    async def again() -> None:  # somebody else removes the group and makes a new one, while the first one still asks
        await people.start(RemoveGroup(name="lab"))
        await people.start(CreateGroup(name="lab", members=("bob",)))

    people.host.meanwhile[wire.EnsureAccounts] = again
    people.run(RemoveGroup(name="lab"))
    assert people.host.gids == {"lab": 10_001} and members(people, "lab") == ("bob",)


# -- by hand


def test_a_row_made_by_hand_becomes_a_group(people: Bench) -> None:
    people.sql("INSERT INTO groups (name, domain) VALUES ('lab', 'default')")
    people.sql(
        "INSERT INTO group_members (group_id, user_id) SELECT groups.id, users.id FROM groups, users WHERE username = 'ada'"
    )
    people.reconcile()
    assert (shown(people, "lab").gid, people.host.members("lab")) == (10_000, {"ada"})


@pytest.mark.sqlite
@pytest.mark.parametrize("name", ["Lab", "a b", "", "x" * 40, "-rf", "löb", "lab\n", b"\xff"])
def test_a_name_that_cannot_be_holds_up_no_other(people: Bench, name: Any) -> None:
    people.sql("INSERT INTO groups (name) VALUES (?)", name)
    people.sql("INSERT INTO groups (name) VALUES ('lab')")
    people.reconcile()
    assert people.host.gids == {"lab": 10_000}
    ((problem,),) = people.sql("SELECT host_problem FROM groups WHERE name = ?", name)
    assert "no group" in problem
    people.sql("UPDATE groups SET removing = 1 WHERE name = ?", name)
    people.reconcile()
    assert people.sql("SELECT name FROM groups") == [("lab",)]


def test_a_name_that_the_host_refuses_holds_up_no_other(people: Bench) -> None:
    people.sql("INSERT INTO groups (name) VALUES ('sudo'), ('lab')")
    people.host.refuses["sudo"] = PermissionDenied("The name sudo is reserved for the system.")
    people.reconcile()
    assert (shown(people, "sudo").host_problem, shown(people, "lab").gid) == (
        "The name sudo is reserved for the system.",
        10_000,
    )
    del people.host.refuses["sudo"]
    people.reconcile()
    assert shown(people, "sudo").host_problem == ""


@pytest.mark.sqlite
def test_what_people_write_into_other_columns(people: Bench) -> None:
    people.sql("INSERT INTO groups (name, gid, disk_quota) VALUES ('lab', 'many', 'a lot')")
    assert (shown(people, "lab").gid, shown(people, "lab").disk) == (None, None)
    people.reconcile()
    assert shown(people, "lab").gid == 10_000
    people.sql("UPDATE groups SET gid = 0, disk_quota = '2048'")
    people.reconcile()
    assert (shown(people, "lab").gid, shown(people, "lab").disk) == (10_000, "2G")


@pytest.mark.sqlite
def test_orphans_are_tidied(people: Bench) -> None:
    people.run(CreateGroup(name="lab", members=("ada", "bob")))
    people.sql("DELETE FROM groups WHERE name = 'lab'")
    assert people.sql("SELECT count(*) FROM group_members") == [(2,)], "an older sqlite3 leaves them"
    assert asyncio.run(people.database.write(users.tidy)) == 2
    people.reconcile()
    assert people.sql("SELECT count(*) FROM group_members") == [(0,)]
    assert people.host.wishes["ada"].groups == []


def test_reconcile_of_many_groups_asks_in_lists_and_writes_only_news(bench: Bench) -> None:
    for number in range(450):
        bench.sql("INSERT INTO groups (name) VALUES (?)", f"g{number}")
    bench.reconcile()
    assert [len(m.groups) for m in bench.host.asked if isinstance(m, wire.EnsureGroups)] == [200, 200, 50]
    assert bench.sql("SELECT count(*), count(gid) FROM groups") == [(450, 450)]
    version = bench.database.read_now(data_version)
    bench.reconcile()
    assert bench.database.read_now(data_version) == version
