"""Domains: tenants that see nothing of each other, and administrators who reach nothing beyond their own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from diycloud.actions.actor import Actor
from diycloud.actions.roles import Role
from diycloud.agent import protocol as wire
from diycloud.domains.actions import CreateDomain, ListDomains, ModifyDomain, RemoveDomain, ShowDomain
from diycloud.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from diycloud.groups.actions import CreateGroup
from diycloud.policies.actions import CreatePolicy
from diycloud.users.actions import (
    CreateUser,
    DeleteUser,
    ListUsers,
    ModifyUser,
    PurgeUser,
    SetLimits,
    SetPassword,
    ShowUser,
)
from tests.unit.tenants import Bench


@pytest.fixture
def bench(bench: Bench) -> Bench:
    bench.run(CreateDomain(name="physics", description="second floor"))
    return bench


@pytest.fixture
def chief(bench: Bench) -> Actor:
    return bench.user("chief", "physics", Role.DOMAIN_ADMIN)


# -- domains themselves


def test_create_show_change(bench: Bench) -> None:
    bench.run(CreatePolicy(name="small"))
    bench.user("dora", "physics")
    bench.user("chief", "physics", Role.DOMAIN_ADMIN)
    bench.run(CreateGroup(name="quarks", domain="physics"))
    shown = bench.run(ShowDomain(name="physics"))
    assert (shown.description, shown.policy, shown.users, shown.groups, shown.admins) == (
        "second floor", "default", 2, 1, ("chief",),
    )  # fmt: skip
    changed = bench.run(ModifyDomain(name="physics", description=None, policy="small"))
    assert (changed.description, changed.policy) == ("", "small")
    bench.run(ModifyDomain(name="physics", policy="small"))
    assert [json.loads(row[3]) for row in bench.audited("domain.modify")] == [
        {"description": ["second floor", ""], "policy": ["default", "small"]}, {},
    ]  # fmt: skip
    assert [d.name for d in bench.run(ListDomains()).domains] == ["default", "physics"]
    for action, error in (
        (CreateDomain(name="physics"), Conflict),
        (ShowDomain(name="none"), NotFound),
        (ModifyDomain(name="physics", policy="none"), NotFound),
    ):
        with pytest.raises(error):
            bench.run(action)


def test_a_domain_in_use_stays(bench: Bench) -> None:
    bench.user("dora", "physics")
    bench.run(CreateGroup(name="quarks", domain="physics"))
    with pytest.raises(Conflict, match="has 1 user and 1 group"):
        bench.run(RemoveDomain(name="physics"))
    bench.run(DeleteUser(username="dora"))
    with pytest.raises(Conflict, match="the deleted users count too"):
        bench.run(RemoveDomain(name="physics"))
    bench.run(PurgeUser(username="dora"))
    bench.sql("DELETE FROM groups")
    bench.run(RemoveDomain(name="physics"))
    with pytest.raises(Conflict, match="stays"):
        bench.run(RemoveDomain(name="default"))


def test_a_domain_is_removed_while_somebody_joins_it(bench: Bench) -> None:
    bench.user("ada")
    bench.both(RemoveDomain(name="physics"), CreateUser(username="dora", domain="physics"))
    bench.both(ModifyUser(username="ada", domain="physics"), RemoveDomain(name="physics"))
    assert bench.sql("SELECT count(*) FROM users WHERE domain NOT IN (SELECT name FROM domains)") == [(0,)]


# -- moving


def test_a_move_leaves_the_groups_of_the_old_domain(bench: Bench) -> None:
    bench.user("ada")
    bench.run(CreateGroup(name="lab", members=("ada",)))
    bench.run(CreateGroup(name="music", members=("ada",)))
    moved = bench.run(ModifyUser(username="ada", domain="physics"))
    assert moved.warnings == ("No member of lab, music any more, of the domain default.",)
    assert (moved.user.domain, moved.user.groups, moved.user.settled) == ("physics", (), True)
    assert bench.host.wishes["ada"].groups == []
    assert json.loads(bench.audited("user.modify")[-1][3]) == {
        "domain": ["default", "physics"], "groups": ["lab,music", ""],
    }  # fmt: skip


def test_a_move_into_groups_of_the_new_domain(bench: Bench) -> None:
    bench.user("ada")
    bench.run(CreateGroup(name="lab", members=("ada",)))
    bench.run(CreateGroup(name="quarks", domain="physics"))
    moved = bench.run(ModifyUser(username="ada", domain="physics", groups=("quarks",)))
    assert (moved.user.groups, moved.warnings) == (("quarks",), ())
    with pytest.raises(InvalidInput, match="no group lab in the domain physics"):
        bench.run(ModifyUser(username="ada", groups=("quarks", "lab")))
    with pytest.raises(InvalidInput, match="no domain nowhere"):
        bench.run(ModifyUser(username="ada", domain="nowhere"))


def test_an_administrator_who_moves_administers_the_new_domain_after_another_sign_in(
    bench: Bench, chief: Actor
) -> None:
    bench.sql(
        "INSERT INTO sessions (token_hash, user_id, created_at, last_seen, expires_at) VALUES (?, ?, 0, 0, 9000000000)",
        b"x",
        chief.user_id,
    )
    bench.run(CreateDomain(name="chemistry"))
    moved = bench.run(ModifyUser(username="chief", domain="chemistry"))
    assert moved.warnings == ("chief administers the domain chemistry now.",)
    assert bench.sql("SELECT count(*) FROM sessions") == [(0,)]


# -- who reaches what


def test_a_domains_administrator_sees_only_the_own(bench: Bench, chief: Actor) -> None:
    bench.user("ada")
    bench.user("dora", "physics")
    assert [d.name for d in bench.run(ListDomains(), chief).domains] == ["physics"]
    assert bench.run(ShowDomain(name="physics"), chief).users == 2
    assert [u.username for u in bench.run(ListUsers(), chief).users] == ["chief", "dora"]
    with pytest.raises(PermissionDenied):
        bench.run(ListUsers(domain="default"), chief)
    assert bench.run(ListUsers(search="ada"), chief).total == 0
    said = set()
    for name in ("ada", "nobody"):
        with pytest.raises(PermissionDenied) as caught:
            bench.run(ShowUser(username=name), chief)
        said.add(caught.value.message.replace(name, "X"))
    assert len(said) == 1, "who is elsewhere and who is nowhere look the same"
    with pytest.raises(PermissionDenied):
        bench.run(ShowDomain(name="default"), chief)


@pytest.mark.parametrize(
    "action",
    [CreateDomain(name="x"), ModifyDomain(name="physics", policy="default"), RemoveDomain(name="physics")],
    ids=lambda action: action.action_name,
)
def test_a_domains_administrator_changes_no_domain(bench: Bench, chief: Actor, action: Any) -> None:
    with pytest.raises(PermissionDenied):
        bench.run(action, chief)


FIELDS: list[tuple[str, object]] = [
    ("role", Role.ADMIN), ("role", Role.MONITOR), ("role", Role.DOMAIN_ADMIN), ("domain", "default"), ("policy", "default"),
    ("external_id", "x-1"), ("container_uid", 0), ("container_gid", 0), ("container_gids", (0,)),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), FIELDS)
def test_fields_that_reach_beyond_a_domain(bench: Bench, chief: Actor, field: str, value: object) -> None:
    """Also of the administrator's own account, and also what takes a value away."""
    bench.user("dora", "physics")
    given: dict[str, Any] = {field: value}
    for action in (
        CreateUser(username="new", **given),
        ModifyUser(username="dora", **given),
        ModifyUser(username="chief", **given),
    ):
        with pytest.raises(PermissionDenied, match=field):
            bench.run(action, chief)
    assert bench.sql("SELECT count(*) FROM users WHERE username = 'new'") == [(0,)]
    if field in ("external_id", "container_uid", "container_gid", "container_gids"):
        with pytest.raises(PermissionDenied, match=field):
            bench.run(ModifyUser(username="dora", **{field: None}), chief)


