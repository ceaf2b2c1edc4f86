"""API tokens: what they do, and attempts to do more with one than it lends. The whole application on a real database."""

from __future__ import annotations

import hashlib
import re
import time
from typing import Any

import pytest

from diycloud.auth import tokens
from diycloud.db.engine import Database
from tests.app.restful import FAR, PASSWORD, World
from tests.app.town import SSH, Town
from tests.waiting import until

NEW = "another long phrase of hers"


def make(town: Town, who: str, *scopes: str, **more: Any) -> str:
    """Return a new token of somebody who is signed in."""
    body = {"label": "a script", "scopes": list(scopes or ["read"]), **more}
    made = town.by(who, "POST", f"/users/{who}/tokens", json=body)
    assert made.status_code == 201, made.text
    return str(made.json()["secret"])


def status(town: World, token: str, method: str, path: str, **more: Any) -> int:
    return town.ask(method, f"/api/v1{path}", token=token, **more).status_code


def holds(town: World, token: str) -> bool:
    return status(town, token, "GET", "/auth/whoami") == 200


def test_a_token_lets_a_script_in_and_is_kept_nowhere(town: Town) -> None:
    made = town.by(
        "ada", "POST", "/users/ada/tokens", json={"label": "backup", "scopes": ["users:read"], "days": 7}
    ).json()
    secret, shown = made["secret"], made["token"]
    assert re.fullmatch(r"dct_[a-z2-7]{12}_[0-9A-Za-z]{49}", secret) and shown["key_id"] in secret
    assert shown["scopes"] == ["users:read"] and shown["label"] == "backup" and shown["last_used"] is None
    assert status(town, secret, "GET", "/users/ada") == 200
    who = town.ask("GET", "/api/v1/auth/whoami", token=secret).json()
    assert (who["username"], who["scopes"], who["role"]) == ("ada", ["users:read"], "user")
    row = town.sql("SELECT * FROM api_tokens")[0]
    part = secret.partition("_")[2].partition("_")[2][:43]
    assert hashlib.sha256(part.encode()).digest() in row
    for table in ("api_tokens", "audit", "idempotency_keys"):
        assert part not in str(town.sql(f"SELECT * FROM {table}")), "neither kept nor recorded"
    listed = town.by("ada", "GET", "/users/ada/tokens").json()["tokens"]
    assert [t["key_id"] for t in listed] == [shown["key_id"]] and part not in str(listed)


def test_use_is_noted_once_a_minute(town: Town) -> None:
    secret = make(town, "ada")
    assert holds(town, secret)
    until(lambda: town.sql("SELECT last_address FROM api_tokens") == [(FAR,)])
    at = town.sql("SELECT last_used, last_address FROM api_tokens")[0]
    assert abs(at[0] - time.time()) < 5 and at[1] == FAR
    town.sql("UPDATE api_tokens SET last_used = last_used - 50, last_address = 'x'")
    assert holds(town, secret)
    assert town.sql("SELECT last_address FROM api_tokens") == [("x",)]
    town.sql("UPDATE api_tokens SET last_used = last_used - 20")
    assert holds(town, secret)
    until(lambda: town.sql("SELECT last_address FROM api_tokens") == [(FAR,)])


def test_a_token_lends_its_scopes_and_no_more(town: Town) -> None:
    looks = make(town, "ada", "read")
    assert [status(town, looks, "GET", f"/users/ada{end}") for end in ("", "/keys", "/tokens", "/sessions")] == [
        200
    ] * 4
    assert status(town, looks, "POST", "/users/ada/keys", json={"key": SSH}) == 403
    one = make(town, "ada", "users:read")
    assert (status(town, one, "GET", "/users/ada"), status(town, one, "GET", "/users/ada/keys")) == (200, 403)
    both = make(town, "ada", "all")
    assert status(town, both, "POST", "/users/ada/keys", json={"key": SSH}) == 200
    assert status(town, both, "GET", "/users/bob") == status(town, both, "GET", "/users") == 403, (
        "the role's reach stays"
    )


