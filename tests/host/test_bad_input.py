"""Bad input for every field of every action, through the real server: refused by field and rule, nothing changed.

The actions and their fields are walked from the declarations (core/routes.py), so later ones are covered as they come.
What is refused is told apart from what is fine (SQL text is a legitimate note) by a poisoned request: beside the value
it holds a field that does not exist, so it can never run, and the answer names every field at fault.
"""

from __future__ import annotations

import contextlib
import io
import json
import pwd
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest

from diycloud.actions.action import Audited
from diycloud.actions.parsing import Field, Source, fields_of, parse_action
from diycloud.cli import main as cli
from diycloud.core.routes import PREFIX, Route
from diycloud.core.routes import ROUTES as EVERY_ROUTE
from diycloud.errors import InvalidInput
from diycloud.users.actions import AdoptUser, ImportUsers, ModifyUser
from tests.invariants import limits_of, query
from tests.stack import Stack

ADA, FREE = "dtbada", "dtbfree"
"""A user that nothing may change, and one whose notes are free."""
POISON = "no_such_field"
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
TEXTS = (
    "", " ", "root", "-x", "--help", "a" * 33, "name\n", "\nname", "na\x00me", "na\x1b[31mme", "na\x7fme", "x" * 100_000,
    "аda", "ａda", "ada\u200b", "ad\u0131", "\u202eada", "ﬁ", "ada․b",
    "Robert'); DROP TABLE users;--", "' OR '1'='1", "\" OR 1=1 --", "1; DELETE FROM users",
    "$(touch /tmp/diycloud-was-here)", "`id`", "; rm -rf /", "| cat /etc/shadow", "&& true", "a:b:0:0", "{{7*7}}", "%s%n",
    "=1+1", "=cmd|' /C calc'!A0", "+1", "-1+1", "@SUM(A1)", "../../etc/passwd", "/etc/shadow", "<script>alert(1)</script>",
    "nan", "inf", "1e309", "0x10", "1_000", "٣", "lots", "-1G", "0", "99999999T", "true", "null", "[]",
)  # fmt: skip
OTHERS = (
    None, True, False, 0, 1, -1, 5, 10**30, -(10**30), 0.001, -0.5, 1e308, [], [1], ["ada"], {}, {"a": 1}, {"$ne": None},
    [[[[[[[[1]]]]]]]],
)  # fmt: skip
VALID: dict[str, Any] = {
    "username": ADA,
    "name": "dtbnone",
    "current": "x" * 20,
    "password": "correct horse battery",
    "uid": 1234,
    "shell": "/bin/bash",
    "granted": True,
    "key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGLo0uJDu3ewRPzSZJVyHtB5p5dz3aRWUJ1vKwbRRWOi",
    "fingerprint": "SHA256:" + "A" * 43,
    "code": "123456",
    "credential": "{}",
    "label": "blue key",
    "passkey": "1",
    "members": [ADA],
    "session": "1",
    "key_id": "a" * 12,
    "changes": [{"action": "enable", "username": ADA}],
    "provider": "ldap",
    "redirect_uris": ["https://app.example.org/back"],
    "server_name": "big",
    "profile": "small",
}
"""A value for every field that some action needs."""
OWN_WAY = {"user import", "user bulk", "user export", "user adopt", "user sudo", "audit export", "account password"}
"""Verbs whose words are not the action's fields one by one; each has tests of its own."""
ROUTES = tuple(route for route in EVERY_ROUTE if not route.action.action_name.startswith("notebook."))
"""This stack has no hub, and they say so first; theirs are sent to one by tests/app/test_schemathesis.py."""
IDS = {"argvalues": ROUTES, "ids": [route.action.action_name for route in ROUTES]}


@pytest.fixture(scope="module", autouse=True)
def ada(stack: Stack) -> str:
    stack.cli("user", "create", FREE)
    stack.cli("user", "create", ADA, "--cpu", "0.5", "--memory", "64", "--email", "ada@example.org")
    return ADA


@pytest.fixture(autouse=True)
def nothing_changes(stack: Stack, ada: str) -> Iterator[None]:
    before = state(stack)
    yield
    assert state(stack) == before
    assert not Path("/tmp/diycloud-was-here").exists()
    assert "crashed" not in stack.log("server")


