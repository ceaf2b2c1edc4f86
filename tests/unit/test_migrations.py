"""Migrations lead to the tables that the program believes in, and touch nothing that is not ours."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from diycloud.db import migrate as migrating
from diycloud.db.engine import Database
from diycloud.db.migrate import HEAD, migrate, revision
from diycloud.db.sqlite import connect
from diycloud.db.tables import TRIGGERS, metadata
from diycloud.errors import Conflict, HostError, Unavailable


def schema(path: Path) -> dict[tuple[str, str], str]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {(kind, name): re.sub(r"\s+", " ", sql).strip() for kind, name, sql in rows if name != "alembic_version"}


def test_the_migrations_make_what_the_tables_say(database_file: Path, tmp_path: Path) -> None:
    engine = connect(tmp_path / "by-tables.db")
    with engine.begin() as connection:
        metadata.create_all(connection)
        for trigger in TRIGGERS:
            connection.exec_driver_sql(trigger)
    engine.dispose()
    wanted, made = schema(tmp_path / "by-tables.db"), schema(database_file)
    assert set(made) == set(wanted)
    for key, sql in wanted.items():
        assert re.sub(r"\( ", "(", made[key]) == re.sub(r"\( ", "(", sql), key


def test_the_promised_columns_come_first_and_the_rest_has_defaults(database_file: Path) -> None:
    promised = {
        "users": ["id", "username", "password_hash", "email", "created_at", "last_login", "role", "is_active"],
        "resource_allocations": ["id", "user_id", "cpu_limit", "mem_limit", "disk_quota", "gpu_access"],
    }
    connection = sqlite3.connect(database_file)
    for table, columns in promised.items():
        found = connection.execute(f"PRAGMA table_info({table})").fetchall()
        assert [row[1] for row in found][: len(columns)] == columns
        for _, name, _, not_null, default, _ in found[len(columns) :]:
            assert not not_null or default is not None, f"{table}.{name} stops an INSERT of old scripts"
    kinds = {row[1]: row[2] for row in connection.execute("PRAGMA table_info(resource_allocations)")}
    assert (kinds["cpu_limit"], kinds["mem_limit"], kinds["disk_quota"]) == ("REAL", "TEXT", "TEXT")
    connection.close()


def test_migrating_again_changes_nothing(database_file: Path) -> None:
    before = database_file.read_bytes()
    assert revision(database_file) == HEAD
    assert migrate(database_file) is False
    assert database_file.read_bytes() == before
    assert revision(database_file.with_name("none.db")) is None


def test_the_head_is_the_last_migration() -> None:
    versions = Path(migrating.__file__).parent / "migrations/versions"
    found = [re.search(r'^revision = "(\w+)"', p.read_text(), re.M) for p in versions.glob("*.py")]
    assert max(match[1] for match in found if match) == HEAD


def test_a_database_is_its_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        migrate(tmp_path / "users.db")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "users.db").stat().st_mode) == 0o600


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    (tmp_path / "users.db").symlink_to(target)
    with pytest.raises(HostError, match="symbolic link"):
        migrate(tmp_path / "users.db")
    assert not target.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_elses_is_refused(database_file: Path) -> None:
    os.chown(database_file, 50_999, 50_999)
    with pytest.raises(HostError, match="belongs to uid 50999"):
        migrate(database_file)


def test_an_older_database_is_copied_before(database_file: Path) -> None:
    connection = sqlite3.connect(database_file)
    connection.execute("INSERT INTO users (username, password_hash) VALUES ('ada', 'x')")
    connection.execute("UPDATE alembic_version SET version_num = '0000'")
    connection.commit()
    connection.close()
    with pytest.raises(Exception, match="0000"):  # there is no way from a revision that never was
        migrate(database_file)
    copy = database_file.with_name(f"users.db.before-{HEAD}")
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT username FROM users").fetchall() == [("ada",)]


def test_a_write_is_one_transaction(database: Database) -> None:
    def half(connection) -> None:
        connection.exec_driver_sql("INSERT INTO users (username, password_hash) VALUES ('ada', 'x')")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(database.write(half))
    assert database.read_now(lambda c: c.exec_driver_sql("SELECT count(*) FROM users").scalar_one()) == 0


def test_broken_constraints_are_conflicts(database: Database) -> None:
    def twice(connection) -> None:
        for _ in range(2):
            connection.exec_driver_sql("INSERT INTO users (username, password_hash) VALUES ('ada', 'x')")

    with pytest.raises(Conflict):
        asyncio.run(database.write(twice))


def test_somebody_elses_lock_is_told_of(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def impatient(connection) -> None:
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")
        connection.exec_driver_sql("INSERT INTO users (username, password_hash) VALUES ('ada', 'x')")

    shell = sqlite3.connect(database.path, isolation_level=None)
    shell.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="database is locked"):
        asyncio.run(database.write(impatient))
    shell.execute("ROLLBACK")
    shell.close()
    asyncio.run(database.write(impatient))


def test_what_is_read_is_what_was_written_last(database: Database) -> None:
    async def scenario() -> list[int]:
        found = []
        for number in range(3):
            await database.write(
                lambda c, n=number: c.exec_driver_sql(
                    f"INSERT INTO users (username, password_hash) VALUES ('u{n}', 'x')"
                )
            )
            found.append(database.read_now(lambda c: c.exec_driver_sql("SELECT count(*) FROM users").scalar_one()))
            found.append(
                await database.read_long(lambda c: c.exec_driver_sql("SELECT count(*) FROM users").scalar_one())
            )
        return found

    assert asyncio.run(scenario()) == [1, 1, 2, 2, 3, 3]


def test_its_settings(database: Database) -> None:
    async def pragmas() -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "trusted_schema")
        return [await database.write(lambda c, n=n: c.exec_driver_sql(f"PRAGMA {n}").scalar_one()) for n in names]

    assert asyncio.run(pragmas()) == ["wal", 2, 1, 0]