@pytest.mark.parametrize("scope", [*sorted(tokens.NEVER), "host:read", "*", "", "users:read users:create", "ALL"])
def test_what_no_token_of_hers_can_lend_is_refused(town: Town, scope: str) -> None:
    body = {"label": "x", "scopes": ["users:read", scope]}
    answer = town.by("ada", "POST", "/users/ada/tokens", json=body)
    assert answer.status_code == 422 and answer.json()["errors"][0]["field"] == "scopes"
    assert town.sql("SELECT count(*) FROM api_tokens") == [(0,)]


def test_what_somebody_writes_into_the_row_lends_no_more_than_a_token_may(town: Town) -> None:
    secret = make(town, "admin", "users:read")
    town.sql("UPDATE api_tokens SET scopes = ?", " ".join(sorted(tokens.NEVER | tokens.CARRIED)))
    body = {"label": "x"}
    assert status(town, secret, "POST", "/users/admin/tokens", json=body) == 403
    assert status(town, secret, "DELETE", "/users/ada/sessions") == 403
    assert status(town, secret, "PUT", "/account/password", json={"current": PASSWORD, "password": NEW}) == 403
    assert status(town, secret, "POST", "/account/proof", json={"password": PASSWORD}) == 403
    assert status(town, secret, "POST", "/auth/logout") == 403
    assert status(town, secret, "PUT", "/users/ada/sudo", json={"granted": True}) == 403


def test_a_token_cannot_make_another_nor_change_how_its_owner_signs_in(town: Town) -> None:
    secret = make(town, "admin", "all")
    assert status(town, secret, "POST", "/users/admin/tokens", json={"label": "x"}) == 403
    assert status(town, secret, "DELETE", "/users/admin/sessions") == 403
    assert status(town, secret, "PUT", "/account/password", json={"current": PASSWORD, "password": NEW}) == 403
    assert status(town, secret, "POST", "/account/proof", json={"password": PASSWORD}) == 403


# -- escapes


def test_nobody_is_acted_for_beyond_the_scopes(town: Town) -> None:
    ada = {"X-On-Behalf-Of": "ada"}
    plain = make(town, "admin", "users:read")
    assert status(town, plain, "GET", "/users/ada", headers=ada) == 403, "acting for others is a scope of its own"
    acts = make(town, "admin", "users:read", "users:act-as")
    assert status(town, acts, "GET", "/users/ada", headers=ada) == 200
    assert status(town, acts, "GET", "/users/bob", headers=ada) == 403
    assert status(town, acts, "POST", "/users/ada/keys", json={"key": SSH}, headers=ada) == 403
    everything = make(town, "admin", "all")
    assert status(town, everything, "POST", "/users/ada/tokens", json={"label": "x"}, headers=ada) == 403
    assert status(town, everything, "DELETE", "/users/ada/sessions", headers=ada) == 403
    body = {"current": PASSWORD, "password": NEW}
    assert status(town, everything, "PUT", "/account/password", json=body, headers=ada) == 403
    assert status(town, everything, "GET", "/users/head", headers={"X-On-Behalf-Of": "head"}) == 403, (
        "with rights of its own"
    )
    assert town.sql("SELECT count(*) FROM api_tokens WHERE user_id <> 1") == [(0,)]


