"""Rows that people insert, change and delete with their own sqlite3: taken as wishes, never a reason to lose anything."""

from __future__ import annotations

import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import OWN, cannot_run
from tests.invariants import limits_of, query, rows, settled, shadow_of, verifies
from tests.stack import Stack
from tests.waiting import until

pytestmark = [
    pytest.mark.skipif(bool(cannot_run()), reason=cannot_run() or "-"),
    pytest.mark.skipif(shutil.which("sqlite3") is None, reason="no sqlite3 program"),
]
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(**OWN) as running:
        yield running


def sqlite(stack: Stack, statement: str, *, ok: bool = True) -> str:
    """Run a statement in the sqlite3 program, as an administrator would."""
    argv = ["sqlite3", "-bail", "-cmd", ".timeout 5000", str(stack.database()), statement]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == ok, done.stderr
    return done.stdout if ok else done.stderr


def reconciled(stack: Stack) -> None:
    """Have the server reconcile now, as it does every minute."""
    stack.stop_server()
    stack.start_server()
    until(lambda: stack.http("GET", "/api/v1/health")[0] == 200)


def is_there(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def status(stack: Stack, name: str) -> dict:
    return stack.json("user", "show", name)


def test_a_row_becomes_an_account(stack: Stack) -> None:
    sqlite(
        stack, "INSERT INTO users (username, password_hash, email) VALUES ('dthone', 'PLACEHOLDER', 'one@example.org')"
    )
    sqlite(stack, "INSERT INTO resource_allocations (user_id, cpu_limit, mem_limit) SELECT id, 0.25, '256M' FROM users")
    reconciled(stack)
    settled(stack)
    assert status(stack, "dthone")["status"] == "active"
    assert limits_of(stack, "dthone") == (25_000, 256 << 20, 512)
    assert Path("/home/dthone/notebooks").is_dir()
    assert shadow_of("dthone").password == "!", "nobody knows a password yet"
    for guess in ("PLACEHOLDER", "", "dthone"):
        code, _, _ = stack.http(
            "POST",
            "/api/v1/auth/login",
            {"username": "dthone", "password": guess},
            headers={"X-Forwarded-For": "192.0.2.50"},
        )
        assert code in (401, 422)


def test_its_first_password_is_the_hosts_too(stack: Stack) -> None:
    stack.cli("user", "set-password", "dthone", "--password", "-", input=PASSWORD + "\n")
    assert verifies("dthone", PASSWORD)
    stack.token("dthone", PASSWORD, "192.0.2.51")


def test_is_active_locks_and_opens(stack: Stack) -> None:
    sqlite(stack, "UPDATE users SET is_active = 0 WHERE username = 'dthone'")
    assert sqlite(stack, "SELECT status FROM users WHERE username = 'dthone'") == "inactive\n"
    code, _, _ = stack.http(
        "POST",
        "/api/v1/auth/login",
        {"username": "dthone", "password": PASSWORD},
        headers={"X-Forwarded-For": "192.0.2.52"},
    )
    assert code == 401, "at once in the portal"
    reconciled(stack)
    until(lambda: shadow_of("dthone").expires == "1")
    settled(stack)
    sqlite(stack, "UPDATE users SET is_active = 1 WHERE username = 'dthone'")
    reconciled(stack)
    until(lambda: shadow_of("dthone").expires == "")
    settled(stack, {"dthone": PASSWORD})


def test_limits_changed_by_hand_come_into_force(stack: Stack) -> None:
    sqlite(stack, "UPDATE resource_allocations SET cpu_limit = 0.75, mem_limit = '2048M'")
    reconciled(stack)
    until(lambda: limits_of(stack, "dthone")[:2] == (75_000, 2 << 30))
    assert status(stack, "dthone")["limits"]["memory"] == "2G"
    settled(stack)


@pytest.mark.parametrize(
    ("cpu", "memory"), [("'many'", "'lots'"), ("-1", "'-5M'"), ("0", "''"), ("1e300", "'1B'"), ("x'00ff'", "x'00ff'")]
)
def test_garbage_means_the_defaults(stack: Stack, cpu: str, memory: str) -> None:
    sqlite(stack, f"UPDATE resource_allocations SET cpu_limit = {cpu}, mem_limit = {memory}")
    reconciled(stack)
    until(lambda: limits_of(stack, "dthone")[:2] == (100_000, 2 << 30))
    assert status(stack, "dthone")["limits"]["cpu"] == 1.0
    until(lambda: status(stack, "dthone")["settled"])
    stack.json("limits", "set", "dthone", "--cpu", "0.5", "--memory", "512M")
    settled(stack)


def test_a_limit_the_host_does_not_have_is_told_of_and_holds_nobody_up(stack: Stack) -> None:
    sqlite(stack, "UPDATE resource_allocations SET cpu_limit = 4000")
    sqlite(stack, "INSERT INTO users (username, password_hash) VALUES ('dthtwo', 'x')")
    reconciled(stack)
    until(lambda: is_there("dthtwo") and bool(status(stack, "dthone")["host_problem"]))
    assert "cores" in status(stack, "dthone")["host_problem"]
    assert limits_of(stack, "dthone")[0] == 50_000, "the last good ones stay in force"
    sqlite(stack, "UPDATE resource_allocations SET cpu_limit = 1")
    reconciled(stack)
    settled(stack)


def test_an_allocation_that_is_gone_means_the_defaults(stack: Stack) -> None:
    sqlite(stack, "DELETE FROM resource_allocations")
    reconciled(stack)
    until(lambda: limits_of(stack, "dthone") == (100_000, 2 << 30, 512))
    stack.json("limits", "set", "dthone", "--cpu", "0.5")
    assert sqlite(stack, "SELECT count(*) FROM resource_allocations") == "1\n", "made again when it is needed"


def test_names_that_can_have_no_account_hold_nobody_up(stack: Stack) -> None:
    for name in ("daemon", "Bad Name", "x" * 40, "dt:h"):
        sqlite(stack, f"INSERT INTO users (username, password_hash) VALUES ('{name}', 'x')")
    sqlite(
        stack,
        "INSERT INTO users (username, password_hash, full_name) VALUES ('dththree', 'x', 'Th''ree: 3' || char(10))",
    )
    passwd = [line for line in Path("/etc/passwd").read_text().splitlines() if line.startswith(("daemon:", "root:"))]
    reconciled(stack)
    until(lambda: is_there("dththree"))
    users = {user["username"]: user for user in stack.json("user", "list")["users"]}
    assert all(
        users[name]["host_problem"] and users[name]["uid"] is None for name in ("daemon", "Bad Name", "x" * 40, "dt:h")
    )
    assert pwd.getpwnam("dththree").pw_gecos == "Th'ree  3 "
    now = [line for line in Path("/etc/passwd").read_text().splitlines() if line.startswith(("daemon:", "root:"))]
    assert now == passwd
    stack.json("user", "delete", "daemon")
    stack.json("user", "purge", "daemon", "--yes")
    assert is_there("daemon"), "what was never ours is not ours to remove"
    sqlite(stack, "DELETE FROM users WHERE uid IS NULL")
    reconciled(stack)
    settled(stack)


def test_a_row_deleted_by_hand_locks_and_removes_nothing(stack: Stack) -> None:
    Path("/home/dthtwo/thesis").write_text("precious")
    stack.stop_agent()
    stack.start_agent()  # forgets what changed within the last minutes, which may be younger than a list of wishes
    sqlite(stack, "PRAGMA foreign_keys = ON; DELETE FROM users WHERE username = 'dthtwo'")
    reconciled(stack)
    until(lambda: shadow_of("dthtwo").expires == "1")
    assert Path("/home/dthtwo/thesis").read_text() == "precious"
    assert is_there("dthtwo")
    until(lambda: '"orphans": ["dthtwo"]' in stack.log("server"))  # and it is told of
    uid = pwd.getpwnam("dthtwo").pw_uid
    code, _, answer = stack.http("POST", "/api/v1/users", {"username": "dthtwo"})
    assert (code, answer["code"]) == (409, "conflict"), "a new user of that name does not get the other's home"
    assert query(stack, "SELECT count(*) FROM users WHERE username = 'dthtwo'") == [(0,)]
    sqlite(stack, f"INSERT INTO users (username, password_hash, uid) VALUES ('dthtwo', 'x', {uid})")
    reconciled(stack)
    until(lambda: shadow_of("dthtwo").expires == "")
    settled(stack)
    assert {row["username"]: row["uid"] for row in rows(stack)}["dthtwo"] == uid, "the row is back, and the account its"
    assert Path("/home/dthtwo/thesis").read_text() == "precious"


def test_what_was_there_once_cannot_be_there_twice(stack: Stack) -> None:
    for statement in (
        "INSERT INTO users (username, password_hash) VALUES ('dthone', 'x')",
        "INSERT INTO users (username, password_hash, email) VALUES ('dthx', 'x', 'ONE@example.org')",
        "INSERT INTO resource_allocations (user_id) SELECT user_id FROM resource_allocations LIMIT 1",
    ):
        assert "UNIQUE" in sqlite(stack, statement, ok=False)
    assert "CHECK" in sqlite(stack, "UPDATE users SET role = 'root'", ok=False)


def test_an_account_that_somebody_removed_comes_back(stack: Stack) -> None:
    """userdel by hand is no wish: account and limits are back, the home was kept, the next sign-in brings the password."""
    Path("/home/dthone/kept").touch()
    subprocess.run(["userdel", "dthone"], check=True)
    reconciled(stack)
    until(lambda: is_there("dthone"))
    until(lambda: query(stack, "SELECT shadow_set FROM users WHERE username = 'dthone'") == [(0,)])
    assert Path("/home/dthone/kept").exists()
    stack.token("dthone", PASSWORD, "192.0.2.53")
    assert verifies("dthone", PASSWORD)
    settled(stack, {"dthone": PASSWORD})


def test_a_change_notices_an_account_that_somebody_removed(stack: Stack) -> None:
    """As above, before any reconcile: the change makes the account anew and knows that it has no password."""
    subprocess.run(["userdel", "dthone"], check=True)
    stack.cli("limits", "set", "dthone", "--tasks", "333")
    assert is_there("dthone")
    assert query(stack, "SELECT shadow_set FROM users WHERE username = 'dthone'") == [(0,)]
    stack.token("dthone", PASSWORD, "192.0.2.54")
    assert verifies("dthone", PASSWORD)
    settled(stack, {"dthone": PASSWORD})


def test_people_read_it_with_their_own_queries(stack: Stack) -> None:
    found = sqlite(
        stack,
        "SELECT username, role, is_active, cpu_limit, mem_limit, disk_quota, gpu_access FROM users u "
        "JOIN resource_allocations a ON a.user_id = u.id WHERE username = 'dthone'",
    )
    assert found == "dthone|user|1|0.5|2G|5G|0\n"
    assert sqlite(stack, "PRAGMA integrity_check") == "ok\n"
    assert sqlite(stack, "PRAGMA foreign_key_check") == ""
    owners = {path.stat().st_uid for path in stack.database().parent.iterdir()}
    assert owners == {stack.database().parent.stat().st_uid}, "reading as root left no file of root's"
