"""`diycloud db move`: all of a SQLite file in PostgreSQL, or nothing of it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from diycloud.config import Paths
from diycloud.db.migrate import migrate
from diycloud.db.move import Report, Wish, run
from diycloud.db.postgres import Address
from diycloud.db.tables import metadata
from diycloud.errors import Conflict, InvalidInput
from tests.cluster import Cluster

_GOOD = """
INSERT INTO users (username, password_hash, email, full_name, is_active, status) VALUES
  ('ada', 'x', 'Ada@b.org', 'Ünal 日本', 1, 'active'), ('bob', 'y', NULL, '', 0, 'inactive'),
  ('gone', 'z', NULL, '', 1, 'active');
DELETE FROM users WHERE username = 'gone';
INSERT INTO resource_allocations (user_id, cpu_limit, mem_limit) VALUES (1, 0.1, 'lots'), (2, 3, '1G');
INSERT INTO sessions (token_hash, user_id, created_at, last_seen, expires_at) VALUES (x'00ff', 1, 5000000000, 1, 1);
INSERT INTO audit (actor, action, duration_ms, changes) VALUES ('a\tb\\c', 'x', 1.5, '{"n": 1}');
"""
_BAD = """
UPDATE users SET full_name = CAST(x'41ff42' AS TEXT) WHERE id = 1;
UPDATE users SET generation = 'new' WHERE id = 1;
UPDATE resource_allocations SET cpu_limit = 'many', tasks_limit = 'dozen' WHERE user_id = 2;
PRAGMA foreign_keys = OFF;
INSERT INTO resource_allocations (user_id) VALUES (99);
UPDATE users SET domain = 'nowhere' WHERE id = 2;
"""


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(str(tmp_path))
    found.state.mkdir(parents=True)
    migrate(found.database)
    by_hand(found, _GOOD)
    return found


def by_hand(paths: Paths, script: str) -> None:
    with closing(sqlite3.connect(paths.database)) as connection:
        connection.executescript(script)


@pytest.fixture
def target(cluster: Cluster) -> Iterator[Address]:
    yield cluster.database("target")
    cluster.drop("target")


def wish(target: Address, **more: bool) -> Wish:
    return Wish(target.url, **more)


def contents(paths: Paths) -> dict[str, list[tuple]]:
    with closing(sqlite3.connect(paths.database)) as connection:
        return {
            t.name: connection.execute(f'SELECT * FROM "{t.name}" ORDER BY id').fetchall()
            for t in metadata.sorted_tables
        }


def moved(cluster: Cluster, target: Address) -> dict[str, list[tuple]]:
    return {t.name: cluster.query(target, f'SELECT * FROM "{t.name}" ORDER BY id') for t in metadata.sorted_tables}


def tables(cluster: Cluster, target: Address) -> list[tuple]:
    return cluster.query(target, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")


def test_every_row_and_every_column_is_there(cluster: Cluster, target: Address, paths: Paths) -> None:
    before = contents(paths)
    report = run(paths, wish(target))
    assert report.moved and report.rows["users"] == 2
    assert moved(cluster, target) == before == contents(paths)


def test_it_goes_on_where_it_was(cluster: Cluster, target: Address, paths: Paths) -> None:
    """Ids that were given once are not given again, and the triggers work."""
    run(paths, wish(target))
    cluster.sql("INSERT INTO users (username, password_hash) VALUES ('new', 'x')", "target")
    cluster.sql("UPDATE users SET is_active = 0 WHERE username = 'ada'", "target")
    query = "SELECT id, status, generation FROM users WHERE username IN ('new', 'ada') ORDER BY id"
    (_, ada, wishes), (new, _, first) = cluster.query(target, query)
    assert (ada, new, first) == ("inactive", 4, 4 << 20)
    assert wishes > contents(paths)["users"][0][15]


def test_a_second_run_finds_it_done_and_any_other_database_is_refused(
    cluster: Cluster, target: Address, paths: Paths
) -> None:
    """What was cut off between the copy and the setting is simply run again."""
    run(paths, wish(target))
    assert run(paths, wish(target)).there_before
    by_hand(paths, "UPDATE users SET full_name = 'other' WHERE id = 1")
    with pytest.raises(Conflict, match="not empty: it has activity, alembic_version, api_tokens"):
        run(paths, wish(target))


def test_a_dry_run_writes_nothing(cluster: Cluster, target: Address, paths: Paths) -> None:
    report = run(paths, wish(target, dry_run=True))
    assert not report.moved and report.rows["audit"] == 1
    assert tables(cluster, target) == []


def test_what_postgresql_could_not_hold_is_told_of_before(cluster: Cluster, target: Address, paths: Paths) -> None:
    by_hand(paths, _BAD)
    report = run(paths, wish(target))
    assert not report.moved and tables(cluster, target) == []
    assert report.problems == [
        "users 1, full_name: text that is not UTF-8 (a repair makes it 'A\ufffdB')",
        "users 1, generation: text in a column of whole numbers (a repair makes it 1)",
        "users 2, domain: points at nothing (a repair makes it 'default')",
        "resource_allocations 2, cpu_limit: text in a column of numbers (a repair makes it 1.0)",
        "resource_allocations 2, tasks_limit: text in a column of whole numbers (a repair makes it 512)",
        "resource_allocations 3, user_id: points at nothing (a repair makes it nothing: the row is left out)",
    ]


def test_a_repair_mends_the_copy_and_leaves_the_file(cluster: Cluster, target: Address, paths: Paths) -> None:
    by_hand(paths, _BAD)
    before = contents_of_bytes(paths)
    assert run(paths, wish(target, repair=True)).moved
    assert contents_of_bytes(paths) == before
    assert cluster.query(target, "SELECT full_name, generation, domain FROM users ORDER BY id") == [
        ("A\ufffdB", 1, "default"), ("", before_generation(paths), "default"),
    ]  # fmt: skip
    assert cluster.query(target, "SELECT user_id, cpu_limit, tasks_limit FROM resource_allocations ORDER BY id") == [
        (1, 0.1, 512), (2, 1.0, 512),
    ]  # fmt: skip


def contents_of_bytes(paths: Paths) -> list[bytes]:
    with closing(sqlite3.connect(paths.database)) as connection:
        connection.text_factory = bytes
        return [
            repr(row).encode()
            for t in metadata.sorted_tables
            for row in connection.execute(f'SELECT * FROM "{t.name}" ORDER BY id')
        ]


def before_generation(paths: Paths) -> int:
    with closing(sqlite3.connect(paths.database)) as connection:
        return connection.execute("SELECT generation FROM users WHERE id = 2").fetchone()[0]


def test_what_is_there_twice_after_a_repair_moves_nothing(cluster: Cluster, target: Address, paths: Paths) -> None:
    by_hand(paths, "INSERT INTO users (username, password_hash) VALUES (CAST('ada' AS BLOB), 'x')")
    with pytest.raises(Conflict, match="users_username_key"):
        run(paths, wish(target, repair=True))
    assert tables(cluster, target) == []


def test_a_damaged_file_is_not_moved(cluster: Cluster, target: Address, paths: Paths) -> None:
    """An index that is not the table's any more, as a bad disk or an edit of the schema leaves it."""
    edit = "UPDATE sqlite_master SET sql = replace(sql, 'UNIQUE (username)', 'CHECK (id < 0)') WHERE name = 'users'"
    by_hand(paths, f"PRAGMA journal_mode = DELETE; PRAGMA writable_schema = ON; {edit}")
    report = run(paths, wish(target, repair=True))
    assert report.damage and not report.moved and tables(cluster, target) == []


