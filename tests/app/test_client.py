"""The Python client: the real application behind a port, and servers that break off, throttle or talk nonsense."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from diycloud.auth.actions import ChangePassword, ExportAudit, ListAudit
from diycloud.client import Cloud, Progress, Report, connection, parse_size, print_progress, requests
from diycloud.core.routes import ROUTES, result_type
from diycloud.errors import (
    BY_CODE,
    Conflict,
    DiyCloudError,
    InvalidInput,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from diycloud.users.actions import (
    CreateUser,
    DeleteUser,
    DisableUser,
    ImportUsers,
    ListUsers,
    ModifyUser,
    SetLimits,
    ShowUser,
)
from tests.served import PASSWORD, Served

ROOT = Path(__file__).parents[2]


@pytest.fixture
def served(empty_database: Path, tmp_path: Path) -> Iterator[Served]:
    with Served(empty_database, tmp_path) as found:
        yield found


@pytest.fixture
def cloud(served: Served) -> Iterator[Cloud]:
    with Cloud.sign_in(served.url, "admin", PASSWORD, timeout=20) as found:
        yield found


# -- the real application


def test_actions_are_run_and_answered_typed(cloud: Cloud) -> None:
    made = cloud.ask(CreateUser(username="ada", cpu=0.5, memory=parse_size("512M"), full_name="Ada"))
    assert made.status == 202, "no agent is there: the host follows later"
    assert (made.result.user.limits.cpu, made.result.user.limits.memory) == (0.5, "512M")
    assert made.result.password and len(made.result.password) >= 12
    assert cloud.run(ShowUser(username="ada")).full_name == "Ada"
    changed = cloud.run(ModifyUser(username="ada", full_name=None)).user
    assert (changed.full_name, changed.limits.cpu) == ("", 0.5), "null clears, what is left out stays"
    assert cloud.run(SetLimits(username="ada", cpu=2)).user.limits.cpu == 2
    entries = cloud.run(ListAudit(action="user.create")).entries
    assert [(entry.actor, entry.via, entry.target) for entry in entries] == [("admin", "rest", "ada")]


def test_errors_are_the_same_as_on_the_server(cloud: Cloud) -> None:
    cloud.run(CreateUser(username="ada"))
    with pytest.raises(Conflict, match="ada") as taken:
        cloud.run(CreateUser(username="ada"))
    assert isinstance(taken.value.__cause__, requests.Problem)
    assert taken.value.__cause__.status == 409 and taken.value.__cause__.body["request_id"]
    with pytest.raises(NotFound):
        cloud.run(ShowUser(username="nobody-here"))
    with pytest.raises(InvalidInput) as wrong:
        cloud.run(ChangePassword(current="not this one", password="another long password"))
    assert [error.field for error in wrong.value.errors] == ["current"]
    with pytest.raises(InvalidInput) as rows:
        cloud.run(ImportUsers(csv="username\nbob\nBad Name\n"))
    assert [error.field for error in rows.value.errors] == ["line 3, username"]


@pytest.mark.parametrize("action", [
    ShowUser(username=".."), ShowUser(username="a/../b"), ShowUser(username="a?b#c"), ShowUser(username=""),
    CreateUser(username="ada", cpu=-1), ListUsers(limit=0), ListUsers(search="a\nb"), CreateUser(username="ada", memory=-5),
    ShowUser(username=None), ListUsers(limit="5"),  # type: ignore[arg-type]
], ids=repr)  # fmt: skip
def test_what_cannot_be_right_is_not_sent(action: Any) -> None:
    with Cloud("http://127.0.0.1:1", token="x") as nowhere, pytest.raises(InvalidInput) as refused:
        nowhere.run(action)
    assert len(refused.value.errors) == 1


def test_every_fault_is_named_at_once() -> None:
    with Cloud("http://127.0.0.1:1", token="x") as nowhere, pytest.raises(InvalidInput) as refused:
        nowhere.run(CreateUser(username="Ada", cpu=0.0, tasks=1))
    assert [error.field for error in refused.value.errors] == ["username", "cpu", "tasks"]


def test_pages_are_walked_lazily(served: Served, cloud: Cloud) -> None:
    names = [f"u{number:03}" for number in range(25)]
    cloud.run(ImportUsers(csv="username\n" + "\n".join(names)))
    assert [user.username for user in cloud.users(search="u0", limit=10)] == names
    walk = cloud.users(search="u0", limit=10)
    assert next(walk).username == "u000"
    cloud.run(DeleteUser(username="u024"))
    assert [user.username for user in walk][-1] == "u023", "later pages are asked for later"
    assert len(list(cloud.users(search="u0", status="all", limit=1000))) == 25
    entries = [entry.id for page in cloud.pages(ListAudit(limit=2)) for entry in page.entries]
    assert len(entries) >= 3 and entries == sorted(entries, reverse=True)
    with pytest.raises(TypeError, match="no pages"):
        next(cloud.pages(ShowUser(username="u000")))
    with pytest.raises(TypeError):
        next(cloud.users(shoe_size=43))


def test_many_actions_report_row_by_row_and_stop_for_none(cloud: Cloud) -> None:
    cloud.run(CreateUser(username="u2"))
    seen: list[Progress] = []
    names = ["u0", "u1", "u2", "Bad", "u4", "u5"]
    report = cloud.bulk([CreateUser(username=name) for name in names], connections=3, progress=seen.append)
    assert [row.number for row in report.rows] == list(range(6))
    assert [row.action.target for row in report.rows] == names
    assert [(row.number, type(row.error)) for row in report.failed] == [(2, Conflict), (3, InvalidInput)]
    assert [made.user.username for made in report.results] == ["u0", "u1", "u4", "u5"]
    assert [step.done for step in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1] == Progress(6, 6, 2)
    assert isinstance(cloud.bulk([]), Report)


def test_a_whole_file_is_written_as_it_comes(cloud: Cloud, tmp_path: Path) -> None:
    cloud.run(CreateUser(username="ada", full_name="Ada, Countess"))
    with open(tmp_path / "audit.csv", "w+b") as file:
        cloud.download(ExportAudit(action="user.create"), file)
    lines = (tmp_path / "audit.csv").read_text().splitlines()
    assert len(lines) == 2 and "user.create" in lines[1] and lines[0].startswith("id,")


def test_a_change_meanwhile_is_noticed(cloud: Cloud) -> None:
    cloud.run(CreateUser(username="ada", full_name="Ada"))
    shown = cloud.ask(ShowUser(username="ada"))
    assert shown.etag
    changed = cloud.ask(ModifyUser(username="ada", full_name="Augusta"), if_match=shown.etag)
    assert changed.result.user.full_name == "Augusta" and changed.etag not in ("", shown.etag)
    with pytest.raises(PreconditionFailed):
        cloud.run(ModifyUser(username="ada", full_name="Lovelace"), if_match=shown.etag)
    assert cloud.run(ShowUser(username="ada")).full_name == "Augusta"


def test_acting_on_behalf_of_somebody_is_audited_as_both(cloud: Cloud) -> None:
    cloud.run(CreateUser(username="ada"))
    assert cloud.on_behalf_of("ada").run(ShowUser(username="ada")).username == "ada"
    with pytest.raises(PermissionDenied):
        cloud.on_behalf_of("ada").run(CreateUser(username="bob"))
    refused = cloud.run(ListAudit(action="user.create", outcome="refused")).entries
    assert [(entry.actor, entry.on_behalf_of) for entry in refused] == [("admin", "ada")]


def test_who_is_not_signed_in_is_told_so(served: Served) -> None:
    with pytest.raises(Unauthenticated):
        Cloud.sign_in(served.url, "admin", "wrong password")
    with Cloud(served.url, token="made up") as stranger, pytest.raises(Unauthenticated):
        stranger.run(ListUsers())
    cloud = Cloud.sign_in(served.url, "admin", PASSWORD)
    token = cloud._headers["Authorization"].removeprefix("Bearer ")
    cloud.sign_out()
    with Cloud(served.url, token=token) as again, pytest.raises(Unauthenticated):
        again.run(ListUsers())


def test_a_user_sees_only_what_users_may(served: Served, cloud: Cloud) -> None:
    cloud.run(CreateUser(username="bob", password=PASSWORD + " bob", must_change_password=False))
    with Cloud.sign_in(served.url, "bob", PASSWORD + " bob") as bob:
        assert bob.run(ShowUser(username="bob")).username == "bob"
        with pytest.raises(PermissionDenied):
            bob.run(DisableUser(username="admin"))
        with pytest.raises(PermissionDenied):
            list(bob.users())


# -- servers that misbehave


class Scripted:
    """A server that does what the test says with each request: an answer as bytes, or b"" to break off.

    asked: method, path, headers and body of each request; connections: how often somebody connected.
    """

    def __init__(self, *answers: bytes, close: bool = False) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections = 0
        self.got = b""
        self._answers, self._close = list(answers), close
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while self._answers:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with peer, peer.makefile("rb") as reader:
                self._talk(peer, reader)

    def _talk(self, peer: socket.socket, reader: Any) -> None:
        while self._answers and (line := reader.readline()):
            method, path, _ = line.decode().split(" ")
            headers = http.client.parse_headers(reader)
            body = reader.read(int(headers.get("content-length", 0)))
            self.asked.append((method, path, {k.lower(): v for k, v in headers.items()}, body))
            answer = self._answers.pop(0)
            peer.sendall(answer)
            if not answer or self._close:
                return

    def __enter__(self) -> Scripted:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.clear()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        assert not self._thread.is_alive()


def answer(status: int, body: object = None, *headers: str) -> bytes:
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(data)}", "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


USER = {
    "username": "ada", "status": "active", "role": "user", "full_name": "Ada", "email": None, "description": "",
    "limits": {"cpu": 0.5, "memory": "512M", "disk": "5G", "disk_hard": "10G", "tasks": 512, "gpu": False},
}  # fmt: skip
"""A user as far as these tests need one; `a_user` fills in the rest as the model has it."""


def a_user() -> dict[str, Any]:
    """Return a user with every field of the model, whatever it has by now."""
    blank = {"str": "", "int": 0, "bool": False, "int | None": None, "str | None": None}
    fields = msgspec.structs.fields(result_type(ShowUser))
    return {f.name: USER.get(f.name, blank.get(str(getattr(f.type, "__name__", f.type)), [])) for f in fields}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make waiting take no time; returns what was waited for."""
    waited: list[float] = []
    monkeypatch.setattr(connection.time, "sleep", waited.append)
    return waited


