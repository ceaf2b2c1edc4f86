"""A database of the first schema, with people in it, becomes one of the second: nothing is lost, and all or nothing."""

from __future__ import annotations

import importlib
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import op

from diycloud.db.migrate import HEAD, migrate, revision

FIRST = importlib.import_module("diycloud.db.migrations.versions.0001_first")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database as the first release made it: three users, the last of them removed by hand, sessions, an audit."""
    path = tmp_path / "users.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in FIRST.STATEMENTS:
            connection.execute(statement)
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        connection.execute("INSERT INTO alembic_version VALUES ('0001')")
        for name, role in (("ada", "admin"), ("bob", "monitor"), ("eve", "user")):
            connection.execute(
                "INSERT INTO users (username, password_hash, role, status, uid) VALUES (?, 'h', ?, 'active', 20000)",
                (name, role),
            )
        connection.execute("INSERT INTO resource_allocations (user_id, cpu_limit) VALUES (1, 0.5)")
        connection.execute("INSERT INTO sessions VALUES (7, x'00', 1, 'browser', '', 1, 1, 9, '', '')")
        connection.execute("INSERT INTO audit (actor, action, target) VALUES ('root', 'user.create', 'ada')")
        connection.execute("DELETE FROM users WHERE username = 'eve'")
    return path


def rows(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def test_everything_is_kept(old: Path) -> None:
    columns = "id, username, role, status, uid, uuid, generation, is_active, created_at"
    before = rows(old, f"SELECT {columns} FROM users")
    assert migrate(old)
    assert rows(old, f"SELECT {columns} FROM users") == before
    assert rows(old, "SELECT domain, policy, ssh_keys FROM users WHERE id = 1") == [("default", "default", "")]
    assert rows(old, "SELECT user_id, cpu_limit FROM resource_allocations") == [(1, 0.5)]
    assert rows(old, "SELECT id, user_id FROM sessions") == [(7, 1)]
    assert rows(old, "SELECT actor, action, target, outcome, on_behalf_of FROM audit") == [
        ("root", "user.create", "ada", "started", "")
    ]
    assert rows(old, "PRAGMA foreign_key_check") == []
    assert rows(old, "PRAGMA integrity_check") == [("ok",)]


def test_an_id_that_was_given_is_never_given_again(old: Path) -> None:
    migrate(old)
    with closing(sqlite3.connect(old)) as connection, connection:
        made = connection.execute("INSERT INTO users (username, password_hash) VALUES ('new', 'h')")
        assert made.lastrowid == 4, "3 was eve's"
        connection.execute("UPDATE users SET role = 'domain-admin' WHERE id = 4")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("UPDATE users SET role = 'king' WHERE id = 4")


def test_the_old_database_stays_beside_it(old: Path) -> None:
    migrate(old)
    kept = old.with_name(f"users.db.before-{HEAD}")
    assert revision(kept) == "0001"
    assert len(rows(kept, "SELECT * FROM users")) == 2


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def test_stopped_before_any_statement_it_is_as_it_was(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in the middle leaves the first schema whole: the next start tries again."""
    before, execute, last = dump(old), op.execute, 0

    def stop_at(number: int) -> Callable[..., None]:
        left = [number]

        def run(statement: Any, **more: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            execute(statement, **more)

        return run

    for number in range(200):
        path = Path(shutil.copyfile(old, tmp_path / f"try{number}.db"))
        monkeypatch.setattr(op, "execute", stop_at(number))
        try:
            migrate(path)
        except KeyboardInterrupt:
            assert dump(path) == before, f"stopped before statement {number}"
            last = number
        else:
            break
        finally:
            monkeypatch.undo()
    assert last > 20