def test_bulk_and_import_ask_for_the_scope_of_each_row(town: Town) -> None:
    secret = make(town, "admin", "users:read", "users:modify")
    changes = [{"action": "set-password", "username": "ada", "password": NEW}, {"action": "disable", "username": "bob"}]
    answer = town.ask("POST", "/api/v1/users/bulk", token=secret, json={"changes": changes, "on_error": "continue"})
    assert [row["outcome"] for row in answer.json()["rows"]] == ["refused", "refused"], answer.text
    assert town.column("status", "bob") == "active" and town.token("ada", PASSWORD)
    create = make(town, "admin", "users:create")
    rows = [{"username": "ada", "full_name": "Somebody Else"}]
    answer = town.ask("POST", "/api/v1/users/import", token=create, json={"users": rows, "update": True})
    assert town.column("full_name") == "" and answer.json().get("changed", 0) == 0, answer.text


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/users", {"username": "eve", "role": "admin", "password": PASSWORD}),
        ("POST", "/users/import", {"users": [{"username": "eve", "role": "domain-admin", "password": PASSWORD}]}),
        ("POST", "/users/bulk", {"changes": [{"action": "create", "username": "eve", "role": "monitor"}]}),
        ("PATCH", "/users/ada", {"role": "admin"}),
        ("PUT", "/users/head/password", {"password": NEW}),
        ("PATCH", "/users/head", {"email": "me@example.org"}),
        ("POST", "/users/head/keys", {"key": SSH}),
        ("POST", "/users/bulk", {"changes": [{"action": "set-password", "username": "head", "password": NEW}]}),
    ],
)
def test_a_token_makes_nobody_more_powerful_and_nobody_powerful_its_own(
    town: Town, method: str, path: str, body: dict[str, Any]
) -> None:
    """Else whoever finds the token signs in as that account, and has what no token lends."""
    secret = make(town, "admin", "all")
    before = town.sql("SELECT username, role, email, ssh_keys, password_hash FROM users ORDER BY id")
    answer = town.ask(method, f"/api/v1{path}", token=secret, json=body)
    assert answer.status_code in (403, 422), answer.text
    assert town.sql("SELECT username, role, email, ssh_keys, password_hash FROM users ORDER BY id") == before
    assert town.by("admin", method, path, json=body).status_code < 300, "somebody who is signed in may"


# -- when it ends


def test_a_disabled_user_is_out_at_the_next_request(town: Town) -> None:
    secret = make(town, "ada")
    town.by("admin", "POST", "/users/ada/disable", json={})
    assert not holds(town, secret)
    town.by("admin", "POST", "/users/ada/enable", json={})
    assert not holds(town, secret), "and stays so: she makes another"


def test_a_row_that_somebody_disables_by_hand_is_out_too(town: Town) -> None:
    secret = make(town, "ada")
    town.sql("UPDATE users SET is_active = 0 WHERE username = 'ada'")
    assert not holds(town, secret)


@pytest.mark.parametrize(
    ("who", "method", "path", "body"),
    [
        ("ada", "PUT", "/account/password", {"current": PASSWORD, "password": NEW}),
        ("admin", "PUT", "/users/ada/password", {"password": NEW}),
        ("admin", "PATCH", "/users/ada", {"role": "monitor"}),
        ("admin", "DELETE", "/users/ada/sessions", None),
        ("ada", "DELETE", "/users/ada/sessions", None),
        ("admin", "DELETE", "/users/ada", None),
    ],
)
def test_what_takes_the_sessions_takes_the_tokens(town: Town, who: str, method: str, path: str, body: Any) -> None:
    secret = make(town, "ada")
    others = make(town, "bob")
    assert town.by(who, method, path, json=body).status_code < 300
    assert not holds(town, secret) and holds(town, others)


def test_a_new_password_leaves_the_tokens_that_are_to_be_kept(town: Town) -> None:
    secret = make(town, "ada")
    body = {"current": PASSWORD, "password": NEW, "keep_tokens": True}
    assert town.by("ada", "PUT", "/account/password", json=body).status_code == 200
    assert holds(town, secret)