def test_a_kill_in_the_middle_leaves_nothing_behind(cluster: Cluster, target: Address, paths: Paths) -> None:
    """Killed after every step of the copy: the file is as it was, the target empty, and the move can be run."""
    before = contents(paths)
    for step in ("create_tables", "_copy", "_digest", "finish"):
        code = (
            "import os, signal, sys\nfrom diycloud.config import Paths\nfrom diycloud.db import move, postgres_schema\n"
            f"where = postgres_schema if hasattr(postgres_schema, {step!r}) else move\nreal = getattr(where, {step!r})\n"
            "def killed(*given):\n    real(*given)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
            f"setattr(where, {step!r}, killed)\n"
            f"move.run(Paths({paths.prefix!r}), move.Wish({target.url!r}))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
        assert done.returncode == -9, (step, done.stderr)
        assert contents(paths) == before
    assert run(paths, wish(target)).moved
    assert moved(cluster, target) == before


def test_a_url_that_is_none_is_not_repeated_in_the_error(paths: Paths) -> None:
    with pytest.raises(InvalidInput) as caught:
        run(paths, Wish("postgresql://u:secret@[::/x"))
    assert "secret" not in str(caught.value)


def test_a_look_alone(paths: Paths) -> None:
    report = run(paths, Wish())
    assert report == Report(report.rows) and report.rows["users"] == 2
