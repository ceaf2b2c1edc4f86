"""A server that does what a test says with each request: answers, breaks off or talks nonsense."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from typing import Any

import msgspec

from diycloud.client import Cloud
from diycloud.core.routes import result_type
from diycloud.users.actions import ShowUser


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
    blank["Union"] = None  # the name that Python 3.14 has for the last two
    fields = msgspec.structs.fields(result_type(ShowUser))
    return {f.name: USER.get(f.name, blank.get(str(getattr(f.type, "__name__", f.type)), [])) for f in fields}


def asking(scripted: Scripted, **more: Any) -> Cloud:
    return Cloud(scripted.url, token="t0ken", timeout=5, **more)


BREAK = b""
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nTransfer-Encoding: chunked\r\n\r\n"