def test_what_a_domains_administrator_may_do(bench: Bench, chief: Actor) -> None:
    made = bench.run(CreateUser(username="dora", domain="physics", role=Role.USER), chief).user
    assert (made.domain, made.role) == ("physics", Role.USER)
    assert bench.run(ModifyUser(username="dora", full_name="Dora", domain="physics"), chief).user.full_name == "Dora"
    bench.run(SetLimits(username="dora", cpu=2), chief)
    bench.run(DeleteUser(username="dora"), chief)
    bench.run(PurgeUser(username="dora"), chief)


@pytest.mark.parametrize("role", [Role.ADMIN, Role.MONITOR])
def test_who_reaches_beyond_the_domain_is_not_its_administrators(bench: Bench, chief: Actor, role: Role) -> None:
    """Else they could set that one's password and be it."""
    bench.user("boss", "physics", role)
    for action in (
        ModifyUser(username="boss", email="a@b.org"),
        SetLimits(username="boss", cpu=1),
        DeleteUser(username="boss"),
    ):
        with pytest.raises(PermissionDenied, match="beyond the domain"):
            bench.run(action, chief)


def test_a_user_is_taken_out_of_the_domain_while_its_administrator_changes_them(bench: Bench, chief: Actor) -> None:
    """What was decided upon before the transaction is looked at again in it."""
    bench.user("dora", "physics")

    async def together() -> list[Any]:
        return await asyncio.gather(
            bench.start(ModifyUser(username="dora", domain="default")),
            bench.start(ModifyUser(username="dora", full_name="Gotcha"), chief),
            return_exceptions=True,
        )

    asyncio.run(together())
    ((name, domain),) = bench.sql("SELECT full_name, domain FROM users WHERE username = 'dora'")
    assert domain == "default"
    order = [row[0] for row in bench.audited("user.modify") if row[2] == "done"]
    assert name == "" or order[0] == "chief", "after the move, nothing of the old domain's"


def test_a_user_becomes_an_administrator_while_a_domains_own_sets_their_password(bench: Bench, chief: Actor) -> None:
    """The password's hash takes a while; whoever knew it could sign in as the administrator."""
    bench.user("dora", "physics")
    before = bench.sql("SELECT password_hash, shadow_hash, generation FROM users WHERE username = 'dora'")

    async def promote() -> None:
        await bench.start(ModifyUser(username="dora", role=Role.ADMIN))

    bench.host.meanwhile[wire.HashPasswords] = promote
    with pytest.raises(PermissionDenied, match="beyond the domain"):
        bench.run(SetPassword(username="dora", password="a phrase that chief knows"), chief)
    assert bench.sql("SELECT password_hash, shadow_hash, generation FROM users WHERE username = 'dora'") == before
    assert [row[2] for row in bench.audited("user.set-password")] == ["refused"]


# -- by hand


@pytest.mark.sqlite
def test_rows_of_a_domain_that_is_not_there_are_shown_and_hold_up_nothing(bench: Bench) -> None:
    bench.user("ada")
    bench.sql("UPDATE users SET domain = 'gone' WHERE username = 'ada'")
    assert bench.run(ShowUser(username="ada")).domain == "gone"
    assert [d.name for d in bench.run(ListDomains()).domains] == ["default", "physics"]
    moved = bench.run(ModifyUser(username="ada", domain="physics"))
    assert moved.user.domain == "physics"
