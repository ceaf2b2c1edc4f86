"""Policies: what new users get, the most that can be given, by whom; and what people write into the table by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from diycloud.actions.roles import Role
from diycloud.domains.actions import CreateDomain, ModifyDomain
from diycloud.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from diycloud.policies.actions import (
    ApplyPolicy,
    CreatePolicy,
    ListPolicies,
    ModifyPolicy,
    RemovePolicy,
    ShowPolicy,
)
from diycloud.users.actions import CreateUser, ModifyUser, SetLimits, ShowUser
from diycloud.users.models import Limits
from tests.unit.tenants import Bench

G = 1 << 30


@pytest.fixture
def small(bench: Bench) -> Bench:
    """A policy of half a core that allows two, and a domain that has it."""
    bench.run(
        CreatePolicy(
            name="small", cpu=0.5, memory=G, disk=2 * G, tasks=100, gpu=False,
            max_cpu=2.0, max_memory=4 * G, max_disk=8 * G, max_tasks=400, max_gpu=False,
        )
    )  # fmt: skip
    bench.run(CreateDomain(name="physics", policy="small"))
    return bench


def faults(caught: pytest.ExceptionInfo[InvalidInput]) -> dict[str, str]:
    return {error.field: error.message for error in caught.value.errors}


# -- what new users get


def test_a_new_user_has_what_the_domains_policy_gives(small: Bench) -> None:
    made = small.run(CreateUser(username="ada", domain="physics")).user
    assert (made.policy, made.limits) == ("small", Limits(0.5, "1G", "2G", "4G", 100, False))
    assert small.run(CreateUser(username="bob")).user.limits == Limits(1.0, "2G", "5G", "10G", 512, False)
    small.run(ModifyDomain(name="physics", policy="default"))
    assert small.run(CreateUser(username="carl", domain="physics")).user.policy == "default"
    assert small.run(ShowUser(username="ada")).policy == "small", "who is there keeps the own one"
    made = small.run(CreateUser(username="dora", policy="small", cpu=1.5, disk=3 * G)).user
    assert made.limits == Limits(1.5, "1G", "3G", "6G", 100, False), "what is given goes before, within the policy"


def test_more_than_the_policy_allows_is_refused_with_field_and_rule(small: Bench) -> None:
    with pytest.raises(InvalidInput) as caught:
        small.run(
            CreateUser(username="ada", policy="small", cpu=3, memory=5 * G, disk=9 * G, tasks=500, gpu=True)
        )  # fmt: skip
    assert faults(caught) == {
        "cpu": "at most 2 by the policy small",
        "memory": "at most 4G by the policy small",
        "disk": "at most 8G by the policy small",
        "tasks": "at most 400 by the policy small",
        "gpu": "the policy small gives no GPU",
    }
    assert small.sql("SELECT count(*) FROM users") == [(0,)] and "ada" not in small.host.wishes
    small.run(CreateUser(username="ada", policy="small", cpu=2, memory=4 * G, disk=8 * G, tasks=400))
    for change in (SetLimits(username="ada", cpu=2.5), ModifyUser(username="ada", cpu=2.5)):
        with pytest.raises(InvalidInput) as caught:
            small.run(change)
        assert faults(caught) == {"cpu": "at most 2 by the policy small"}
    assert small.run(ShowUser(username="ada")).limits.cpu == 2


def test_a_policy_that_is_not_there(bench: Bench) -> None:
    for action in (CreateUser(username="ada", policy="none"), CreateDomain(name="physics", policy="none")):
        with pytest.raises((InvalidInput, NotFound), match="no policy"):
            bench.run(action)
    assert bench.sql("SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM domains)") == [(0, 1)]


def test_a_user_gets_another_policy(small: Bench) -> None:
    small.user("ada", cpu=8, memory=4 * G)
    with pytest.raises(InvalidInput) as caught:
        small.run(ModifyUser(username="ada", policy="small"))
    assert set(faults(caught)) == {"cpu", "tasks"}, "everything is looked at, not only what changes"
    changed = small.run(ModifyUser(username="ada", policy="small", cpu=2, tasks=200)).user
    assert (changed.policy, changed.limits.cpu, changed.limits.memory) == ("small", 2, "4G")


def test_apply_gives_all_of_a_policys_limits(small: Bench) -> None:
    small.user("ada", cpu=8, tasks=600)
    applied = small.run(ApplyPolicy(username="ada", policy="small")).user
    assert (applied.policy, applied.limits) == ("small", Limits(0.5, "1G", "2G", "4G", 100, False))
    assert small.host.wishes["ada"].limits.tasks == 100
    small.run(SetLimits(username="ada", cpu=2))
    assert small.run(ApplyPolicy(username="ada")).user.limits.cpu == 0.5
    with pytest.raises(NotFound):
        small.run(ApplyPolicy(username="ada", policy="none"))


# -- changing policies


def test_lowering_a_maximum_warns_and_takes_nothing_away(small: Bench) -> None:
    for name, cpu in (("ada", 2), ("bob", 1), ("carl", 2)):
        small.user(name, policy="small", cpu=cpu)
    changed = small.run(ModifyPolicy(name="small", max_cpu=1.0))
    assert changed.warnings == ("2 users with more than this: it stays until it is changed.",)
    assert small.run(ShowUser(username="ada")).limits.cpu == 2
    small.run(SetLimits(username="ada", memory=2 * G))  # what is not changed is not looked at
    with pytest.raises(InvalidInput):
        small.run(SetLimits(username="carl", cpu=1.5))
    assert small.run(ModifyPolicy(name="small", description="x")).warnings == ()
    assert json.loads(small.audited("policy.modify")[0][3]) == {"max_cpu": [2.0, 1.0]}


def test_a_default_is_never_above_its_own_maximum(small: Bench) -> None:
    with pytest.raises(InvalidInput) as caught:
        small.run(CreatePolicy(name="odd", cpu=2, memory=2 * G, max_cpu=1, max_memory=G, gpu=True, max_gpu=False))
    assert faults(caught) == {name: f"is above the policy's own max_{name}" for name in ("cpu", "memory", "gpu")}
    for change in (ModifyPolicy(name="small", cpu=2.5), ModifyPolicy(name="small", max_cpu=0.25)):
        with pytest.raises(InvalidInput) as caught:
            small.run(change)
        assert list(faults(caught)) == ["cpu"]
    small.run(ModifyPolicy(name="small", cpu=2.5, max_cpu=3.0))
    assert small.run(ModifyPolicy(name="small", max_cpu=None)).policy.maxima.cpu is None


def test_modify_leaves_sets_and_clears(small: Bench) -> None:
    before = small.run(ShowPolicy(name="small"))
    changed = small.run(ModifyPolicy(name="small", description="for classes", memory=2 * G, max_disk=None)).policy
    assert (changed.description, changed.defaults.memory, changed.maxima.disk) == ("for classes", "2G", None)
    assert (changed.defaults.cpu, changed.maxima.cpu) == (before.defaults.cpu, before.maxima.cpu)
    small.run(ModifyPolicy(name="small", description=None, memory=2 * G))
    assert [json.loads(row[3]) for row in small.audited("policy.modify")] == [
        {"description": ["", "for classes"], "memory": ["1G", "2G"], "max_disk": ["8G", None]},
        {"description": ["for classes", ""]},
    ]


def test_a_policy_in_use_stays(small: Bench) -> None:
    small.user("ada", policy="small")
    with pytest.raises(Conflict, match=r"in use by 1 user and the domains physics\."):
        small.run(RemovePolicy(name="small"))
    small.run(ModifyDomain(name="physics", policy="default"))
    small.run(ModifyUser(username="ada", policy="default"))
    small.run(RemovePolicy(name="small"))
    assert [p.name for p in small.run(ListPolicies()).policies] == ["default"]
    with pytest.raises(Conflict, match="stays"):
        small.run(RemovePolicy(name="default"))
    with pytest.raises(NotFound):
        small.run(RemovePolicy(name="small"))


def test_a_policy_is_removed_while_somebody_gets_it(small: Bench) -> None:
    small.run(ModifyDomain(name="physics", policy="default"))
    small.both(RemovePolicy(name="small"), CreateUser(username="ada", policy="small"))
    assert small.sql("SELECT count(*) FROM users WHERE policy NOT IN (SELECT name FROM policies)") == [(0,)]


def test_a_policy_is_changed_while_somebody_gives_by_the_old_one(small: Bench) -> None:
    small.user("ada", policy="small")
    small.both(ModifyUser(username="ada", policy="default"), SetLimits(username="ada", cpu=2))
    small.run(ModifyUser(username="ada", cpu=0.5, memory=G, disk=G, tasks=100))
    found = small.both(ModifyUser(username="ada", policy="small"), SetLimits(username="ada", cpu=8))
    ada = small.run(ShowUser(username="ada"))
    assert ada.policy == "default" or ada.limits.cpu <= 2, "nobody is above the policy that they have"
    assert any(isinstance(answer, Conflict | InvalidInput) for answer in found), (
        "whoever came second is refused, at once or in the end"
    )


def test_the_list_counts_in_the_same_statements_however_many_there_are(small: Bench) -> None:
    for number in range(12):
        small.run(CreatePolicy(name=f"p{number}"))
    small.user("ada", policy="p3")
    small.user("bob", policy="p3")
    shown = {p.name: (p.users, p.domains) for p in small.run(ListPolicies()).policies}
    assert (shown["p3"], shown["small"], shown["default"]) == ((2, ()), (0, ("physics",)), (0, ("default",)))
    assert small.run(ShowPolicy(name="p3")).users == 2


# -- who


def test_only_administrators_of_everything_change_policies(small: Bench) -> None:
    chief = small.user("chief", "physics", Role.DOMAIN_ADMIN)
    monitor = small.user("mona", role=Role.MONITOR)
    for actor in (chief, monitor, small.user("ada")):
        for action in (CreatePolicy(name="x"), ModifyPolicy(name="small", max_cpu=None), RemovePolicy(name="small")):
            with pytest.raises(PermissionDenied):
                small.run(action, actor)
    assert len(small.run(ListPolicies(), monitor).policies) == 2


def test_the_administrators_of_a_domain_give_no_more_than_its_policy(small: Bench) -> None:
    chief = small.user("chief", "physics", Role.DOMAIN_ADMIN)
    made = small.run(CreateUser(username="dora", cpu=2), chief).user
    assert (made.domain, made.policy) == ("physics", "small")
    with pytest.raises(InvalidInput) as caught:
        small.run(SetLimits(username="dora", memory=8 * G), chief)
    assert faults(caught) == {"memory": "at most 4G by the policy small"}
    refused: tuple[Any, ...] = (
        CreateUser(username="x", policy="default"), ModifyUser(username="dora", policy="default"),
        ApplyPolicy(username="dora", policy="default"), SetLimits(username="chief", cpu=64),
    )  # fmt: skip
    for action in refused:
        with pytest.raises((PermissionDenied, InvalidInput)):
            small.run(action, chief)
    assert small.run(ApplyPolicy(username="dora"), chief).user.limits.cpu == 0.5


def test_policies_tell_a_domains_administrators_nothing_of_other_domains(small: Bench) -> None:
    small.run(CreateDomain(name="secret", policy="small"))
    small.user("ada", "secret")
    chief = small.user("chief", "physics", Role.DOMAIN_ADMIN)
    listed = {p.name: p for p in small.run(ListPolicies(), chief).policies}
    assert (listed["small"].users, listed["small"].domains, listed["default"].domains) == (1, ("physics",), ())
    assert small.run(ShowPolicy(name="small"), chief).domains == ("physics",)
    assert small.run(ShowPolicy(name="small")).domains == ("physics", "secret")


# -- by hand


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("column", "written", "limit", "usual"),
    [
        ("cpu", "many", "cpu", 1.0), ("cpu", -1, "cpu", 1.0), ("cpu", 1e9, "cpu", 1.0),
        ("memory", "a lot", "memory", "2G"), ("memory", "1K", "memory", "2G"), ("memory", "", "memory", "2G"),
        ("memory", "99999999T", "memory", "2G"), ("memory", "4096", "memory", "4G"),
        ("disk", "-5G", "disk", "5G"), ("tasks", 1, "tasks", 512), ("tasks", "x", "tasks", 512),
        ("gpu", "maybe", "gpu", False),
    ],
)  # fmt: skip
def test_what_cannot_be_gives_way_to_the_usual(
    bench: Bench, column: str, written: object, limit: str, usual: object
) -> None:
    bench.sql(f"UPDATE policies SET {column} = ?", written)
    assert getattr(bench.run(ShowPolicy(name="default")).defaults, limit) == usual
    assert getattr(bench.run(CreateUser(username="ada")).user.limits, limit) == usual


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("column", "written"),
    [("max_cpu", "four"), ("max_cpu", 0), ("max_memory", "4 Gigs"), ("max_disk", ""), ("max_tasks", -1), ("max_gpu", "no")],
)  # fmt: skip
def test_a_maximum_that_cannot_be_read_does_not_mean_that_there_is_none(
    bench: Bench, column: str, written: object
) -> None:
    """Nobody then gets more than usual, and the policy shows it."""
    bench.sql(f"UPDATE policies SET {column} = ?", written)
    name = column.removeprefix("max_")
    found = bench.run(ShowPolicy(name="default"))
    assert getattr(found.maxima, name) == getattr(found.defaults, name)
    more = {"cpu": 2.0, "memory": 3 * G, "disk": 6 * G, "tasks": 600, "gpu": True}
    with pytest.raises(InvalidInput) as caught:
        bench.run(CreateUser(username="ada", **{name: more[name]}))
    assert list(faults(caught)) == [name]
    assert bench.run(CreateUser(username="ada")).user.settled