def state(stack: Stack) -> dict[str, Any]:
    """Return what no bad input may change: the database (less the audit), the accounts, the limits."""
    tables = {t: query(stack, f"SELECT * FROM {t} ORDER BY 1") for t in ("users", "resource_allocations", "sessions")}
    tables["users"] = [row for row in tables["users"] if row[1] != FREE]
    names = [row[1] for row in tables["users"]]
    ours = [
        line
        for file in ("passwd", "shadow", "group")
        for line in Path("/etc", file).read_text().splitlines()
        if line.startswith("dtb") and not line.startswith(FREE)
    ]
    return tables | {"accounts": ours, "limits": [limits_of(stack, name) for name in names]}


def base(route: Route) -> dict[str, Any]:
    """Return a valid value for each needed field."""
    return {name: VALID[name] for name, field in fields_of(route.action).items() if field.required}


def send(stack: Stack, route: Route, values: dict[str, Any]) -> tuple[int, dict[str, str]]:
    """Send an action's fields where they belong; return the status and what is said of each field."""
    left = dict(values)
    for name, value in left.items():
        if isinstance(value, str) and (route.method == "GET" or f"{{{name}}}" in route.path):
            left[name] = value[:5_000]  # a longer address is refused before it is anybody's field
    path = PREFIX + re.sub(r"{(\w+)}", lambda match: quote(str(left.pop(match[1])), safe=""), route.path)
    if route.method == "GET":
        target = f"{path}?{urlencode(left)}" if left else path
        status, _, answer = stack.http("GET", target)
    else:
        status, _, answer = stack.http(route.method, path, left)
    errors = answer.get("errors", []) if isinstance(answer, dict) else []
    assert status < 500, (route.path, str(values)[:200], answer)
    if status >= 400:
        assert answer["code"] and answer["detail"], answer
    return status, {error["field"]: error["message"] for error in errors}


def in_path(route: Route, field: Field) -> bool:
    return f"{{{field.name}}}" in route.path


def may_be(field: Field, value: Any) -> bool:
    """Tell, apart from the declarations' own patterns, whether a value could be right at all."""
    if value is None:
        return field.clearable
    if field.kind in ("text", "size", "choice"):
        if not isinstance(value, str):
            return False
        if field.name == "csv":
            return True
        return (not CONTROL.search(value) and len(value) <= 600) or field.name == "cursor"
    if field.kind == "flag":
        return isinstance(value, bool)
    if field.kind in ("list", "networks"):
        return isinstance(value, list)
    return isinstance(value, int | float) and not isinstance(value, bool)


def hostile(route: Route, field: Field) -> Iterator[Any]:
    yield from TEXTS
    if route.method != "GET" and not in_path(route, field):
        yield from OTHERS
        if field.kind == "list":  # what is in it has rules of its own
            return
        for bound, step in (("minimum", -1), ("maximum", 1)):
            (schema,), _ = msgspec.json.schema_components([field.type])
            for part in (schema, *schema.get("anyOf", [])):
                if bound in part:
                    yield part[bound] + step


@pytest.mark.parametrize("route", **IDS)
def test_every_field_refuses_what_it_cannot_be(stack: Stack, route: Route) -> None:
    tried = 0
    for field in fields_of(route.action).values():
        for value in hostile(route, field):
            tried += 1
            if in_path(route, field):
                check_in_path(stack, route, field, value)
                continue
            _, said = send(stack, route, {**base(route), field.name: value, POISON: 1})
            assert "no such field" in said[POISON]
            if field.name not in said:
                assert accepted(field, value, route), f"{field.name} takes {str(value)[:60]!r}"
                continue
            assert said[field.name], "with its rule"
            assert set(said) == {POISON, field.name}, "and no other is blamed"
            status, said = send(stack, route, {**base(route), field.name: value})
            assert (status, list(said)) == (422, [field.name])
            if field.secret and isinstance(value, str) and len(value) > 3:
                assert value not in said[field.name]
    assert tried >= len(TEXTS) * bool(fields_of(route.action))


def accepted(field: Field, value: Any, route: Route) -> bool:
    if route.method == "GET":  # a query is text: numbers and flags written out
        return field.kind != "text" or may_be(field, value)
    return may_be(field, value)


def check_in_path(stack: Stack, route: Route, field: Field, value: str) -> None:
    poison = {POISON: 1} if route.action is AdoptUser else {}  # root may write any name there
    status, said = send(stack, route, {**base(route), field.name: value, **poison})
    assert status in (400, 404, 405, 409, 422), (value[:60], status)
    if status == 422:
        assert field.name in said or poison


