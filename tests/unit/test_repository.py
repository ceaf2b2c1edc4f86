"""Users in a real SQLite file: pages, triggers, what people write by hand, orphans."""

from __future__ import annotations

import base64
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from diycloud.actions.roles import Role
from diycloud.errors import InvalidInput
from diycloud.users import host, listing, repository, shown
from diycloud.users.actions import SORTS
from diycloud.users.models import Allocation, Limits, Status

NO_FILTER: dict[str, Any] = {"search": "", "status": "all", "role": None}


def add(connection: Connection, name: str, allocation: Allocation | None = None, **values: Any) -> int:
    return repository.add(
        connection, {"username": name, "password_hash": "x", "full_name": "", "description": "", **values},
        allocation or Allocation(),
    )  # fmt: skip


def by_hand(connection: Connection, statement: str, *values: object) -> Any:
    if connection.dialect.name == "postgresql":
        statement = statement.replace("%", "%%").replace("?", "%s")
    return connection.exec_driver_sql(statement, values)


def get(connection: Connection, user_id: int) -> Any:
    row = repository.by_id(connection, user_id)
    assert row is not None
    return row


def is_active(connection: Connection, user_id: int) -> int:
    return by_hand(connection, "SELECT is_active FROM users WHERE id = ?", user_id).scalar_one()


# -- pages


def fill(connection: Connection, many: int = 23) -> None:
    """Users with many equal keys in every column that can be sorted by, and odd ones."""
    for number in range(many):
        add(
            connection, f"u{(number * 7) % many:02d}",
            Allocation(cpu=[0.5, 1.0, 2.25][number % 3], memory=[1 << 30, 2 << 30][number % 2]),
            full_name=["", "Ada", "ada", "Ünal", "日本"][number % 5], role=["user", "monitor"][number % 2],
            status=["active", "inactive", "deleted"][number % 3],
            last_login=[None, "2026-01-01 00:00:00", "2026-02-01 00:00:00"][number % 3],
            created_at=["2026-01-01 00:00:00", "2026-03-01 00:00:00"][number % 2],
        )  # fmt: skip
    by_hand(connection, "DELETE FROM resource_allocations WHERE id % 5 = 0")
    cores = "9" if connection.dialect.name == "postgresql" else "'many'"
    by_hand(connection, f"UPDATE resource_allocations SET mem_limit = 'lots', cpu_limit = {cores} WHERE id % 7 = 0")


@pytest.fixture(scope="module")
def filled(module_connection: Connection) -> Connection:
    """A list that tests only read, but for a user zoe."""
    fill(module_connection)
    return module_connection


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("limit", [1, 4, 50])
def test_pages_make_the_whole_list_both_ways(filled: Connection, sort: str, descending: bool, limit: int) -> None:
    connection = filled
    order = {"sort": sort, "descending": descending}
    whole, total, following, previous = listing.page(connection, **NO_FILTER, **order, cursor="", limit=1000)
    assert (len(whole), total, following, previous) == (23, 23, None, None)
    seen, cursor, backs = [], "", []
    while True:
        rows, total, following, previous = listing.page(connection, **NO_FILTER, **order, cursor=cursor, limit=limit)
        assert total == 23 and len(rows) <= limit
        seen += rows
        backs.append(previous)
        if following is None:
            break
        cursor = following
    assert [user.uuid for user in seen] == [user.uuid for user in whole]
    assert backs[0] is None
    back, cursor = [], backs[-1]
    last_page = len(seen) % limit or limit
    while cursor:
        rows, _, following, cursor = listing.page(connection, **NO_FILTER, **order, cursor=cursor, limit=limit)
        assert following is not None
        back = rows + back
    assert [user.uuid for user in back] == [user.uuid for user in whole[:-last_page]]


