"""Two sets of users who are told the same: one by an import that a death breaks off and that is repeated, one by a whole one.

Whatever the death left behind, the two must be alike in the end, down to how often the host was asked to follow.
"""

from __future__ import annotations

import grp
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.invariants import limits_of, query, settled

if TYPE_CHECKING:
    from tests.host.test_kill_everywhere import Victims

TEAMS = ("dtkred", "dtkblue")
PASSWORD = "correct horse battery"
_OWN = """u.status, u.email, u.full_name, u.role, u.domain, u.policy, u.shell, u.host_problem, u.must_change_password,
u.is_active, u.shadow_hash, u.generation % (1 << 20), u.host_generation % (1 << 20)"""
"""A user's first generation is the id, moved up by 20 bits. shadow_set: none where the agent was away when it was to hash."""
_LIMITS = "a.cpu_limit, a.mem_limit, a.disk_quota, a.disk_hard, a.tasks_limit, a.gpu_access"
_ROW = (
    f"SELECT {_OWN}, {_LIMITS} FROM users AS u JOIN resource_allocations AS a ON a.user_id = u.id WHERE u.username = ?"
)
_TEAMS = (
    "SELECT g.name FROM groups AS g JOIN group_members AS m ON m.group_id = g.id JOIN users AS u ON u.id = m.user_id"
    " WHERE u.username = ? ORDER BY g.name"
)
_TOLD = (
    "SELECT outcome FROM audit WHERE id > ? AND action = ? AND target = ? AND changes LIKE '%full_name%' ORDER BY id"
)
_IMPORTS = "SELECT outcome FROM audit WHERE id > ? AND action = 'user.import' ORDER BY id"


class Set(NamedTuple):
    """changed: users who are there from the start, and whom every import changes; made: those that this one makes."""

    changed: list[str]
    made: list[str]

    @property
    def all(self) -> list[str]:
        return self.changed + self.made


class Twins:
    """`act` is the work that is broken off, `compare` what follows each time."""

    def __init__(self, victims: Victims) -> None:
        self._victims, self._stack = victims, victims.stack
        self._sets = [Set([victims.name() for _ in range(3)], []) for _ in range(2)]
        for team in TEAMS:
            self._stack.cli("group", "create", team)
        victims.create(*self._sets[0].changed, *self._sets[1].changed)

    def act(self, step: int) -> None:
        self._sets = [each._replace(made=[self._victims.name()]) for each in self._sets]
        self._audited = query(self._stack, "SELECT coalesce(max(id), 0) FROM audit")[0][0]
        self._before = [self._row(name) for name in self._sets[0].all]
        self._import(self._sets[0], step)

    def compare(self, step: int) -> None:
        """Repeat the import, and find no difference to a whole one, nobody half changed, and every change in the audit once."""
        broken, whole = self._sets
        between = [self._row(name) for name in broken.all]
        assert self._import(broken, step) == 0, f"step {step}: the import is refused the second time"
        outcomes = [outcome for (outcome,) in query(self._stack, _IMPORTS, self._audited)]
        assert outcomes in (["done", "done"], ["crashed", "done"], ["done"]), f"step {step}: the audit says {outcomes}"
        assert self._import(whole, step) == 0
        settled(self._stack, self._victims.passwords)
        for place, (name, twin) in enumerate(zip(broken.all, whole.all, strict=True)):
            here, there = self._all_of(name), self._all_of(twin)
            unlike = [two for two in zip(here, there, strict=True) if two[0] != two[1]]
            assert not unlike, f"step {step}: {name} and {twin} differ: {unlike}"
            assert between[place] in (self._before[place], self._row(name)), f"step {step}: {name} was half changed"
            action = "user.create" if name in broken.made else "user.modify"
            told = query(self._stack, _TOLD, self._audited, action, name)
            assert told in ([("done",)], [("crashed",)]), f"step {step}: the audit says {told} of {name}"

    def _import(self, people: Set, step: int) -> int:
        """Import and return the command's exit status. The changed are told everything that can be imported of a user."""
        memory = (300, 100)[step % 2] + step  # up and down again
        same = f"Name {step},0.{1 + step % 9},{memory},{1000 + step},{50 + step},{TEAMS[step % 2]}"
        lines = ["username,password,email,full_name,cpu,memory,disk,tasks,groups"]
        lines += [f"{name},,{name}-{step}@example.org,{same}" for name in people.changed]
        lines += [f"{self._victims.promise(name)},{PASSWORD},{name}@example.org,{same}" for name in people.made]
        return self._victims.run("user", "import", "-", "--update", input="\n".join(lines) + "\n")

    def _row(self, name: str) -> list[object]:
        """Return what the database has of a user, with another name; nothing of nobody."""
        found = [value for row in query(self._stack, _ROW, name) for value in row]
        teams = [team for (team,) in query(self._stack, _TEAMS, name)]
        return [*(value.replace(name, "NAME") if isinstance(value, str) else value for value in found), teams]

    def _all_of(self, name: str) -> list[object]:
        """Return what database and host have of a user, with another name."""
        account = pwd.getpwnam(name)
        home = sorted((path.name, path.stat().st_mode, path.owner() == name) for path in Path(account.pw_dir).iterdir())
        teams = [team for team in TEAMS if name in grp.getgrnam(team).gr_mem]
        return [*self._row(name), account.pw_gecos, account.pw_shell, teams, limits_of(self._stack, name), home]
