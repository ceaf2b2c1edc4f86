"""Every action by command line and by REST, through real agent, server, database, accounts and cgroups."""

from __future__ import annotations

import csv
import grp
import io
import json
import os
import pwd
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diycloud.actions.action import Permission
from diycloud.auth import totp
from diycloud.core.routes import ROUTES
from diycloud.notebooks.actions import StartNotebook, StopNotebook
from tests.authenticator import Authenticator
from tests.cluster import Cluster
from tests.conftest import cannot_run
from tests.host.people import Recorded, account_is_open, end, run_as, signs_in
from tests.invariants import CGROUPS, limits_of, query, rows, settled, shadow_of, verifies
from tests.stack import SERVER_USER, Stack

pytestmark = pytest.mark.skipif(bool(cannot_run()), reason=cannot_run() or "-")
PASSWORD, OTHER = "correct horse battery", "another good phrase"
ADA = "dtaada"
FROM_AFAR = {"X-Forwarded-For": "192.0.2.7"}


ON_ROOTS_WORD = {r.action for r in ROUTES if r.action.permission is Permission.ROOT}
"""tests/host/root_word tries those."""
AT_THE_HUB = {StartNotebook, StopNotebook}
"""Notebooks are not set up on this stack: tests/host/test_notebook_actions.py has them."""


@pytest.fixture(scope="module")
def stack(stack_cluster: Cluster | None) -> Iterator[Recorded]:
    with Recorded(stack_cluster) as running:
        yield running


def create(stack: Stack, name: str, *words: str) -> dict:
    return stack.json("user", "create", name, "--password", "-", *words, input=f"{PASSWORD}\n")


# -- create, show, list


def test_create_by_command_line(stack: Recorded) -> None:
    made = create(
        stack, ADA, "--cpu", "0.5", "--memory", "512", "--disk", "1024", "--tasks", "100", "--gpu",
        "--full-name", "Ada Lovelace", "--email", "ada@example.org", "--description", "first",
    )  # fmt: skip
    user = made["user"]
    assert (user["status"], user["settled"], user["role"], made["password"]) == ("active", True, "user", None)
    assert user["limits"] == {"cpu": 0.5, "memory": "512M", "disk": "1G", "disk_hard": "2G", "tasks": 100, "gpu": True}
    account = pwd.getpwnam(ADA)
    assert (account.pw_uid, account.pw_gecos, account.pw_dir) == (user["uid"], "Ada Lovelace", f"/home/{ADA}")
    for folder in ("", "notebooks", "data"):
        found = Path("/home", ADA, folder).stat()
        assert (found.st_uid, found.st_mode & 0o777) == (user["uid"], 0o750)
    assert limits_of(stack, ADA) == (50_000, 512 << 20, 100)
    assert verifies(ADA, PASSWORD) and signs_in(ADA, PASSWORD) and not signs_in(ADA, "wrong")
    assert stack.token(ADA, PASSWORD)
    settled(stack, {ADA: PASSWORD})


def test_create_by_rest(stack: Recorded) -> None:
    status, headers, made = stack.http("POST", "/api/v1/users", {"username": "dtabob", "cpu": 0.25, "memory": "256M"})
    assert (status, headers["location"]) == (201, "/api/v1/users/dtabob")
    assert len(made["password"]) == 16 and made["user"]["must_change_password"], "generated ones are for once"
    assert verifies("dtabob", made["password"])
    assert stack.http("GET", headers["location"])[2]["uid"] == pwd.getpwnam("dtabob").pw_uid
    assert made["password"] not in stack.log("server") + stack.log("agent")
    assert made["password"] not in json.dumps(stack.json("audit", "list", "--user", "dtabob"))


def test_both_show_the_same(stack: Recorded) -> None:
    assert stack.json("user", "show", ADA) == stack.http("GET", f"/api/v1/users/{ADA}")[2]
    text = stack.cli("user", "show", ADA).stdout
    assert "Ada Lovelace" in text and "0.5 cores" in text and "512M" in text
    assert stack.cli("user", "show", "dtanobody", ok=5).stderr
    assert stack.http("GET", "/api/v1/users/dtanobody")[0] == 404


def test_names_that_are_taken(stack: Recorded) -> None:
    assert "already" in stack.cli("user", "create", ADA, ok=6).stderr
    assert stack.http("POST", "/api/v1/users", {"username": "dtax", "email": "ADA@example.org"})[0] == 409
    before = Path("/etc/passwd").read_text()
    assert stack.http("POST", "/api/v1/users", {"username": "games"})[0] in (409, 422)
    assert "\ngames:x:5:" in before and "\ngames:x:5:" in Path("/etc/passwd").read_text()


def test_lists_go_page_by_page(stack: Recorded) -> None:
    first = stack.json("user", "list", "--limit", "1", "--sort", "username")
    assert [u["username"] for u in first["users"]] == [ADA] and first["total"] == 2
    second = stack.json("user", "list", "--limit", "1", "--cursor", first["next"])
    assert [u["username"] for u in second["users"]] == ["dtabob"] and second["next"] is None
    status, headers, answer = stack.http("GET", "/api/v1/users?limit=1&sort=cpu&descending=true")
    assert (status, [u["username"] for u in answer["users"]]) == (200, [ADA])
    link = re.search(r'<([^>]+)>; rel="next"', headers["link"])
    assert link and [u["username"] for u in stack.http("GET", link[1])[2]["users"]] == ["dtabob"]
    assert [u["username"] for u in stack.json("user", "list", "--search", "lovelace")["users"]] == [ADA]
    assert "Ada Lovelace" in stack.cli("user", "list").stdout