def asking(scripted: Scripted, **more: Any) -> Cloud:
    return Cloud(scripted.url, token="t0ken", timeout=5, **more)


BREAK = b""


@pytest.mark.parametrize("action", [
    ShowUser(username="ada"), ListUsers(), DeleteUser(username="ada"), CreateUser(username="ada"),
], ids=lambda a: type(a).__name__)  # fmt: skip
def test_what_can_be_repeated_is_sent_again_on_a_broken_connection(action: Any, quick: list[float]) -> None:
    good = answer(404, {"code": "not-found", "detail": "x"})
    with Scripted(BREAK, b"HTTP/1.1 200 OK\r\nContent-Le", good) as scripted:
        # the second answer stops in the middle of its headers
        scripted._close = True
        with asking(scripted) as cloud, pytest.raises(NotFound):
            cloud.run(action)
    assert len(scripted.asked) == 3
    assert len({(method, path, body) for method, path, _, body in scripted.asked}) == 1
    keys = {headers.get("idempotency-key") for *_, headers, _ in scripted.asked}
    assert len(keys) == 1 and (None not in keys) == isinstance(action, CreateUser), "one key for all tries"
    assert len(quick) == 2 and quick[1] > quick[0] > 0


def test_it_gives_up_after_three(quick: list[float]) -> None:
    with Scripted(BREAK, BREAK, BREAK, answer(200)) as scripted:
        with asking(scripted) as cloud, pytest.raises(Unavailable, match="broke"):
            cloud.run(ShowUser(username="ada"))
        assert len(scripted.asked) == 3


