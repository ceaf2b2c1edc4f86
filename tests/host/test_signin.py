"""Sign-in as strangers try it through Nginx: the same answer and time for every failure, slowed down, never locked out."""

from __future__ import annotations

import http.client
import itertools
import json
import pwd
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode

import pytest

from diycloud.core.routes import PREFIX, ROUTES
from tests.cluster import Cluster
from tests.conftest import OWN, cannot_run
from tests.invariants import query
from tests.stack import SERVER_USER, Stack

pytestmark = pytest.mark.skipif(bool(cannot_run()), reason=cannot_run() or "-")
PASSWORD, OTHER = "correct horse battery", "another good phrase"
ADA, OFF, GONE = "dtiada", "dtioff", "dtigone"
_addresses = (f"198.51.{a}.{b}" for a, b in itertools.product(range(100, 120), range(1, 250)))


@pytest.fixture(scope="module")
def stack(stack_cluster: Cluster | None) -> Iterator[Stack]:
    with Stack(**OWN, cluster=stack_cluster) as running:
        names = [ADA, OFF, GONE, *(f"dti{kind}{n}" for kind in ("a", "off") for n in range(8))]
        running.cli("user", "import", "-", input="username,password\n" + "".join(f"{n},{PASSWORD}\n" for n in names))
        for name in [OFF, *(f"dtioff{n}" for n in range(8))]:
            running.cli("user", "disable", name)
        running.cli("user", "delete", GONE)
        yield running


def address() -> str:
    """Return an address nobody has come from."""
    return next(_addresses)


def login(stack: Stack, name: str, password: str, come_from: str | None = None) -> tuple[int, dict, dict]:
    given = {"X-Forwarded-For": come_from or address()}
    return stack.http("POST", "/api/v1/auth/login", {"username": name, "password": password}, headers=given)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "X-Forwarded-For": "192.0.2.7"}


def holds(stack: Stack, token: str, name: str = ADA) -> bool:
    status, headers, _ = stack.http("GET", f"/api/v1/users/{name}", headers=bearer(token))
    assert status in (200, 401)
    assert status == 200 or headers["www-authenticate"].startswith("Bearer")
    return status == 200


# -- failures


FAILURES = {
    "nobody": ("dtinobody", PASSWORD), "wrong": (ADA, "wrong password"), "disabled": (OFF, PASSWORD),
    "deleted": (GONE, PASSWORD), "empty": (ADA, ""), "odd": ("root'--", PASSWORD), "long": ("a" * 5000, "b" * 5000),
    "the hash": (ADA, "$argon2id$v=19$m=19456,t=2,p=1$x"), "placeholder": (ADA, "PLACEHOLDER"),
}  # fmt: skip


def test_every_failure_gets_the_same_answer(stack: Stack) -> None:
    answers = set()
    for name, password in FAILURES.values():
        status, headers, body = login(stack, name, password)
        assert re.fullmatch(r"[0-9a-z]+", body.pop("request_id"))
        kept = {k: v for k, v in headers.items() if k not in ("date",)}
        answers.add((status, json.dumps(body, sort_keys=True), json.dumps(kept, sort_keys=True)))
    assert len(answers) == 1
    assert next(iter(answers))[0] == 401