def test_time_and_its_owner_end_it(town: Town) -> None:
    first, second = make(town, "ada", days=1), make(town, "ada")
    town.sql("UPDATE api_tokens SET expires_at = ? WHERE id = 1", int(time.time()))
    assert not holds(town, first) and holds(town, second)
    expired, live = sorted(town.by("ada", "GET", "/users/ada/tokens").json()["tokens"], key=lambda t: not t["expired"])
    assert expired["expired"] and not live["expired"]
    assert town.by("ada", "DELETE", f"/users/ada/tokens/{live['key_id']}").status_code == 204
    assert not holds(town, second)
    assert town.by("ada", "DELETE", f"/users/ada/tokens/{live['key_id']}").status_code == 404


def test_networks_hold_for_tokens(town: Town) -> None:
    secret = make(town, "ada")
    town.root("PATCH", "/users/ada", json={"allowed_client_ip": ["198.51.100.0/24"]})
    assert not holds(town, secret)
    inside: dict[str, Any] = {"address": "198.51.100.9"}
    assert status(town, secret, "GET", "/auth/whoami", **inside) == 200
    lies: dict[str, Any] = {"address": f"198.51.100.9, {FAR}"}
    assert status(town, secret, "GET", "/auth/whoami", **lies) == 401, "what a stranger writes before Nginx's own word"


def test_who_must_change_the_password_does_so_first(town: Town) -> None:
    secret = make(town, "ada")
    town.sql("UPDATE users SET must_change_password = 1 WHERE username = 'ada'")
    answer = town.ask("GET", "/api/v1/users/ada", token=secret)
    assert answer.status_code == 403 and "must be changed" in answer.json()["detail"]


# -- making and ending them


def test_everybody_makes_their_own_after_a_fresh_proof(town: Town) -> None:
    body = {"label": "x"}
    assert town.by("admin", "POST", "/users/ada/tokens", json=body).status_code == 403
    assert town.by("ada", "POST", "/users/bob/tokens", json=body).status_code == 403
    assert town.ask("POST", "/api/v1/users/ada/tokens", json=body).status_code == 403, "root has no tokens"
    town.sql("UPDATE sessions SET proved_at = proved_at - 1000")
    answer = town.by("ada", "POST", "/users/ada/tokens", json=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "proof-needed")
    proved = town.by("ada", "POST", "/account/proof", json={"password": PASSWORD}).json()
    assert town.by("ada", "GET", "/users/ada").status_code == 401, "the session goes on under another token"
    town.tokens["ada"] = proved["session_token"]
    assert town.by("ada", "POST", "/users/ada/tokens", json=body).status_code == 201


def test_administrators_see_and_end_others_tokens_within_their_reach(town: Town) -> None:
    make(town, "ada")
    (listed,) = town.by("head", "GET", "/users/ada/tokens").json()["tokens"]
    path = f"/users/ada/tokens/{listed['key_id']}"
    assert town.by("chief", "GET", "/users/ada/tokens").status_code == 403
    assert town.by("chief", "DELETE", path).status_code == town.by("bob", "DELETE", path).status_code == 403
    assert town.by("watcher", "GET", "/users/ada/tokens").status_code == 200
    assert town.by("watcher", "DELETE", path).status_code == 403
    assert town.by("bob", "DELETE", path.replace("ada", "bob")).status_code == 404, (
        "another's key id under one's own name"
    )
    assert town.by("head", "DELETE", path).status_code == 204


def test_there_are_fifty_at_most(town: Town) -> None:
    for _ in range(tokens.MOST):
        make(town, "ada")
    assert town.by("ada", "POST", "/users/ada/tokens", json={"label": "x"}).status_code == 409


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t[:-1] + ("A" if t[-1] != "A" else "B"),
        lambda t: t.replace("dct_", "dct_dct_"),
        lambda t: t + "A",
        lambda t: t[:4] + "a" * 12 + t[16:],
        lambda t: t[:20] + ("A" if t[20] != "A" else "B") + t[21:],
        lambda t: "dct_",
        lambda t: "dct__",
        lambda t: "dct_" + "a" * 5000,
        lambda t: t.upper(),
    ],
)
def test_other_tokens_hold_nothing_and_are_told_alike(town: Town, spoil: Any) -> None:
    answer = town.ask("GET", "/api/v1/users/ada", token=spoil(make(town, "ada")))
    assert answer.status_code == 401 and answer.json()["detail"] == "The token does not hold."