@pytest.mark.parametrize("action", [
    ModifyUser(username="ada", full_name="A"), DisableUser(username="ada")],
 ids=lambda a: type(a).__name__)  # fmt: skip
def test_what_could_be_done_twice_is_sent_once(action: Any, quick: list[float]) -> None:
    with Scripted(BREAK, answer(200)) as scripted:
        with asking(scripted) as cloud, pytest.raises(Unavailable, match="broke") as broken:
            cloud.run(action)
        assert len(scripted.asked) == 1 and quick == []
    assert "look before you do it again" in broken.value.hint


def test_every_create_has_a_key_of_its_own() -> None:
    refused = answer(409, {"code": "conflict", "detail": "x"})
    with Scripted(refused, refused) as scripted, asking(scripted) as cloud:
        for _ in range(2):
            with pytest.raises(Conflict):
                cloud.run(CreateUser(username="ada"))
    keys = [headers["idempotency-key"] for *_, headers, _ in scripted.asked]
    assert len(set(keys)) == 2 and all(len(key) >= 32 for key in keys)
    assert scripted.connections == 1, "one connection is kept for both"


def test_a_connection_that_the_server_closed_is_not_used(quick: list[float]) -> None:
    refused = answer(409, {"code": "conflict", "detail": "x"})
    with Scripted(refused, refused, close=True) as scripted, asking(scripted) as cloud:
        for _ in range(2):
            with pytest.raises(Conflict):
                cloud.run(DisableUser(username="ada"))
            select.select([], [], [], 0.05)  # until the end of it has come from the server
    assert (len(scripted.asked), scripted.connections, quick) == (2, 2, [])


