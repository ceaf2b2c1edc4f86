"""What is exported comes in again as it was: on an empty platform, in CSV and in JSON."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import shutil
import string
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, insert

from diycloud.actions.actor import Actor
from diycloud.actions.dispatcher import Context
from diycloud.actions.parsing import Source, fields_of, parse_action
from diycloud.actions.roles import Role
from diycloud.actions.services import Services
from diycloud.auth.passwords import hash_password
from diycloud.auth.throttle import Throttle
from diycloud.config import Settings
from diycloud.db import tables
from diycloud.db.engine import Database
from diycloud.db.sqlite import SqliteDatabase
from diycloud.db.tables import STATUSES
from diycloud.errors import PermissionDenied, Unavailable
from diycloud.users import exporting, importing, repository
from diycloud.users.actions import CreateUser, ExportUsers, ImportUsers
from diycloud.users.importing import ImportRefused
from diycloud.users.models import Status
from diycloud.users.rows import IGNORED, Kept

ROOT = Actor("root", Role.ADMIN, "cli")
ADMIN = Actor("ada", Role.ADMIN, "rest", user_id=1)
HASH = hash_password("correct horse battery")
_BLOBS = [b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes([number]) * 32 for number in range(3)]
_WORDS = ["", " ada@home", " ,;\"' x"]
KEYS = [f"ssh-ed25519 {b64encode(blob).decode()}{comment}" for blob, comment in zip(_BLOBS, _WORDS, strict=True)]
NOT_KEPT = {"uid", "last_login", "sudo"}
"""What an import leaves out, and the tests therefore leave at its default."""


class NoAgent:
    async def call(self, message: Any, answer: Any, *, deadline: float = 60.0) -> Any:
        raise Unavailable("The agent does not answer.")


class PlainHasher:
    async def hash_many(self, passwords: list[str]) -> list[str]:
        return [HASH for _ in passwords]


def context(database: Database, actor: Actor = ROOT) -> Context:
    away: Any = NoAgent()
    plain: Any = PlainHasher()
    return Context(
        Services(database=database, agent=away, hasher=plain, throttle=Throttle(), settings=Settings()), actor
    )


def export(database: Database, actor: Actor = ROOT, **asked: Any) -> bytes:
    async def all_of_it() -> bytes:
        found = await exporting.export_users(context(database, actor), ExportUsers(**asked))
        return b"".join([part async for part in found.chunks])

    return asyncio.run(all_of_it())


def bring_in(database: Database, data: bytes, actor: Actor = ROOT, **asked: Any) -> Any:
    said = {"users": json.loads(data)} if data.startswith(b"[") else {"csv": data.decode()}
    action = parse_action(ImportUsers, {**said, **asked}, Source.JSON)
    return asyncio.run(importing.import_users(context(database, actor), action))


@contextmanager
def empty(path: Path) -> Iterator[Database]:
    """A platform with two domains, three groups and a policy, and nobody."""
    with tempfile.TemporaryDirectory() as folder:
        found = SqliteDatabase(Path(shutil.copyfile(path, Path(folder) / "users.db")))

        def fill(connection: Connection) -> None:
            connection.execute(insert(tables.policies).values(name="small", cpu=0.5))
            connection.execute(insert(tables.domains).values(name="math"))
            for name, domain in (("red", "default"), ("blue", "default"), ("green", "math")):
                connection.execute(insert(tables.groups).values(name=name, domain=domain))

        asyncio.run(found.write(fill))
        try:
            yield found
        finally:
            found.close()


def sizes(least: int) -> st.SearchStrategy[str]:
    return st.integers(least, 4096).flatmap(lambda n: st.sampled_from([f"{n}M", f"{n}G", f"{n << 10 | 1}K"]))


def words(most: int) -> st.SearchStrategy[str]:
    """Texts that the fields' rules allow, with what CSV and JSON find hard."""
    hard = st.sampled_from(list("\"',;|\\{}[]äß€𝒳=+-@ \u00a0#\u0301"))
    text = st.lists(hard | st.sampled_from(string.ascii_letters), min_size=1, max_size=most).map("".join)
    return text.filter(lambda t: t == t.strip() and t[0] not in "=+-@")


def flags() -> st.SearchStrategy[bool]:
    return st.booleans()


