"""Attempts to get beyond one's domain, policy, role or account, and to wear the server out: each is refused or harmless.

The whole application on a real database; the host is one of dictionaries.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from diycloud.agent.protocol import NOWHERE
from diycloud.auth.keys import parse_key
from diycloud.core.routes import PREFIX
from diycloud.db.engine import Database
from diycloud.users import reconcile
from tests.app.restful import PASSWORD, World

USERS = f"{PREFIX}/users"
KEY = "0123456789abcdef0123456789abcdef"
SSH = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6Jt7Qy1Vw1cGkJvGkzqfN0uYbq0sA4uG0tYc0Yc1p1 me@home"


class Town(World):
    """Two domains with an administrator and a user each, a monitor and an administrator; everyone's token by name."""

    def fill(self) -> None:
        self.tokens = {"admin": self.first_admin()}
        small = {"name": "small", "cpu": 0.5, "memory": "1G", "max_cpu": 1, "max_memory": "2G", "max_disk": "10G"}
        self.root("POST", "/policies", json=small)
        for domain, head, user in (("physics", "head", "ada"), ("biology", "chief", "bob")):
            self.root("POST", "/domains", json={"name": domain, "policy": "small"})
            self.add(head, domain=domain, role="domain-admin")
            self.add(user, domain=domain)
            self.root("POST", "/groups", json={"name": f"{domain}-lab", "domain": domain, "members": [user]})
        self.add("watcher", domain="physics", role="monitor")

    def add(self, name: str, **fields: Any) -> None:
        self.root("POST", "/users", json={"username": name, "password": PASSWORD, **fields})
        self.tokens[name] = self.token(name, PASSWORD)

    def root(self, method: str, path: str, **more: Any) -> httpx.Response:
        answer = self.ask(method, PREFIX + path, **more)
        assert answer.status_code < 300, answer.text
        return answer

    def by(self, who: str, method: str, path: str, **more: Any) -> httpx.Response:
        return self.ask(method, PREFIX + path, token=self.tokens[who], **more)

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Do what people with a sqlite3 of their own do: it keeps no foreign keys."""
        connection = sqlite3.connect(self.database.path)  # type: ignore[attr-defined]
        try:
            found = connection.execute(statement, values).fetchall()
            connection.commit()
            return found
        finally:
            connection.close()

    def column(self, name: str, of: str = "ada") -> Any:
        return self.sql(f"SELECT {name} FROM users WHERE username = ?", of)[0][0]


@pytest.fixture
def town(database: Database) -> Iterator[Town]:
    found = Town(database)
    found.fill()
    yield found


# -- above the policy


def test_an_import_gives_no_harder_limit_than_the_policy_allows(town: Town) -> None:
    rows = [{"username": "eve", "disk": "10G", "disk_hard": "900T"}]
    answer = town.by("head", "POST", "/users/import", json={"users": rows})
    assert answer.status_code == 422, answer.text
    assert "disk_hard" in answer.text
    twice = [{"username": "eve", "disk": "10G", "disk_hard": "20G"}]
    assert town.by("head", "POST", "/users/import", json={"users": twice}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/users/ada", {"cpu": 2}),
        ("PATCH", "/users/ada", {"policy": "default", "cpu": 2}),
        ("PATCH", "/users/ada/limits", {"memory": "3G"}),
        ("POST", "/users/ada/policy", {"policy": "default"}),
        ("PATCH", "/policies/small", {"max_cpu": None}),
        ("PATCH", "/domains/physics", {"policy": "default"}),
        ("POST", "/users", {"username": "eve", "policy": "default"}),
        ("POST", "/users", {"username": "eve", "disk": "11G"}),
        ("POST", "/users/import", {"users": [{"username": "eve", "policy": "default"}]}),
        ("POST", "/users/import", {"csv": "username,cpu\neve,2\n"}),
        ("POST", "/users/import", {"csv": "username,policy\nada,default\n", "update": True}),
        ("POST", "/users/import", {"csv": "username,cpu\nada,2\n", "update": True}),
        ("POST", "/users/bulk", {"changes": [{"action": "set-limits", "username": "ada", "cpu": 2}]}),
        ("POST", "/users/bulk", {"changes": [{"action": "modify", "username": "ada", "policy": "default"}]}),
    ],
)
def test_no_way_leads_above_the_domains_policy(town: Town, method: str, path: str, body: dict[str, Any]) -> None:
    before = town.sql("SELECT count(*) FROM users"), town.column("policy"), town.column("generation")
    answer = town.by("head", method, path, json=body)
    assert answer.status_code in (403, 422), answer.text
    assert (town.sql("SELECT count(*) FROM users"), town.column("policy"), town.column("generation")) == before


# -- out of the domain

ELSEWHERE = [
    {"action": "modify", "username": "bob", "full_name": "x"},
    {"action": "set-password", "username": "chief"},
    {"action": "disable", "username": "admin"},
    {"action": "delete", "username": "watcher"},
    {"action": "modify", "username": "ada", "domain": "biology"},
    {"action": "modify", "username": "ada", "role": "admin"},
    {"action": "modify", "username": "ada", "groups": ["biology-lab"]},
    {"action": "create", "username": "eve", "domain": "biology"},
    {"action": "create", "username": "eve", "role": "monitor"},
    {"action": "create", "username": "eve", "groups": ["biology-lab"]},
    {"action": "adopt", "username": "ada", "uid": 1000, "shell": "/bin/sh"},
    {"action": "set-sudo", "username": "ada", "granted": True},
    {"action": ["modify"], "username": "ada"},
    {"action": "modify", "username": ["bob"]},
    {"action": "modify", "username": "ada", "force": True, "target": "bob"},
]


@pytest.mark.parametrize("row", ELSEWHERE, ids=lambda row: json.dumps(row)[:60])
def test_a_row_of_many_may_no_more_than_the_action_alone(town: Town, row: dict[str, Any]) -> None:
    before = town.sql("SELECT username, domain, role, status, generation FROM users ORDER BY id")
    answer = town.by("head", "POST", "/users/bulk", json={"changes": [row], "on_error": "continue"})
    assert answer.status_code in (200, 422), answer.text
    if answer.status_code == 200:
        assert [one["outcome"] for one in answer.json()["rows"]] == ["refused"]
    assert town.sql("SELECT username, domain, role, status, generation FROM users ORDER BY id") == before


def test_the_same_user_twice_in_one_list_is_refused(town: Town) -> None:
    rows = [{"action": "disable", "username": "ada"}, {"action": "enable", "username": "ada"}]
    assert town.by("head", "POST", "/users/bulk", json={"changes": rows}).status_code == 422
    assert town.column("status") == "active"


@pytest.mark.parametrize("who", ["head", "watcher", "ada"])
def test_nobody_acts_beyond_their_reach_on_anothers_behalf(town: Town, who: str) -> None:
    for name in ("admin", "chief", "bob", "watcher", "nobody-at-all"):
        answer = town.by(who, "GET", "/users/bob", headers={"X-On-Behalf-Of": name})
        assert answer.status_code == 403, (name, answer.text)
    texts = {
        town.by("head", "GET", "/users/bob", headers={"X-On-Behalf-Of": name}).json()["detail"].replace(name, "X")
        for name in ("bob", "nobody-at-all")
    }
    assert len(texts) == 1


def test_an_administrator_who_acts_for_one_of_a_domain_has_the_domains_reach_and_both_are_named(town: Town) -> None:
    behalf = {"X-On-Behalf-Of": "head"}
    assert town.by("admin", "GET", "/users/bob", headers=behalf).status_code == 403
    listed = town.by("admin", "GET", "/users", headers=behalf).json()
    assert {user["domain"] for user in listed["users"]} == {"physics"}
    exported = town.by("admin", "GET", "/export/users", headers=behalf)
    assert {user["domain"] for user in exported.json()} == {"physics"}
    town.by("admin", "PATCH", "/users/ada", headers=behalf, json={"description": "x"})
    rows = town.sql("SELECT action, actor, on_behalf_of FROM audit WHERE on_behalf_of <> '' ORDER BY id")
    assert rows == [(name, "admin", "head") for name in ("user.show", "user.export", "user.modify")]


def test_lists_say_nothing_of_other_domains(town: Town) -> None:
    for query in ("group=biology-lab", "search=bob", "policy=default", "role=admin", "status=all&search=chief"):
        found = town.by("head", "GET", f"/users?{query}")
        assert (found.json()["users"], found.json()["total"]) == ([], 0), query
    assert town.by("head", "GET", "/users?domain=biology").status_code == 403
    assert town.by("head", "GET", "/audit?domain=biology").status_code == 403
    assert "biology" not in town.by("head", "GET", "/groups").text
    assert town.by("head", "GET", "/groups/biology-lab").status_code == 403
    there = town.by("head", "GET", "/groups/biology-lab").json()["detail"]
    assert there.replace("biology-lab", "X") == town.by("head", "GET", "/groups/none").json()["detail"].replace(
        "none", "X"
    )


def test_a_condition_tells_nothing_of_what_may_not_be_seen(town: Town) -> None:
    tag = town.ask("GET", f"{USERS}/bob").headers["etag"]
    for headers in ({"If-Match": tag}, {"If-Match": '"x"'}, {"If-None-Match": "*"}):
        assert town.by("head", "PATCH", "/users/bob", json={"cpu": 1}, headers=headers).status_code == 403
        assert town.by("ada", "DELETE", "/users/bob", headers=headers).status_code == 403


def test_a_key_of_another_actor_gives_nothing_away(town: Town) -> None:
    headers = {"Idempotency-Key": KEY}
    body = {"username": "eve"}
    first = town.by("head", "POST", "/users", json=body, headers=headers)
    assert first.json()["password"]
    for who in ("chief", "admin"):
        answer = town.by(who, "POST", "/users", json=body, headers=headers)
        assert answer.status_code == 409
        assert first.json()["password"] not in answer.text
    behalf = {**headers, "X-On-Behalf-Of": "head"}
    assert town.by("admin", "POST", "/users", json=body, headers=behalf).status_code == 409


# -- administrators of the host


def test_who_has_sudo_is_not_the_domains(town: Town) -> None:
    town.sql("UPDATE users SET sudo = 1 WHERE username = 'ada'")
    for method, path, body in (
        ("POST", "/users/ada/disable", {}),
        ("DELETE", "/users/ada", None),
        ("PATCH", "/users/ada", {"allowed_client_ip": ["192.0.2.99"]}),
        ("POST", "/users/ada/keys", {"key": SSH}),
        ("PUT", "/users/ada/password", {}),
    ):
        answer = town.by("head", method, path, json=body) if body is not None else town.by("head", method, path)
        assert answer.status_code == 403, (path, answer.text)
    assert town.by("head", "GET", "/users/head", headers={"X-On-Behalf-Of": "ada"}).status_code == 403


def test_a_key_for_an_administrator_of_the_host_does_not_wait_for_its_hour(town: Town) -> None:
    """Stored, it would be installed the moment root takes sudo away for a while, and stay when root gives it back."""
    town.sql("UPDATE users SET sudo = 1 WHERE username = 'ada'")
    answer = town.by("admin", "POST", "/users/ada/keys", json={"key": SSH})
    assert answer.status_code == 409, answer.text
    assert town.column("ssh_keys") == ""


# -- a stolen token


def test_a_token_alone_sets_nobodys_own_password(town: Town) -> None:
    for who in ("head", "admin"):
        answer = town.by(who, "PUT", f"/users/{who}/password", json={"password": "a phrase of the thief's own"})
        assert answer.status_code == 409, answer.text
        rows = [{"action": "set-password", "username": who}]
        answer = town.by(who, "POST", "/users/bulk", json={"changes": rows, "on_error": "continue"})
        assert [row["outcome"] for row in answer.json()["rows"]] == ["refused"]
        assert town.token(who, PASSWORD)


def test_a_sign_in_with_the_old_password_does_not_outlive_its_change(town: Town) -> None:
    """Checking a password takes long enough for an administrator to have set another meanwhile."""
    hasher = town.services.hasher
    verify = hasher.verify

    async def slow(password: str, hashed: str | None) -> bool:
        found = await verify(password, hashed)
        answer = await town.send("PUT", f"{USERS}/ada/password", json={})
        assert answer.status_code == 200, answer.text
        return found

    hasher.verify = slow  # type: ignore[method-assign]
    sent = {"username": "ada", "password": PASSWORD}
    answer = town.ask("POST", f"{PREFIX}/auth/login", json=sent, token="")
    hasher.verify = verify  # type: ignore[method-assign]
    assert answer.status_code == 401, answer.text
    assert town.sql(
        "SELECT count(*) FROM sessions AS s JOIN users AS u ON u.id = s.user_id WHERE username = 'ada'"
    ) == [(0,)]


@pytest.mark.parametrize("then", ["disable", "purge"])
def test_a_sign_in_while_the_user_goes(town: Town, then: str) -> None:
    hasher = town.services.hasher
    verify = hasher.verify

    async def slow(password: str, hashed: str | None) -> bool:
        found = await verify(password, hashed)
        steps = [("POST", "/users/ada/disable")]
        if then == "purge":
            steps = [("DELETE", "/users/ada"), ("POST", "/users/ada/purge")]
        for method, path in steps:
            assert (await town.send(method, PREFIX + path)).status_code == 200
        return found

    hasher.verify = slow  # type: ignore[method-assign]
    answer = town.ask("POST", f"{PREFIX}/auth/login", json={"username": "ada", "password": PASSWORD}, token="")
    assert answer.status_code == 401, answer.text
    orphans = town.sql(
        "SELECT count(*) FROM sessions WHERE user_id NOT IN (SELECT id FROM users WHERE status = 'active')"
    )
    assert orphans == [(0,)]


# -- the audit


def test_a_domains_administrator_does_not_rewrite_the_history(town: Town) -> None:
    town.by("head", "DELETE", "/users/ada")
    answer = town.by("head", "POST", "/users/ada/purge", json={"history": "anonymous"})
    assert answer.status_code == 403, answer.text
    assert town.sql("SELECT count(*) FROM audit WHERE target = 'ada'") != [(0,)]


def test_a_user_named_as_a_field_takes_no_field_along(town: Town) -> None:
    """The history of others says `"description": [...]`, whoever of that name is forgotten."""
    town.root("PATCH", "/users/bob", json={"description": "active"})
    town.root("POST", "/users/bob/disable", json={})
    before = town.sql("SELECT id, changes FROM audit WHERE target = 'bob' ORDER BY id")
    town.root("PATCH", "/domains/biology", json={"description": "x"})
    of_domain = town.sql("SELECT count(*) FROM audit WHERE target = 'biology'")
    for name in ("description", "status", "active", "biology"):
        town.root("POST", "/users", json={"username": name})
        town.root("DELETE", f"/users/{name}")
        town.root("POST", f"/users/{name}/purge", json={"history": "anonymous"})
    assert town.sql("SELECT id, changes FROM audit WHERE target = 'bob' ORDER BY id") == before
    assert town.sql("SELECT count(*) FROM audit WHERE target = 'biology'") == of_domain


def test_what_a_domains_people_do_is_in_the_domains_history(town: Town) -> None:
    town.by("head", "GET", "/export/users")
    town.by("head", "POST", "/users/import", json={"csv": "username\neve\n"})
    change = {"current": PASSWORD, "password": "another long phrase of hers"}
    assert town.by("ada", "PUT", "/account/password", json=change).status_code == 200
    found = town.by("head", "GET", "/audit?limit=1000").json()["entries"]
    assert {"user.export", "user.import", "password.change"} <= {entry["action"] for entry in found}
    town.by("admin", "GET", "/export/users")
    assert not town.by("head", "GET", "/audit?actor=admin&action=user.export").json()["entries"]


# -- rows written by hand


def test_networks_that_cannot_be_read_open_no_key(town: Town) -> None:
    assert town.by("ada", "POST", "/users/ada/keys", json={"key": SSH}).status_code == 200
    seen: list[Any] = []
    ensure = town.host._EnsureAccounts

    def watch(message: Any) -> Any:
        seen.extend(message.accounts)
        return ensure(message)

    town.host._EnsureAccounts = watch  # type: ignore[method-assign]
    for written in ("the office", "10.0.0.0/99", "10.0.0.0/8,home", "::::", '10.0.0.0/8",command="id'):
        seen.clear()
        town.sql("UPDATE users SET allowed_client_ip = ? WHERE username = 'ada'", written)
        asyncio.run(reconcile.reconcile(town.services))
        assert seen and seen[-1].wish.name == "ada"
        assert seen[-1].keys == [] or seen[-1].wish.networks == [NOWHERE], written
        assert town.by("ada", "GET", "/users/ada").status_code == 401, written


@pytest.mark.parametrize("column", ["full_name", "shell", "ssh_keys", "allowed_client_ip", "container_gids", "domain"])
@pytest.mark.parametrize("value", ["x'ff00'", "CAST(x'ff' AS TEXT)", "3.5"])
def test_one_row_of_bytes_does_not_stop_the_others(town: Town, column: str, value: str) -> None:
    town.sql(f"UPDATE users SET {column} = {value} WHERE username = 'ada'")
    town.sql("UPDATE users SET full_name = 'Bob' WHERE username = 'bob'")
    asyncio.run(reconcile.reconcile(town.services))
    assert town.column("generation", "bob") == town.column("host_generation", "bob")
    assert town.ask("GET", USERS).status_code == 200
    assert town.ask("GET", f"{PREFIX}/export/users?format=csv").status_code == 200


def test_no_cell_of_an_export_is_run(town: Town) -> None:
    for column, value in (
        ("ssh_keys", "=cmd|' /c calc'!A1"),
        ("allowed_client_ip", "@SUM(1)"),
        ("full_name", "+1"),
        ("external_id", "\t=1"),
    ):
        town.sql(f"UPDATE users SET {column} = ? WHERE username = 'ada'", value)
    rows = csv.reader(io.StringIO(town.ask("GET", f"{PREFIX}/export/users?format=csv").text))
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


# -- keys


@pytest.mark.parametrize(
    "key",
    [
        f"{SSH}\nssh-rsa AAAA",
        f'command="id" {SSH}',
        f"{SSH}\r\n",
        f"{SSH}\x00",
        "ssh-ed25519 ../../etc/passwd x",
        f'from="*",{SSH}',
    ],
)
def test_no_key_says_more_than_a_key(town: Town, key: str) -> None:
    assert town.by("ada", "POST", "/users/ada/keys", json={"key": key}).status_code == 422
    assert town.column("ssh_keys") == ""


def test_a_comment_carries_nothing_that_could_be_read_as_another_line(town: Town) -> None:
    sent = SSH + " \u2028ssh-rsa AAAA\u202e \u0085"
    assert town.by("ada", "POST", "/users/ada/keys", json={"key": sent}).status_code == 200
    assert len(town.column("ssh_keys").splitlines()) == 1


def test_a_key_that_is_taken_is_one_that_the_host_takes() -> None:
    """One too long for the agent would be shown here and open nothing."""
    import base64
    import struct

    def field(data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + data

    from diycloud.errors import InvalidInput
    from diycloud.users.host import _KEY

    for size in (256, 2048, 2100, 2150, 2200):
        blob = field(b"ssh-rsa") + field(b"\1\0\1") + field(b"\x7f" * size)
        try:
            line = parse_key(f"ssh-rsa {base64.b64encode(blob).decode()} me").line
        except InvalidInput:
            continue
        assert _KEY.match(line), size


# -- wearing the server out


def held(town: Town, ask: Callable[[], httpx.Response]) -> tuple[httpx.Response, float]:
    """Return an answer and the longest time, in seconds, that nothing else could run while it was made."""

    async def both() -> tuple[httpx.Response, float]:
        longest, done = 0.0, False

        async def pulse() -> None:
            nonlocal longest
            while not done:
                began = time.perf_counter()
                await asyncio.sleep(0)
                longest = max(longest, time.perf_counter() - began)

        watching = asyncio.create_task(pulse())
        answer = await ask()  # type: ignore[misc]
        done = True
        await watching
        return answer, longest

    return asyncio.run(both())


@pytest.mark.parametrize(
    "body",
    [
        {"allowed_client_ip": ["10.0.0.1"] * 70_000},
        {f"f{number}": 1 for number in range(60_000)},
        {"groups": ["x"] * 150_000},
        {"container_gids": [1] * 300_000},
        {"groups": ["!"] * 150_000},
    ],
    ids=["networks", "unknown", "groups", "numbers", "no-names"],
)
def test_a_body_of_a_megabyte_holds_nobody_up(town: Town, body: dict[str, Any]) -> None:
    async def ask() -> httpx.Response:
        return await town.send("PATCH", f"{USERS}/ada", token=town.tokens["head"], json=body)

    answer, longest = held(town, ask)  # type: ignore[arg-type]
    assert answer.status_code in (403, 422), answer.text[:200]
    assert len(answer.content) < 100_000
    assert longest < 0.25  # on a busy machine; it was seconds


def test_a_heading_of_a_million_cells_is_refused_at_once(town: Town) -> None:
    began = time.monotonic()
    answer = town.by("head", "POST", "/users/import", json={"csv": "," * 1_000_000 + "\nx\n"})
    assert answer.status_code == 422
    assert len(answer.content) < 100_000
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": KEY}])
@pytest.mark.parametrize(
    "value",
    ["1e999", "-1e999", "1e308", "9" * 4000, "1" + "0" * 30, "-0.0", "[" * 960 + "]" * 960, '"\\u0041"', "{}", "null"],
    ids=lambda value: value[:8],
)
@pytest.mark.parametrize("field", ["cpu", "memory", "tasks", "groups", "allowed_client_ip", "container_uid", "gpu"])
def test_no_number_breaks_the_server(town: Town, field: str, value: str, headers: dict[str, str]) -> None:
    content = f'{{"username": "eve", "{field}": {value}}}'
    sent = {"Content-Type": "application/json", **headers}
    answer = town.by("head", "POST", "/users", content=content, headers=sent)
    assert answer.status_code < 500, answer.text


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": KEY}])
def test_no_depth_breaks_the_server(town: Town, headers: dict[str, str]) -> None:
    sent = {"Content-Type": "application/json", **headers}
    seen = set()
    for depth in (*range(400, 1000, 12), 5000, 100_000):
        content = '{"username": "eve", "email": "\\u0041", "groups": ' + "[" * depth + "]" * depth + "}"
        seen.add(town.by("head", "POST", "/users", content=content, headers=sent).status_code)
    assert max(seen) < 500, seen


# -- two at once


def test_two_administrators_edit_one_user(town: Town) -> None:
    async def both(*asked: tuple[str, dict[str, Any], dict[str, str]]) -> list[int]:
        sent = [
            town.send("PATCH", f"{USERS}/ada", token=town.tokens[who], json=body, headers=headers)
            for who, body, headers in asked
        ]
        return [answer.status_code for answer in await asyncio.gather(*sent)]

    other = asyncio.run(both(("admin", {"full_name": "Ada"}, {}), ("head", {"description": "x"}, {})))
    assert other == [200, 200]
    assert (town.column("full_name"), town.column("description")) == ("Ada", "x")
    tag = {"If-Match": town.ask("GET", f"{USERS}/ada").headers["etag"]}
    one = asyncio.run(both(("admin", {"full_name": "A"}, tag), ("head", {"full_name": "B"}, tag)))
    assert sorted(one) == [200, 412]
    assert town.column("full_name") == ("A" if one[0] == 200 else "B")


def test_a_policy_that_is_lowered_meanwhile_is_what_counts(town: Town) -> None:
    async def both() -> list[int]:
        lower = town.send("PATCH", f"{PREFIX}/policies/small", json={"max_cpu": 0.5})
        give = town.send("PATCH", f"{USERS}/ada/limits", token=town.tokens["head"], json={"cpu": 1})
        return [answer.status_code for answer in await asyncio.gather(lower, give)]

    lowered, given = asyncio.run(both())
    cpu = town.sql(
        "SELECT cpu_limit FROM resource_allocations AS a JOIN users AS u ON u.id = a.user_id WHERE username = 'ada'"
    )
    assert lowered == 200
    assert cpu == [(1.0,)] if given == 200 else [(0.5,)]


def test_an_administrator_demoted_meanwhile_stops(town: Town) -> None:
    """A list of many changes goes on only as long as its administrator is one."""
    for number in range(130):
        town.sql(
            "INSERT INTO users (username, password_hash, domain, policy, status) VALUES (?, '-', 'physics', 'small', 'active')",
            f"user{number}",
        )
    rows = [{"action": "modify", "username": f"user{number}", "description": "x"} for number in range(130)]

    async def both() -> None:
        many = asyncio.create_task(
            town.send(
                "POST", f"{USERS}/bulk", token=town.tokens["head"], json={"changes": rows, "on_error": "continue"}
            )
        )
        while not town.sql("SELECT 1 FROM users WHERE description = 'x'"):
            await asyncio.sleep(0.001)
        await town.send("POST", f"{USERS}/head/disable", json={})
        await many

    asyncio.run(both())
    done = town.sql("SELECT count(*) FROM users WHERE description = 'x'")[0][0]
    assert done < 130


# -- answers repeated


IMPORT = {"csv": "username\nnew\n"}


def keyed(town: Town, who: str = "head", path: str = "", body: dict[str, Any] | None = None, **fields: str) -> Any:
    headers = {"Idempotency-Key": KEY, **fields}
    return town.by(who, "POST", "/users" + path, json=body or {"username": "new"}, headers=headers)


def sign_in_again(town: Town, who: str) -> None:
    town.tokens[who] = town.token(who, PASSWORD)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(("path", "body"), [("", {"username": "new"}), ("/import", IMPORT)])
@pytest.mark.parametrize(
    "change",
    [
        {"role": "user"}, {"role": "monitor"}, {"domain": "biology"}, {"role": "admin"}, {"role": "user", "domain": "biology"},
    ],
)  # fmt: skip
def test_an_answer_is_repeated_to_nobody_whose_rights_are_others_now(
    town: Town, change: dict[str, str], path: str, body: dict[str, Any], restarted: bool
) -> None:
    assert keyed(town, path=path, body=body).status_code in (200, 201)
    assert keyed(town, path=path, body=body).headers["idempotency-replayed"] == "true"
    if restarted:
        town.restart()
    town.root("PATCH", "/users/head", json=change)
    sign_in_again(town, "head")
    again = keyed(town, path=path, body=body)
    assert again.status_code == 403 and "new" not in again.text.replace("new key", "")
    done = town.sql(
        "SELECT outcome FROM audit WHERE actor = 'head' AND action IN ('user.create', 'user.import') ORDER BY id"
    )
    assert done[0] == ("done",) and done[-1] == ("refused",), (
        "a refusal is in the audit, an answer that is repeated is not"
    )
    town.root("PATCH", "/users/head", json={"role": "domain-admin", "domain": "physics"})
    sign_in_again(town, "head")
    assert keyed(town, path=path, body=body).headers["idempotency-replayed"] == "true", "their own again"


@pytest.mark.parametrize("scopes", [["users:read"], ["users:create"], ["all"]])
def test_an_answer_is_repeated_to_no_token_that_lends_less(town: Town, scopes: list[str]) -> None:
    made = town.by("head", "POST", "/users/head/tokens", json={"label": "a script", "scopes": scopes})
    assert made.status_code == 201, made.text
    first = keyed(town)
    town.tokens["session"], town.tokens["head"] = town.tokens["head"], made.json()["secret"]
    again = keyed(town)
    assert again.status_code == 403 and first.json()["password"] not in again.text
    assert keyed(town, "session").headers["idempotency-replayed"] == "true"


def test_an_answer_is_repeated_to_no_other_of_the_name(town: Town) -> None:
    assert keyed(town).status_code == 201
    town.sql("UPDATE users SET id = 4000 WHERE username = 'head'")
    sign_in_again(town, "head")
    assert keyed(town).status_code == 403


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET must_change_password = 1 WHERE username = 'head'",
        "UPDATE idempotency_keys SET fingerprint = substr(fingerprint, 1, 32)",
    ],
)
def test_an_answer_is_repeated_only_to_who_could_have_it_anew(town: Town, statement: str) -> None:
    """A password that must change comes first; and of answers that an older version kept nobody knows whose they are."""
    assert keyed(town).status_code == 201
    town.restart()
    town.sql(statement)
    assert keyed(town).status_code == 403


def test_an_answer_is_repeated_to_nobody_who_is_disabled(town: Town) -> None:
    assert keyed(town).status_code == 201
    town.root("POST", "/users/head/disable", json={})
    assert keyed(town).status_code == 401


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET status = 'inactive' WHERE username = 'head'",
        "UPDATE users SET role = 'user' WHERE username = 'head'",
        "UPDATE users SET domain = 'biology' WHERE username = 'head'",
        "UPDATE users SET role = 'domain-admin', domain = 'physics' WHERE username = 'admin'",
    ],
)
def test_an_answer_got_for_somebody_is_repeated_only_while_one_may_act_for_them(town: Town, statement: str) -> None:
    acting = {"X-On-Behalf-Of": "head"}
    assert keyed(town, "admin", **acting).status_code == 201
    assert keyed(town, "admin", **acting).headers["idempotency-replayed"] == "true"
    assert keyed(town, "admin").status_code == 422, "for oneself it is another request"
    town.sql(statement)
    assert keyed(town, "admin", **acting).status_code == 403


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET domain = 'biology' WHERE username = 'new'",
        "UPDATE users SET role = 'admin' WHERE username = 'new'",
        "UPDATE users SET sudo = 1 WHERE username = 'new'",
        "DELETE FROM users WHERE username = 'new'",
    ],
)
@pytest.mark.parametrize(("path", "body"), [("", {"username": "new"}), ("/import", {"csv": "username\nnew\nother\n"})])
def test_a_password_is_repeated_only_of_whom_one_still_reaches(
    town: Town, statement: str, path: str, body: dict[str, Any]
) -> None:
    first = keyed(town, path=path, body=body)
    assert keyed(town, path=path, body=body).json() == first.json()
    town.sql(statement)
    found = keyed(town, path=path, body=body).json()
    rows = found.get("rows", [found])
    assert rows[0]["password"] is None and len(found["warnings"]) == 1
    assert all(row["password"] for row in rows[1:])
