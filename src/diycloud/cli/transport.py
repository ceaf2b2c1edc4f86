"""Sending a request to the server: over its Unix socket, or in place while it is down."""

from __future__ import annotations

import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from diycloud.config import Paths
from diycloud.errors import BY_CODE, DiyCloudError, FieldError, InvalidInput, PermissionDenied, Unavailable

TIMEOUT_S = 900.0
"""An import of thousands takes minutes."""


class Answer(NamedTuple):
    """status: HTTP's; body: decoded JSON, None if empty."""

    status: int
    body: Any


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def send(paths: Paths, method: str, path: str, query: dict[str, str], body: dict[str, Any] | None) -> Answer:
    """Send one request as root. Raises PermissionDenied for others, Unavailable if it cannot be answered."""
    if os.geteuid() != 0:
        raise PermissionDenied("This needs root.", "Run it with sudo.")
    target = f"{path}?{urlencode(query)}" if query else path
    text = None if body is None else json.dumps(body)
    connection = _UnixConnection(paths.server_socket)
    try:
        connection.connect()
    except (FileNotFoundError, ConnectionRefusedError):
        return _in_place(paths, method, path, query, text)
    except OSError as error:
        raise Unavailable(
            f"The server's socket {paths.server_socket} cannot be used: {error.strerror}.", "See `diycloud doctor`."
        ) from error
    try:
        connection.request(method, target, text, {"Content-Type": "application/json"} if text else {})
        response = connection.getresponse()
        data = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(
            "The server broke off.", "See `diycloud status`; what was begun is finished at its next start."
        ) from error
    finally:
        connection.close()
    return Answer(response.status, json.loads(data) if data else None)


def _in_place(paths: Paths, method: str, path: str, query: dict[str, str], text: str | None) -> Answer:
    """Run the request without the server, in a child with the server's own uid (a file made by root would be root's)."""
    if not paths.database.exists():
        raise Unavailable("DIY Cloud is not set up here.", "Run `sudo ./install.sh`.")
    from diycloud.core.in_place import request_in_place

    status, body = request_in_place(paths, {"method": method, "path": path, "query": urlencode(query), "body": text})
    return Answer(status, json.loads(body) if body else None)


def checked(answer: Answer) -> Any:
    """Return the body of a good answer. Raises the error that a problem answer tells of."""
    if answer.status < 400:
        return answer.body
    problem = answer.body if isinstance(answer.body, dict) else {}
    cls = BY_CODE.get(str(problem.get("code")), DiyCloudError)
    message, hint = str(problem.get("detail", f"HTTP {answer.status}")), str(problem.get("hint", ""))
    if cls is InvalidInput:
        raise InvalidInput(
            message, hint, errors=[FieldError(e["field"], e["message"]) for e in problem.get("errors", [])]
        )
    raise cls(message, hint)
