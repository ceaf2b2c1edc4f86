"""kill -9 before every effect of create, change, lock and purge: a fresh start completes the work or takes it back.

The work runs in a forked child with a Recording system (tests/killing.py), so the steps are the ones the agent really
does; a fresh Agent is then made from what is on disk, as after a crash.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diycloud.agent import changes, reconcile
from diycloud.agent.protocol import Account, Outcome, PurgeAccount, State, SyncReport, Wish
from diycloud.agent.registry import Registry
from diycloud.agent.state import Agent, Caller, Role
from diycloud.errors import Unsupported
from diycloud.host.accounts import HostAccounts
from diycloud.host.slices import detect_slices
from diycloud.system import Local, System
from tests.host.agent_process import CGROUP, PREFIX, SETTINGS, UID_MAX, UID_MIN, clean_up, wish
from tests.killing import Step, every_step_anew
from tests.unit.agents import finish

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.getuid() != 0, reason="accounts can be made by root only"),
]
SERVER = Caller(57_990, 1, Role.SERVER)
HASH = "$6$abcdefgh$" + "x" * 86
OLD_HASH = "$6$abcdefgh$" + "y" * 86
NAMES = [f"{PREFIX}k1", f"{PREFIX}k2"]


@pytest.fixture(autouse=True)
def clean(tmp_path: Path) -> Iterator[None]:
    clean_up()
    yield
    clean_up()


def fresh_agent(system: System, state: Path) -> Agent:
    """The agent as its start makes it, with what is on disk."""
    registry = Registry(system, state / "managed", uid_min=UID_MIN, uid_max=UID_MAX)
    assert registry.problem == ""
    slices = detect_slices(system, CGROUP)
    agent = Agent(system, SETTINGS, registry, None if isinstance(slices, Unsupported) else slices, grace_s=0)
    for _ in reconcile.restore_limits(agent):
        pass
    return agent


def accounts(generation: int, state: State = State.ACTIVE, shadow: str = HASH) -> list[Account]:
    return [Account(wish(name, generation, state), shadow=shadow, create=True) for name in NAMES]


def sync(agent: Agent, wishes: list[Wish]) -> SyncReport:
    return finish(reconcile.reconcile(agent, SERVER, wishes, gathered=1e18))


def reset(state: Path) -> None:
    clean_up()
    for name in ("managed", "started"):
        (state / name).unlink(missing_ok=True)


def assert_whole(step: Step, state: Path, *, locked: bool = False, shadow: str = HASH) -> None:
    host = HostAccounts(Local())
    for name in NAMES:
        account = host.get(name)
        assert account is not None, step
        assert account.locked is locked, step
        assert account.password == ("!" if locked else "") + shadow, step
        home = Path(account.home)
        assert home.stat().st_uid == account.uid, step
        assert (home / "notebooks").is_dir() and (home / "data").is_dir() and (home / ".profile").is_file(), step
    assert not [name for name in os.listdir("/home/.diycloud-new") if name in NAMES], step


def assert_nothing(step: Step, state: Path) -> None:
    for name in NAMES:
        with pytest.raises(KeyError):
            pwd.getpwnam(name)
        assert name not in Path("/etc/group").read_text(), step
        assert not Path(f"/home/{name}").exists(), step
        assert not list(Path("/sys/fs/cgroup").glob(f"*/{CGROUP}/{name}")), step
        assert name not in (state / "managed").read_text(), step


def walk(act: Callable[[Agent], object], prepare: Callable[[Agent], object] | None, state: Path) -> Iterator[Step]:
    """Kill act before each of its effects; give each step with the host prepared anew."""

    def ready() -> None:
        reset(state)
        if prepare is not None:
            prepare(fresh_agent(Local(), state))

    return every_step_anew(lambda system: act(fresh_agent(system, state)), ready)


def ensure(agent: Agent, wanted: list[Account]) -> None:
    outcomes = changes.ensure_accounts(agent, SERVER, wanted)
    assert [outcome.code for outcome in outcomes] == [""] * len(wanted), outcomes


def test_create_is_completed_by_the_same_request(tmp_path: Path) -> None:
    for step in walk(lambda agent: ensure(agent, accounts(1)), None, tmp_path):
        ensure(fresh_agent(Local(), tmp_path), accounts(1))
        assert_whole(step, tmp_path)
        again = changes.ensure_accounts(fresh_agent(Local(), tmp_path), SERVER, accounts(1))
        assert not any(outcome.changed for outcome in again), (step, again)


def test_create_is_completed_by_reconcile(tmp_path: Path) -> None:
    for step in walk(lambda agent: ensure(agent, accounts(1)), None, tmp_path):
        wishes = [account.wish for account in accounts(1)]
        assert sync(fresh_agent(Local(), tmp_path), wishes).failed == [], step
        for name in NAMES:
            account = HostAccounts(Local()).get(name)
            assert account is not None, step
            assert Path(account.home).stat().st_uid == account.uid, step
        assert sync(fresh_agent(Local(), tmp_path), wishes) == SyncReport(), step


def test_create_is_taken_back_by_a_purge(tmp_path: Path) -> None:
    for step in walk(lambda agent: ensure(agent, accounts(1)), None, tmp_path):
        agent = fresh_agent(Local(), tmp_path)
        for name in NAMES:
            assert changes.purge_account(agent, SERVER, PurgeAccount(name, 2)).code == "", step
        assert_nothing(step, tmp_path)


def test_a_create_that_nobody_wants_any_more_is_locked_or_forgotten(tmp_path: Path) -> None:
    for step in walk(lambda agent: ensure(agent, accounts(1)), None, tmp_path):
        report = sync(fresh_agent(Local(), tmp_path), [])
        host = HostAccounts(Local())
        for name in NAMES:
            account = host.get(name)
            assert account is None or (account.locked and name in report.orphans), step
            assert account is not None or name not in (tmp_path / "managed").read_text(), step


@pytest.mark.parametrize("state", [State.LOCKED, State.ACTIVE])
def test_change_and_lock_are_completed(tmp_path: Path, state: State) -> None:
    before = State.ACTIVE if state is State.LOCKED else State.LOCKED
    prepare = lambda agent: ensure(agent, accounts(1, before, OLD_HASH))  # noqa: E731
    for step in walk(lambda agent: ensure(agent, accounts(2, state)), prepare, tmp_path):
        ensure(fresh_agent(Local(), tmp_path), accounts(2, state))
        assert_whole(step, tmp_path, locked=state is State.LOCKED)


def test_purge_is_completed(tmp_path: Path) -> None:
    def purge(agent: Agent) -> list[Outcome]:
        return [changes.purge_account(agent, SERVER, PurgeAccount(name, 2)) for name in NAMES]

    for step in walk(purge, lambda agent: ensure(agent, accounts(1)), tmp_path):
        assert all(outcome.code == "" for outcome in purge(fresh_agent(Local(), tmp_path))), step
        assert_nothing(step, tmp_path)
        for name in NAMES:
            kept = list(Path("/home/.diycloud-trash").glob(f"{name}.*"))
            assert len(kept) == 1, step
            assert (kept[0] / "notebooks").is_dir(), step


def test_a_purge_locks_first_and_clears_its_line_last(tmp_path: Path) -> None:
    def purge(agent: Agent) -> None:
        for name in NAMES:
            changes.purge_account(agent, SERVER, PurgeAccount(name, 2))

    for step in walk(purge, lambda agent: ensure(agent, accounts(1)), tmp_path):
        host = HostAccounts(Local())
        for name in NAMES:
            account = host.get(name)
            if not Path(f"/home/{name}").exists():
                assert account is None or account.locked, step
            if f"{name} " not in (tmp_path / "managed").read_text():
                assert account is None, step
                assert not list(Path("/sys/fs/cgroup").glob(f"*/{CGROUP}/{name}")), step
