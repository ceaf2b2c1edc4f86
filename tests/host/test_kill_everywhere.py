"""kill -9 of the agent, the server and the command line at every step of every kind of change, through the real stack.

A step is an effect of System in the agent, a commit in the server, an exchange in the command line. The programs kill
themselves (tests/killing_process.py); the steps are found by killing at the first, the second … until the work survives.
After each the same program starts again as it is, and database and host must come to agree by themselves
(tests/invariants.py): never a user without account or the other way round.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.conftest import cannot_run
from tests.host.twins import PASSWORD, Twins
from tests.invariants import faults, query, rows, settled
from tests.killing_process import AT_REST, arm, disarm
from tests.stack import Stack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(cannot_run()), reason=cannot_run() or "-"),
]
MAX_STEPS = 120
ROOT = Path(__file__).parents[2]


class Victims:
    """A stack of killing programs, and the passwords its users were given."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.passwords: dict[str, str] = {}
        self._count = 0

    def name(self) -> str:
        self._count += 1
        return f"dtk{self._count:03d}"

    def promise(self, name: str) -> str:
        self.passwords[name] = PASSWORD
        return name

    def create(self, *names: str) -> None:
        """Create some users at once."""
        lines = "".join(f"{self.promise(name)},{PASSWORD}\n" for name in names)
        self.stack.cli("user", "import", "-", input=f"username,password\n{lines}")

    def start_server(self) -> None:
        self.stack.start_server("tests.killing_server", "--every", "0.15")

    def bury(self, who: str) -> None:
        """Wait for a program's death and start it again."""
        dead = self.stack.agent if who == "agent" else self.stack.server
        assert dead is not None and dead.wait(timeout=30) == -signal.SIGKILL
        if who == "agent":
            self.stack.start_agent("tests.killing_agent")
        else:
            self.start_quiet_server()

    def start_quiet_server(self) -> None:
        """Start a server that commits nothing of its own accord from here on, so that commits can be counted."""
        rounds = self.stack.log("server").count(AT_REST)
        self.stack.start_server("tests.killing_server")
        deadline = time.monotonic() + 15
        while self.stack.log("server").count(AT_REST) == rounds:
            assert time.monotonic() < deadline, self.stack.log("server")[-2000:]
            time.sleep(0.02)

    def run(self, *words: str, input: str | None = None) -> int:
        return self.stack.cli(*words, input=input, ok=None).returncode

    def forget_purges(self) -> None:
        """Let the agent forget the purges of this hour: it lets the server do only twenty."""
        self.stack._remove_trash()
        self.stack.stop_agent()
        self.stack.start_agent("tests.killing_agent")


@pytest.fixture
def victims(stack_cluster: Cluster | None) -> Iterator[Victims]:
    """A platform for each test: with hundreds of users of others, every turn would take longer."""
    with Stack(uid_min=51_000, uid_max=51_999, cgroup="dtkill", cluster=stack_cluster) as stack:
        stack.stop_agent()
        stack.stop_server(signal.SIGKILL)
        stack.start_agent("tests.killing_agent")
        found = Victims(stack)
        found.start_server()
        yield found


Act = Callable[[int], object]
"""The work, told the number of the step it dies at: makes each turn's work different."""


def every_agent_step(victims: Victims, act: Act, after: Act | None = None) -> int:
    """Kill the agent ahead of each of its effects in turn; the server reconciles as soon as it is back."""
    return _every_step(victims, "agent", act, after)


def every_server_step(victims: Victims, act: Act, after: Act | None = None) -> int:
    """Kill the server ahead of each of its commits in turn. It is started so that it reconciles once, at its start."""
    return _every_step(victims, "server", act, after)


def _every_step(victims: Victims, who: str, act: Act, after: Act | None) -> int:
    """Kill a program ahead of each step of some work; returns how many there are. after: run when all is settled again."""
    stack = victims.stack
    for step in range(MAX_STEPS):
        arm(stack.prefix, who, step)
        act(step)
        survived = disarm(stack.prefix)
        if not survived:
            victims.bury(who)
        _agree(victims, f"{who} step {step}")
        if after is not None:
            after(step)
        if survived:
            print(f"steps: {step}")
            return step
    raise AssertionError(f"more than {MAX_STEPS} steps")


