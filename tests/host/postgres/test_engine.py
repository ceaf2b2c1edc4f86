"""What is PostgreSQL's own: its schema's birth and growth, what is refused, lost connections, several processes writing."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Connection, Table

from diycloud.config import Settings
from diycloud.db import migrate as migrating
from diycloud.db import notebook_tables, sign_in_tables
from diycloud.db.migrate import HEAD, SCRIPTS, migrate, migrate_postgres
from diycloud.db.postgres import Address, PostgresDatabase
from diycloud.db.tables import TRIGGERS, metadata
from diycloud.errors import Conflict, InvalidInput, Unavailable, Unsupported
from diycloud.users import repository
from diycloud.users.models import Allocation
from tests.cluster import Cluster

NEW = "INSERT INTO users (username, password_hash) VALUES ('{}', 'a-secret-hash')"


def run(database: PostgresDatabase, statement: str) -> None:
    asyncio.run(database.write(lambda c: c.exec_driver_sql(statement) and None))


def count(database: PostgresDatabase, table: str = "users") -> int:
    return database.read_now(lambda c: c.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


# -- schema


def test_it_has_every_table_index_and_a_trigger_where_sqlite_has_one(cluster: Cluster, address: Address) -> None:
    def names(query: str) -> set[str]:
        return {name for (name,) in cluster.query(address, query)}

    public = "WHERE schemaname = 'public'"
    assert names(f"SELECT tablename FROM pg_tables {public}") == {*metadata.tables, "alembic_version"}
    wanted = {index.name for table in metadata.tables.values() for index in table.indexes}
    assert wanted <= names(f"SELECT indexname FROM pg_indexes {public}")
    tables = {sql.split(" ON ", 1)[1].split()[0] for sql in TRIGGERS}
    assert names("SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal") == tables


def test_texts_are_compared_as_bytes_and_numbers_are_wide(cluster: Cluster, address: Address) -> None:
    query = """SELECT DISTINCT t.typname, c.collname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_collation c ON c.oid = a.attcollation JOIN pg_class r ON r.oid = a.attrelid
    WHERE r.relkind = 'r' AND r.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND r.relname <> 'alembic_version'"""
    assert set(cluster.query(address, query)) == {("int8", None), ("text", "C"), ("float8", None), ("bytea", None)}


def test_a_later_migration_is_for_both(
    cluster: Cluster, address: Address, database_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = Path(shutil.copytree(SCRIPTS, tmp_path / "migrations"))
    (scripts / "versions/9999_later.py").write_text(
        f"from alembic import op\nrevision, down_revision = '9999', {HEAD!r}\n\n\n"
        "def upgrade() -> None:\n    op.execute(\"ALTER TABLE users ADD COLUMN later TEXT DEFAULT 'x' NOT NULL\")\n"
    )
    monkeypatch.setattr(migrating, "SCRIPTS", scripts)
    monkeypatch.setattr(migrating, "HEAD", "9999")
    cluster.run(address.url, NEW.format("ada"))
    assert migrate(database_file) and not migrate(database_file)
    assert migrate_postgres(address) and not migrate_postgres(address)
    assert cluster.query(address, "SELECT username, later FROM users") == [("ada", "x")]


SCHEMA = (
    """SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