def test_a_row_added_or_removed_meanwhile_shifts_no_page(connection: Connection) -> None:
    fill(connection)
    order = {"sort": "username", "descending": False}
    first, _, following, _ = listing.page(connection, **NO_FILTER, **order, cursor="", limit=10)
    add(connection, "a-new-one")
    by_hand(connection, "DELETE FROM users WHERE username = ?", first[-1].username)
    second, *_ = listing.page(connection, **NO_FILTER, **order, cursor=following or "", limit=10)
    assert second[0].username == "u10"


def test_filters(connection: Connection) -> None:
    add(connection, "ada", full_name="Ada Lovelace", email="countess@example.org", status="active")
    add(connection, "bob", status="deleted")
    add(connection, "carl", role="admin", description="100 per cent", external_id="oid:7f3")

    def names(**asked: Any) -> list[str]:
        given = {
            "search": "",
            "status": None,
            "role": None,
            "sort": "username",
            "descending": False,
            "cursor": "",
            "limit": 9,
        }
        rows, total, *_ = listing.page(connection, **given | asked)
        assert total == len(rows)
        return [row.username for row in rows]

    assert names() == ["ada", "carl"], "the deleted are hidden"
    assert names(status="all") == ["ada", "bob", "carl"]
    assert names(status="deleted") == ["bob"]
    assert names(role="admin") == ["carl"]
    assert names(search="LOVE") == names(search="countess@") == names(search="da") == ["ada"]
    assert names(search="cent") == names(search="OID:7") == ["carl"], "every field of text"
    assert names(search="%") == names(search="_") == names(search="' OR 1=1 --") == [], "no pattern, no SQL"


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


_scalar = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8)
_hostile = st.one_of(
    st.text(st.characters(exclude_categories=[]), max_size=60),
    st.tuples(st.sampled_from("<>x"), st.sampled_from(SORTS), st.booleans(), _scalar, _scalar).map(encoded),
    st.tuples(st.just("<"), st.just("username"), st.just(False), _scalar, st.integers()).map(encoded),
    st.recursive(_scalar, lambda inner: st.lists(inner, max_size=4), max_leaves=8).map(encoded),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(cursor=_hostile, sort=st.sampled_from(SORTS), descending=st.booleans())
def test_a_hostile_cursor_is_a_page_or_refused(filled: Connection, cursor: str, sort: str, descending: bool) -> None:
    try:
        rows, total, *_ = listing.page(filled, **NO_FILTER, sort=sort, descending=descending, cursor=cursor, limit=5)
    except InvalidInput as error:
        assert "cursor" in error.message
    else:
        assert total == 23 and len(rows) <= 5


@pytest.mark.parametrize("key", ["a\ud800", "a\0", 10**30, -(10**30)])
def test_a_cursor_that_the_database_cannot_take_is_refused(filled: Connection, key: object) -> None:
    for value in (["<", "username", False, key, 1], ["<", "username", False, "a", key]):
        with pytest.raises(InvalidInput, match="cursor"):
            listing.page(filled, **NO_FILTER, sort="username", descending=False, cursor=encoded(value), limit=5)


# -- rows that people write


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "garbage", ["", "lots", "-1", "0", None, 3.5, b"\x00\xff", "2G; DROP TABLE users", 10**30, "1B", "1K"]
)
@pytest.mark.parametrize("column", ["cpu_limit", "mem_limit", "disk_quota", "gpu_access", "tasks_limit", "disk_hard"])
def test_garbage_in_an_allocation_means_the_default(connection: Connection, column: str, garbage: object) -> None:
    user_id = add(connection, "ada", status="active")
    given = str(garbage) if isinstance(garbage, int) else garbage
    try:
        by_hand(connection, f"UPDATE resource_allocations SET {column} = ? WHERE user_id = ?", given, user_id)
    except IntegrityError:
        assert given is None
        return
    row = get(connection, user_id)
    wish = host.wish(row)
    assert 0.01 <= wish.limits.cpu <= 4096 and wish.limits.memory >= 16 << 20 and 16 <= wish.limits.tasks <= 4_000_000
    assert row.allocation.disk > 0 and isinstance(row.allocation.gpu, bool)
    assert shown.view(row).limits.memory
    assert repository.promised(connection)[1] >= 0
    rows, *_ = listing.page(connection, **NO_FILTER, sort="memory", descending=True, cursor="", limit=5)
    assert len(rows) == 1