def test_every_failure_takes_the_same_time(stack: Stack) -> None:
    """Medians within 15 %: taken in turns, so that a busy machine is busy for all; the best of three goes."""
    kinds = {"nobody": "dtinobody{}", "wrong": "dtia{}", "disabled": "dtioff{}"}
    spread = []
    for _ in range(3):
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for number in range(24):
            for kind, name in kinds.items():
                come_from = address()
                start = time.perf_counter()
                status, _, _ = login(
                    stack, name.format(number % 8), PASSWORD + ("x" if kind == "wrong" else ""), come_from
                )
                times[kind].append(time.perf_counter() - start)
                assert status == 401
        medians = [statistics.median(found) for found in times.values()]
        spread.append(max(medians) / min(medians))
        if spread[-1] <= 1.15:
            return
    raise AssertionError(f"medians apart by {spread}")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"username": "x"}', b'{"username": 1, "password": 2}', b'{"username": "x", "password": null}',
             b'{"username": "a", "username": "b", "password": "c"}', b'{"username": "\\ud800", "password": "x"}'],
)  # fmt: skip
def test_what_is_no_sign_in(stack: Stack, body: bytes) -> None:
    status, _, answer = stack.http("POST", "/api/v1/auth/login", body, headers={"X-Forwarded-For": address()})
    assert (status, answer["code"]) == (422, "invalid-input")
    status, _, _ = stack.http(
        "POST",
        "/api/v1/auth/login",
        b'{"username": "a\\u0000b", "password": "\\u0000"}',
        headers={"X-Forwarded-For": address()},
    )
    assert status == 401


def test_secrets_are_in_no_log_and_no_audit(stack: Stack) -> None:
    login(stack, ADA, "a very secret guess")
    done = login(stack, ADA, PASSWORD)[2]
    audit = json.dumps(query(stack, "SELECT * FROM audit"))
    for secret in ("a very secret guess", PASSWORD, done["token"]):
        assert secret not in stack.log("server") + stack.log("agent") + audit
        assert secret.encode() not in b"".join(p.read_bytes() for p in stack.database().parent.iterdir())
    outcomes = query(stack, "SELECT outcome, actor FROM audit WHERE action = 'session.begin' ORDER BY id DESC LIMIT 2")
    assert outcomes == [("done", ADA), ("refused", "(nobody)")]


# -- throttling


def test_guessing_is_slowed_and_the_real_user_gets_in(stack: Stack) -> None:
    guesser, home = address(), address()
    assert login(stack, ADA, PASSWORD, home)[0] == 200
    statuses = [login(stack, ADA, f"guess {n}", guesser)[0] for n in range(8)]
    assert statuses[:5] == [401] * 5 and statuses[-1] == 429
    status, headers, body = login(stack, ADA, PASSWORD, guesser)
    assert (status, body["code"]) == (429, "too-many-requests") and int(headers["retry-after"]) >= 1
    assert login(stack, ADA, PASSWORD, home)[0] == 200
    assert login(stack, ADA, PASSWORD, address())[0] == 200


def test_guesses_sent_all_at_once_are_slowed_too(stack: Stack) -> None:
    guesser = address()
    with ThreadPoolExecutor(30) as many:
        statuses = list(many.map(lambda n: login(stack, "dtia0", f"guess {n}", guesser)[0], range(30)))
    assert statuses.count(401) <= 6 and set(statuses) <= {401, 429, 503}


def test_many_good_sign_ins_are_no_guessing(stack: Stack) -> None:
    come_from = address()
    assert {login(stack, f"dtia{n % 8}", PASSWORD, come_from)[0] for n in range(40)} == {200}


# -- the end of a session


def test_a_token_is_dead_after(stack: Stack) -> None:
    ways: dict[str, Any] = {
        "disabling": lambda: (stack.cli("user", "disable", ADA), stack.cli("user", "enable", ADA)),
        "deleting": lambda: (stack.cli("user", "delete", ADA), stack.cli("user", "restore", ADA)),
        "a new password": lambda: stack.cli("user", "set-password", ADA, "--password", "-", input=PASSWORD),
        "another role": lambda: [stack.cli("user", "modify", ADA, "--role", role) for role in ("monitor", "user")],
        "its end": lambda: query(stack, "UPDATE sessions SET expires_at = ?", int(time.time())),
        "idleness": lambda: query(stack, "UPDATE sessions SET last_seen = last_seen - 7201"),
        "a hand": lambda: query(stack, "UPDATE users SET is_active = 0 WHERE username = ?", ADA),
    }  # fmt: skip
    for way, end in ways.items():
        token = login(stack, ADA, PASSWORD)[2]["token"]
        assert holds(stack, token), way
        end()
        assert not holds(stack, token), way
    query(stack, "UPDATE users SET is_active = 1 WHERE username = ?", ADA)