@pytest.mark.parametrize(("status", "action", "again"), [
    (429, ShowUser(username="ada"), True), (429, DisableUser(username="ada"), True),
    (503, ShowUser(username="ada"), True), (503, CreateUser(username="ada"), True), (503, DisableUser(username="ada"), False),
    (500, ShowUser(username="ada"), False), (502, ShowUser(username="ada"), False),
])  # fmt: skip
def test_a_busy_server_says_when_to_come_again(status: int, action: Any, again: bool, quick: list[float]) -> None:
    code = {429: "too-many-requests", 503: "unavailable", 500: "host-error", 502: "unavailable"}[status]
    busy = answer(status, {"code": code, "detail": "busy"}, "Retry-After: 7")
    end = answer(404, {"code": "not-found", "detail": "x"})
    with Scripted(busy, busy, end) as scripted, asking(scripted) as cloud:
        with pytest.raises(NotFound if again else BY_CODE[code]):
            cloud.run(action)
        assert (len(scripted.asked), quick) == ((3, [7, 7]) if again else (1, []))


def test_patience_has_an_end(quick: list[float]) -> None:
    busy = answer(429, {"code": "too-many-requests", "detail": "busy"}, "Retry-After: 20")
    with Scripted(*[busy] * 9) as scripted:
        with asking(scripted, patience=50) as cloud, pytest.raises(TooManyRequests) as refused:
            cloud.run(ShowUser(username="ada"))
        assert (len(scripted.asked), quick, refused.value.retry_after) == (3, [20, 20], 20)
        with pytest.raises(TooManyRequests):
            Cloud.sign_in(scripted.url, "ada", "x")
        assert quick == [20, 20], "a sign-in is not tried again by itself"


def test_silence_is_not_asked_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        begun = time.monotonic()
        with Cloud(url, token="x", timeout=0.2) as cloud, pytest.raises(Unavailable, match="timed out"):
            cloud.run(ShowUser(username="ada"))
        assert time.monotonic() - begun < 2


def test_nobody_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for cloud in (Cloud(f"http://127.0.0.1:{port}", token="x"), Cloud.at_socket(tmp_path / "none.sock")):
        with cloud, pytest.raises(connection.NotListening, match="Nobody answers"):
            cloud.run(ShowUser(username="ada"))


def test_etags_go_both_ways() -> None:
    stale = answer(409, {"code": "conflict", "detail": "changed meanwhile"})
    with Scripted(answer(200, a_user(), 'ETag: "7"'), stale) as scripted, asking(scripted) as cloud:
        shown = cloud.ask(ShowUser(username="ada"))
        assert (shown.result.full_name, shown.etag) == ("Ada", '"7"')
        with pytest.raises(Conflict):
            cloud.run(ModifyUser(username="ada", full_name="B"), if_match=shown.etag)
    assert "if-match" not in scripted.asked[0][2]
    assert scripted.asked[1][2]["if-match"] == '"7"'


def test_on_behalf_of_is_a_header() -> None:
    refused = answer(403, {"code": "permission-denied", "detail": "x"})
    with Scripted(refused, refused) as scripted, asking(scripted) as cloud:
        for one in (cloud.on_behalf_of("ada"), cloud):
            with pytest.raises(PermissionDenied):
                one.run(ListUsers())
    assert [headers.get("x-on-behalf-of") for *_, headers, _ in scripted.asked] == ["ada", None]
    assert {headers["authorization"] for *_, headers, _ in scripted.asked} == {"Bearer t0ken"}
    assert scripted.connections == 1