def test_notebooks_where_they_are_not_set_up(stack: Recorded) -> None:
    path, headers = (
        f"/api/v1/users/{ADA}/notebooks",
        {"Authorization": f"Bearer {stack.token(ADA, PASSWORD)}", **FROM_AFAR},
    )
    for method, body in (("GET", None), ("POST", {}), ("DELETE", {})):
        status, _, answer = stack.http(method, path, body, headers=headers)
        assert (status, answer["code"]) == (501, "unsupported"), answer
    assert "not set up" in stack.cli("notebook", "list", ADA, ok=7).stderr
    assert "diycloud jupyter setup" in stack.cli("notebook", "stop", ADA, ok=7).stderr
    assert stack.cli("notebook", "start", ADA, ok=4).stderr, "nobody starts another's, root neither"


# -- change


def test_modify_has_three_states(stack: Recorded) -> None:
    changed = stack.json("user", "modify", ADA, "--full-name", "Ada King", "--cpu", "0.75")["user"]
    assert (changed["full_name"], changed["email"], changed["description"]) == ("Ada King", "ada@example.org", "first")
    assert pwd.getpwnam(ADA).pw_gecos == "Ada King"
    _, _, answer = stack.http("PATCH", f"/api/v1/users/{ADA}", {"email": None, "description": None, "role": "monitor"})
    assert [answer["user"][k] for k in ("email", "description", "role", "full_name")] == [
        None,
        "",
        "monitor",
        "Ada King",
    ]
    stack.json("user", "modify", ADA, "--full-name", "", "--role", "user")
    assert pwd.getpwnam(ADA).pw_gecos == ""
    version = stack.json("user", "show", ADA)["version"]
    assert stack.http("PATCH", f"/api/v1/users/{ADA}", {"cpu": 0.75})[2]["user"]["version"] == version, (
        "no change, no wish"
    )
    audit = stack.json("audit", "list", "--user", ADA, "--action", "user.modify")["entries"]
    assert audit[2]["changes"] == {
        "email": ["ada@example.org", None],
        "description": ["first", ""],
        "role": ["user", "monitor"],
    }
    settled(stack, {ADA: PASSWORD})


def test_limits_hold_what_already_runs(stack: Recorded) -> None:
    process = run_as(stack, ADA, "x = bytearray(100 << 20); print('big', flush=True); import time; time.sleep(600)")
    try:
        assert process.stdout is not None and process.stdout.readline() == b"big\n"
        stack.json("limits", "set", ADA, "--cpu", "0.3", "--memory", "300M", "--tasks", "60")
        assert limits_of(stack, ADA) == (30_000, 300 << 20, 60)
        status, _, answer = stack.http("PATCH", f"/api/v1/users/{ADA}/limits", {"memory": "64M"})
        assert (status, answer["code"]) == (409, "conflict") and "uses" in answer["detail"]
        assert limits_of(stack, ADA)[1] == 300 << 20 and stack.json("user", "show", ADA)["limits"]["memory"] == "300M"
        assert stack.http("PATCH", f"/api/v1/users/{ADA}/limits", {"cpu": 0.6})[2]["user"]["limits"]["cpu"] == 0.6
        assert limits_of(stack, ADA)[0] == 60_000
        assert process.poll() is None
        usage = stack.json("usage", "show", ADA)
        assert 100 << 20 <= usage["memory"]["used"] <= usage["memory"]["limit"] == 300 << 20
        assert usage["tasks"]["used"] >= 1
        assert stack.http("GET", f"/api/v1/users/{ADA}/usage")[2]["cpu"]["limit"] == 0.6
        assert "memory" in stack.cli("usage", "show", ADA).stdout
    finally:
        end(process)


def test_more_than_the_host_has_is_refused(stack: Recorded) -> None:
    host = stack.json("host", "show")
    assert host["cores"] == len(os.sched_getaffinity(0)) and host["slices"] == "cgroup v1"
    assert stack.http("GET", "/api/v1/host")[2]["memory"] == host["memory"]
    assert "cores" in stack.cli("limits", "set", ADA, "--cpu", str(host["cores"] + 1), ok=2).stderr
    assert stack.json("user", "show", ADA)["limits"]["cpu"] == 0.6


