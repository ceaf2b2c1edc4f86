"""The Python client with servers that break off, throttle, are silent or talk nonsense."""

from __future__ import annotations

import io
import json
import select
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from diycloud.auth.actions import ExportAudit
from diycloud.client import Cloud, connection
from diycloud.errors import BY_CODE, Conflict, DiyCloudError, NotFound, PermissionDenied, TooManyRequests, Unavailable
from diycloud.users.actions import CreateUser, DeleteUser, DisableUser, ImportUsers, ListUsers, ModifyUser, ShowUser
from tests.app.scripted import BREAK, CHUNKED, Scripted, a_user, answer, asking


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make waiting take no time; returns what was waited for."""
    waited: list[float] = []
    monkeypatch.setattr(connection.time, "sleep", waited.append)
    return waited


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