def export(scripted: Scripted) -> bytes:
    with asking(scripted) as cloud:
        file = io.BytesIO()
        try:
            cloud.download(ExportAudit(), file)
        finally:
            scripted.got = file.getvalue()
    return scripted.got


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_files_come_in_pieces() -> None:
    big = b"x" * 200_000
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (big, b"end\n", b""))
    with Scripted(CHUNKED + chunks, answer(200, big)) as scripted:
        assert export(scripted) == big + b"end\n"
        assert export(scripted) == big


@pytest.mark.parametrize(
    "broken", [CHUNKED + b"5\r\nhello\r\n5\r\nwo", answer(200, b"x" * 9)[:-4]], ids=["chunked", "sized"]
)
def test_a_file_that_breaks_off_is_not_taken_for_whole(broken: bytes, quick: list[float]) -> None:
    with Scripted(broken, close=True) as scripted, pytest.raises(Unavailable, match="broke"):
        export(scripted)
    assert (len(scripted.asked), quick) == (1, []), "what was written cannot be taken back"
    assert scripted.got in (b"hellowo", b"hello", b"xxxxx")


def test_a_file_that_is_refused_or_cannot_be_written() -> None:
    refused = answer(403, {"code": "permission-denied", "detail": "x"})
    with Scripted(refused, answer(200, b"text"), answer(200, b"text")) as scripted, asking(scripted) as cloud:
        with pytest.raises(PermissionDenied):
            cloud.download(ExportAudit(), io.BytesIO())
        with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
            cloud.download(ExportAudit(), full)
        with pytest.raises(TypeError, match="download"):
            cloud.run(ExportAudit())
    assert len(scripted.asked) == 2


def test_long_work_is_told_row_by_row(served: Served, cloud: Cloud) -> None:
    told: list[dict[str, Any]] = []
    text = "username\n" + "\n".join(f"u{number:03}" for number in range(120))
    report = cloud.follow(ImportUsers(csv=text), told.append)
    assert (len(report.rows), report.refused) == (120, 0)
    assert [row["username"] for row in told] == [row.username for row in report.rows]
    with pytest.raises(InvalidInput) as refused:
        cloud.follow(ImportUsers(csv="username\nBad Name\n"), told.append)
    assert [error.field for error in refused.value.errors] == ["line 2, username"]
    assert len(told) == 120


LINES = b'{"row": {"username": "a"}}\n{"row": {"username": "b"}}\n'
REPORT = {"dry_run": False, "rows": [], "created": 2, "refused": 0}


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_lines_are_lines_however_they_come(size: int) -> None:
    data = LINES + json.dumps({"report": REPORT}).encode() + b"\n"
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))
    told: list[Any] = []
    with Scripted(CHUNKED + chunks) as scripted, asking(scripted) as cloud:
        assert cloud.follow(ImportUsers(csv="username\na\nb"), told.append).created == 2
    assert [row["username"] for row in told] == ["a", "b"]
    assert "x-ndjson" in scripted.asked[0][2]["accept"]


def test_long_work_that_fails_in_the_middle() -> None:
    problem = json.dumps({"problem": {"status": 503, "code": "unavailable", "detail": "The agent is away."}}).encode()
    told: list[Any] = []
    with Scripted(answer(200, LINES + problem + b"\n"), answer(200, LINES)[:-5]) as scripted:
        with asking(scripted) as cloud, pytest.raises(Unavailable, match="agent is away"):
            cloud.follow(ImportUsers(csv="username\na"), told.append)
        scripted._close = True
        with asking(scripted) as cloud, pytest.raises(Unavailable, match="broke"):
            cloud.follow(ImportUsers(csv="username\na"), told.append)
    assert len(told) == 3


@pytest.mark.parametrize(("bad", "match"), [
    (answer(200, b"<html>hello</html>"), "not as this client knows it"), (answer(200, {"username": "ada"}), "server's version"),
    (answer(200, b"[" * 9000), "not as this client knows it"), (answer(404, b"<html>"), "HTTP 404"),
    (answer(308, b"", "Location: https://cloud.test/"), "cloud.test"), (answer(500, [1]), "HTTP 500"),
    (answer(418, {"code": "brand-new", "detail": "never seen"}), "never seen"),
    (answer(422, {"code": "invalid-input", "detail": "d", "errors": None}), "d"),
])  # fmt: skip
def test_answers_that_are_none_of_ours(bad: bytes, match: str) -> None:
    with Scripted(bad) as scripted, asking(scripted) as cloud, pytest.raises(DiyCloudError, match=match):
        cloud.run(ShowUser(username="ada"))