def test_what_is_counted_is_told(stack: Recorded) -> None:
    status, headers, text = stack.http("GET", "/api/v1/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b'\ndiycloud_actions_total{action="user.create",outcome="done"}' in text
    assert "\ndiycloud_reconcile_runs_total" in stack.cli("metrics").stdout
    assert "diycloud_" not in stack.cli("--server", "https://x.test", "metrics", ok=2).stdout


# -- life


def test_disable_shuts_out_and_ends_what_runs(stack: Recorded) -> None:
    process, token = run_as(stack, ADA), stack.token(ADA, PASSWORD)
    bearer = {"Authorization": f"Bearer {token}", "X-Forwarded-For": "192.0.2.7"}
    assert stack.http("GET", f"/api/v1/users/{ADA}", headers=bearer)[0] == 200
    assert stack.json("user", "disable", ADA)["user"]["status"] == "inactive"
    assert process.wait(10) in (-signal.SIGKILL, -signal.SIGTERM)
    end(process)
    assert stack.http("GET", f"/api/v1/users/{ADA}", headers=bearer)[0] == 401
    assert not account_is_open(ADA), "keys and cron are shut out too"
    assert not signs_in(ADA, PASSWORD)
    assert stack.cli("user", "disable", ADA, ok=6).stderr
    settled(stack)
    assert stack.http("POST", f"/api/v1/users/{ADA}/enable")[2]["user"]["status"] == "active"
    assert account_is_open(ADA) and signs_in(ADA, PASSWORD)
    settled(stack, {ADA: PASSWORD})


def test_disable_can_keep_what_runs(stack: Recorded) -> None:
    process = run_as(stack, ADA)
    try:
        assert stack.http("POST", f"/api/v1/users/{ADA}/disable", {"keep_running": True})[0] == 200
        time.sleep(0.2)
        assert process.poll() is None and not account_is_open(ADA)
        assert stack.json("user", "enable", ADA)["user"]["status"] == "active"
    finally:
        end(process)


def test_delete_keeps_everything_and_restore_undoes_it(stack: Recorded) -> None:
    before = stack.json("user", "show", ADA)
    Path("/home", ADA, "thesis").write_text("precious")
    assert stack.json("user", "delete", ADA)["user"]["status"] == "deleted"
    assert ADA not in stack.cli("user", "list").stdout
    assert ADA in stack.cli("user", "list", "--status", "all").stdout
    assert not account_is_open(ADA) and Path("/home", ADA, "thesis").exists()
    assert stack.http("POST", "/api/v1/users", {"username": ADA})[0] == 409, "the name is not free"
    assert stack.http("POST", f"/api/v1/users/{ADA}/enable")[0] == 409, "only restore brings it back"
    after = stack.json("user", "restore", ADA)["user"]
    same = ("uid", "uuid", "limits", "email", "created_at", "full_name")
    assert {k: after[k] for k in same} == {k: before[k] for k in same} and after["status"] == "active"
    assert signs_in(ADA, PASSWORD)
    assert stack.http("DELETE", "/api/v1/users/dtabob")[2]["user"]["status"] == "deleted"
    assert stack.http("POST", "/api/v1/users/dtabob/restore")[2]["user"]["status"] == "active"
    settled(stack, {ADA: PASSWORD})


def test_purge_leaves_nothing_and_frees_the_name(stack: Recorded) -> None:
    for name in ("dtapurge", "dtapurget"):
        create(stack, name)
    assert stack.cli("user", "purge", "dtapurge", "--yes", ok=6).stderr, "only what was deleted"
    Path("/home/dtapurge/big").write_bytes(b"x" * 3_000_000)
    uid = pwd.getpwnam("dtapurge").pw_uid
    for name in ("dtapurge", "dtapurget"):
        stack.json("user", "delete", name)
    plan = stack.json("user", "purge-preview", "dtapurge")
    assert (plan["uid"], plan["home"], plan["processes"]) == (uid, "/home/dtapurge", 0) and plan["home_size"] >= "2.9M"
    assert stack.http("GET", "/api/v1/users/dtapurge/purge")[2] == plan
    assert stack.cli("user", "purge", "dtapurge", ok=2).stderr, "it asks, and nobody answers"
    gone = {"username": "dtapurge", "home_in_trash": True, "archive": "", "archive_size": ""}
    gone |= {"handed_over": 0, "warnings": []}
    assert stack.json("user", "purge", "dtapurge", "--yes") == gone
    assert stack.http("POST", "/api/v1/users/dtapurget/purge")[0] == 200
    for file in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid"):
        path = Path("/etc", file)
        assert not path.exists() or not re.search(r"^dtapurge", path.read_text(), re.M), file
    assert not Path("/home/dtapurge").exists() and not list(CGROUPS.glob(f"*/{stack.cgroup}/dtapurge*"))
    assert query(stack, "SELECT count(*) FROM users WHERE username LIKE 'dtapurge%'") == [(0,)]
    assert query(stack, "SELECT count(*) FROM resource_allocations WHERE user_id NOT IN (SELECT id FROM users)") == [
        (0,)
    ]
    again = create(stack, "dtapurge")["user"]
    assert again["uid"] > uid and not Path("/home/dtapurge/big").exists(), "the same name is another user"
    settled(stack, {"dtapurge": PASSWORD})


# -- passwords


def test_set_password_changes_both(stack: Recorded) -> None:
    token = stack.token(ADA, PASSWORD)
    stack.json("user", "set-password", ADA, "--password", "-", input=f"{OTHER}\n")
    assert verifies(ADA, OTHER) and signs_in(ADA, OTHER) and not signs_in(ADA, PASSWORD)
    bearer = {"Authorization": f"Bearer {token}", "X-Forwarded-For": "192.0.2.7"}
    assert stack.http("GET", f"/api/v1/users/{ADA}", headers=bearer)[0] == 401, "signed out everywhere"
    _, _, answer = stack.http("PUT", "/api/v1/users/dtabob/password", {})
    assert verifies("dtabob", answer["password"])
    told = stack.cli("user", "set-password", ADA, "--password", "-", input="short\n").stderr
    assert "weak" in told, "root may, and is told"
    stack.json("user", "set-password", ADA, "--password", "-", input=f"{PASSWORD}\n")


def test_ones_own_password_and_sign_out(stack: Recorded) -> None:
    bearer = {"Authorization": f"Bearer {stack.token(ADA, PASSWORD)}", "X-Forwarded-For": "192.0.2.7"}
    other = {**bearer, "Authorization": f"Bearer {stack.token(ADA, PASSWORD)}"}
    for body, field in (
        ({"current": "wrong", "password": OTHER}, "current"),
        ({"current": PASSWORD, "password": "short"}, "password"),
        ({"current": PASSWORD, "password": PASSWORD}, "password"),
    ):
        status, _, answer = stack.http("PUT", "/api/v1/account/password", body, headers=bearer)
        assert (status, [e["field"] for e in answer["errors"]]) == (422, [field])
    body = {"current": PASSWORD, "password": OTHER}
    status, _, changed = stack.http("PUT", "/api/v1/account/password", body, headers=bearer)
    assert status == 200 and verifies(ADA, OTHER)
    anew = {**bearer, "Authorization": f"Bearer {changed['session_token']}"}
    assert [stack.http("GET", f"/api/v1/users/{ADA}", headers=h)[0] for h in (bearer, other, anew)] == [401, 401, 200]
    bearer = anew
    assert stack.http("POST", "/api/v1/auth/logout", headers=bearer)[0] == 204
    assert stack.http("GET", f"/api/v1/users/{ADA}", headers=bearer)[0] == 401
    stack.json("user", "set-password", ADA, "--password", "-", input=f"{PASSWORD}\n")


def test_the_last_administrator_stays(stack: Recorded) -> None:
    create(stack, "dtaboss", "--role", "admin")
    for words in (["modify", "dtaboss", "--role", "user"], ["disable", "dtaboss"], ["delete", "dtaboss"]):
        assert "last administrator" in stack.cli("user", *words, ok=6).stderr
    create(stack, "dtabosstwo", "--role", "admin")
    bearer = {"Authorization": f"Bearer {stack.token('dtaboss', PASSWORD)}", "X-Forwarded-For": "192.0.2.7"}
    assert stack.http("POST", "/api/v1/users/dtaboss/disable", headers=bearer)[0] == 409, "nor oneself"
    assert stack.http("POST", "/api/v1/users/dtabosstwo/disable", headers=bearer)[0] == 200
    status, _, answer = stack.http(
        "POST", "/api/v1/users", {"username": "dtaweak", "password": "short"}, headers=bearer
    )
    assert (status, answer["errors"][0]["field"]) == (422, "password"), "weak ones are root's to give"


# -- import


def table(many: int, **cells: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["username", "full_name", "email", "cpu", "memory", "password"])
    for number in range(many):
        name = f"dtas{number:02d}"
        row = {"name": name, "email": f"{name}@example.org", "cpu": "0.25", **cells}
        writer.writerow(
            [row["name"], f"Student {number}, A.", row["email"], row["cpu"], "128", PASSWORD if number % 2 else ""]
        )
    return text.getvalue()


# -- domains, policies, groups, keys, bulk, export


def test_a_domain_with_its_policy_and_group_both_ways(stack: Recorded) -> None:
    made = stack.json("policy", "create", "dtasmall", "--cpu", "0.2", "--memory", "128", "--max-cpu", "0.5")
    assert made["policy"]["maxima"]["cpu"] == 0.5
    assert stack.http("POST", "/api/v1/policies", {"name": "dtaother"})[0] == 201
    assert stack.json("domain", "create", "dtaphys", "--policy", "dtasmall")["policy"] == "dtasmall"
    assert stack.http("POST", "/api/v1/domains", {"name": "dtachem"})[0] == 201
    stack.json("group", "create", "dtateam", "--domain", "dtaphys")
    assert stack.http("POST", "/api/v1/groups", {"name": "dtacrew", "domain": "dtaphys"})[0] == 201
    for kind in ("policy", "domain", "group"):
        names = {"policy": ("dtasmall", "policies"), "domain": ("dtaphys", "domains"), "group": ("dtateam", "groups")}
        name, room = names[kind]
        shown = stack.http("GET", f"/api/v1/{room}/{name}")[2]
        assert stack.json(kind, "show", name) == shown
        assert stack.json(kind, "list") == stack.http("GET", f"/api/v1/{room}")[2]


def test_a_user_gets_what_the_domain_gives(stack: Recorded) -> None:
    ann = create(stack, "dtaann", "--domain", "dtaphys", "--groups", "dtateam")["user"]
    assert (ann["policy"], ann["limits"]["cpu"], ann["groups"]) == ("dtasmall", 0.2, ["dtateam"])
    assert limits_of(stack, "dtaann")[:2] == (20_000, 128 << 20)
    assert "at most 0.5" in stack.cli("limits", "set", "dtaann", "--cpu", "1", ok=2).stderr
    assert stack.json("limits", "set", "dtaann", "--cpu", "0.4")["user"]["limits"]["cpu"] == 0.4
    assert stack.json("policy", "apply", "dtaann")["user"]["limits"]["cpu"] == 0.2
    assert stack.http("POST", "/api/v1/users/dtaann/policy", {})[0] == 200
    warned = stack.json("policy", "modify", "dtasmall", "--max-cpu", "0.1", "--cpu", "0.1")
    assert "1 user" in warned["warnings"][0]
    assert stack.http("PATCH", "/api/v1/policies/dtasmall", {"max_cpu": None})[2]["policy"]["maxima"]["cpu"] is None
    stack.cli("domain", "modify", "dtaphys", "--description", "Physics")
    assert stack.http("PATCH", "/api/v1/domains/dtaphys", {"description": None})[2]["description"] == ""
    settled(stack, {"dtaann": PASSWORD})


def test_members_come_and_go_both_ways(stack: Recorded) -> None:
    stack.cli("group", "add-members", "dtacrew", "--members", "dtaann")
    assert grp.getgrnam("dtacrew").gr_mem == ["dtaann"]
    stack.cli("group", "remove-members", "dtacrew", "--members", "dtaann")
    assert stack.http("POST", "/api/v1/groups/dtacrew/members", {"members": ["dtaann"]})[0] == 200
    assert stack.http("DELETE", "/api/v1/groups/dtacrew/members", {"members": ["dtaann"]})[0] == 200
    assert grp.getgrnam("dtacrew").gr_mem == []
    stack.cli("group", "modify", "dtacrew", "--disk", "10G")
    assert stack.http("PATCH", "/api/v1/groups/dtacrew", {"disk": None})[2]["group"]["disk"] is None
    assert stack.json("group", "remove-preview", "dtacrew") == stack.http("GET", "/api/v1/groups/dtacrew/removal")[2]
    stack.cli("group", "remove", "dtacrew", "--yes")
    with pytest.raises(KeyError):
        grp.getgrnam("dtacrew")
    settled(stack)


def test_keys_sessions_and_throttle_both_ways(stack: Recorded) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGLo0uJDu3ewRPzSZJVyHtB5p5dz3aRWUJ1vKwbRRWOi"
    added = stack.json("key", "add", "dtaann", "--key", key)
    assert stack.json("key", "list", "dtaann")["keys"] == added["keys"]
    fingerprint = added["keys"][0]["fingerprint"]
    assert stack.http("DELETE", "/api/v1/users/dtaann/keys", {"fingerprint": fingerprint})[2]["keys"] == []
    assert stack.http("POST", "/api/v1/users/dtaann/keys", {"key": key})[0] == 200
    assert stack.http("GET", "/api/v1/users/dtaann/keys")[2]["keys"] == added["keys"]
    stack.cli("key", "remove", "dtaann", "--fingerprint", fingerprint)
    token = stack.token("dtaann", PASSWORD)
    stack.cli("user", "sign-out", "dtaann")
    answer = stack.http("GET", "/api/v1/users/dtaann", headers={"Authorization": f"Bearer {token}"})
    assert answer[0] == 401
    assert stack.http("DELETE", "/api/v1/users/dtaann/sessions")[0] == 204
    stack.cli("user", "clear-throttle", "dtaann")
    assert stack.http("DELETE", "/api/v1/users/dtaann/throttle")[0] == 204


def test_sessions_proofs_and_tokens_both_ways(stack: Recorded) -> None:
    bearer = {"Authorization": f"Bearer {stack.token('dtaann', PASSWORD)}", "X-Forwarded-For": "192.0.2.7"}
    other = {**bearer, "Authorization": f"Bearer {stack.token('dtaann', PASSWORD)}"}
    found = stack.json("session", "show", "dtaann")["sessions"]
    assert stack.http("GET", "/api/v1/users/dtaann/sessions")[2]["sessions"] == found and len(found) == 2
    assert stack.json("session", "list", "--user", "dtaann")["sessions"] == found
    assert stack.http("GET", "/api/v1/sessions?user=dtaann")[2]["total"] == 2
    assert "192.0.2.7" in stack.cli("session", "show", "dtaann").stdout
    stack.cli("session", "end", "dtaann", "--session", max((s["id"] for s in found), key=int))
    assert [stack.http("GET", "/api/v1/users/dtaann", headers=h)[0] for h in (bearer, other)] == [200, 401]
    status, _, proved = stack.http("POST", "/api/v1/account/proof", {"password": PASSWORD}, headers=bearer)
    bearer["Authorization"] = f"Bearer {proved['session_token']}"
    assert status == 200 and stack.http("GET", "/api/v1/users/dtaann", headers=bearer)[0] == 200
    assert stack.cli("token", "create", "dtaann", "--label", "x", ok=4).stderr, "everybody makes their own"
    body = {"label": "a script", "scopes": ["users:read"]}
    status, _, made = stack.http("POST", "/api/v1/users/dtaann/tokens", body, headers=bearer)
    assert status == 201
    script = {**bearer, "Authorization": f"Bearer {made['secret']}"}
    assert stack.http("GET", "/api/v1/users/dtaann", headers=script)[0] == 200
    assert stack.http("GET", "/api/v1/users/dtaann/keys", headers=script)[0] == 403
    assert stack.json("token", "list", "dtaann")["tokens"][0]["key_id"] == made["token"]["key_id"]
    assert stack.http("GET", "/api/v1/users/dtaann/tokens")[2]["tokens"][0]["label"] == "a script"
    assert made["secret"][17:] not in stack.log("server") + stack.log("agent")
    stack.cli("token", "revoke", "dtaann", "--key-id", made["token"]["key_id"])
    assert stack.http("GET", "/api/v1/users/dtaann", headers=script)[0] == 401
    again = stack.http("POST", "/api/v1/users/dtaann/tokens", body, headers=bearer)[2]["token"]["key_id"]
    assert stack.http("DELETE", f"/api/v1/users/dtaann/tokens/{again}")[0] == 204
    stack.http("POST", "/api/v1/users/dtaann/tokens", body, headers=bearer)
    (left,) = stack.json("session", "show", "dtaann")["sessions"]
    assert stack.http("DELETE", f"/api/v1/users/dtaann/sessions/{left['id']}")[0] == 204
    for _ in range(6):
        wrong = {"username": "dtaann", "password": "x"}
        stack.http("POST", "/api/v1/auth/login", wrong, headers={"X-Forwarded-For": "192.0.2.9"})
    assert [w["username"] for w in stack.json("session", "waiting")["waiting"]] == ["dtaann"]
    assert stack.http("GET", "/api/v1/throttle")[2]["waiting"][0]["address"] == "192.0.2.9"
    stack.cli("user", "clear-throttle", "dtaann")
    assert stack.cli("user", "disable", "dtaann") and stack.cli("user", "enable", "dtaann")
    assert stack.json("token", "list", "dtaann")["tokens"] == [], "whoever was disabled makes new ones"


def test_links_to_people_elsewhere_both_ways(stack: Recorded) -> None:
    """What they open: test_ldap.py, test_outside_openid.py. Here no provider is set."""
    empty = stack.json("user", "identities", "dtaann")
    assert empty == stack.http("GET", "/api/v1/users/dtaann/identities")[2]
    assert (empty["identities"], empty["password"]) == ([], True)
    assert stack.http("POST", "/api/v1/users/dtaann/identities", {"provider": "uni"})[0] == 422
    linked = stack.cli("user", "link", "dtaann", "--provider", "uni", "--subject", "x")
    assert "no provider uni in the settings yet" in linked.stderr and "x" in linked.stdout
    again = stack.http("POST", "/api/v1/users/dtaann/identities", {"provider": "ldap", "subject": "y"})[2]
    assert [one["provider"] for one in again["identities"]] == ["ldap", "uni"] and again["password"]
    stack.cli("user", "unlink", "dtaann", "--provider", "uni")
    assert "ldap" in stack.cli("user", "identities", "dtaann").stdout
    assert stack.http("DELETE", "/api/v1/users/dtaann/identities", {"provider": "ldap"})[2]["identities"] == []
    assert "not linked" in stack.cli("user", "unlink", "dtaann", "--provider", "ldap", ok=5).stderr


def test_applications_both_ways(stack: Recorded) -> None:
    """What they are for: test_oidc_clients.py."""
    back = "https://app.example.org/back"
    made = stack.json(
        "app", "create", "dtawiki", "--title", "Wiki", "--redirect-uris", back, "--scopes", "openid,groups"
    )
    assert len(made["secret"]) == 43 and made["app"]["scopes"] == ["openid", "groups"] and made["app"]["pkce"]
    status, headers, phone = stack.http(
        "POST", "/api/v1/apps", {"name": "dtaphone", "redirect_uris": [back], "public": True}
    )
    assert (status, headers["location"], phone["secret"]) == (201, "/api/v1/apps/dtaphone", None)
    assert stack.json("app", "list") == stack.http("GET", "/api/v1/apps")[2]
    assert stack.json("app", "show", "dtawiki") == stack.http("GET", "/api/v1/apps/dtawiki")[2]
    assert made["secret"] not in stack.cli("app", "show", "dtawiki").stdout + stack.cli("app", "list").stdout
    assert "already" in stack.cli("app", "create", "dtawiki", "--redirect-uris", back, ok=6).stderr
    assert (
        "must begin with https"
        in stack.cli("app", "modify", "dtawiki", "--redirect-uris", "http://a.test/", ok=2).stderr
    )
    changed = stack.json(
        "app", "modify", "dtawiki", "--trusted", "--logout-uris", "https://app.example.org/bye,https://b.test/"
    )
    assert changed["app"]["trusted"] and len(changed["app"]["logout_uris"]) == 2 and changed["app"]["title"] == "Wiki"
    changed = stack.http("PATCH", "/api/v1/apps/dtawiki", {"logout_uris": [], "enabled": False})[2]
    assert (changed["app"]["logout_uris"], changed["app"]["enabled"]) == ([], False)
    fresh = stack.json("app", "rotate-secret", "dtawiki")["secret"]
    assert fresh not in (made["secret"], stack.http("POST", "/api/v1/apps/dtawiki/secret", {})[2]["secret"])
    assert "no secret" in stack.cli("app", "rotate-secret", "dtaphone", ok=6).stderr
    first = stack.json("app", "rotate-keys")
    assert stack.http("POST", "/api/v1/signing-keys", {})[2]["kept"][0] == first["kid"]
    create(stack, "dtaweb", "--memory", "64")
    me = {"Authorization": f"Bearer {stack.token('dtaweb', PASSWORD)}", "X-Forwarded-For": "192.0.2.7"}
    assert stack.http("GET", "/api/v1/account/apps", headers=me)[2] == {"apps": []} == stack.json("account", "apps")
    assert stack.http("DELETE", "/api/v1/account/apps/dtawiki", headers=me)[0] == 204
    assert stack.cli("account", "withdraw-app", "dtawiki", ok=6).stderr
    assert "gone" in stack.cli("app", "remove", "dtawiki").stdout
    assert stack.http("DELETE", "/api/v1/apps/dtaphone")[0] == 204
    stack.cli("app", "show", "dtawiki", ok=5)
    assert made["secret"] not in json.dumps(stack.json("audit", "list", "--limit", "200"))


def test_second_factors_both_ways(stack: Recorded) -> None:
    """Everybody's own, so by the session of a user; on the server itself root has none to set up."""
    create(stack, "dtatwo")
    mine = {"Authorization": f"Bearer {stack.token('dtatwo', PASSWORD)}"}

    def own(method: str, path: str, body: dict | None = None) -> dict:
        status, _, answer = stack.http(method, f"/api/v1/account{path}", body, headers=mine)
        assert status == 200, answer
        return answer

    secret = own("POST", "/totp")["secret"]
    codes = own("PUT", "/totp", {"code": totp.code_at(secret, int(time.time()) // totp.STEP_S)})["codes"]
    assert stack.json("factor", "show", "dtatwo") == stack.http("GET", "/api/v1/users/dtatwo/second-factor")[2]
    sent = {"username": "dtatwo", "password": PASSWORD}
    status, _, asked = stack.http("POST", "/api/v1/auth/login", sent, headers=FROM_AFAR)
    assert (status, asked["code"], asked["ways"]) == (401, "second-factor-needed", ["totp", "recovery"])
    for code, wanted in ((codes[0], 200), (codes[0], 401)):
        assert stack.http("POST", "/api/v1/auth/login", {**sent, "code": code}, headers=FROM_AFAR)[0] == wanted
    assert len(own("POST", "/recovery-codes")["codes"]) == 10
    begun = own("POST", "/passkeys/begin")
    made = Authenticator(begun["origin"]).register(begun["options"])
    (key,) = own("POST", "/passkeys", {"credential": made, "label": "blue"})["factors"]["passkeys"]
    assert own("PATCH", f"/passkeys/{key['id']}", {"label": "red"})["factors"]["passkeys"][0]["name"] == "red"
    assert own("DELETE", f"/passkeys/{key['id']}")["factors"]["passkeys"] == []
    assert own("DELETE", "/totp")["factors"]["totp_since"] is None
    for words in (("begin-totp",), ("renew-codes",), ("remove-totp",)):
        assert "second factor" in stack.cli("factor", *words, ok=6).stderr
    stack.cli("factor", "activate-totp", "--code", "-", input="123456\n", ok=6)
    stack.cli("passkey", "rename", "--passkey", "1", "--label", "x", ok=6)
    stack.cli("passkey", "remove", "--passkey", "1", ok=6)
    again = own("POST", "/totp")["secret"]
    own("PUT", "/totp", {"code": totp.code_at(again, int(time.time()) // totp.STEP_S)})
    assert stack.json("factor", "reset", "dtatwo")["factors"]["totp_since"] is None
    assert stack.http("DELETE", "/api/v1/users/dtatwo/second-factor")[0] == 409
    assert stack.token("dtatwo", PASSWORD)
    told = stack.log("server") + stack.log("agent") + json.dumps(stack.json("audit", "list", "--limit", "200"))
    assert secret not in told and codes[0] not in told


def test_a_user_moves_and_the_empty_goes(stack: Recorded) -> None:
    moved = stack.json("user", "modify", "dtaann", "--domain", "dtachem")
    assert (moved["user"]["domain"], moved["user"]["groups"]) == ("dtachem", [])
    assert "dtateam" in moved["warnings"][0]
    assert stack.http("DELETE", "/api/v1/groups/dtateam")[0] == 204
    assert "in use" in stack.cli("policy", "remove", "dtasmall", ok=6).stderr
    stack.cli("policy", "apply", "dtaann", "--policy", "default")
    stack.cli("domain", "remove", "dtaphys")
    stack.cli("policy", "remove", "dtasmall")
    assert stack.http("DELETE", "/api/v1/policies/dtaother")[0] == 204
    assert stack.http("DELETE", "/api/v1/domains/dtachem")[0] == 409
    assert stack.http("PATCH", "/api/v1/users/dtaann", {"domain": "default"})[0] == 200
    assert stack.http("DELETE", "/api/v1/domains/dtachem")[0] == 204
    settled(stack, {"dtaann": PASSWORD})


def test_bulk_and_export_both_ways(stack: Recorded, tmp_path: Path) -> None:
    rows = [
        {"action": "modify", "username": "dtaann", "full_name": "Ann"},
        {"action": "disable", "username": "dtanone"},
    ]
    asked = stack.http("POST", "/api/v1/users/bulk", {"changes": rows, "on_error": "continue"})[2]
    assert [row["outcome"] for row in asked["rows"]].count("refused") == 1
    (tmp_path / "rows.json").write_text(json.dumps(rows[:1]))
    stack.cli("user", "bulk", str(tmp_path / "rows.json"))
    assert stack.json("user", "show", "dtaann")["full_name"] == "Ann"
    exported = stack.http("GET", "/api/v1/export/users?format=json&search=dtaann")[2]
    assert [row["username"] for row in exported] == ["dtaann"]
    stack.cli("user", "export", str(tmp_path / "all.csv"))
    assert "dtaann" in (tmp_path / "all.csv").read_text()
    assert stack.http("GET", "/api/v1/audit/export?format=csv&user=dtaann")[0] == 200
    assert "user.bulk" in stack.cli("audit", "export", "--format", "csv", "--action", "user.").stdout


def test_every_error_of_a_table_at_once(stack: Recorded, tmp_path: Path) -> None:
    lines = table(6).splitlines()
    lines[2] = "root,Root,x,0,lots,"
    lines[4] = lines[1]
    lines[5] = f"{ADA},,,,,"
    (tmp_path / "bad.csv").write_text("\ufeff" + "\r\n".join(lines))
    report = stack.json("user", "import", str(tmp_path / "bad.csv"), ok=2)
    faults = {row["line"]: [column for column, _ in row["errors"]] for row in report["rows"] if row["errors"]}
    assert faults == {3: ["email", "cpu", "memory"], 5: ["username", "email"], 6: ["username"]}
    dry = stack.json("user", "import", str(tmp_path / "bad.csv"), "--dry-run", ok=2)
    assert dry["refused"] == 3 and [r["outcome"] for r in dry["rows"]].count("new") == 3
    assert "Nothing was changed" in stack.cli("user", "import", str(tmp_path / "bad.csv"), ok=2).stdout
    assert stack.json("user", "list", "--search", "dtas")["total"] == 0


def test_forty_students_from_a_table(stack: Recorded, tmp_path: Path) -> None:
    (tmp_path / "class.csv").write_text(table(40))
    dry = stack.json("user", "import", str(tmp_path / "class.csv"), "--dry-run")
    assert (dry["dry_run"], dry["created"], len(dry["rows"])) == (True, 0, 40)
    assert stack.json("user", "list", "--search", "dtas")["total"] == 0
    start = time.monotonic()
    report = stack.json("user", "import", str(tmp_path / "class.csv"))
    assert (report["created"], report["refused"], report["pending"]) == (40, 0, 0), time.monotonic() - start
    given = {r["username"]: r["password"] or PASSWORD for r in report["rows"]}
    assert [bool(r["password"]) for r in report["rows"]] == [True, False] * 20, "the generated are shown, this once"
    settled(stack, given)
    assert all(limits_of(stack, name) == (25_000, 128 << 20, 512) for name in given)
    assert all(verifies(name, given[name]) for name in list(given)[:4])
    assert stack.token("dtas01", PASSWORD)
    assert pwd.getpwnam("dtas01").pw_gecos == "Student 1  A."


def test_import_by_rest(stack: Recorded) -> None:
    text = "username;cpu\ndtarest;0.1\n"
    status, _, report = stack.http("POST", "/api/v1/users/import", text.encode(), headers={"Content-Type": "text/csv"})
    assert (status, report["created"]) == (200, 1)
    status, _, problem = stack.http("POST", "/api/v1/users/import", {"csv": text})
    assert (status, problem["report"]["refused"]) == (422, 1)


def test_what_the_host_refuses_is_taken_back(stack: Recorded) -> None:
    """A name that the host has as a group only the agent knows of: the answer is its refusal, and no row is left."""
    subprocess.run(["groupadd", "dtahost"], check=True)
    try:
        status, _, answer = stack.http("POST", "/api/v1/users", {"username": "dtahost"})
        assert (status, answer["code"]) == (409, "conflict") and "group" in answer["detail"]
        report = stack.json("user", "import", "-", input="username\ndtahost\ndtanext\n", ok=2)
        assert [(r["username"], r["outcome"]) for r in report["rows"]] == [
            ("dtahost", "refused"),
            ("dtanext", "created"),
        ]
        assert query(stack, "SELECT username FROM users WHERE username IN ('dtahost', 'dtanext')") == [("dtanext",)]
    finally:
        subprocess.run(["groupdel", "dtahost"], check=True)
    create(stack, "dtahost")
    settled(stack, {"dtahost": PASSWORD})


def test_many_at_once(stack: Recorded) -> None:
    """The same name is given once, different names all; what comes at the same time comes out whole."""
    with ThreadPoolExecutor(12) as many:
        same = list(many.map(lambda _: stack.http("POST", "/api/v1/users", {"username": "dtasame"})[0], range(6)))
        names = [f"dtamany{number}" for number in range(12)]
        each = list(many.map(lambda name: stack.http("POST", "/api/v1/users", {"username": name})[0], names))
        body = [{"cpu": 0.1 + number / 100} for number in range(12)]
        changed = list(many.map(lambda b: stack.http("PATCH", "/api/v1/users/dtasame/limits", b)[0], body))
    assert sorted(same) == [201, *[409] * 5]
    assert (each, changed) == ([201] * 12, [200] * 12)
    settled(stack)


def test_a_class_is_purged_by_root_at_once_and_by_others_slowly(stack: Recorded) -> None:
    """The agent takes twenty purges an hour from the server, however many administrators sign; root's word is enough."""
    names = [f"dtaclass{number:02d}" for number in range(24)]
    stack.json("user", "import", "-", input="username\n" + "\n".join(names) + "\n")
    for name in names:
        assert stack.http("DELETE", f"/api/v1/users/{name}")[0] == 200
    answers = [stack.http("POST", f"/api/v1/users/{name}/purge") for name in names]
    statuses = [status for status, _, _ in answers]
    late = names[statuses.index(429) :]
    assert set(statuses) == {200, 429} and len(late) >= 4
    assert "20 accounts" in answers[-1][2]["detail"] and 3000 < int(answers[-1][1]["retry-after"]) <= 3600
    assert {stack.json("user", "show", name)["status"] for name in late} == {"purging"}
    for name in late:
        assert stack.json("user", "purge", name, "--yes")["home_in_trash"]
    settled(stack)
    assert stack.json("user", "list", "--status", "all", "--search", "dtaclass")["total"] == 0


# -- parts down


def test_with_the_server_down_the_command_line_goes_on(stack: Recorded) -> None:
    stack.stop_server()
    try:
        made = create(stack, "dtadown", "--cpu", "0.2")
        assert made["user"]["status"] == "active" and verifies("dtadown", PASSWORD)
        assert stack.json("limits", "set", "dtadown", "--cpu", "0.4")["user"]["limits"]["cpu"] == 0.4
        assert limits_of(stack, "dtadown")[0] == 40_000
        assert "dtadown" in stack.cli("user", "list").stdout
        assert stack.cli("user", "show", "dtanobody", ok=5).stderr
        owner = pwd.getpwnam(SERVER_USER).pw_uid
        assert {path.stat().st_uid for path in stack.database().parent.iterdir()} <= {owner}
    finally:
        stack.start_server()
    settled(stack, {"dtadown": PASSWORD})


def test_with_the_agent_down_the_wish_waits(stack: Recorded) -> None:
    stack.stop_agent()
    try:
        told = stack.cli("user", "create", "dtawait", "--password", "-", input=f"{PASSWORD}\n")
        assert "pending" in told.stdout and "agent" in told.stderr
        status, headers, made = stack.http("POST", "/api/v1/users", {"username": "dtawaitt"})
        assert (status, headers["location"], made["user"]["status"]) == (202, "/api/v1/users/dtawaitt", "pending")
        changed = stack.json("limits", "set", ADA, "--cpu", "0.35")
        assert changed["user"]["settled"] is False and changed["warnings"]
        assert stack.json("user", "disable", "dtarest")["warnings"]
        assert stack.cli("usage", "show", ADA, ok=9).stderr and stack.cli("host", "show", ok=9).stderr
        stack.json("user", "delete", "dtawaitt")
    finally:
        stack.start_agent()
    stack.stop_server()
    stack.start_server()  # reconciles at once
    settled(stack)
    assert stack.json("user", "show", "dtawait")["status"] == "active"
    assert limits_of(stack, ADA)[0] == 35_000
    assert shadow_of("dtarest").expires == "1" and shadow_of("dtawaitt").expires == "1"
    stack.token("dtawait", PASSWORD, "192.0.2.20")
    assert verifies("dtawait", PASSWORD), "the host has the password since the first sign-in"
    settled(stack, {"dtawait": PASSWORD})


def test_the_audit_tells_it_all(stack: Recorded) -> None:
    entries = stack.json("audit", "list", "--limit", "1000")["entries"]
    done = {e["action"] for e in entries if e["outcome"] == "done"}
    elsewhere = ON_ROOTS_WORD | AT_THE_HUB
    assert done >= {r.action.action_name for r in ROUTES if r.method != "GET" and r.action not in elsewhere}
    assert all(e["actor"] for e in entries) and not [e for e in entries if e["outcome"] in ("started", "crashed")]
    assert PASSWORD not in json.dumps(entries) and OTHER not in json.dumps(entries)
    page = stack.http("GET", f"/api/v1/audit?user={ADA}&limit=2")[2]
    assert len(page["entries"]) == 2 and page["next"]
    assert "user.create" in stack.cli("audit", "list", "--action", "user.create").stdout


def test_every_action_was_tried_both_ways(stack: Recorded) -> None:
    here = [r for r in ROUTES if r.action not in ON_ROOTS_WORD]
    assert {r.action.action_name for r in here} - stack.used == set()
    assert {r.verb for r in here if r.verb} - stack.used == {"account password"}, (
        "of a session: tests/host/test_client.py"
    )
    assert len(rows(stack)) > 40