def test_no_allocation_means_the_defaults(connection: Connection) -> None:
    by_hand(connection, "INSERT INTO users (username, password_hash) VALUES ('ada', 'PLACEHOLDER')")
    row = repository.by_name(connection, "ada")
    assert row is not None and row.allocation == Allocation() and row.status is Status.PENDING and len(row.uuid) == 32
    assert repository.promised(connection) == (0, 0) or repository.promised(connection)[0] == 1.0


def test_old_scripts_sizes_are_understood(connection: Connection) -> None:
    user_id = add(connection, "ada")
    by_hand(
        connection,
        "UPDATE resource_allocations SET mem_limit = '2048M', disk_quota = '1024' WHERE user_id = ?",
        user_id,
    )
    allocation = get(connection, user_id).allocation
    assert (allocation.memory, allocation.disk, allocation.disk_hard) == (2 << 30, 1 << 30, 2 << 30)
    assert by_hand(connection, "SELECT mem_limit FROM resource_allocations").scalar_one() == "2048M", (
        "kept as it was given"
    )


# Every cell that is shown has a value that no other has, so that none stands in another's place.
_TEXTS = {
    "full_name": "Ada Lovelace", "email": "ada@example.org", "description": "first", "shell": "/bin/zsh",
    "uuid": "3f" * 16, "external_id": "oid:7", "host_problem": "no room", "created_at": "2026-01-01 00:00:00",
    "updated_at": "2026-01-02 00:00:00", "last_login": "2026-01-03 00:00:00", "last_login_ip": "192.0.2.9",
}  # fmt: skip
_NUMBERS = {"uid": 50_001, "container_uid": 101, "container_gid": 102}
_LISTS = {"allowed_client_ip": ("192.0.2.0/24", "198.51.100.1"), "container_gids": (7, 8)}
_FLAGS = ("sudo", "portal_only", "must_change_password")


@pytest.mark.parametrize("flag", _FLAGS)
def test_every_field_that_is_shown_is_its_own_column(connection: Connection, flag: str) -> None:
    lists = {name: ",".join(map(str, reversed(values))) for name, values in _LISTS.items()}
    flags = {name: int(name == flag) for name in _FLAGS}
    limits = Allocation(cpu=2.25, memory=1 << 30, disk=3 << 30, disk_hard=7 << 30, tasks=99, gpu=True)
    user_id = add(connection, "ada", limits, role="monitor", status="inactive", **_TEXTS, **_NUMBERS, **lists, **flags)
    by_hand(connection, "INSERT INTO policies (name) VALUES ('large')")
    by_hand(connection, "INSERT INTO domains (name) VALUES ('chem')")
    by_hand(connection, "UPDATE users SET domain = 'chem', policy = 'large' WHERE id = ?", user_id)
    for name in ("lab", "beam"):
        by_hand(connection, "INSERT INTO groups (name, domain) VALUES (?, 'chem')", name)
    by_hand(connection, "INSERT INTO group_members (group_id, user_id) SELECT id, ? FROM groups", user_id)
    for column, value in _TEXTS.items():  # a trigger may have touched some
        by_hand(connection, f"UPDATE users SET {column} = ? WHERE id = ?", value, user_id)
    user = shown.by_name(connection, "ada")
    assert user is not None
    found = {name: getattr(user, name) for name in (*_TEXTS, *_NUMBERS, *_LISTS, *_FLAGS)}
    assert found == {**_TEXTS, **_NUMBERS, **_LISTS, **{name: name == flag for name in _FLAGS}}
    assert (user.username, user.role, user.status, user.domain, user.policy) == (
        "ada", Role.MONITOR, Status.INACTIVE, "chem", "large",
    )  # fmt: skip
    assert user.groups == ("beam", "lab")
    assert user.limits == Limits(cpu=2.25, memory="1G", disk="3G", disk_hard="7G", tasks=99, gpu=True)
    row = get(connection, user_id)
    assert user == shown.view(row) and (user.version, user.settled) == (row.generation, flag == "portal_only")
    listed, *_ = listing.page(connection, **NO_FILTER, sort="cpu", descending=True, cursor="", limit=5)
    assert listed == [user]


