"""Who the server believes at its edges: the kernel's word, forwarded headers, cookies, forms from elsewhere, passwords.

The whole application on a real database; the agent is away, so what needs the host waits.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from diycloud.actions.services import Services
from diycloud.agent.client import Client
from diycloud.auth.passwords import Hasher
from diycloud.auth.throttle import Throttle
from diycloud.config import Settings
from diycloud.db.engine import Database
from diycloud.users import first_admin, repository
from diycloud.web import main, once
from diycloud.web.app import make_app
from diycloud.web.identity import COOKIE, UNIX_PEER

PASSWORD = "correct horse battery"
NGINX = (UNIX_PEER, 33)
ROOT = (UNIX_PEER, 0)
FAR = {"X-Forwarded-For": "192.0.2.7"}


class Browser:
    """Sends requests to an application as they come from one peer, and keeps cookies."""

    def __init__(self, app: Starlette, peer: tuple[str, int], headers: dict[str, str]) -> None:
        self._app, self._peer, self._headers = app, peer, headers
        self.cookies = httpx.Cookies()

    def get(self, path: str, **more) -> httpx.Response:
        return self._send("GET", path, **more)

    def post(self, path: str, **more) -> httpx.Response:
        return self._send("POST", path, **more)

    def _send(self, method: str, path: str, **more) -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, client=self._peer, raise_app_exceptions=False)
            async with httpx.AsyncClient(
                transport=transport, base_url="https://cloud.test", headers=self._headers, cookies=self.cookies
            ) as client:
                answer = await client.request(method, path, **more)
                self.cookies = client.cookies
                return answer

        return asyncio.run(once())


Visit = Callable[..., Browser]


@pytest.fixture
def services(database: Database, tmp_path: Path) -> Iterator[Services]:
    hasher = Hasher(threads=1)
    asyncio.run(first_admin.ensure_admin(database, "admin", PASSWORD, one_time=False))
    agent = Client(tmp_path / "nobody.sock")
    yield Services(database=database, agent=agent, hasher=hasher, throttle=Throttle(), settings=Settings())
    hasher.close()


@pytest.fixture
def visit(services: Services) -> Visit:
    """Come to the application from a peer: (`unix-uid`, uid) or an address and port."""
    app = make_app(services, background=False)
    return lambda peer=NGINX, **headers: Browser(app, peer, headers or FAR)


def sign_in(client: Browser, password: str = PASSWORD, **headers: str) -> int:
    sent = {"username": "admin", "password": password}
    return int(client.post("/sign-in", data=sent, headers=headers).status_code)


def query(services: Services, statement: str) -> list[tuple]:
    connection = sqlite3.connect(services.database.path)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("peer", "headers", "status"),
    [
        (ROOT, {"X-Other": "x"}, 200),
        (ROOT, FAR, 401),
        (NGINX, FAR, 401),
        (NGINX, {"X-Other": "x"}, 401),
        (("127.0.0.1", 0), {"X-Other": "x"}, 401),
        ((UNIX_PEER, 1000), {"X-Other": "x"}, 401),
    ],
)
def test_only_uid_0_itself_is_the_administrator(
    visit: Visit, peer: tuple[str, int], headers: dict, status: int
) -> None:
    assert visit(peer, **headers).get("/api/v1/users").status_code == status


def test_where_a_request_comes_from_is_nginx_s_word_alone(visit: Visit, services: Services) -> None:
    for peer in (NGINX, ("203.0.113.5", 4711)):
        client = visit(peer, **{"X-Forwarded-For": "198.51.100.1, 192.0.2.7"})
        assert client.post("/api/v1/auth/login", json={"username": "admin", "password": "wrong"}).status_code == 401
    found = query(services, "SELECT address FROM audit WHERE action = 'session.begin' ORDER BY id")
    assert found == [("192.0.2.7",), ("203.0.113.5",)]


def test_an_unknown_name_and_a_wrong_password_get_one_answer(visit: Visit) -> None:
    answers = []
    for name in ("admin", "nobody-at-all"):
        answer = visit().post("/api/v1/auth/login", json={"username": name, "password": "wrong"})
        body = answer.json()
        del body["request_id"]
        answers.append((answer.status_code, body))
    assert answers[0] == answers[1]
    assert answers[0][0] == 401


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"username": "admin", "password": PASSWORD, "admin": True, "next": "/"}, {"admin", "next"}),
        ({"username": "admin"}, {"password"}),
        ({"username": 1, "password": None, "x": ""}, {"username", "password", "x"}),
        ({}, {"username", "password"}),
    ],
)
def test_signing_in_takes_its_two_fields_and_no_other(
    visit: Visit, services: Services, body: dict, fields: set[str]
) -> None:
    answer = visit().post("/api/v1/auth/login", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
    assert {error["field"] for error in answer.json()["errors"]} == fields
    assert PASSWORD not in answer.text
    assert query(services, "SELECT count(*) FROM sessions") == [(0,)]


def test_signing_in_by_rest_takes_json_only(visit: Visit) -> None:
    text = json.dumps({"username": "admin", "password": PASSWORD})
    for kind, status in (("text/plain", 415), ("application/json; charset=utf-8", 200)):
        answer = visit().post("/api/v1/auth/login", content=text, headers={"Content-Type": kind})
        assert answer.status_code == status


def test_a_form_without_its_fields_is_a_wrong_password(visit: Visit) -> None:
    for form in ({}, {"username": "admin"}, {"password": PASSWORD}, {"username": "a\0b", "password": "\0"}):
        assert visit().post("/sign-in", data=form).status_code == 401


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.test"}]
)
def test_a_form_that_another_site_sent_is_refused(visit: Visit, headers: dict[str, str]) -> None:
    client = visit()
    assert sign_in(client, **headers) == 403
    assert COOKIE not in client.cookies
    assert sign_in(client, **{"Sec-Fetch-Site": "same-origin"}) == 303
    assert client.post("/sign-out", data={}, headers=headers).status_code == 403
    assert client.get("/users").status_code == 200, "still signed in"


def test_a_session_is_the_browsers_alone(visit: Visit, services: Services) -> None:
    client = visit()
    answer = client.post("/sign-in", data={"username": "admin", "password": PASSWORD})
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-diycloud=")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
    token = client.cookies[COOKIE]
    assert token not in str(query(services, "SELECT * FROM sessions"))
    # REST takes a cookie for reading; to change anything it wants the form's token, which no other site can read.
    assert client.get("/api/v1/users").status_code == 200
    assert client.post("/api/v1/users", json={"username": "ada"}).status_code == 403


def test_a_new_sign_in_ends_the_browsers_old_session(visit: Visit, services: Services) -> None:
    client = visit()
    sign_in(client)
    old = client.cookies[COOKIE]
    (csrf,) = query(services, "SELECT csrf FROM sessions")[0]
    answer = client.post("/sign-in", data={"username": "admin", "password": PASSWORD, "csrf": csrf})
    assert answer.status_code == 303
    new = client.cookies[COOKIE]
    assert new != old
    assert query(services, "SELECT count(*) FROM sessions") == [(1,)]
    stranger = visit()
    assert stranger.get("/users", headers={"Cookie": f"{COOKIE}={old}"}).status_code == 303
    assert stranger.get("/users", headers={"Cookie": f"{COOKIE}={new}"}).status_code == 200


def test_every_page_has_the_headers_of_the_policy(visit: Visit) -> None:
    client = visit()
    for path, status in (("/sign-in", 200), ("/", 303), ("/nothing-here", 404)):
        answer = client.get(path)
        assert answer.status_code == status
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"


def test_a_full_queue_of_sign_ins_says_when_to_come_again(visit: Visit, services: Services) -> None:
    services.hasher._free = 0
    answer = visit().post("/api/v1/auth/login", json={"username": "admin", "password": PASSWORD})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert sign_in(visit()) == 503
    services.hasher._free = 1
    assert sign_in(visit()) == 303, "and nobody was slowed down for it"


def test_who_is_slowed_on_a_page_is_told_for_how_long(visit: Visit, services: Services) -> None:
    client = visit()
    sign_in(client)
    (csrf,) = query(services, "SELECT csrf FROM sessions")[0]
    for _ in range(30):
        services.throttle.failed("admin", "192.0.2.7")
    form = {"current": PASSWORD, "password": "another good phrase", "again": "another good phrase", "csrf": csrf}
    answer = client.post("/account", data=form)
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 1


@pytest.mark.parametrize("path", ["/api/v1/auth/login", "/sign-in"])
def test_what_breaks_is_told_without_its_inside(
    visit: Visit, services: Services, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async def broken(*_: object) -> bool:
        raise RuntimeError("SELECT secret FROM inside")

    monkeypatch.setattr(services.hasher, "verify", broken)
    sent = {"username": "admin", "password": PASSWORD}
    answer = visit().post(path, json=sent) if path.startswith("/api/") else visit().post(path, data=sent)
    assert answer.status_code == 500
    assert "inside" not in answer.text and "Traceback" not in answer.text
    monkeypatch.undo()
    assert sign_in(visit()) == 303, "and everything else goes on"


def test_only_the_methods_of_the_table_are_answered(visit: Visit) -> None:
    client = visit(ROOT, **{"X-Other": "x"})
    for method in ("TRACE", "PUT", "PROPFIND"):
        assert client._send(method, "/api/v1/users").status_code == 405


def test_with_the_host_away_a_create_is_promised(visit: Visit, services: Services) -> None:
    answer = visit(ROOT, **{"X-Other": "x"}).post("/api/v1/users", json={"username": "ada"})
    assert (answer.status_code, answer.headers["location"]) == (202, "/api/v1/users/ada")
    assert query(services, "SELECT status, generation <> host_generation FROM users WHERE username = 'ada'") == [
        ("pending", 1)
    ]


def test_the_first_administrator_has_no_account_on_the_host(services: Services) -> None:
    database = services.database
    row = database.read_now(repository.by_name, "admin")
    assert row is not None and row.portal_only and row.uid is None
    assert database.read_now(repository.wishes) == [], "nothing is wished of the host"
    assert database.read_now(repository.unsettled, 10) == []
    again = asyncio.run(first_admin.ensure_admin(database, "other", PASSWORD, one_time=True))
    assert (again["username"], again["created"]) == ("admin", False)


@pytest.mark.parametrize("module", [main, once])
def test_neither_server_nor_its_stand_in_runs_as_root(
    module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("sys.argv", ["server", "--prefix", str(tmp_path)])
    assert module.main() == 1
    assert "root" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_password_among_the_arguments_is_wiped_from_the_title() -> None:
    program = (
        "import sys\nfrom diycloud.cli.passwords import read_password\n"
        "given = read_password(sys.argv[1], None)\n"
        "print(given, open('/proc/self/cmdline').read().replace(chr(0), ' '))"
    )
    argv = [sys.executable, "-c", program, "hunter2-hunter2"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    given, _, title = done.stdout.partition(" ")
    assert given == "hunter2-hunter2"
    assert "hunter2" not in title
    assert "can be read by everybody" in done.stderr
