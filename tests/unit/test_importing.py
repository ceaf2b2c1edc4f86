"""CSV as people's programs write it, and every fault with its line and column."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diycloud.actions.actor import Actor
from diycloud.actions.dispatcher import Context
from diycloud.actions.roles import Role
from diycloud.actions.services import Services
from diycloud.auth.throttle import Throttle
from diycloud.config import Settings
from diycloud.db.engine import Database
from diycloud.errors import InvalidInput, Unavailable
from diycloud.users import importing, repository
from diycloud.users.actions import ImportUsers
from diycloud.users.importing import ImportRefused
from diycloud.users.models import Allocation
from diycloud.users.rows import Candidate, parse_csv

ROOT = Actor("root", Role.ADMIN, "cli")
ADMIN = Actor("ada", Role.ADMIN, "rest", user_id=1)


def shown(found: list[Candidate]) -> list[tuple[int, str, bool]]:
    return [(c.line, c.username, c.action is not None) for c in found]


@pytest.mark.parametrize("between", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_as_any_program_writes_it(between: str, end: str, mark: str) -> None:
    rows = [["username", "CPU", "memory", " Full_Name "], ["ada", "0.5", "512", "Ada Lovelace"], ["bob", "", "2G", ""]]
    found = parse_csv(mark + end.join(between.join(row) for row in rows) + end)
    assert shown(found) == [(2, "ada", True), (3, "bob", True)]
    ada, bob = (c.wanted for c in found)
    assert (ada.cpu, ada.memory, ada.full_name) == (0.5, 512 << 20, "Ada Lovelace")
    assert (bob.cpu, bob.memory, bob.full_name) == (msgspec.UNSET, 2 << 30, None), "an empty cell means the default"


def test_lines_are_those_of_the_file() -> None:
    text = 'username,description\n\nada,"with, comma"\n"bob","says ""hi"""\n"carl","two\nlines"\n   \ndora,x\n'
    found = parse_csv(text)
    assert [(c.line, c.username) for c in found] == [(3, "ada"), (4, "bob"), (5, "carl"), (8, "dora")]
    assert found[1].wanted.description == 'says "hi"'
    assert [e.field for e in found[2].errors] == ["description"], "a description is one line"


def test_every_fault_of_every_row_at_once() -> None:
    found = parse_csv("username,cpu,memory,email\nAda,0,lots,x\nbob,1,1G,b@b.org\n-rf,1,1,=cmd\n")
    faults = [(c.line, [e.field for e in c.errors]) for c in found]
    assert faults == [(2, ["username", "email", "cpu", "memory"]), (3, []), (4, ["username", "email", "memory"])]


def test_too_many_and_too_few_cells() -> None:
    found = parse_csv("username,cpu\nada,1,extra\nbob\ncarl,1\n")
    assert [(c.line, [e.message for e in c.errors]) for c in found] == [
        (2, ["3 cells where the heading has 2"]), (3, ["1 cells where the heading has 2"]), (4, []),
    ]  # fmt: skip


def test_passwords_keep_their_blanks() -> None:
    assert (
        parse_csv("username,password\n ada , correct horse battery \n")[0].wanted.password == " correct horse battery "
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "username is needed"),
        ("\n", "username is needed"),
        ("name,cpu\nada,1\n", "'name' is no column; there are: username"),
        ("username,cpu,cpu\nada,1,2\n", "twice"),
        ("username,Username\nada,ada\n", "twice"),
        ("ada,1\n", "username is needed"),
        ('username\n"ada\n', "line"),
        ("username\n" + "x\n" * 10_001, "10000 rows"),
        ("username\n" + "x" * 200_000 + "\n", "line"),
        ("username\x00\nada\n", "line"),
    ],
)
def test_what_is_no_table_is_refused_as_a_whole(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        parse_csv(text)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_any_text_is_a_table_or_refused(text: str) -> None:
    for whole in (text, f"username,description\n{text}"):
        try:
            for candidate in parse_csv(whole):
                assert candidate.action is not None or candidate.errors
        except InvalidInput as error:
            assert error.message


class NoAgent:
    """An agent that is away."""

    async def call(self, message: Any, answer: Any) -> Any:
        raise Unavailable("The agent does not answer.")


class PlainHasher:
    """Hashes that cost nothing."""

    async def hash_many(self, passwords: list[str]) -> list[str]:
        return [f"hash of {len(p)}" for p in passwords]


def run(database: Database, text: str, actor: Actor = ROOT, *, dry_run: bool = False) -> tuple[Any, Context]:
    unused: Any = PlainHasher()
    away: Any = NoAgent()
    context = Context(
        Services(database=database, agent=away, hasher=unused, throttle=Throttle(), settings=Settings()), actor
    )
    return asyncio.run(importing.import_users(context, ImportUsers(csv=text, dry_run=dry_run))), context


def names(database: Database) -> list[str]:
    return [row.username for row in database.read_now(repository.wishes)]


def test_a_dry_run_changes_nothing(database: Database) -> None:
    report, _ = run(database, "username\nada\nbob\nAda\n", dry_run=True)
    assert [(r.username, r.outcome) for r in report.rows] == [("ada", "new"), ("bob", "new"), ("Ada", "refused")]
    assert (report.created, report.refused, names(database)) == (0, 1, [])


def test_one_row_at_fault_holds_up_all(database: Database) -> None:
    with pytest.raises(ImportRefused) as caught:
        run(database, "username,email\nada,a@b.org\nbob,x\n")
    assert [e.field for e in caught.value.errors] == ["line 3, email"]
    assert (caught.value.report.refused, names(database)) == (1, [])


def test_rows_are_checked_against_each_other_and_what_is_there(database: Database) -> None:
    asyncio.run(
        database.write(
            repository.add, {"username": "old", "password_hash": "x", "email": "Old@b.org"}, Allocation()
        )
    )  # fmt: skip
    text = "username,email,full_name\nada,A@b.org,\nada,,\nbob,a@B.org,\nold,,\ncarl,old@b.org,\nroot,,\ndocker,,=1\n"
    report, _ = run(database, text, dry_run=True)
    assert {r.line: [f"{f}: {m}" for f, m in r.errors] for r in report.rows} == {
        2: [],
        3: ["username: is on line 2 too"],
        4: ["email: is on line 2 too"],
        5: ["username: there is such a user already"],
        6: ["email: another user has this address"],
        7: ["username: is a name of the system's"],
        8: ["full_name: 1–100 printable characters, no colon, no blank at the ends, not starting with = + - @"],
    }


def test_with_the_agent_away_the_rows_wait(database: Database) -> None:
    lines = "".join(f"u{n},{'correct horse battery' if n % 2 else ''}\n" for n in range(120))
    report, context = run(database, f"username,password\n{lines}")
    assert (report.created, report.pending, report.refused, len(names(database))) == (0, 120, 0, 120)
    assert all((row.password is None) == bool(n % 2) for n, row in enumerate(report.rows)), "generated ones are shown"
    assert len({row.password for row in report.rows}) == 61
    assert all("agent" in row.warnings[-1] for row in report.rows)
    assert "password" not in str(context.changes)


def test_weak_passwords_are_roots_to_give(database: Database) -> None:
    text = "username,password\nada,short\n"
    report, _ = run(database, text, dry_run=True)
    assert "weak" in report.rows[0].warnings[0]
    report, _ = run(database, text, ADMIN, dry_run=True)
    assert report.rows[0].errors[0][0] == "password"
    assert "short" not in msgspec.json.encode(report).decode()