@st.composite
def users(draw: st.DrawFn) -> list[dict[str, Any]]:
    names = draw(st.lists(st.from_regex(r"x[a-z0-9_-]{0,20}", fullmatch=True), min_size=1, max_size=4, unique=True))
    found = []
    for number, name in enumerate(names):
        domain = draw(st.sampled_from(["default", "math"]))
        teams = ["red", "blue"] if domain == "default" else ["green"]
        maybe: dict[str, st.SearchStrategy[Any]] = {
            "email": st.sampled_from([f"{name}{number}@b.org", f"O'N+{number}%@b-c.org"]),
            "full_name": words(30).filter(lambda t: ":" not in t),
            "description": words(60),
            "role": st.sampled_from(list(Role)),
            "groups": st.lists(st.sampled_from(teams), unique=True),
            "policy": st.sampled_from(["default", "small"]),
            "cpu": st.floats(0.01, 64, allow_nan=False),
            "memory": sizes(16),
            "disk": sizes(1),
            "tasks": st.integers(16, 4_000_000),
            "gpu": flags(),
            "shell": st.sampled_from(["/bin/sh", "/usr/bin/zsh"]),
            "external_id": words(20).map(lambda t, n=number: f"{n}{t}"),
            "allowed_client_ip": st.lists(
                st.sampled_from(["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"]), unique=True
            ).map(sorted),
            "container_uid": st.integers(0, 4_294_967_293),
            "container_gid": st.integers(0, 4_294_967_293),
            "container_gids": st.lists(st.integers(0, 4_294_967_293), max_size=4, unique=True).map(
                lambda found: sorted(found, key=str)
            ),
            "must_change_password": flags(),
            "status": st.sampled_from(["active", "inactive", "deleted"]),
            "disk_hard": st.just("8192G"),
            "ssh_keys": st.lists(st.sampled_from(KEYS), unique=True),
            "portal_only": flags(),
            "uuid": st.just(f"{number:032x}"),
            "created_at": st.just(f"2020-01-0{number + 1} 10:00:00"),
            "password_hash": st.sampled_from([HASH, f"sha256${'0' * 64}", "PLACEHOLDER"]),
        }
        found.append({"username": name, "domain": domain, **draw(st.fixed_dictionaries({}, optional=maybe))})
    return found


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(people=users(), as_csv=st.booleans())
def test_the_round_trip_loses_nothing(empty_database: Path, people: list[dict[str, Any]], as_csv: bool) -> None:
    kind = "csv" if as_csv else "json"
    with empty(empty_database) as first, empty(empty_database) as second:
        bring_in(first, json.dumps(people).encode())
        before = export(first, format=kind, with_hashes=True)
        report = bring_in(second, before)
        assert report.refused == 0 and len(report.rows) == len(people)
        assert export(second, format=kind, with_hashes=True) == before
        assert kept_of(first) == kept_of(second)


_MACHINE = frozenset({"generation", "host_generation", "updated_at", "shadow_hash"})


def kept_of(database: Database) -> list[dict[str, Any]]:
    """Return every row as the platform knows it, without what is the machine's own."""
    rows = [row for status in STATUSES for row in database.read_now(repository.with_status, Status(status))]
    found = [{name: getattr(row, name) for name in row.__struct_fields__ if name not in _MACHINE} for row in rows]
    return [{**row, "groups": sorted(row["groups"].split(","))} for row in found]


def test_every_field_is_in_the_file() -> None:
    written = set(exporting.Exported.__struct_fields__)
    assert set(fields_of(CreateUser)) - {"password"} <= written
    assert set(fields_of(Kept)) <= written
    assert written == (set(fields_of(CreateUser)) | set(fields_of(Kept)) | set(IGNORED)) - {"password"}
    assert set(IGNORED) == NOT_KEPT


@pytest.mark.slow
def test_pages_make_one_array_and_one_table(empty_database: Path) -> None:
    with empty(empty_database) as database:
        assert json.loads(export(database)) == []
        assert list(csv.DictReader(io.StringIO(export(database, format="csv").decode()))) == []
        people = [{"username": f"x{n}"} for n in range(2 * exporting.PAGE)]
        bring_in(database, json.dumps(people).encode())
        assert [u["username"] for u in json.loads(export(database))] == [u["username"] for u in people]
        table = list(csv.DictReader(io.StringIO(export(database, format="csv").decode())))
        assert [u["username"] for u in table] == [u["username"] for u in people]
        assert json.loads(export(database, search="x99", status="pending"))[0]["username"] == "x99"
        assert json.loads(export(database, group="red")) == []


def test_hashes_leave_and_come_in_on_roots_word_only(empty_database: Path) -> None:
    with empty(empty_database) as database:
        data = json.dumps([{"username": "xa", "password_hash": HASH}]).encode()
        with pytest.raises(ImportRefused, match="1 of 1") as refused:
            bring_in(database, data, ADMIN)
        assert refused.value.errors[0].field == "line 1, password_hash"
        report = bring_in(database, data)
        assert report.rows[0].password is None, "nobody was given a password"
        assert "password_hash" not in json.loads(export(database))[0]
        assert json.loads(export(database, with_hashes=True))[0]["password_hash"] == HASH
        with pytest.raises(PermissionDenied, match="root"):
            export(database, ADMIN, with_hashes=True)
        with pytest.raises(ImportRefused, match="1 of 1"):
            bring_in(database, json.dumps([{"username": "xb", "password_hash": "$1$weak$x"}]).encode())


def test_a_domains_administrator_exports_the_domain(empty_database: Path) -> None:
    with empty(empty_database) as database:
        bring_in(database, b'[{"username": "xa", "domain": "math"}, {"username": "xb"}]')
        bound = context(database, Actor("dora", Role.DOMAIN_ADMIN, "rest", user_id=9, domain="math"))
        bound.bound = "math"

        async def names() -> list[str]:
            found = await exporting.export_users(bound, ExportUsers())
            return [u["username"] for u in json.loads(b"".join([part async for part in found.chunks]))]

        assert asyncio.run(names()) == ["xa"]