@pytest.mark.sqlite
def test_a_blob_is_shown_as_text(connection: Connection) -> None:
    add(connection, "ada")
    by_hand(connection, "UPDATE users SET full_name = x'416461', email = x'41ff42', allowed_client_ip = x'3132'")
    user = shown.by_name(connection, "ada")
    assert user is not None
    assert (user.full_name, user.email, user.allowed_client_ip) == ("Ada", "A\ufffdB", ("12",))


@pytest.mark.sqlite
def test_a_row_in_another_encoding_does_not_stop_the_reading(connection: Connection) -> None:
    add(connection, "ada")
    by_hand(connection, "UPDATE users SET full_name = CAST(x'41ff42' AS TEXT)")
    rows, *_ = listing.page(connection, **NO_FILTER, sort="full_name", descending=False, cursor="", limit=5)
    assert rows[0].full_name == "A\ufffdB"
    row = repository.by_name(connection, "ada")
    assert row is not None and host.wish(row).full_name == "A\ufffdB"


@pytest.mark.parametrize(
    "name", ["Bad Name", "x" * 33, "", "a:b", "ada\n", "../x", pytest.param(b"ada", marks=pytest.mark.sqlite)]
)
def test_a_name_that_can_have_no_account_is_told_apart(connection: Connection, name: object) -> None:
    by_hand(connection, "INSERT INTO users (username, password_hash) VALUES (?, 'x')", name)
    (row,) = repository.wishes(connection)
    assert "name" in host.impossible(row)
    assert shown.view(row)


def test_what_the_host_cannot_take_gives_way(connection: Connection) -> None:
    user_id = add(connection, "ada")
    by_hand(
        connection, "UPDATE users SET full_name = ?, shell = 'rm -rf' WHERE id = ?", "A:B,C\nD" + "x" * 200, user_id
    )
    wish = host.wish(get(connection, user_id))
    assert (wish.full_name[:7], len(wish.full_name), wish.shell) == ("A B C D", 100, "/bin/bash")
    by_hand(connection, "UPDATE users SET generation = -1 WHERE id = ?", user_id)
    assert "generation" in host.impossible(get(connection, user_id))


# -- triggers


def test_is_active_follows_status(connection: Connection) -> None:
    user_id = add(connection, "ada")
    for status in ("active", "inactive", "active", "deleted", "purging", "purge-error", "pending"):
        repository.change(connection, user_id, {"status": status})
        assert is_active(connection, user_id) == (status in ("active", "pending"))


def test_status_follows_is_active(connection: Connection) -> None:
    user_id = add(connection, "ada", status="active")
    by_hand(connection, "UPDATE users SET is_active = 0")
    assert get(connection, user_id).status is Status.INACTIVE
    by_hand(connection, "UPDATE users SET is_active = 1")
    assert get(connection, user_id).status is Status.ACTIVE
    by_hand(connection, "INSERT INTO users (username, password_hash, is_active) VALUES ('bob', 'x', 0)")
    assert repository.by_name(connection, "bob").status is Status.INACTIVE