def test_fields_that_only_a_newer_server_knows_are_passed_over() -> None:
    with Scripted(answer(200, {**a_user(), "favourite_colour": "green"})) as scripted, asking(scripted) as cloud:
        assert cloud.run(ShowUser(username="ada")).username == "ada"


# -- addresses, requests, and what it needs


@pytest.mark.parametrize(("text", "wanted"), [
    ("cloud.example.org", "https://cloud.example.org"), ("https://cloud.example.org/", "https://cloud.example.org"),
    ("https://Cloud.Example.ORG:443", "https://cloud.example.org"), ("192.0.2.7:8443", "https://192.0.2.7:8443"),
    ("https://[2001:db8::1]:444", "https://[2001:db8::1]:444"), ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ("http://localhost", "http://localhost"), ("http://[::1]:80", "http://[::1]"),
])  # fmt: skip
def test_addresses_as_people_write_them(text: str, wanted: str) -> None:
    assert connection.check_url(text) == wanted
    assert connection.check_url(wanted) == wanted


@pytest.mark.parametrize("text", [
    "", "https://", "http://cloud.example.org", "ftp://cloud.example.org", "https://user:secret@cloud.example.org",
    "https://cloud.example.org/portal", "https://cloud.example.org?x=1", "https://cloud.example.org#x", "https://a b",
    "https://cloud.example.org:port", "https://cloud.example.org:99999", "https://[::1", "https://cloud\r\nX: y", "/etc",
    "http://127.0.0.1.evil.example",
])  # fmt: skip
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput):
        connection.check_url(text)


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.action.action_name)
def test_every_action_can_be_asked_for_and_its_answer_read(route: Any) -> None:
    assert requests.route_of(route.action) is route
    if route.status != 204:
        msgspec.json.Decoder(result_type(route.action))


def test_only_what_says_something_is_sent() -> None:
    made = requests.values_of(CreateUser(username="ada", cpu=2, memory=1 << 30, gpu=True, full_name=None))
    assert made == {"username": "ada", "cpu": 2.0, "memory": 1 << 30, "gpu": True}
    route = requests.route_of(CreateUser)
    assert requests.request_of(route, made)[2] == {"username": "ada", "cpu": 2.0, "memory": "1G", "gpu": True}
    assert requests.values_of(ModifyUser(username="ada", email=None)) == {"username": "ada", "email": None}
    with pytest.raises(TypeError, match="no action"):
        requests.values_of(42)  # type: ignore[arg-type]


def test_what_stands_in_a_path_cannot_leave_it() -> None:
    path, _, _ = requests.request_of(requests.route_of(ShowUser), {"username": "../a?b/c d"})
    assert path == "/api/v1/users/..%2Fa%3Fb%2Fc%20d"


def test_progress_is_one_line(capsys: Any) -> None:
    for done in (1, 2):
        print_progress(Progress(done, 2, 1))
    assert capsys.readouterr().err == "2 of 2, 1 failed\n"


ALONE = """
import sys
sys.path[:0] = sys.argv[1:]
import diycloud.client, diycloud.client.cloud, diycloud.client.bulk, diycloud.client.session, diycloud.client.trust
assert all(hasattr(diycloud.client, name) for name in diycloud.client.__all__)
from diycloud.cli.main import main
for words in (["--help"], ["user", "create", "--help"], ["login", "--help"], ["whoami", "--help"]):
    try:
        main(words)
    except SystemExit as done:
        assert done.code == 0
known = sys.stdlib_module_names | {"diycloud", "msgspec", "__main__"}
print(sorted({name.partition(".")[0] for name in sys.modules} - known), file=sys.stderr)
"""


def test_client_and_verbs_need_python_and_msgspec_only(tmp_path: Path) -> None:
    shutil.copytree(Path(msgspec.__file__).parent, tmp_path / "msgspec")
    words = [sys.executable, "-I", "-S", "-c", ALONE, str(tmp_path), str(ROOT / "src")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={"HOME": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_the_room_keeps_its_own_weight_low() -> None:
    code = "import sys, diycloud.client.requests, diycloud.client.connection; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"diycloud.client.cloud", "concurrent.futures", "hashlib", "asyncio"} & set(found)
    assert os.path.exists(ROOT / "src/diycloud/py.typed"), "types are for those who use it, too"