def test_a_right_sum_alone_opens_nothing(town: Town) -> None:
    secret = make(town, "ada")
    key_id = secret[4:16]
    _, other = tokens.make()
    forged = f"dct_{key_id}_{other[17:60]}"
    forged += tokens._sum(key_id, other[17:60])
    assert tokens.parse(forged) is not None
    assert not holds(town, forged)


def test_a_token_is_no_cookie(town: Town) -> None:
    secret = make(town, "admin", "all")
    for path in ("/", "/account", "/users"):
        answer = town.ask("GET", path, token="", headers={"Cookie": f"__Host-diycloud={secret}"})
        assert answer.status_code == 303 and answer.headers["location"].startswith("/sign-in")
    assert town.ask("GET", "/users", token=secret).status_code == 303, "pages are for people"
    assert town.ask("POST", "/account", token=secret, data={"current": PASSWORD, "password": NEW}).status_code == 403


def test_each_token_has_a_limit_of_its_own(database: Database) -> None:
    town = Town(database, requests_per_minute=40)
    town.fill()
    first, second = make(town, "ada"), make(town, "ada")
    seen = [status(town, first, "GET", "/auth/whoami") for _ in range(41)]
    assert seen[:40] == [200] * 40 and seen[40] == 429
    assert holds(town, second)


def test_the_audit_says_which_token_did_it(town: Town) -> None:
    assert town.by("ada", "POST", "/users/ada/keys", json={"key": SSH}).status_code == 200
    secret = make(town, "admin", "users:modify", "audit:read")
    key_id = tokens.parse(secret).key_id  # type: ignore[union-attr]  # it is one
    assert status(town, secret, "PATCH", "/users/ada", json={"description": "by script"}) == 200
    assert status(town, secret, "POST", "/users/ada/disable") == 403
    found = town.by("admin", "GET", f"/audit?token={key_id}").json()["entries"]
    assert [(row["action"], row["outcome"]) for row in found] == [("user.disable", "refused"), ("user.modify", "done")]
    assert {(row["token"], row["actor"]) for row in found} == {(key_id, "admin")}
    assert town.sql("SELECT token FROM audit WHERE action = 'key.add'") == [("",)], "a session has none"
    made = town.by("admin", "GET", "/audit?action=token.create").json()["entries"][0]
    assert made["changes"]["key_id"] == [None, key_id], "by which a token that has ended is found"
    exported = town.by("admin", "GET", f"/audit/export?format=csv&token={key_id}").text.splitlines()
    assert exported[0].endswith(",token") and all(line.endswith(key_id) for line in exported[1:]) and len(exported) == 3


def test_the_audit_says_by_which_token_somebody_acted_for_another(town: Town) -> None:
    secret = make(town, "admin", "all")
    answer = town.ask(
        "POST", "/api/v1/users/ada/keys", token=secret, json={"key": SSH}, headers={"X-On-Behalf-Of": "ada"}
    )
    assert answer.status_code == 200, answer.text
    rows = town.sql("SELECT actor, on_behalf_of, token FROM audit WHERE action = 'key.add'")
    assert rows == [("admin", "ada", tokens.parse(secret).key_id)]  # type: ignore[union-attr]  # it is one


def test_a_token_is_not_sent_to_prove_what_it_cannot(town: Town) -> None:
    """Its owner would ask for the proof, get it, and still be refused: the error says so at once."""
    secret = make(town, "admin", "users:password")
    sent = {"provider": "uni", "subject": "s-1"}
    refused = town.ask("POST", "/api/v1/users/ada/identities", token=secret, json=sent)
    assert (refused.status_code, refused.json()["code"]) == (403, "permission-denied")
    assert town.sql("SELECT * FROM identities") == []
