"""Old databases: what they say comes in, and nothing that a hostile one holds is run."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diycloud.actions.parsing import Source, parse_action
from diycloud.auth.passwords import OLD, Hasher, hash_password
from diycloud.db.engine import Database
from diycloud.errors import InvalidInput
from diycloud.users import importing, legacy, repository
from diycloud.users.actions import ImportUsers
from tests.unit.test_export_import import context

PASSWORD = "correct horse battery"
SUM = hashlib.sha256(PASSWORD.encode()).hexdigest()
PLAIN = """
CREATE TABLE users (id INTEGER PRIMARY KEY, username TEXT UNIQUE, password_hash TEXT, email TEXT,
 created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, last_login TIMESTAMP, role TEXT DEFAULT 'user', is_active BOOLEAN DEFAULT 1);
CREATE TABLE resource_allocations (id INTEGER PRIMARY KEY, user_id INTEGER, cpu_limit REAL, mem_limit TEXT, disk_quota TEXT,
 gpu_access BOOLEAN DEFAULT 0);
"""


def make(tmp_path: Path, script: str) -> Path:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path


def test_what_an_old_database_says(tmp_path: Path) -> None:
    path = make(
        tmp_path,
        PLAIN
        + f"""
INSERT INTO users VALUES (1, 'ada', '{SUM.upper()}', 'ada@b.org', '2020-05-01 10:00:00.123456', NULL, 'admin', 1);
INSERT INTO users VALUES (2, 'bob', 'PLACEHOLDER', '', '2020-05-02T10:00:00', NULL, 'teacher', 0);
INSERT INTO users VALUES (3, 'carl', '5f4dcc3b5aa765d61d8327deb882cf99', NULL, NULL, NULL, NULL, 1);
INSERT INTO users VALUES (4, 'dora', '{hash_password("x")}', NULL, 'yesterday', NULL, 'user', 1);
INSERT INTO resource_allocations VALUES (1, 1, 0.5, '2048M', '10G', 1);
INSERT INTO resource_allocations VALUES (2, 2, 1, '1G', '5G', 0);
INSERT INTO resource_allocations VALUES (3, 2, 2.5, 512, '1024', 0);
INSERT INTO resource_allocations VALUES (4, 99, 1, '1G', '5G', 0);
INSERT INTO resource_allocations VALUES (5, 4, 'half', 'lots', '0M', 'no');
""",
    )
    before = path.read_bytes()
    ada, bob, carl, dora = legacy.read_database(path)
    assert ada == legacy.Old(
        1,
        {
            "username": "ada", "email": "ada@b.org", "role": "admin", "created_at": "2020-05-01 10:00:00",
            "password_hash": f"sha256${SUM}", "memory": "2G", "disk": "10G", "cpu": 0.5, "gpu": True,
        },
    )  # fmt: skip
    assert bob.user["password_hash"] == "PLACEHOLDER" and bob.user["status"] == "inactive" and bob.user["email"] is None
    assert (bob.user["cpu"], bob.user["memory"], bob.user["disk"]) == (2.5, "512M", "1G"), (
        "the newest, a bare number MB"
    )
    assert bob.warnings == ("It had limits more than once: the newest hold.", "The role 'teacher' becomes user.")
    assert "password_hash" not in carl.user and "generated password" in carl.warnings[0]
    assert dora.user["password_hash"].startswith("$argon2id$") and "created_at" not in dora.user
    assert [fault.field for fault in dora.faults] == ["mem_limit", "disk_quota", "cpu_limit"]
    assert path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["old.db"]


def test_they_come_in_and_sign_in_once_by_the_old_sum(tmp_path: Path, database: Database) -> None:
    path = make(
        tmp_path,
        PLAIN + f"INSERT INTO users (username, password_hash) VALUES ('ada', '{SUM}'), ('bob', 'PLACEHOLDER');",
    )
    users = json.loads(json.dumps([old.user for old in legacy.read_database(path)]))
    action = parse_action(ImportUsers, {"users": users}, Source.JSON)
    report = asyncio.run(importing.import_users(context(database), action))
    assert [row.outcome for row in report.rows] == ["pending", "pending"] and not any(
        row.password for row in report.rows
    )
    ada, bob = (database.read_now(repository.by_name, name) for name in ("ada", "bob"))
    assert (ada.password_hash, ada.must_change_password, ada.shadow_set) == (f"{OLD}{SUM}", False, False)

    async def tries() -> list[bool]:
        hasher = Hasher()
        given = [(PASSWORD, ada), ("wrong", ada), (SUM, ada), (f"{OLD}{SUM}", ada), ("PLACEHOLDER", bob), ("", bob)]
        try:
            return [await hasher.verify(password, row.password_hash) for password, row in given]
        finally:
            hasher.close()

    assert asyncio.run(tries()) == [True, False, False, False, False, False]
    new = hash_password(PASSWORD)
    asyncio.run(database.write(repository.replace_hash, ada.id, "something else", new))
    assert database.read_now(repository.by_name, "ada").password_hash == f"{OLD}{SUM}", "it was changed meanwhile"
    asyncio.run(database.write(repository.replace_hash, ada.id, f"{OLD}{SUM}", new))
    assert database.read_now(repository.by_name, "ada").password_hash == new


VIEW = "CREATE VIEW users AS SELECT 1 AS id, 'ada' AS username, hex(randomblob(1000000000)) AS password_hash;"
VIRTUAL = "CREATE VIRTUAL TABLE users USING fts4(id, username, password_hash);"
GENERATED = """CREATE TABLE users (id INTEGER PRIMARY KEY, username TEXT,
 password_hash TEXT AS (hex(zeroblob(9))) VIRTUAL); INSERT INTO users (username) VALUES ('ada');"""


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (VIEW, "a view or a virtual table"),
        (VIRTUAL, "a view or a virtual table"),
        (GENERATED, "no column password_hash|not authorized"),
        ("CREATE TABLE people (id INTEGER)", "no table users"),
        ("CREATE TABLE users (id INTEGER, username TEXT)", "no column password_hash"),
        (PLAIN.split(";", maxsplit=1)[0] + "; CREATE VIEW resource_allocations AS SELECT * FROM users", "view"),
    ],
)
def test_what_is_no_plain_table_is_refused(tmp_path: Path, script: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        legacy.read_database(make(tmp_path, script))


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    for data in (b"", b"SQLite format 3\0" + b"\0" * 500, os.urandom(5000)):
        path.write_bytes(data)
        with pytest.raises(InvalidInput):
            legacy.read_database(path)
    for other in (tmp_path, tmp_path / "none.db", Path("/dev/null")):
        with pytest.raises(InvalidInput):
            legacy.read_database(other)


def test_changes_that_wait_beside_the_file_are_not_overlooked(tmp_path: Path) -> None:
    path = make(tmp_path, PLAIN)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("INSERT INTO users (username, password_hash) VALUES ('ada', 'x')")
        connection.commit()
        with pytest.raises(InvalidInput, match="in use"):
            legacy.read_database(path)
    assert [old.user["username"] for old in legacy.read_database(path)] == ["ada"]


ANY = (
    st.none()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False)
    | st.text(max_size=30)
    | st.binary(max_size=20)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ANY, ANY, ANY, ANY, ANY, ANY, ANY, ANY, ANY), max_size=4))
def test_whatever_is_in_its_cells_is_taken_or_told(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, ...]]
) -> None:
    path = tmp_path_factory.mktemp("old") / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(PLAIN.replace("UNIQUE", ""))
        for number, (name, hashed, email, at, role, active, cpu, memory, disk) in enumerate(rows, 1):
            values = (number, name, hashed, email, at, role, active)
            connection.execute(
                "INSERT INTO users (id, username, password_hash, email, created_at, role, is_active) VALUES (?,?,?,?,?,?,?)",
                values,
            )
            connection.execute(
                "INSERT INTO resource_allocations (user_id, cpu_limit, mem_limit, disk_quota) VALUES (?,?,?,?)",
                (number, cpu, memory, disk),
            )
        connection.commit()
    found = legacy.read_database(path)
    assert [old.id for old in found] == list(range(1, len(rows) + 1))
    users = [{k: v.hex() if isinstance(v, bytes) else v for k, v in old.user.items()} for old in found]
    for candidate in importing.parse_objects(users):
        assert candidate.action is not None or candidate.errors
