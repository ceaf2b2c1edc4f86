"""Groups on a real host whose agent is killed ahead of each effect in turn (tests/killing.py): the same request completes it."""

from __future__ import annotations

import grp
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from diycloud.agent import changes, groups
from diycloud.agent.protocol import Account, Outcome, Wish
from diycloud.agent.registry import Registry
from diycloud.agent.state import Agent
from diycloud.config import AgentSettings
from diycloud.host.groups import ACL, render_acl
from diycloud.system import Local, System
from tests.host.groups_support import (
    ANNA,
    BERT,
    BIO,
    CGROUP,
    CHEM,
    GID_MAX,
    GID_MIN,
    NEEDED,
    PREFIX,
    SERVER,
    UID_MAX,
    UID_MIN,
    clean_up,
    members,
    wish,
)
from tests.killing import Step, every_step_anew

pytestmark = NEEDED


def fresh_agent(system: System, state: Path) -> Agent:
    """The agent as its start makes it, with what is on disk; without limits."""
    settings = AgentSettings(
        uid_min=UID_MIN, uid_max=UID_MAX, gid_min=GID_MIN, gid_max=GID_MAX, cgroup=CGROUP, shared=str(state / "shared")
    )
    registry = Registry(system, state / "managed", uid_min=UID_MIN, uid_max=UID_MAX)
    agent = Agent(system, settings, registry, None, grace_s=0)
    assert (registry.problem, agent.groups.problem) == ("", "")
    return agent


def walk(act: Callable[[Agent], object], prepare: Callable[[Agent], object], state: Path) -> Iterator[Step]:
    """Kill act before each of its effects; give each step with the host prepared anew."""

    def ready() -> None:
        clean_up()
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        prepare(fresh_agent(Local(), state))

    try:
        yield from every_step_anew(lambda system: act(fresh_agent(system, state)), ready)
    finally:
        clean_up()


def ensure_both(agent: Agent) -> list[Outcome]:
    outcomes = groups.ensure_groups(agent, SERVER, [CHEM, BIO])
    assert [outcome.code for outcome in outcomes] == ["", ""], outcomes
    return outcomes


def remove_both(agent: Agent) -> None:
    for name in (CHEM, BIO):
        assert groups.remove_group(agent, SERVER, name).code == ""


def assert_whole(step: Step, state: Path) -> None:
    for name in (CHEM, BIO):
        info = (state / "shared" / name).lstat()
        gid = grp.getgrnam(name).gr_gid
        assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o2770, 0, gid), step
        assert os.getxattr(state / "shared" / name, ACL) == render_acl(7, 7, 0), step
        assert f"{name} {gid}\n" in (state / "groups").read_text(), step
    assert not list((state / "shared/.diycloud-new").iterdir()), step


def assert_nothing(step: Step, state: Path) -> None:
    text = Path("/etc/group").read_text() + Path("/etc/gshadow").read_text() + (state / "groups").read_text()
    assert PREFIX not in text, step
    assert not list((state / "shared").glob(f"{PREFIX}*")), step


def test_making_a_group_is_completed_by_the_same_request(tmp_path: Path) -> None:
    for step in walk(ensure_both, lambda agent: None, tmp_path / "state"):
        ensure_both(fresh_agent(Local(), tmp_path / "state"))
        assert_whole(step, tmp_path / "state")
        assert not any(outcome.changed for outcome in ensure_both(fresh_agent(Local(), tmp_path / "state"))), step


def test_making_a_group_is_taken_back_by_its_removal(tmp_path: Path) -> None:
    for step in walk(ensure_both, lambda agent: None, tmp_path / "state"):
        remove_both(fresh_agent(Local(), tmp_path / "state"))
        assert_nothing(step, tmp_path / "state")


def test_removing_a_group_is_completed_by_the_same_request(tmp_path: Path) -> None:
    def prepare(agent: Agent) -> None:
        ensure_both(agent)
        (tmp_path / "state/shared" / CHEM / "file").write_text("precious")

    for step in walk(remove_both, prepare, tmp_path / "state"):
        remove_both(fresh_agent(Local(), tmp_path / "state"))
        assert_nothing(step, tmp_path / "state")
        (kept,) = (tmp_path / "state/shared/.diycloud-trash").glob(f"{CHEM}.*")
        assert (kept / "file").read_text() == "precious", step


def join(agent: Agent, wishes: Sequence[Wish]) -> list[Outcome]:
    outcomes = changes.ensure_accounts(agent, SERVER, [Account(wish, create=True) for wish in wishes])
    assert [(outcome.code, outcome.warning[:6]) for outcome in outcomes] == [("", "Limits")] * len(wishes), outcomes
    return outcomes


def test_membership_is_completed_by_the_same_request(tmp_path: Path) -> None:
    before = [wish(ANNA, CHEM)]
    after = [wish(ANNA, BIO, generation=2), wish(BERT, CHEM, BIO, generation=2)]

    def prepare(agent: Agent) -> None:
        ensure_both(agent)
        join(agent, before)

    for step in walk(lambda agent: join(agent, after), prepare, tmp_path / "state"):
        join(fresh_agent(Local(), tmp_path / "state"), after)
        assert (members(CHEM), members(BIO)) == ({BERT}, {ANNA, BERT}), step
        assert not any(outcome.changed for outcome in join(fresh_agent(Local(), tmp_path / "state"), after)), step
