"""Server-side sessions on a real database: only a hash is kept, and every way to end one ends it."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from sqlalchemy import Connection, select, update

from diycloud.actions.roles import Role
from diycloud.auth import old_passwords, sessions
from diycloud.db.sign_in_tables import old_passwords as old
from diycloud.db.tables import policies
from diycloud.users import repository
from diycloud.users.models import Allocation

NOW, MAX_S, IDLE_S = 1_000_000, 86_400, 7_200


@pytest.fixture
def connection(connection: Connection) -> Connection:
    for name in ("ada", "bob"):
        repository.add(connection, {"username": name, "password_hash": "x", "status": "active"}, Allocation())
    return connection


def begin(connection: Connection, user_id: int = 1) -> str:
    return sessions.begin(
        connection, user_id, now=NOW, max_s=MAX_S, kind="browser", address="192.0.2.1", user_agent="x" * 900
    )


def find(connection: Connection, token: str, now: int = NOW) -> sessions.Session | None:
    return sessions.find(connection, token, now=now, idle_s=IDLE_S)


def test_a_session_holds_and_knows_its_user(connection: Connection) -> None:
    found = find(connection, begin(connection))
    assert found is not None
    assert (found.username, found.role, found.must_change_password, found.expires_at) == (
        "ada",
        Role.USER,
        False,
        NOW + MAX_S,
    )
    assert len(found.csrf) >= 24


def test_the_database_does_not_have_the_token(connection: Connection) -> None:
    token = begin(connection)
    (row,) = connection.exec_driver_sql("SELECT * FROM sessions").mappings().all()
    assert row["token_hash"] == hashlib.sha256(token.encode()).digest()
    assert token not in str(dict(row))
    assert len(row["user_agent"]) == 200
    assert len({begin(connection) for _ in range(50)}) == 50 and len(token) >= 43


@pytest.mark.parametrize("token", ["", "x", "'", "\x00", "a" * 5000, "ü"])
def test_other_tokens_hold_nothing(connection: Connection, token: str) -> None:
    begin(connection)
    assert find(connection, token) is None


def test_a_session_ends_when_idle_and_at_its_end(connection: Connection) -> None:
    token = begin(connection)
    assert find(connection, token, NOW + IDLE_S - 1) is not None
    assert find(connection, token, NOW + IDLE_S) is None
    for at in range(NOW, NOW + MAX_S, IDLE_S // 2):
        found = find(connection, token, at)
        assert found is not None
        sessions.seen(connection, found.id, at)
    assert find(connection, token, NOW + MAX_S) is None, "used or not, it ends"


@pytest.mark.parametrize("status", ["inactive", "deleted", "purging", "purge-error"])
def test_a_user_who_may_not_sign_in_has_no_session(connection: Connection, status: str) -> None:
    token = begin(connection)
    repository.change(connection, 1, {"status": status})
    assert find(connection, token) is None


def test_a_user_who_is_gone_has_no_session(connection: Connection) -> None:
    token = begin(connection)
    repository.remove(connection, 1)
    assert find(connection, token) is None
    assert connection.exec_driver_sql("SELECT count(*) FROM sessions").scalar_one() == 0


def test_ending_one_and_all_but_one(connection: Connection) -> None:
    mine, other, third, bobs = begin(connection), begin(connection), begin(connection), begin(connection, 2)
    kept, ended = find(connection, mine), find(connection, third)
    assert kept is not None and ended is not None
    sessions.end(connection, ended.id)
    assert find(connection, third) is None and find(connection, other) is not None
    sessions.end_all(connection, 1, keep=kept.id)
    assert [find(connection, t) is not None for t in (mine, other, bobs)] == [True, False, True]
    sessions.end_all(connection, 1)
    assert find(connection, mine) is None


def test_role_and_forced_change_are_read_each_time(connection: Connection) -> None:
    token = begin(connection)
    repository.change(connection, 1, {"role": "admin", "must_change_password": 1})
    found = find(connection, token)
    assert found is not None and found.role is Role.ADMIN and found.must_change_password


def test_expired_ones_are_forgotten(connection: Connection) -> None:
    begin(connection)
    token = begin(connection)
    found = find(connection, token)
    assert found is not None
    sessions.seen(connection, found.id, NOW + IDLE_S)
    assert sessions.forget_expired(connection, now=NOW + IDLE_S + 1, idle_s=IDLE_S) == 1
    assert sessions.forget_expired(connection, now=NOW + MAX_S, idle_s=10 * MAX_S) == 1


def test_another_token_takes_the_place_of_one(connection: Connection) -> None:
    token = begin(connection)
    first = find(connection, token)
    assert first is not None
    other = sessions.rotate(connection, first.id, proved_at=NOW + 5)
    assert other is not None and other != token and find(connection, token) is None
    second = find(connection, other)
    assert second is not None and second == first._replace(proved_at=NOW + 5), "it is the same session"
    sessions.end(connection, first.id)
    assert sessions.rotate(connection, first.id) is None


@pytest.mark.parametrize("most", [1, 3])
def test_the_oldest_gives_way(connection: Connection, most: int) -> None:
    connection.execute(update(policies).values(max_sessions=most))
    tokens = [begin(connection) for _ in range(5)]
    others = begin(connection, 2)
    assert [find(connection, token) is not None for token in tokens] == [False] * (5 - most) + [True] * most
    assert find(connection, others)


def test_one_session_of_one_user_ends(connection: Connection) -> None:
    token = begin(connection)
    found = find(connection, token)
    assert found is not None
    assert not sessions.end_of(connection, 2, found.id) and find(connection, token)
    assert sessions.end_of(connection, 1, found.id) and not find(connection, token)
    assert not sessions.end_of(connection, 1, found.id)


def test_old_passwords_are_kept_as_many_as_asked_for(connection: Connection) -> None:
    row = repository.by_name(connection, "ada")
    assert row is not None
    for number in range(5):
        old_passwords.remember(connection, msgspec.structs.replace(row, password_hash=f"hash {number}"), 3)
    kept = select(old.c.password_hash).where(old.c.user_id == row.id).order_by(old.c.id)
    assert list(connection.execute(kept).scalars()) == ["hash 2", "hash 3", "hash 4"]
    old_passwords.remember(connection, row, 0)
    assert not list(connection.execute(kept).scalars())