@pytest.mark.parametrize("route", [r for r in ROUTES if r.method == "GET"], ids=lambda r: r.action.action_name)
def test_reads_answer_whatever_is_asked(stack: Stack, route: Route) -> None:
    """Free text in a query (a search for SQL) finds nothing and breaks nothing."""
    for field in fields_of(route.action).values():
        for value in TEXTS:
            if not in_path(route, field):
                status, said = send(stack, route, {**base(route), field.name: value})
                assert status == 200 or (status == 422 and list(said) == [field.name]), (field.name, value[:60])


def test_free_text_is_kept_as_it_was_written(stack: Stack) -> None:
    """SQL, shell and markup are no commands here: what may stand in a note stands there, letter by letter."""
    kept = 0
    for name in ("description", "full_name", "email"):
        for value in TEXTS:
            try:
                parse_action(ModifyUser, {"username": FREE, name: value}, Source.JSON)
            except InvalidInput:
                continue
            status, _, answer = stack.http("PATCH", f"/api/v1/users/{FREE}", {name: value})
            assert status == 200
            assert answer["user"][name] == value
            assert query(stack, f"SELECT {name} FROM users WHERE username = ?", FREE) == [(value,)]
            kept += 1
    assert kept > 20
    audit = stack.json("audit", "list", "--user", FREE, "--limit", "200")
    assert any("DROP TABLE" in json.dumps(entry["changes"]) for entry in audit["entries"])
    gecos = pwd.getpwnam(FREE).pw_gecos
    assert gecos and not set(gecos) & set(":,\n")


@pytest.mark.parametrize("route", **IDS)
def test_every_fault_is_named_at_once(stack: Stack, route: Route) -> None:
    fields = [f for f in fields_of(route.action).values() if not in_path(route, f)]
    bad: dict[str, Any] = {f.name: "\x00" * 9_000 if f.name == "csv" else "\x00" * 600 for f in fields}
    if route.method != "GET":
        bad = {f.name: ["\x00"] if f.kind == "list" else [1] for f in fields}
    _, said = send(stack, route, {**base(route), **bad, POISON: "1"})
    assert set(said) == set(bad) | {POISON}


CHANGES = [r for r in ROUTES if r.action.audited is Audited.CHANGE]
BODIES = {
    "a key twice": b'{"username": "dtbx", "username": "dtby"}',
    "a nested key twice": b'{"cpu": {"a": 1, "a": 2}}',
    "broken off": b'{"cpu": ',
    "no object": b"[1, 2]",
    "a word": b"true",
    "not a number": b'{"cpu": NaN}',
    "endless": b'{"cpu": 1e999}',
    "very deep": b'{"cpu": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "very long number": b'{"cpu": ' + b"9" * 9_000 + b"}",
    "half a character": b'{"email": "\\ud800"}',
    "no UTF-8": b'{"email": "\xff\xfe"}',
    "UTF-16": '{"cpu": 1}'.encode("utf-16"),
    "trailing text": b'{"cpu": 1} {"cpu": 2}',
    "an unknown field": b'{"no_such_field": 1}',
    "prototype": b'{"__proto__": {"role": "admin"}, "constructor": 1}',
}


@pytest.mark.parametrize("route", CHANGES, ids=lambda r: r.action.action_name)
def test_bodies_that_are_none(stack: Stack, route: Route) -> None:
    path = PREFIX + route.path.replace("{username}", ADA).replace("{name}", "dtbnone")
    for name, body in BODIES.items():
        status, headers, answer = stack.http(route.method, path, body)
        assert status == 422, (name, status, answer)
        assert headers["content-type"] == "application/problem+json"
        assert answer["detail"] and answer["request_id"], name


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x", "application/xml"]
)
def test_bodies_of_another_kind(stack: Stack, kind: str) -> None:
    status, _, answer = stack.http("POST", "/api/v1/users", b'{"username": "dtbx"}', headers={"Content-Type": kind})
    assert (status, answer["code"]) == (415, "unsupported-media-type")


def test_a_huge_body_is_not_read(stack: Stack) -> None:
    body = b'{"description": "' + b"x" * (2 << 20) + b'"}'
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the server hangs up on who goes on sending
        status, _, answer = stack.http("PATCH", f"/api/v1/users/{ADA}", body)
        assert status == 413 and "1 MiB" in answer["detail"]
    assert stack.http("GET", "/api/v1/health")[0] == 200