_touch = st.one_of(
    st.tuples(
        st.just("status"), st.sampled_from(["pending", "active", "inactive", "deleted", "purging", "purge-error"])
    ),
    st.tuples(st.just("is_active"), st.sampled_from([0, 1])),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(first=_touch, later=st.lists(_touch, max_size=5))
def test_the_two_never_disagree(filled: Connection, first: Any, later: list[Any]) -> None:
    column, value = first
    by_hand(filled, f"INSERT INTO users (username, password_hash, {column}) VALUES ('zoe', 'x', ?)", value)
    for column, value in [None, *later][1:]:
        by_hand(filled, f"UPDATE users SET {column} = ? WHERE username = 'zoe'", value)
    status, flag = filled.exec_driver_sql("SELECT status, is_active FROM users WHERE username = 'zoe'").one()
    filled.exec_driver_sql("DELETE FROM users WHERE username = 'zoe'")
    assert bool(flag) == (status in ("pending", "active")), (first, later, status, flag)


WISHES = ["status = 'inactive'", "full_name = 'New'", "shell = '/bin/sh'", "shadow_hash = '$y$x'", "is_active = 0"]
NO_WISHES = ["last_login = 'x'", "email = 'a@b.org'", "host_problem = 'x'", "password_hash = 'y'", "full_name = ''"]


@pytest.mark.parametrize("change", [*WISHES, *NO_WISHES])
def test_the_generation_grows_with_what_the_host_must_know(connection: Connection, change: str) -> None:
    user_id = add(connection, "ada", status="active")
    before = get(connection, user_id).generation
    by_hand(connection, f"UPDATE users SET {change}")
    assert (get(connection, user_id).generation > before) == (change in WISHES)


@pytest.mark.parametrize(
    "change",
    ["UPDATE resource_allocations SET cpu_limit = 2", "UPDATE resource_allocations SET mem_limit = '1G'",
     "UPDATE resource_allocations SET tasks_limit = 99", "UPDATE resource_allocations SET disk_hard = '9G'",
     "DELETE FROM resource_allocations"],
)  # fmt: skip
def test_the_generation_grows_with_the_limits(connection: Connection, change: str) -> None:
    user_id = add(connection, "ada")
    before = get(connection, user_id).generation
    by_hand(connection, change)
    assert get(connection, user_id).generation > before


def test_becoming_active_is_the_hosts_answer_not_a_wish(connection: Connection) -> None:
    row = get(connection, add(connection, "ada", shadow_hash="$y$x"))
    repository.settle(connection, row.id, row.generation, uid=20_000)
    after = get(connection, row.id)
    assert (after.status, after.generation, after.host_generation) == (Status.ACTIVE, row.generation, row.generation)
    assert (after.uid, after.shadow_hash, after.shadow_set) == (20_000, None, True)
    assert repository.unsettled(connection, 10) == []


def test_an_account_that_was_made_anew_has_no_password_but_the_one_that_waited(connection: Connection) -> None:
    user_id = add(connection, "ada", shadow_hash="$y$x")
    for changed, made, has_password in (
        ({}, True, True),
        ({"full_name": "A"}, False, True),
        ({"full_name": "B"}, True, False),
    ):
        if changed:
            repository.change(connection, user_id, changed)
        repository.settle(connection, user_id, get(connection, user_id).generation, uid=20_000, made=made)
        assert get(connection, user_id).shadow_set is has_password


def test_an_answer_to_an_older_wish_settles_nothing(connection: Connection) -> None:
    row = get(connection, add(connection, "ada"))
    repository.change(connection, row.id, {"full_name": "New"})
    repository.settle(connection, row.id, row.generation, uid=20_000)
    assert [r.id for r in repository.unsettled(connection, 10)] == [row.id]
    repository.settle(connection, row.id, get(connection, row.id).generation, uid=None, problem="no room")
    assert get(connection, row.id).host_problem == "no room"
    assert len(repository.unsettled(connection, 10)) == 1


def test_a_name_used_again_starts_above_all_it_ever_had(connection: Connection) -> None:
    """The agent refuses wishes that are not newer than the purge of the name."""
    first = add(connection, "ada")
    for number in range(50):
        repository.change(connection, first, {"full_name": f"n{number}"})
    last = get(connection, first).generation
    repository.remove(connection, first)
    assert get(connection, add(connection, "ada")).generation > last
    assert last < 1 << 53


@pytest.mark.sqlite
def test_ids_are_never_given_twice(connection: Connection) -> None:
    first = add(connection, "ada")
    by_hand(connection, "PRAGMA foreign_keys = OFF")
    by_hand(connection, "DELETE FROM users")
    assert add(connection, "bob") > first, "the orphaned allocation of ada is nobody's"


@pytest.mark.sqlite
def test_orphans_are_tidied(connection: Connection) -> None:
    add(connection, "ada")
    by_hand(connection, "INSERT INTO users (username, password_hash) VALUES ('bob', 'x')")
    by_hand(connection, "PRAGMA defer_foreign_keys = ON")
    kept = by_hand(connection, "SELECT count(*) FROM resource_allocations").scalar_one()
    by_hand(connection, "INSERT INTO resource_allocations (user_id) VALUES (999)")
    by_hand(
        connection,
        "INSERT INTO sessions (user_id, token_hash, created_at, last_seen, expires_at) VALUES (999, x'00', 1, 1, 1)",
    )
    assert repository.tidy(connection) == 2
    assert repository.tidy(connection) == 0
    assert by_hand(connection, "SELECT count(*) FROM resource_allocations").scalar_one() == kept


def test_what_can_be_there_once_is_there_once(connection: Connection) -> None:
    user_id = add(connection, "ada", email="Ada@Example.org")
    for statement in (
        "INSERT INTO users (username, password_hash) VALUES ('ada', 'x')",
        "INSERT INTO users (username, password_hash, email) VALUES ('bob', 'x', 'ADA@example.ORG')",
        f"INSERT INTO resource_allocations (user_id) VALUES ({user_id})",
        "INSERT INTO users (username, password_hash, status) VALUES ('bob', 'x', 'gone')",
        "INSERT INTO users (username, password_hash, role) VALUES ('bob', 'x', 'root')",
    ):
        with pytest.raises(IntegrityError):
            by_hand(connection, statement)
    assert repository.existing_emails(connection, ["aDA@eXample.org", "bob@b.org"]) == {"ada@example.org"}
    assert repository.existing_names(connection, [f"n{i}" for i in range(1200)] + ["ada"]) == {"ada"}


def test_the_last_administrators_are_counted(connection: Connection) -> None:
    add(connection, "ada", role="admin", status="active")
    add(connection, "bob", role="admin", status="inactive")
    add(connection, "carl", role="user", status="active")
    assert repository.active_admins(connection) == 1
    assert get(connection, 1).role is Role.ADMIN


def test_removing_leaves_the_audit_only(connection: Connection) -> None:
    user_id = add(connection, "ada")
    by_hand(connection, "INSERT INTO audit (actor, action, target) VALUES ('root', 'user.create', 'ada')")
    repository.remove(connection, user_id)
    left = {
        t: by_hand(connection, f"SELECT count(*) FROM {t}").scalar_one()
        for t in ("users", "resource_allocations", "audit")
    }
    assert left == {"users": 0, "resource_allocations": 0, "audit": 1}


@pytest.mark.sqlite
def test_people_can_read_it_with_their_own_sqlite(database_file: Path) -> None:
    connection = sqlite3.connect(database_file)
    connection.execute("INSERT INTO users (username, password_hash) VALUES ('ada', 'x')")
    connection.execute("INSERT INTO resource_allocations (user_id) VALUES (1)")
    columns = "u.id, username, password_hash, email, last_login, role, is_active, cpu_limit, mem_limit, disk_quota, gpu_access"
    query = f"SELECT {columns} FROM users u JOIN resource_allocations a ON a.user_id = u.id"
    assert connection.execute(query).fetchall() == [(1, "ada", "x", None, None, "user", 1, 1.0, "2G", "5G", 0)]
    text = " ".join(sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"))
    assert "STRICT" not in text and "GENERATED ALWAYS" not in text
    connection.close()