def test_what_a_spreadsheet_would_run_is_made_text(empty_database: Path) -> None:
    with empty(empty_database) as database:
        bring_in(database, b'[{"username": "xa"}]')
        asyncio.run(database.write(repository.note, 1, {"full_name": "=HYPERLINK(1)", "description": "@x"}))
        (row,) = csv.DictReader(io.StringIO(export(database, format="csv").decode()))
        assert (row["full_name"], row["description"]) == ("'=HYPERLINK(1)", "'@x")


def test_unknown_places_are_named_row_by_row(empty_database: Path) -> None:
    people = [
        {"username": "xa", "domain": "physics"},
        {"username": "xb", "policy": "huge"},
        {"username": "xc", "groups": ["red", "green", "pink"]},
        {"username": "red"},
        {"username": "xd", "uuid": "0" * 32},
        {"username": "xe", "uuid": "0" * 32, "disk": "4G", "disk_hard": "2G"},
    ]
    with empty(empty_database) as database:
        report = bring_in(database, json.dumps(people).encode(), dry_run=True)
    assert {row.username: [f"{f}: {m}" for f, m in row.errors] for row in report.rows} == {
        "xa": ["domain: there is no domain physics"],
        "xb": ["policy: there is no policy huge"],
        "xc": [
            "groups: there is no group green in the domain default",
            "groups: there is no group pink in the domain default",
        ],
        "red": ["username: there is a group of this name"],
        "xd": [],
        "xe": ["disk_hard: is below disk", "uuid: is on line 5 too"],
    }


def test_what_is_left_out_is_said(empty_database: Path) -> None:
    with empty(empty_database) as database:
        row = {"username": "xa", "uid": 20017, "sudo": True, "last_login": None, "status": "purging"}
        report = bring_in(database, json.dumps([row]).encode())
        assert report.warnings == ("Left out, as it is this machine's to say: uid, sudo.",)
        assert "purge" in report.rows[0].warnings[0]
        (found,) = json.loads(export(database))
        assert (found["status"], found["uid"], found["sudo"]) == ("deleted", None, False)


def test_what_no_row_changes_of_a_user_who_exists_is_said(empty_database: Path) -> None:
    with empty(empty_database) as database:
        bring_in(database, b'[{"username": "xa", "disk": "2G"}]')
        rows = [
            {"username": "xa", "status": "inactive", "disk_hard": "9G", "cpu": 0.5},
            {"username": "xb", "disk_hard": "20G"},
        ]
        report = bring_in(database, json.dumps(rows).encode(), update=True)
        assert report.warnings == ("Left as they are for users who exist: status, disk_hard.",)
        found = {one["username"]: one for one in json.loads(export(database))}
        assert (found["xa"]["status"], found["xa"]["cpu"], found["xb"]["disk_hard"]) == ("pending", 0.5, "20G")


def test_rows_of_users_that_exist_change_them_if_asked(empty_database: Path) -> None:
    with empty(empty_database) as database:
        bring_in(database, b'[{"username": "xa", "email": "a@b.org", "groups": ["red"], "cpu": 0.5}]')
        rows = [
            {"username": "xa", "email": None, "groups": ["blue"], "memory": "1G", "password": "correct horse battery"},
            {"username": "xb"},
        ]
        with pytest.raises(ImportRefused, match="1 of 2"):
            bring_in(database, json.dumps(rows).encode())
        dry = bring_in(database, json.dumps(rows).encode(), update=True, dry_run=True)
        assert [row.outcome for row in dry.rows] == ["change", "new"]
        report = bring_in(database, json.dumps(rows).encode(), update=True)
        assert [row.outcome for row in report.rows] == ["pending", "pending"]
        assert report.rows[0].warnings[0] == "Left as they are: password."
        found = {u["username"]: u for u in json.loads(export(database))}
        assert (found["xa"]["email"], found["xa"]["groups"], found["xa"]["memory"]) == (None, ["blue"], "1G")
        assert found["xa"]["cpu"] == 0.5, "what a row does not say stays"
        rows[0]["groups"] = ["green"]
        with pytest.raises(ImportRefused) as refused:
            bring_in(database, json.dumps(rows[:1]).encode(), update=True)
        assert refused.value.errors[0].message == "there is no group green in the domain default"


def test_every_user_of_an_import_is_in_the_audit(empty_database: Path) -> None:
    with empty(empty_database) as database:
        bring_in(
            database,
            b'[{"username": "xa", "password": "correct horse battery"}, {"username": "xb", "memory": "1536M"}]',
        )
        rows = database.read_now(
            lambda c: c.exec_driver_sql("SELECT target, action, outcome, actor, changes FROM audit ORDER BY id").all()
        )
    assert [tuple(row[:4]) for row in rows] == [
        ("xa", "user.create", "done", "root"),
        ("xb", "user.create", "done", "root"),
    ]
    assert "battery" not in rows[0][4] and "secret" in rows[0][4]
    assert json.loads(rows[1][4])["memory"] == "1536M", "a size as people write it"