def test_signing_out_ends_one_session(stack: Stack) -> None:
    first, second = (login(stack, ADA, PASSWORD)[2]["token"] for _ in range(2))
    assert stack.http("POST", "/api/v1/auth/logout", headers=bearer(first))[0] == 204
    assert (holds(stack, first), holds(stack, second)) == (False, True)


def test_ones_own_new_password_ends_the_others(stack: Stack) -> None:
    first, second = (login(stack, ADA, PASSWORD)[2]["token"] for _ in range(2))
    body = {"current": PASSWORD, "password": OTHER}
    status, _, changed = stack.http("PUT", "/api/v1/account/password", body, headers=bearer(first))
    assert status == 200 and holds(stack, changed["session_token"])
    assert (holds(stack, first), holds(stack, second)) == (False, False), "whoever took the first has nothing either"
    assert [login(stack, ADA, p)[0] for p in (PASSWORD, OTHER)] == [401, 200]
    stack.cli("user", "set-password", ADA, "--password", "-", input=PASSWORD)


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer ", "Bearer x", "Basic eDp4", "bearer " + "x" * 4000, "x", "Bearer \xff"]
)
def test_other_tokens_hold_nothing(stack: Stack, header: str) -> None:
    """Also for root's own socket: who shows a token is who the token says, or nobody."""
    for more in ({}, {"X-Forwarded-For": "192.0.2.7"}):
        assert stack.http("GET", "/api/v1/users", headers={"Authorization": header, **more})[0] == 401


def test_a_one_time_password_opens_nothing_but_its_change(stack: Stack) -> None:
    _, _, made = stack.http("POST", "/api/v1/users", {"username": "dtinew"})
    status, _, done = login(stack, "dtinew", made["password"])
    assert status == 200 and done["must_change_password"] is True
    for route in ROUTES:
        if route.action.action_name in ("password.change", "session.end"):
            continue
        path = PREFIX + route.path.replace("{username}", "dtinew")
        body = None if route.method == "GET" else {}
        status, _, answer = stack.http(route.method, path, body, headers=bearer(done["token"]))
        assert (status, answer["code"]) == (403, "permission-denied"), route.path
    body = {"current": made["password"], "password": OTHER}
    status, _, changed = stack.http("PUT", "/api/v1/account/password", body, headers=bearer(done["token"]))
    anew = bearer(changed["session_token"])
    assert status == 200 and not holds(stack, done["token"])
    assert stack.http("GET", "/api/v1/users/dtinew", headers=anew)[2]["must_change_password"] is False
    assert stack.http("GET", "/api/v1/users", headers=anew)[0] == 403, "and is a plain user then"


# -- the portal's cookie