def test_a_field_of_the_path_in_the_body_too(stack: Stack) -> None:
    status, _, answer = stack.http("PATCH", f"/api/v1/users/{ADA}", {"username": "root", "cpu": 1})
    assert status == 422 and answer["errors"][0]["field"] == "username"
    status, _, answer = stack.http("GET", "/api/v1/users?limit=5&limit=6")
    assert status == 422 and "twice" in answer["detail"]


@pytest.mark.parametrize("name", ["root", "daemon", "nobody", "diycloud", "sshd", "admin", "www-data"])
def test_names_of_the_system(stack: Stack, name: str) -> None:
    status, _, answer = stack.http("POST", "/api/v1/users", {"username": name})
    assert status in (409, 422) and "username" in json.dumps(answer) + answer["detail"]
    for path, method in (("", "PATCH"), ("", "DELETE"), ("/disable", "POST"), ("/purge", "POST"), ("/password", "PUT")):
        assert stack.http(method, f"/api/v1/users/{name}{path}", {})[0] == 404


def test_more_than_the_host_has(stack: Stack) -> None:
    for body in ({"cpu": 4096}, {"memory": "900T"}, {"cpu": 4000, "memory": "900T"}):
        status, said = send(stack, next(r for r in ROUTES if r.action is ModifyUser), {"username": ADA, **body})
        assert (status, set(said)) == (422, set(body))


CSV = {
    "a formula": "username,full_name\ndtbx,=1+1\n",
    "a name of the system's": "username\nroot\n",
    "a row too long": "username\ndtbx,1,2\n",
    "a name twice": "username\ndtbx\ndtbx\n",
    "a heading twice": "username,cpu,cpu\ndtbx,1,1\n",
    "a column that is none": "username,colour\ndtbx,red\n",
    "a quote left open": 'username\n"dtbx\n',
    "one bad of two": "username,cpu\ndtbx,1\ndtby,lots\n",
    "more than the host has": "username,cpu\ndtbx,4000\n",
    "an address that is taken": "username,email\ndtbx,ADA@example.org\n",
    "nothing": "",
}


@pytest.mark.parametrize("text", CSV.values(), ids=CSV.keys())
def test_tables_with_a_fault_create_nobody(stack: Stack, text: str) -> None:
    route = next(r for r in ROUTES if r.action is ImportUsers)
    for dry_run in (True, False):
        status, said = send(stack, route, {"csv": text, "dry_run": dry_run})
        assert status == 422 or dry_run
        assert said or dry_run
    status, _, answer = stack.http("POST", "/api/v1/users/import", text.encode(), headers={"Content-Type": "text/csv"})
    assert status == 422 and answer["errors"]
    status, _, _ = stack.http(
        "POST", "/api/v1/users/import", b"\xff" + text.encode(), headers={"Content-Type": "text/csv"}
    )
    assert status == 422


@pytest.mark.parametrize("route", [r for r in ROUTES if r.verb and r.verb not in OWN_WAY], ids=lambda r: r.verb)
def test_the_command_line_refuses_the_same(stack: Stack, route: Route, capsys: Any, monkeypatch: Any) -> None:
    """In this process, so that thousands are quick: exit status 2 and every field named, never a traceback."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    for field in fields_of(route.action).values():
        if field.name == "password" or field.kind == "flag":
            continue
        for value in TEXTS:
            values = {**base(route), field.name: value}
            if not refused_as_text(route, values) or (value == "" and field.name in ("username", "name")):
                continue
            words = ["--prefix", str(stack.prefix), *route.verb.split()]
            named = values.pop("username", None) or values.pop("name", None)
            words += [f"--{name.replace('_', '-')}={as_word(text)}" for name, text in values.items()]
            words += ["--", named] if named is not None else []
            assert cli.main(words) == 2, (field.name, value[:60])
            assert f"  {field.name}: " in capsys.readouterr().err, (field.name, value[:60])


def as_word(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def refused_as_text(route: Route, values: dict[str, Any]) -> bool:
    if any(value == "" and fields_of(route.action)[name].clearable for name, value in values.items()):
        return False  # "" clears
    try:
        parse_action(route.action, values, Source.TEXT)
    except InvalidInput:
        return True
    return False