def _agree(victims: Victims, when: str) -> None:
    try:
        settled(victims.stack, victims.passwords)
    except AssertionError as error:
        logs = {who: victims.stack.log(who).splitlines() for who in ("agent", "server")}
        killed = {who: [line for line in log if "KILL" in line][-1:] for who, log in logs.items()}
        raise AssertionError(f"{when}, last {killed}: {error}") from None


@contextlib.contextmanager
def quiet_server(victims: Victims) -> Iterator[None]:
    """Quiet servers for as long, however often they die."""
    settled(victims.stack)
    victims.stack.stop_server(signal.SIGKILL)
    victims.start_quiet_server()
    yield
    victims.stack.stop_server(signal.SIGKILL)
    victims.start_server()


def creator(victims: Victims) -> Act:
    def act(step: int) -> None:
        name = victims.promise(victims.name())
        victims.run("user", "create", name, "--password", "-", "--cpu", "0.5", "--memory", "64", input=f"{PASSWORD}\n")

    return act


def modifier(victims: Victims) -> tuple[str, Act]:
    name = victims.name()
    victims.create(name)

    def act(step: int) -> None:
        cpu, memory, tasks = 0.1 + (step % 9) / 10, 100 + step, 50 + step
        words = ("--cpu", f"{cpu:.1f}", "--memory", str(memory), "--tasks", str(tasks), "--full-name", f"Name {step}")
        victims.run("user", "modify", name, *words)

    return name, act


def importer(victims: Victims) -> Act:
    def act(step: int) -> None:
        lines = "".join(f"{victims.promise(victims.name())},{PASSWORD},0.25\n" for _ in range(3))
        victims.run("user", "import", "-", input=f"username,password,cpu\n{lines}")

    return act


def remover(victims: Victims, names: list[str]) -> Act:
    """Delete and purge a fresh user each time."""

    def act(step: int) -> None:
        if step and step % 12 == 0:
            victims.stack._remove_trash()
        name = names[step]
        victims.run("user", "delete", name)
        victims.run("user", "purge", name, "--yes")

    return act


def test_the_agent_dies_at_every_effect_of_a_create(victims: Victims) -> None:
    assert every_agent_step(victims, creator(victims)) >= 10
    assert all(row["status"] == "active" for row in rows(victims.stack)), "everybody who was stored is there in the end"


def test_the_agent_dies_at_every_effect_of_a_change(victims: Victims) -> None:
    name, act = modifier(victims)
    assert every_agent_step(victims, act) >= 4
    (row,) = [row for row in rows(victims.stack) if row["username"] == name]
    assert row["full_name"].startswith("Name ")


def test_the_agent_dies_at_every_effect_of_an_import(victims: Victims) -> None:
    assert every_agent_step(victims, importer(victims)) >= 20


def test_the_agent_dies_at_every_effect_of_an_import_that_changes_users(victims: Victims) -> None:
    twins = Twins(victims)
    assert every_agent_step(victims, twins.act, twins.compare) >= 20


def test_the_server_dies_at_every_commit_of_an_import_that_changes_users(victims: Victims) -> None:
    """The new user: stored, then confirmed. The audit's row of the whole. Three changes in two batches. The end."""
    twins = Twins(victims)
    with quiet_server(victims):
        assert every_server_step(victims, twins.act, twins.compare) >= 8


def test_the_agent_dies_at_every_effect_of_a_delete_and_purge(victims: Victims) -> None:
    names = [victims.name() for _ in range(30)]
    victims.create(*names)
    steps = every_agent_step(victims, remover(victims, names))
    assert steps >= 8
    _purged_names_are_gone(victims, names[: steps + 1])