class Browser:
    """A visitor with cookies, behind Nginx."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.come_from = stack, address()
        self.cookies: dict[str, str] = {}
        self.set_cookie = ""

    def send(self, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, dict, str]:
        given = {
            "X-Forwarded-For": self.come_from,
            "Host": "cloud.test",
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        if self.cookies:
            given["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        status, answered, text = self.stack.http(method, path, body, headers=given)
        for name, value in answered.items():
            if name.lower() == "set-cookie":
                self.set_cookie = value
                for morsel in SimpleCookie(value).values():
                    self.cookies[morsel.key] = morsel.value
        return status, answered, text.decode() if isinstance(text, bytes) else json.dumps(text)

    def form(self, path: str, **fields: str) -> tuple[int, dict, str]:
        return self.send(
            "POST",
            path,
            urlencode(fields),
            Content_Type="application/x-www-form-urlencoded",
            Origin="https://cloud.test",
        )

    def sign_in(self, name: str = ADA, password: str = PASSWORD) -> int:
        return self.form("/sign-in", username=name, password=password)[0]

    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.send("GET", "/")[2])
        assert found is not None
        return found[1]


def test_the_cookie_is_kept_from_scripts_and_other_sites(stack: Stack) -> None:
    browser = Browser(stack)
    assert browser.sign_in() == 303
    name, _, attributes = browser.set_cookie.partition("=")
    kept = {part.strip().lower() for part in attributes.split(";")[1:]}
    assert name == "__Host-diycloud"
    assert {"httponly", "secure", "path=/"} <= kept and not any(part.startswith("domain") for part in kept)
    assert kept & {"samesite=lax", "samesite=strict"}
    token = browser.cookies["__Host-diycloud"]
    assert token.encode() not in b"".join(p.read_bytes() for p in stack.database().parent.iterdir())


def test_a_change_by_cookie_needs_the_page_it_comes_from(stack: Stack) -> None:
    browser = Browser(stack)
    browser.sign_in()
    csrf = browser.csrf()
    assert browser.send("GET", f"/api/v1/users/{ADA}")[0] == 200
    body = json.dumps({"current": "wrong", "password": OTHER})
    sent = {"Content_Type": "application/json"}

    def change(**headers: str) -> int:
        return browser.send("PUT", "/api/v1/account/password", body, **sent, **headers)[0]

    assert change() == 403, "no token"
    assert change(X_CSRF_Token="x") == 403
    assert change(X_CSRF_Token="\xff") == 403
    assert change(X_CSRF_Token=csrf, Sec_Fetch_Site="cross-site") == 403
    assert change(X_CSRF_Token=csrf, Sec_Fetch_Site="same-site") == 403
    assert change(X_CSRF_Token=csrf, Origin="https://evil.test") == 403
    assert change(X_CSRF_Token=csrf, Origin="null") == 403
    assert change(X_CSRF_Token=csrf, Origin="https://cloud.test") == 422, "it gets as far as the wrong password"
    other = Browser(stack)
    other.sign_in()
    assert change(X_CSRF_Token=other.csrf()) == 403, "each session has its own"


def test_forms_of_other_sites_change_nothing(stack: Stack) -> None:
    browser = Browser(stack)
    browser.sign_in()
    form = urlencode({"current": PASSWORD, "password": OTHER, "again": OTHER})
    for headers in ({"Origin": "https://evil.test"}, {"Sec_Fetch_Site": "cross-site"}, {}):
        status, _, _ = browser.send(
            "POST", "/account", form, Content_Type="application/x-www-form-urlencoded", **headers
        )
        assert status == 403
    assert login(stack, ADA, PASSWORD)[0] == 200
    form, kind = urlencode({"username": ADA, "password": PASSWORD}), "application/x-www-form-urlencoded"
    assert Browser(stack).send("POST", "/sign-in", form, Content_Type=kind, Origin="https://evil.test")[0] == 403


def test_a_sign_in_begins_a_new_session_and_ends_the_old(stack: Stack) -> None:
    browser = Browser(stack)
    browser.cookies["__Host-diycloud"] = "planted"
    assert browser.sign_in() == 303
    first = browser.cookies["__Host-diycloud"]
    assert first != "planted"
    browser.form("/sign-in", username=ADA, password=PASSWORD, csrf=browser.csrf())
    second = browser.cookies["__Host-diycloud"]
    assert second != first
    browser.cookies["__Host-diycloud"] = first
    assert browser.send("GET", f"/api/v1/users/{ADA}")[0] == 401
    browser.cookies["__Host-diycloud"] = second
    assert browser.form("/sign-out", csrf=browser.csrf())[0] == 303
    browser.cookies["__Host-diycloud"] = second
    assert browser.send("GET", f"/api/v1/users/{ADA}")[0] == 401


def test_the_portal_fails_alike_too(stack: Stack) -> None:
    answers = set()
    for name, password in (("dtinobody", PASSWORD), (ADA, "wrong"), (OFF, PASSWORD), (GONE, PASSWORD)):
        status, _, page = Browser(stack).form("/sign-in", username=name, password=password)
        answers.add((status, page.replace(name, "NAME")))
    assert len(answers) == 1 and next(iter(answers))[0] == 401
    for body in ("username=%ff&password=%ff", "username=%00&password=%00", "a=" + "b" * 5000, "%", "username"):
        status, _, _ = Browser(stack).send(
            "POST", "/sign-in", body, Content_Type="application/x-www-form-urlencoded", Origin="https://cloud.test"
        )
        assert status in (401, 422), (body[:30], status)


@pytest.mark.parametrize(
    "target",
    [
        "//evil.test",
        "https://evil.test/",
        "/\\evil.test",
        "javascript:alert(1)",
        "/x\r\nSet-Cookie: a=b",
        "/\t/evil.test",
    ],
)
def test_nobody_is_sent_elsewhere_after_signing_in(stack: Stack, target: str) -> None:
    browser = Browser(stack)
    status, headers, _ = browser.form("/sign-in", username=ADA, password=PASSWORD, next=target)
    assert (status, headers["location"]) == (303, "/")


# -- who speaks


def test_root_is_root_only_for_itself(stack: Stack) -> None:
    assert stack.http("GET", "/api/v1/users")[0] == 200
    for name in ("X-Forwarded-For", "x-forwarded-for"):
        for value in ("192.0.2.7", "", "127.0.0.1", "unix-uid"):
            assert stack.http("GET", "/api/v1/users", headers={name: value})[0] == 401
            assert stack.http("POST", "/api/v1/users", {"username": "dtix"}, headers={name: value})[0] == 401


def test_another_account_at_the_socket_is_nobody(stack: Stack) -> None:
    """The server's own account stands for Nginx: it reaches the socket, and is not root there."""
    code = (
        "import http.client, socket, sys; c = http.client.HTTPConnection('x'); c.sock = socket.socket(socket.AF_UNIX);"
        "c.sock.connect(sys.argv[1]); c.request('GET', '/api/v1/users'); print(c.getresponse().status)"
    )
    path = str(stack.prefix / "run/diycloud/server/server.sock")
    server = pwd.getpwnam(SERVER_USER)
    for uid, gid, said in ((server.pw_uid, server.pw_gid, "401\n"), (65534, 65534, "")):
        done = subprocess.run(
            [sys.executable, "-c", code, path], user=uid, group=gid, extra_groups=[], cwd="/",
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout == said, done.stderr
        assert said or "PermissionError" in done.stderr, "others do not even reach it"


def test_only_the_last_forwarded_address_counts(stack: Stack) -> None:
    """Nginx adds the peer at the end; what stands before it, the visitor wrote."""
    guesser = address()
    statuses = [login(stack, ADA, "wrong", f"203.0.113.{n}, {guesser}")[0] for n in range(8)]
    assert statuses[-1] == 429
    assert query(stack, "SELECT DISTINCT address FROM audit WHERE address LIKE '203.0.113.%'") == []


@pytest.mark.sqlite  # a second server beside the first, which one PostgreSQL database lets nobody start
def test_on_a_tcp_port_no_header_counts_and_nobody_is_root(stack: Stack) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = stack._start("diycloud.web.main", "tcp", pwd.getpwnam(SERVER_USER), "--port", str(port))
    try:

        def ask(method: str, path: str, body: object = None, **headers: str) -> int:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            given = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
            connection.request(method, path, None if body is None else json.dumps(body), given)
            status = connection.getresponse().status
            connection.close()
            return status

        for _ in range(200):
            try:
                assert ask("GET", "/api/v1/health") == 200
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        assert ask("GET", "/api/v1/users") == 401
        assert ask("GET", "/api/v1/users", X_Forwarded_For="192.0.2.1") == 401
        guess = {"username": "dtia1", "password": "wrong"}
        statuses = [ask("POST", "/api/v1/auth/login", guess, X_Forwarded_For=f"203.0.113.{n}") for n in range(8)]
        assert statuses[-1] == 429, "all came from one address, whatever they wrote"
    finally:
        server.terminate()
        server.wait(30)
