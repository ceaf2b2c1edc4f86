"""One kept connection to a service, as its clients hold it."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from tests.bench.setting import Service


class Client:
    """Sends requests one after another. Raises RuntimeError for an answer that is no success."""

    def __init__(self, server: Service) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(server.base).netloc, timeout=600)
        self._headers = {"Authorization": f"Bearer {server.token}", **server.headers}

    def raw(self, path: str) -> bytes:
        return self._send("GET", path, None, "")

    def get(self, path: str) -> Any:
        return json.loads(self.raw(path))

    def post(self, path: str, body: object = None, kind: str = "application/json") -> Any:
        """Send a body: text as it is, None as nothing, all else as JSON."""
        text = body if isinstance(body, str) else "" if body is None else json.dumps(body)
        return json.loads(self._send("POST", path, text.encode(), kind))

    def _send(self, method: str, path: str, body: bytes | None, kind: str) -> bytes:
        headers = self._headers | ({"Content-Type": kind} if body else {})
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:500].decode(errors='replace')}")
        return text