def test_the_server_dies_at_every_commit(victims: Victims) -> None:
    names = [victims.name() for _ in range(20)]
    victims.create(*names)
    with quiet_server(victims):
        assert every_server_step(victims, creator(victims)) >= 2
        assert every_server_step(victims, modifier(victims)[1]) >= 2
        assert every_server_step(victims, importer(victims)) >= 4
        victims.forget_purges()
        steps = every_server_step(victims, remover(victims, names))
        assert steps >= 4
    crashed = query(victims.stack, "SELECT count(*) FROM audit WHERE outcome = 'crashed'")[0][0]
    assert crashed >= 4, "the audit tells of what was broken off"
    assert faults(victims.stack, victims.passwords) == []


def mover(victims: Victims) -> tuple[str, Act]:
    """Move a user to the other domain and into its group, and back: domain, group and limits in one change."""
    name = victims.name()
    victims.create(name)
    for domain in ("dtka", "dtkb"):
        victims.stack.cli("domain", "create", domain)
        victims.stack.cli("group", "create", f"{domain}-g", "--domain", domain)

    def act(step: int) -> None:
        domain = ("dtka", "dtkb")[step % 2]
        victims.run("user", "modify", name, "--domain", domain, "--groups", f"{domain}-g", "--cpu", f"0.{1 + step % 9}")

    return name, act


def _is_whole(victims: Victims, name: str) -> None:
    """A user is in one domain, and in no group of another."""
    ((domain, group),) = query(
        victims.stack,
        "SELECT u.domain, g.domain FROM users AS u JOIN group_members AS m ON m.user_id = u.id"
        " JOIN groups AS g ON g.id = m.group_id WHERE u.username = ?",
        name,
    )
    assert domain == group


def test_the_agent_dies_at_every_effect_of_a_move_between_domains(victims: Victims) -> None:
    name, act = mover(victims)
    assert every_agent_step(victims, act) >= 3
    _is_whole(victims, name)


def test_the_server_dies_at_every_commit_of_a_move_between_domains(victims: Victims) -> None:
    name, act = mover(victims)
    act(8)  # elsewhere, and with another limit than any of the first steps gives
    with quiet_server(victims):
        assert every_server_step(victims, act) >= 2
    _is_whole(victims, name)


def _purged_names_are_gone(victims: Victims, names: list[str]) -> None:
    """A purge that was begun is finished by the next start; one that was not is still deleted, and can be purged."""
    left = {row["username"]: row["status"] for row in rows(victims.stack)}
    for name in names:
        assert left.get(name) in (None, "deleted", "active"), f"{name} is {left[name]}"
        if name not in left:
            assert f"\n{name}:" not in Path("/etc/passwd").read_text()
            assert f"\n{name}:" not in Path("/etc/group").read_text()


@pytest.mark.parametrize("server_is_up", [True, False])
def test_the_command_line_dies_at_every_step(victims: Victims, server_is_up: bool) -> None:
    """What it began goes on without it: in the server, or in the child that works while the server is down."""
    stack = victims.stack
    if not server_is_up:
        stack.stop_server(signal.SIGKILL)
    for step in range(MAX_STEPS):
        name = victims.promise(victims.name())
        arm(stack.prefix, "cli", step)
        status = _killing_cli(stack, "user", "create", name, "--password", "-")
        assert disarm(stack.prefix) is (status == 0)
        if server_is_up:
            _agree(victims, f"command line step {step}")
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert step == (4 if server_is_up else 1)
    if not server_is_up:
        victims.start_server()
        _agree(victims, "the server is back")


def test_the_child_that_works_while_the_server_is_down_dies_at_every_commit(victims: Victims) -> None:
    stack = victims.stack
    stack.stop_server(signal.SIGKILL)
    for step in range(MAX_STEPS):
        name = victims.promise(victims.name())
        arm(stack.prefix, "server", step)
        status = _killing_cli(stack, "user", "create", name, "--password", "-")
        if disarm(stack.prefix):
            assert status == 0
            break
    assert step >= 2
    victims.start_server()
    _agree(victims, "the server is back")


def _killing_cli(stack: Stack, *words: str) -> int:
    argv = [sys.executable, "-m", "tests.killing_cli", "--prefix", str(stack.prefix), *words]
    done = subprocess.run(argv, input=f"{PASSWORD}\n", capture_output=True, text=True, check=False, cwd=ROOT)
    return done.returncode
