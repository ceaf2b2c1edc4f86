"""Attempts to get beyond one's domain, policy, role or account: each is refused or harmless.

The whole application on a real database; the host is one of dictionaries.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
from typing import Any

import pytest

from diycloud.agent.protocol import NOWHERE
from diycloud.auth.keys import parse_key
from diycloud.core.routes import PREFIX
from diycloud.users import reconcile
from tests.app.restful import PASSWORD
from tests.app.town import KEY, SSH, USERS, Town

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
