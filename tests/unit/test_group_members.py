"""Who is in a group: who joins, leaves and moves, and who may say so."""

from __future__ import annotations

import json

import pytest

from diycloud.actions.actor import Actor
from diycloud.actions.roles import Role
from diycloud.agent import protocol as wire
from diycloud.domains.actions import CreateDomain, RemoveDomain
from diycloud.errors import HostError, InvalidInput, PermissionDenied
from diycloud.groups.actions import (
    AddMembers,
    CreateGroup,
    ListGroups,
    ModifyGroup,
    PreviewRemoveGroup,
    RemoveGroup,
    RemoveMembers,
    ShowGroup,
)
from diycloud.users.actions import DeleteUser, ModifyUser, ShowUser
from tests.unit.tenants import Bench, with_two_domains


@pytest.fixture
def people(bench: Bench) -> Bench:
    return with_two_domains(bench)


def chief(bench: Bench) -> Actor:
    return bench.user("chief", "physics", Role.DOMAIN_ADMIN)


def members(bench: Bench, name: str) -> tuple[str, ...]:
    found: tuple[str, ...] = bench.run(ShowGroup(name=name)).members
    return found


def faults(caught: pytest.ExceptionInfo[InvalidInput]) -> list[tuple[str, str]]:
    return [(error.field, error.message) for error in caught.value.errors]


# -- members


def test_who_is_a_member_already_is_no_error(people: Bench) -> None:
    people.run(CreateGroup(name="lab", members=("ada",)))
    asked = len(people.host.asked)
    people.run(AddMembers(name="lab", members=("ada",)))
    assert len(people.host.asked) == asked, "nothing changed, so nothing is asked of the host"
    changed = people.run(AddMembers(name="lab", members=("ada", "bob")))
    assert (changed.group.members, changed.warnings) == (2, ())
    assert json.loads(people.audited("group.add-members")[-1][3]) == {"joined": ["bob"]}
    sent = people.host.asked[-1]
    assert [account.wish.name for account in sent.accounts] == ["bob"], "only who changed"


def test_every_wrong_name_is_said_at_once_and_nobody_joins(people: Bench) -> None:
    people.run(CreateGroup(name="lab"))
    people.run(DeleteUser(username="carl"))
    with pytest.raises(InvalidInput) as caught:
        people.run(AddMembers(name="lab", members=("ada", "nobody", "dora", "carl")))
    assert faults(caught) == [
        ("members", "there is no user nobody in the domain default"),
        ("members", "there is no user dora in the domain default"),
        ("members", "carl is deleted"),
    ]
    assert members(people, "lab") == ()
    with pytest.raises(InvalidInput):
        people.run(CreateGroup(name="other", members=("ada", "dora")))
    assert "other" not in people.host.gids


def test_members_leave(people: Bench) -> None:
    people.run(CreateGroup(name="lab", members=("ada", "bob", "carl")))
    people.run(DeleteUser(username="carl"))
    changed = people.run(RemoveMembers(name="lab", members=("carl", "bob")))
    assert (changed.group.members, people.host.members("lab")) == (1, {"ada"}), (
        "a deleted user's account is there still"
    )
    people.run(RemoveMembers(name="lab", members=("bob",)))
    assert [json.loads(row[3]) for row in people.audited("group.remove-members")] == [
        {"left": ["bob", "carl"]},
        {"left": []},
    ]
    with pytest.raises(InvalidInput) as caught:
        people.run(RemoveMembers(name="lab", members=("ada", "nobody", "dora")))
    assert [name for _, name in faults(caught)] == [
        "there is no user nobody in the domain default",
        "there is no user dora in the domain default",
    ]
    assert members(people, "lab") == ("ada",)


def test_a_member_whom_the_host_refuses_is_a_warning(people: Bench) -> None:
    people.run(CreateGroup(name="lab"))
    people.host.refuses["bob"] = HostError("bob was changed by hand.")
    changed = people.run(AddMembers(name="lab", members=("ada", "bob")))
    assert changed.warnings == ("bob: bob was changed by hand.",)
    assert members(people, "lab") == ("ada", "bob") and people.host.members("lab") == {"ada"}
    del people.host.refuses["bob"]
    people.reconcile()
    assert people.host.members("lab") == {"ada", "bob"}


def test_with_the_agent_away_members_join_later(people: Bench) -> None:
    people.run(CreateGroup(name="lab"))
    people.host.away = True
    assert "agent" in people.run(AddMembers(name="lab", members=("ada",))).warnings[0]
    people.host.away = False
    people.reconcile()
    assert people.host.members("lab") == {"ada"}


def test_a_hundred_members_go_to_the_host_in_batches(bench: Bench) -> None:
    names = tuple(f"u{n}" for n in range(120))
    for name in names:
        bench.sql("INSERT INTO users (username, password_hash) VALUES (?, 'x')", name)
    bench.reconcile()
    bench.host.asked.clear()
    bench.run(CreateGroup(name="everyone", members=names))
    sizes = [len(message.accounts) for message in bench.host.asked if isinstance(message, wire.EnsureAccounts)]
    assert sizes == [50, 50, 20] and bench.host.members("everyone") == set(names)


def test_who_is_in_as_many_groups_as_a_wish_holds(bench: Bench) -> None:
    """Fifty such wishes are more than a frame holds, too."""
    names = tuple(f"u{n}" for n in range(50))
    for name in names:
        bench.sql("INSERT INTO users (username, password_hash) VALUES (?, 'x')", name)
    for number in range(64):
        bench.sql("INSERT INTO groups (name) VALUES (?)", f"a-group-with-a-long-name-{number:03}")
    bench.sql("INSERT INTO group_members (group_id, user_id) SELECT groups.id, users.id FROM groups, users")
    bench.reconcile()
    assert all(len(wish.groups) == 64 for wish in bench.host.wishes.values()) and len(bench.host.wishes) == 50
    assert bench.sql("SELECT count(*) FROM users WHERE generation <> host_generation") == [(0,)]
    bench.run(CreateGroup(name="more"))
    with pytest.raises(InvalidInput, match="u7 is in 64 groups"):
        bench.run(AddMembers(name="more", members=("u7",)))


