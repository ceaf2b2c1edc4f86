"""Import, export and bulk through the real stack: thousands in batches, two at once, kill -9 in the middle."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pwd
import re
import signal
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import cannot_run
from tests.invariants import query, rows, settled
from tests.killing_process import arm, disarm
from tests.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(cannot_run()), reason=cannot_run() or "-")]
PASSWORD = "correct horse battery"
MAX_STEPS = 60


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(uid_min=53_000, uid_max=53_499, cgroup="dtbulk") as running:
        yield running


def table(names: list[str], **columns: str) -> str:
    """Return a CSV of users who have the same in every column."""
    heading = ",".join(["username", *columns])
    return "\n".join([heading, *(",".join([name, *columns.values()]) for name in names)]) + "\n"


def changes(action: str, names: list[str], **fields: Any) -> str:
    return json.dumps([{"action": action, "username": name, **fields} for name in names])


def bulk(stack: Stack, text: str, *words: str, ok: int | None = 0) -> dict[str, Any]:
    return stack.json("user", "bulk", "-", *words, input=text, ok=ok)


def outcomes(report: dict[str, Any]) -> dict[str, str]:
    return {row["username"]: row["outcome"] for row in report["rows"]}


def names(prefix: str, count: int) -> list[str]:
    return [f"dt{prefix}{number:03d}" for number in range(count)]


def shadow(name: str) -> list[str]:
    """Return the fields of an account's line in /etc/shadow."""
    lines = Path("/etc/shadow").read_text(encoding="ascii").splitlines()
    return next(line for line in lines if line.startswith(f"{name}:")).split(":")


def test_a_life_in_bulk(stack: Stack) -> None:
    """Create, change, disable, enable, delete, restore: each user's account follows, each has rows in the audit."""
    people = names("bl", 60)
    report = bulk(stack, changes("create", people, password=PASSWORD, cpu=0.1, memory="64M"))
    assert set(outcomes(report).values()) == {"done"}
    assert all(53_000 <= pwd.getpwnam(name).pw_uid <= 53_499 for name in people)
    settled(stack, dict.fromkeys(people, PASSWORD))
    for action, locked in (("disable", True), ("enable", False), ("delete", True), ("restore", False)):
        assert set(outcomes(bulk(stack, changes(action, people))).values()) == {"done"}
        assert all((shadow(name)[1].startswith("!") or shadow(name)[7] != "") is locked for name in people), action
    text = "action,username,memory,full_name\n" + "".join(f"modify,{name},96M,Name {name}\n" for name in people)
    assert set(outcomes(bulk(stack, text)).values()) == {"done"}
    assert pwd.getpwnam(people[-1]).pw_gecos.startswith(f"Name {people[-1]}")
    limits = [Path(f"/sys/fs/cgroup/memory/dtbulk/{name}/memory.limit_in_bytes").read_text() for name in people]
    assert set(map(int, limits)) == {96 << 20}
    actions = {row[0] for row in query(stack, f"SELECT action FROM audit WHERE target = '{people[7]}'")}
    wanted = {f"user.{verb}" for verb in ("create", "disable", "enable", "delete", "restore", "modify")}
    assert wanted <= actions
    assert query(stack, "SELECT outcome FROM audit WHERE outcome NOT IN ('done', 'refused')") == []
    settled(stack, dict.fromkeys(people, PASSWORD))


def test_a_dry_run_and_a_fault_change_nothing(stack: Stack) -> None:
    before = rows(stack)
    assert set(outcomes(bulk(stack, changes("delete", names("bl", 5)), "--dry-run")).values()) == {"possible"}
    mixed = [*json.loads(changes("delete", names("bl", 2))), {"action": "enable", "username": "dtnobody"}]
    report = bulk(stack, json.dumps(mixed), ok=2)
    assert outcomes(report) == {"dtbl000": "possible", "dtbl001": "possible", "dtnobody": "refused"}
    assert rows(stack) == before


def test_what_leaves_comes_in_on_another_machine(stack: Stack, tmp_path: Any) -> None:
    """With the hashes of the passwords, so that people sign in as they did."""
    stack.cli("user", "disable", "dtbl001")
    for kind in ("csv", "json"):
        file = tmp_path / f"users.{kind}"
        stack.cli("user", "export", str(file), "--search", "dtbl", "--with-hashes")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        text = file.read_text()
        exported = json.loads(text) if kind == "json" else list(csv.DictReader(io.StringIO(text)))
        assert len(exported) == 60 and exported[0]["password_hash"].startswith("$argon2id$")
        again = stack.cli("user", "export", str(file), ok=2)
        assert "cannot be written" in again.stderr, "a file that is there is not written over"
    assert "password_hash" not in stack.cli("user", "export").stdout
    people = [
        {**row, "username": row["username"].replace("dtbl", "dtbm"), "uuid": None} for row in json.loads(text)[:5]
    ]
    stack.json("user", "import", "-", input=json.dumps(people))
    settled(stack)
    assert stack.token("dtbm000", PASSWORD)
    assert shadow("dtbm000")[1].startswith("$"), "the first sign-in gives the host the password"
    assert [row["status"] for row in rows(stack) if row["username"] == "dtbm001"] == ["inactive"]
    assert shadow("dtbm001")[7], "who was disabled there is locked here"
    stack.cli("user", "enable", "dtbl001")


