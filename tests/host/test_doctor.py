"""`diycloud doctor` on a platform whose rows and groups somebody has changed by hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from tests.conftest import cannot_run
from tests.stack import Stack

pytestmark = pytest.mark.skipif(bool(cannot_run()), reason=cannot_run() or "-")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(uid_min=56_000, uid_max=56_099, cgroup="dtdoc") as running:
        yield running


def found(stack: Stack, name: str) -> list[tuple[str, str, str]]:
    """Return what the doctor says under a name. It finds fault with this stack, which no installation has made."""
    checks = stack.json("doctor", ok=None)["checks"]
    return [(check["result"], check["detail"], check["advice"]) for check in checks if check["name"] == name]


def sql(stack: Stack, statement: str) -> None:
    with sqlite3.connect(stack.database()) as connection:
        connection.execute(statement)
    connection.close()


def test_who_is_locked_out_by_what_nobody_can_read(stack: Stack) -> None:
    for name in ("dtdocann", "dtdocbob"):
        stack.cli("user", "create", name, "--allowed-client-ip", "10.0.0.0/8")
    assert not [check for check in found(stack, "users") if "locked out" in check[1]]
    sql(stack, "UPDATE users SET allowed_client_ip = 'the office' WHERE username = 'dtdocann'")
    ((result, detail, advice),) = [check for check in found(stack, "users") if "locked out" in check[1]]
    assert result == "warn" and "dtdocann" in detail and "dtdocbob" not in detail
    assert "--allowed-client-ip" in advice
    assert stack.json("host", "show")["locked_out"] == ["dtdocann"]
    stack.cli("user", "modify", "dtdocann", "--allowed-client-ip", "10.0.0.0/8")  # as the advice says
    assert not [check for check in found(stack, "users") if "locked out" in check[1]]


def test_groups_on_one_side_only(stack: Stack) -> None:
    for number in range(12):
        stack.cli("group", "create", f"dtdocg{number:02}")
    assert found(stack, "groups") == [("ok", "12, here and on the host", "")]
    sql(stack, "DELETE FROM groups WHERE name <> 'dtdocg05'")
    ((result, detail, advice),) = found(stack, "groups")
    assert result == "warn" and "without a group here: dtdocg00, dtdocg01" in detail and "and 1 more" in detail
    assert "dtdocg05" not in detail and "INSERT INTO groups" in advice
    for number in range(12):  # as the advice says
        sql(stack, f"INSERT OR IGNORE INTO groups (name, domain) VALUES ('dtdocg{number:02}', 'default')")
    assert [check[0] for check in found(stack, "groups")] == ["ok"]
    sql(stack, "INSERT INTO groups (name, domain, host_problem) VALUES ('Dt doc', 'default', 'no such name')")
    ((result, detail, advice),) = found(stack, "groups")
    assert (result, detail) == ("warn", "not on the host: Dt doc. no such name") and "group show" in advice