WHERE table_schema = 'public'""",
    "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'",
    """SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace""",
    "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
    "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    "SELECT version_num FROM alembic_version",
)
_LATER = (*vars(sign_in_tables).values(), *vars(notebook_tables).values())
BEFORE_0004 = (
    *(f"DROP TABLE {table.name} CASCADE" for table in _LATER if isinstance(table, Table)),
    *(f"ALTER TABLE {place}" for place in (
        "policies DROP COLUMN second_factor", "policies DROP COLUMN max_sessions", "users DROP COLUMN password_void",
        "sessions DROP COLUMN methods", "sessions DROP COLUMN proved_at", "audit DROP COLUMN token",
    )),
    "CREATE OR REPLACE FUNCTION users_before() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
    "UPDATE alembic_version SET version_num = '0003'",
)  # fmt: skip


def test_an_older_schema_becomes_what_a_new_one_is(cluster: Cluster, address: Address) -> None:
    def look() -> list[list[tuple[object, ...]]]:
        return [sorted(cluster.query(address, query), key=repr) for query in SCHEMA]

    new = look()
    for statement in BEFORE_0004:
        cluster.run(address.url, statement)
    assert look() != new
    assert migrate_postgres(address)
    assert look() == new


def test_a_migration_that_fails_changes_nothing(
    cluster: Cluster, address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = Path(shutil.copytree(SCRIPTS, tmp_path / "migrations"))
    (scripts / "versions/9999_later.py").write_text(
        f"from alembic import op\nrevision, down_revision = '9999', {HEAD!r}\n\n\n"
        "def upgrade() -> None:\n    op.execute('DROP TABLE idempotency_keys')\n    1 / 0\n"
    )
    monkeypatch.setattr(migrating, "SCRIPTS", scripts)
    monkeypatch.setattr(migrating, "HEAD", "9999")
    with pytest.raises(ZeroDivisionError):
        migrate_postgres(address)
    assert cluster.query(address, "SELECT count(*) FROM idempotency_keys") == [(0,)]
    assert cluster.query(address, "SELECT version_num FROM alembic_version") == [(HEAD,)]


def test_a_database_of_somebody_elses_is_left_alone(cluster: Cluster) -> None:
    address = cluster.database("theirs")
    cluster.sql("CREATE TABLE precious (x int)", "theirs")
    with pytest.raises(Conflict, match="precious"):
        migrate_postgres(address)
    cluster.drop("theirs")


def test_another_encoding_is_refused(cluster: Cluster) -> None:
    cluster.sql("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1'")
    with pytest.raises(Unsupported, match="LATIN1"):
        migrate_postgres(Address(cluster.url("latin")))
    cluster.drop("latin")


def test_which_one_answers_is_told_to_doctor(address: Address, tmp_path: Path) -> None:
    (tmp_path / "etc/diycloud").mkdir(parents=True)
    (tmp_path / "etc/diycloud/config.yaml").write_text(f"server: {{database: '{address.url}'}}\n")
    argv = [sys.executable, "-m", "diycloud.db.migrate", "--prefix", str(tmp_path), "--check"]
    found = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert f'"revision":"{HEAD}"' in found and '"kind":"PostgreSQL ' in found


# -- what is refused


def test_a_broken_constraint_is_a_conflict_that_repeats_no_row(database: PostgresDatabase) -> None:
    run(database, NEW.format("ada"))
    for statement in (NEW.format("ada"), "UPDATE users SET status = 'gone'", "UPDATE users SET username = NULL"):
        with pytest.raises(Conflict) as caught:
            run(database, statement)
        assert "a-secret-hash" not in str(caught.value) and "\n" not in str(caught.value)
    assert count(database) == 1


@pytest.mark.parametrize("value", ["a\0b", 10**20])
def test_what_it_cannot_hold_is_invalid(database: PostgresDatabase, value: object) -> None:
    user = asyncio.run(database.write(repository.add, {"username": "ada", "password_hash": "x"}, Allocation()))
    column = "email" if isinstance(value, str) else "generation"
    with pytest.raises(InvalidInput):
        asyncio.run(database.write(repository.note, user, {column: value}))
    if isinstance(value, str):
        with pytest.raises(InvalidInput):
            database.read_now(repository.by_name, value)
    assert database.read_now(repository.by_name, "ada")


def test_readers_cannot_write(database: PostgresDatabase) -> None:
    with pytest.raises(Unavailable, match="read-only"):
        database.read_now(lambda c: c.exec_driver_sql(NEW.format("ada")))


def test_a_write_is_one_transaction(database: PostgresDatabase) -> None:
    def half(connection: Connection) -> None:
        connection.exec_driver_sql(NEW.format("ada"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(database.write(half))
    assert count(database) == 0


def test_a_wish_waits_for_the_disk_whatever_was_written_before(database: PostgresDatabase) -> None:
    def level(connection: Connection) -> str:
        return connection.exec_driver_sql("SHOW synchronous_commit").scalar_one()

    async def levels() -> list[str]:
        return [await database.write(level), await database.note(level), await database.write(level)]

    assert asyncio.run(levels()) == ["on", "off", "on"]


def test_what_is_wrong_with_the_address_is_told_without_the_password(tmp_path: Path) -> None:
    for url, error in (("postgresql:///x?host=/nowhere", Unavailable), ("postgresql://u:hunter2@[/x", InvalidInput)):
        with pytest.raises(error) as caught:
            migrate_postgres(Address(url))
        assert "hunter2" not in repr(caught.value)
    file = tmp_path / "password"
    for address in (Address("postgresql:///x", str(file)), Address.of(Settings())._replace(password_file=str(file))):
        with pytest.raises(Unavailable, match="cannot be read"):
            migrate_postgres(address)
    file.write_text("hunter2")
    file.chmod(0o644)
    with pytest.raises(Unavailable, match="open to everybody"):
        migrate_postgres(Address("postgresql:///x", str(file)))


# -- connections that are lost, processes side by side


def end_all(cluster: Cluster) -> None:
    cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'diycloud'")


def test_a_lost_connection_is_noticed_by_nobody(cluster: Cluster, database: PostgresDatabase) -> None:
    for number in range(3):
        run(database, NEW.format(f"u{number}"))
        assert count(database) == number + 1
        end_all(cluster)
    assert count(database) == 3


def test_a_connection_lost_in_a_transaction_undoes_it(cluster: Cluster, database: PostgresDatabase) -> None:
    def half(connection: Connection) -> None:
        connection.exec_driver_sql(NEW.format("ada"))
        end_all(cluster)
        repository.by_name(connection, "ada")

    with pytest.raises(Unavailable):
        asyncio.run(database.write(half))
    assert count(database) == 0
    run(database, NEW.format("ada"))
    assert count(database) == 1


def test_two_processes_write_in_turn(address: Address, database: PostgresDatabase) -> None:
    """What one reads in its transaction, another cannot have changed when it commits."""
    other = PostgresDatabase(address)
    run(database, NEW.format("ada"))

    def add(connection: Connection) -> None:
        found = connection.exec_driver_sql("SELECT uid FROM users").scalar_one() or 0
        connection.exec_driver_sql("SELECT pg_sleep(0.002)")
        connection.exec_driver_sql(f"UPDATE users SET uid = {found + 1}")

    async def both() -> None:
        await asyncio.gather(*(each.write(add) for each in (database, other) for _ in range(25)))

    asyncio.run(both())
    other.close()
    assert database.read_now(lambda c: c.exec_driver_sql("SELECT uid FROM users").scalar_one()) == 50


def test_one_server_has_it(address: Address, database: PostgresDatabase) -> None:
    database.claim()
    other = PostgresDatabase(address)
    with pytest.raises(Conflict, match="Another DIY Cloud server"):
        other.claim()
    run(database, NEW.format("ada"))
    other.close()
    database.close()
    other = PostgresDatabase(address)
    other.claim()
    other.close()