def test_rows_of_people_who_exist_change_them(stack: Stack) -> None:
    text = table([*names("bl", 3), "dtbn000"], memory="80", full_name="Again")
    assert "there is such a user already" in stack.cli("user", "import", "-", input=text, ok=2).stdout
    shown = stack.cli("user", "import", "-", "--update", input=text).stdout
    assert "1 created, 3 changed, 0 waiting for the host, 0 refused." in shown
    found = {row["username"]: row for row in json.loads(stack.cli("user", "export").stdout)}
    assert [found[name]["memory"] for name in (*names("bl", 3), "dtbn000")] == ["80M"] * 4


def test_lines_tell_of_each_row_as_it_is_done(stack: Stack) -> None:
    people = names("bo", 3)
    status, headers, text = stack.http(
        "POST", "/api/v1/users/import", {"users": [{"username": name} for name in people]},
        headers={"Accept": "application/x-ndjson"},
    )  # fmt: skip
    assert (status, headers["content-type"].split(";")[0]) == (200, "application/x-ndjson")
    lines = [json.loads(line) for line in (text if isinstance(text, bytes) else text.encode()).splitlines()]
    assert [line["row"]["username"] for line in lines[:-1]] == people
    assert lines[-1]["report"]["created"] == 3
    status, _, problem = stack.http(
        "POST", "/api/v1/users/import", {"users": [{"username": people[0]}]}, headers={"Accept": "application/x-ndjson"}
    )
    assert status == 422 and problem["report"]["refused"] == 1, "a refusal is an ordinary answer"


def test_an_old_database_and_the_passwords_in_it(stack: Stack, tmp_path: Path) -> None:
    file, old = tmp_path / "old.db", hashlib.sha256(PASSWORD.encode()).hexdigest()
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, username TEXT, password_hash TEXT, is_active INTEGER DEFAULT 1);"
            "CREATE TABLE resource_allocations (id INTEGER PRIMARY KEY, user_id INTEGER, cpu_limit REAL, mem_limit TEXT);"
            f"INSERT INTO users VALUES (7, 'dtbr000', '{old}', 1), (8, 'dtbr001', 'x', 1), (9, 'dtbr002', '{old}', 0);"
            "INSERT INTO resource_allocations VALUES (1, 7, 0.1, '64'), (2, 8, 0.1, 'much'), (3, 9, 0.1, '96M');"
        )
    shown = stack.cli("user", "import-database", str(file), ok=2).stdout
    assert re.search(r"^ *8 +dtbr001 +refused +mem_limit: 'much' is not a size", shown, re.M), shown
    assert "Nothing was changed" in shown and "dtbr000" not in str(rows(stack))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE resource_allocations SET mem_limit = '80M' WHERE id = 2")
        connection.commit()
    report = stack.json("user", "import-database", str(file))
    assert [(row["line"], row["outcome"], bool(row["password"])) for row in report["rows"]] == [
        (7, "created", False), (8, "created", True), (9, "created", False),
    ]  # fmt: skip
    hashes = "SELECT password_hash FROM users WHERE username = 'dtbr000'"
    assert query(stack, hashes)[0][0] == f"sha256${old}"
    assert stack.token("dtbr000", PASSWORD)
    assert query(stack, hashes)[0][0].startswith("$argon2id$")
    settled(stack, {"dtbr000": PASSWORD})
    assert shadow("dtbr002")[7], "who was switched off there is locked here"


def test_two_imports_of_the_same_people_at_once(stack: Stack) -> None:
    """Every user is made once, by one of the two; the other is told which were taken."""
    people, found = names("bp", 30), []

    def one() -> None:
        found.append(stack.cli("user", "import", "-", "--json", input=table(people, password=PASSWORD), ok=None))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = [
        row["username"]
        for done in found
        for row in json.loads(done.stdout).get("rows", [])
        if row["outcome"] in ("created", "pending")
    ]
    assert sorted(made) == people
    assert {name for name in people if pwd.getpwnam(name)} == set(people)
    settled(stack, dict.fromkeys(people, PASSWORD))


def test_the_server_dies_at_commits_of_a_bulk(stack: Stack) -> None:
    """After each death the same program starts again: every user is whole, and the audit tells what was broken off."""
    stack.cli("user", "import", "-", input=table(names("bs", 2), password=PASSWORD))
    stack.stop_server(signal.SIGKILL)
    stack.start_server("tests.killing_server")
    try:
        for step in range(MAX_STEPS):
            people = [f"dtbq{step:02d}{number}" for number in range(3)]
            arm(stack.prefix, "server", step)
            text = json.loads(changes("create", people, password=PASSWORD, memory="64M"))
            text += json.loads(changes("modify", names("bs", 2), full_name=f"Step {step}"))
            stack.cli("user", "bulk", "-", input=json.dumps(text), ok=None)
            survived = disarm(stack.prefix)
            if not survived:
                assert stack.server is not None
                stack.server.wait()
                stack.start_server("tests.killing_server")
            settled(stack)
            if survived:
                break
        assert step >= 3
        assert query(stack, "SELECT count(*) FROM audit WHERE outcome = 'started'")[0][0] == 0
        assert query(stack, "SELECT count(*) FROM audit WHERE outcome = 'crashed' AND action = 'user.bulk'")[0][0] >= 1
    finally:
        stack.stop_server(signal.SIGKILL)
        stack.start_server()