def test_a_user_moves_while_somebody_adds_them(people: Bench) -> None:
    people.run(CreateGroup(name="lab"))
    people.both(ModifyUser(username="ada", domain="physics"), AddMembers(name="lab", members=("ada",)))
    ada = people.run(ShowUser(username="ada"))
    assert ada.domain == "physics" and ada.groups == (), "nobody is in another domain's group"
    assert people.host.members("lab") == set()


def test_a_change_of_groups_and_a_move_at_once(people: Bench) -> None:
    people.run(CreateGroup(name="lab"))
    people.both(ModifyUser(username="ada", domain="physics"), ModifyUser(username="ada", groups=("lab",)))
    ada = people.run(ShowUser(username="ada"))
    assert ada.groups == () or ada.domain == "default"


# -- domains


def test_the_administrators_of_a_domain_stay_in_it(people: Bench) -> None:
    people.run(CreateGroup(name="lab", members=("ada",)))
    actor = chief(people)
    made = people.run(CreateGroup(name="quarks", members=("dora",)), actor)
    assert made.group.domain == "physics", "their own, without saying so"
    refused = (
        CreateGroup(name="x", domain="default"), ShowGroup(name="lab"), ModifyGroup(name="lab", disk=None),
        AddMembers(name="lab", members=("dora",)), RemoveMembers(name="lab", members=("ada",)),
        PreviewRemoveGroup(name="lab"), RemoveGroup(name="lab"), ShowGroup(name="nothing"),
    )  # fmt: skip
    for action in refused:
        with pytest.raises(PermissionDenied):
            people.run(action, actor)
    with pytest.raises(InvalidInput, match="no user ada in the domain physics"):
        people.run(AddMembers(name="quarks", members=("ada",)), actor)
    assert [g.name for g in people.run(ListGroups(), actor).groups] == ["quarks"]
    with pytest.raises(PermissionDenied):
        people.run(ListGroups(domain="default"), actor)
    people.run(RemoveGroup(name="quarks"), actor)
    assert people.host.gids == {"lab": 10_000}
    domain_of = people.sql("SELECT domain FROM audit WHERE action = 'group.create' AND target = 'quarks'")
    assert domain_of == [("physics",)], "they find it in their audit"


@pytest.mark.parametrize("above", ["admin", "monitor", "sudo"])
def test_what_groups_an_administrator_is_in_is_no_domain_administrators_to_say(people: Bench, above: str) -> None:
    actor = chief(people)
    people.user("boss", "physics", Role.USER if above == "sudo" else Role(above))
    if above == "sudo":
        people.sql("UPDATE users SET sudo = 1 WHERE username = 'boss'")
    people.run(CreateGroup(name="quarks"), actor)
    for action in (
        AddMembers(name="quarks", members=("dora", "boss")),
        CreateGroup(name="x", members=("boss",)),
    ):
        with pytest.raises(PermissionDenied, match="boss"):
            people.run(action, actor)
    assert members(people, "quarks") == () and "x" not in people.host.gids
    people.run(AddMembers(name="quarks", members=("dora", "boss")))
    people.run(AddMembers(name="quarks", members=("boss", "chief")), actor)  # who is in it already is not changed
    with pytest.raises(PermissionDenied, match="boss"):
        people.run(RemoveMembers(name="quarks", members=("dora", "boss")), actor)
    assert members(people, "quarks") == ("boss", "chief", "dora")
    people.run(RemoveMembers(name="quarks", members=("chief",)), actor)
    people.run(RemoveGroup(name="quarks"), actor)  # the group is the domain's, with whoever is in it
    assert people.host.members("quarks") == set()


def test_a_domain_administrator_with_sudo_joins_and_leaves(people: Bench) -> None:
    actor = chief(people)
    people.sql("UPDATE users SET sudo = 1 WHERE username = 'chief'")
    people.run(CreateGroup(name="quarks", members=("chief",)), actor)
    people.run(RemoveMembers(name="quarks", members=("chief",)), actor)
    assert members(people, "quarks") == ()


@pytest.mark.parametrize("role", [Role.USER, Role.MONITOR])
def test_others_change_no_group(people: Bench, role: Role) -> None:
    people.run(CreateGroup(name="lab", members=("ada",)))
    actor = people.user("zoe", role=role)
    for action in (CreateGroup(name="x"), RemoveGroup(name="lab"), AddMembers(name="lab", members=("zoe",))):
        with pytest.raises(PermissionDenied):
            people.run(action, actor)
    if role is Role.MONITOR:
        assert [g.name for g in people.run(ListGroups(), actor).groups] == ["lab"]
    else:
        with pytest.raises(PermissionDenied):
            people.run(ListGroups(), actor)


def test_a_group_needs_a_domain_that_is_there(people: Bench) -> None:
    with pytest.raises(InvalidInput) as caught:
        people.run(CreateGroup(name="lab", domain="chemistry"))
    assert faults(caught) == [("domain", "there is no domain chemistry")]
    people.run(CreateDomain(name="chemistry"))
    people.both(CreateGroup(name="lab", domain="chemistry"), RemoveDomain(name="chemistry"))
    left = people.sql("SELECT count(*) FROM groups LEFT JOIN domains ON domains.name = domain WHERE domains.id IS NULL")
    assert left == [(0,)]
