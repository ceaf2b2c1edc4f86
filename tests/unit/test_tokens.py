"""API tokens on a real database: their form, their look-up, what they lend."""

from __future__ import annotations

import hashlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, update

from diycloud.actions.action import Permission
from diycloud.actions.roles import PERMISSIONS, Role
from diycloud.auth import sessions, tokens
from diycloud.db.tables import users
from diycloud.errors import Conflict, InvalidInput
from diycloud.users import repository
from diycloud.users.models import Allocation

NOW = 1_000_000


@pytest.fixture
def connection(connection: Connection) -> Connection:
    for name in ("ada", "bob"):
        repository.add(connection, {"username": name, "password_hash": "x", "status": "active"}, Allocation())
    return connection


def make(connection: Connection, user_id: int = 1, *, days: int = 1) -> str:
    parts, whole = tokens.make()
    tokens.add(connection, user_id, parts, "a script", ["users:read"], now=NOW, days=days)
    return whole


def test_a_token_is_found_until_it_ends(connection: Connection) -> None:
    whole = make(connection)
    found = tokens.find(connection, whole, now=NOW + 86_399)
    assert found is not None and (found.username, found.scopes, found.role) == ("ada", {"users:read"}, Role.USER)
    assert tokens.find(connection, whole, now=NOW + 86_400) is None


@pytest.mark.parametrize("status", ["inactive", "deleted", "purging", "purge-error"])
def test_nobody_who_may_not_sign_in_has_one(connection: Connection, status: str) -> None:
    whole = make(connection)
    connection.execute(update(users).where(users.c.id == 1).values(status=status))
    assert tokens.find(connection, whole, now=NOW) is None


def test_each_is_new_and_long_enough() -> None:
    made = [tokens.make() for _ in range(200)]
    assert len({parts.key_id for parts, _ in made}) == len({parts.secret for parts, _ in made}) == 200
    assert 62**43 > 2**256, "the secret has all of its 256 bits"
    assert all(tokens.parse(whole) == parts for parts, whole in made)


def test_only_a_sum_of_the_secret_is_kept(connection: Connection) -> None:
    whole = make(connection)
    (row,) = connection.exec_driver_sql("SELECT * FROM api_tokens").mappings().all()
    secret = whole[17:60]
    assert row["secret_hash"] == hashlib.sha256(secret.encode()).digest() and secret not in str(dict(row))


@given(st.text(max_size=80))
def test_no_text_breaks_the_parser(text: str) -> None:
    assert tokens.parse(text) is None and tokens.parse(f"dct_{text}") is None


def test_one_wrong_character_anywhere_is_seen_without_the_database() -> None:
    _, whole = tokens.make()
    for at in range(len(whole)):
        for other in "aA0_":
            if whole[at] != other:
                assert tokens.parse(whole[:at] + other + whole[at + 1 :]) is None


def test_ended_ones_are_forgotten_after_a_while(connection: Connection) -> None:
    make(connection, days=1)
    make(connection, days=200)
    assert tokens.forget_expired(connection, now=NOW + 20 * 86_400) == 0, "its owner sees why the script fails"
    assert tokens.forget_expired(connection, now=NOW + 32 * 86_400) == 1
    assert len(tokens.of_user(connection, 1, "ada", now=NOW)) == 1


def test_each_has_its_own_and_fifty_at_most(connection: Connection) -> None:
    for _ in range(tokens.MOST):
        make(connection)
    with pytest.raises(Conflict, match="50"):
        make(connection)
    other = make(connection, 2)
    key_id = other[4:16]
    assert not tokens.end(connection, 1, key_id) and tokens.find(connection, other, now=NOW)
    assert tokens.end_all(connection, 1) == tokens.MOST and tokens.find(connection, other, now=NOW)
    assert tokens.end(connection, 2, key_id)


@pytest.mark.parametrize("role", list(Role))
def test_scopes_are_those_of_the_role_less_what_none_may(role: Role) -> None:
    everything, looks = set(tokens.widen(["all"], role)), set(tokens.widen(["read"], role))
    assert everything == {str(p) for p in PERMISSIONS[role]} - tokens.NEVER
    assert looks < everything and all(name.endswith(":read") for name in looks)
    for never in tokens.NEVER:
        with pytest.raises(InvalidInput):
            tokens.widen([never], role)


def test_what_no_token_carries_is_no_misspelling() -> None:
    assert {str(permission) for permission in Permission} >= tokens.NEVER


def test_a_look_up_is_one_statement_and_as_quick_as_a_sessions(connection: Connection) -> None:
    whole = make(connection, days=1)
    begun = sessions.begin(connection, 1, now=NOW, max_s=86_400, kind="api", address="", user_agent="")

    def best(look: object) -> float:
        times = []
        for _ in range(300):
            started = time.perf_counter()
            assert look() is not None  # type: ignore[operator]
            times.append(time.perf_counter() - started)
        return min(times)

    token = best(lambda: tokens.find(connection, whole, now=NOW))
    session = best(lambda: sessions.find(connection, begun, now=NOW, idle_s=7200))
    assert token < 3 * session, (token, session)
