"""Asking the hub over its socket: what is sent, and what its answers mean. A small server stands where the hub is.

tests/host/hub asks the real one.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from diycloud.errors import Conflict, HostError, NotFound, TooManyRequests, Unavailable
from diycloud.notebooks.hub import Hub, HubServer

API = "/jupyter/hub/api"


class Peer:
    """Answers as it is told: method and path → status and body; everything else is 404. asked: what came."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        self.asked: list[tuple[str, str, bytes, str]] = []

    def says(self, method: str, path: str, *answers: tuple[int, Any]) -> None:
        """Set what is answered one after another; the last of them from then on."""
        self.answers[method, path] = list(answers)

    async def answer(self, request: Request) -> Response:
        path = request.scope["raw_path"].decode().removeprefix(API)
        self.asked.append((request.method, path, await request.body(), request.headers.get("authorization", "")))
        told = self.answers.get((request.method, path), [(404, {"status": 404, "message": "Not Found"})])
        status, body = told.pop(0) if len(told) > 1 else told[0]
        headers = {"Retry-After": "7"} if status == 429 else None
        return Response(body, status) if isinstance(body, bytes) else JSONResponse(body, status, headers)


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    made = Peer()
    methods = ["GET", "POST", "DELETE"]
    app = Starlette(routes=[Route("/{path:path}", made.answer, methods=methods)])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "hub.sock"))
    listener.listen()
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    running = Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    running.start()
    try:
        yield made
    finally:
        server.should_exit = True
        running.join(30)
        listener.close()


@pytest.fixture
def ask(tmp_path: Path) -> Callable[[Callable[[Hub], Awaitable[Any]]], Any]:
    """Run something with a way to the hub, which is closed afterwards."""
    token = tmp_path / "token"
    token.write_text("secret\n")

    def run(do: Callable[[Hub], Awaitable[Any]]) -> Any:
        async def once() -> Any:
            hub = Hub(tmp_path / "hub.sock", token)
            try:
                return await do(hub)
            finally:
                await hub.close()

        return asyncio.run(once())

    return run


Ask = Callable[[Callable[[Hub], Awaitable[Any]]], Any]


def test_set_up_or_not(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "hub.sock", tmp_path / "token")
    assert not hub.is_set_up
    (tmp_path / "token").write_text("x")
    assert hub.is_set_up


def test_servers(peer: Peer, ask: Ask) -> None:
    model = {"ready": False, "pending": "spawn", "user_options": {"profile": "small"}}
    peer.says("GET", "/users/ada", (200, {"servers": {"": model, "b": {"ready": True, "pending": None}, "c": "odd"}}))
    found = ask(lambda hub: hub.servers("ada"))
    assert found == {"": HubServer("", False, "spawn", "small"), "b": HubServer("b", True, "")}
    assert peer.asked == [("GET", "/users/ada", b"", "token secret")]
    assert ask(lambda hub: hub.servers("nobody")) == {}


def test_start_of_somebody_the_hub_does_not_know_yet(peer: Peer, ask: Ask) -> None:
    peer.says("POST", "/users/ada/servers/big", (404, {"message": "no such user"}), (202, b""))
    peer.says("POST", "/users/ada", (201, {}))
    assert ask(lambda hub: hub.start("ada", "big", "small")) is False
    assert [(method, path) for method, path, *_ in peer.asked] == [
        ("POST", "/users/ada/servers/big"), ("POST", "/users/ada"), ("POST", "/users/ada/servers/big"),
    ]  # fmt: skip
    assert peer.asked[0][2] == b'{"user_options":{"profile":"small"}}'
    peer.says("POST", "/users/ada/server", (201, b""))
    assert ask(lambda hub: hub.start("ada", "", "")) is True
    assert peer.asked[-1][1:3] == ("/users/ada/server", b"{}")


def test_two_who_make_a_user_known_at_once(peer: Peer, ask: Ask) -> None:
    peer.says("POST", "/users/ada/server", (404, {}), (201, b""))
    peer.says("POST", "/users/ada", (409, {"message": "User ada already exists"}))
    assert ask(lambda hub: hub.start("ada", "", "")) is True


def test_one_that_runs_is_started(peer: Peer, ask: Ask) -> None:
    peer.says("POST", "/users/ada/server", (400, {"message": "ada is already running"}))
    assert ask(lambda hub: hub.start("ada", "", "")) is True


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (400, {"message": "ada is pending stop"}, Conflict, "about to end"),
        (403, {"message": "no"}, Conflict, "no"),
        (429, {"message": "Too many"}, TooManyRequests, "Many notebooks are starting"),
        (500, {"message": "It was killed for memory."}, HostError, "It was killed for memory."),
        (500, b"<html>", HostError, "answered 500"),
        (503, {"message": "in a moment"}, Unavailable, "in a moment"),
    ],
)
def test_what_a_refused_start_means(
    peer: Peer, ask: Ask, status: int, body: Any, error: type[Exception], words: str
) -> None:
    peer.says("POST", "/users/ada/server", (status, body))
    with pytest.raises(error, match=words) as refused:
        ask(lambda hub: hub.start("ada", "", ""))
    if isinstance(refused.value, TooManyRequests):
        assert refused.value.retry_after == 7


def test_a_hub_that_knows_nobody_ends(peer: Peer, ask: Ask) -> None:
    peer.says("POST", "/users/ada", (201, {}))
    with pytest.raises(NotFound):
        ask(lambda hub: hub.start("ada", "", ""))
    assert len(peer.asked) == 3


def test_stop_and_remove_of_what_is_not_there(peer: Peer, ask: Ask) -> None:
    ask(lambda hub: hub.stop("ada", "big"))
    ask(lambda hub: hub.remove("ada"))
    ask(lambda hub: hub.sign_out("ada", tokens=True, kept_session=None, last_session=9))
    assert [path for _, path, *_ in peer.asked] == ["/users/ada/servers/big", "/users/ada", "/users/ada/sign-out"]


def test_signing_out(peer: Peer, ask: Ask) -> None:
    peer.says("POST", "/users/ada/sign-out", (204, b""))
    ask(lambda hub: hub.sign_out("ada", tokens=False, kept_session=7, last_session=9))
    assert peer.asked[0][1:3] == ("/users/ada/sign-out", b'{"tokens":false,"kept_session":7,"last_session":9}')


def test_names_stay_one_segment(peer: Peer, ask: Ask) -> None:
    ask(lambda hub: hub.stop("a/../b?c", "x y"))
    assert peer.asked[-1][1] == "/users/a%2F..%2Fb%3Fc/servers/x%20y"


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>"])
def test_an_answer_that_is_none(peer: Peer, ask: Ask, body: bytes) -> None:
    peer.says("GET", "/users/ada", (200, body))
    with pytest.raises(Unavailable):
        ask(lambda hub: hub.servers("ada"))


def test_a_hub_that_is_away_is_not_waited_for_again(ask: Ask) -> None:
    async def twice(hub: Hub) -> float:
        with pytest.raises(Unavailable, match="does not answer"):
            await hub.servers("ada")
        began = time.monotonic()
        for _ in range(1000):
            with pytest.raises(Unavailable):
                await hub.servers("ada")
        return time.monotonic() - began

    assert ask(twice) < 1
