"""`python -m diycloud.core.probe`: ask the server, by its socket and through Nginx, whether it lives.

A process of its own, because the installation touches the host through `System` only. Prints one line, exit status 0 or 1.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any

from diycloud.errors import Unavailable

PATH = "/api/v1/health"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _LoopbackTls(http.client.HTTPSConnection):
    """HTTPS to this host whatever the name resolves to, its certificate checked against our authority for that name."""

    def __init__(self, name: str, port: int, authority: Path, timeout: float) -> None:
        self._tls = ssl.create_default_context(cafile=str(authority))
        super().__init__(name, port, timeout=timeout, context=self._tls)

    def connect(self) -> None:
        plain = socket.create_connection(("127.0.0.1", self.port), self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


def ask(connection: http.client.HTTPConnection, path: str = PATH) -> str:
    """Return an empty text if the answer is 200, else what is wrong."""
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return "" if status == 200 else f"HTTP status {status}"


def ask_json(socket_path: Path, path: str) -> dict[str, Any]:
    """Return what the server tells root at an address of its API. Raises Unavailable if it does not."""
    connection = _UnixConnection(str(socket_path), 10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        found = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Unavailable(f"The server does not answer: {error}.", "Start it: `diycloud up`.") from error
    finally:
        connection.close()
    if answer.status != 200 or not isinstance(found, dict):
        raise Unavailable(f"The server answers {answer.status} at {path}.", "See its log.")
    return found


def probe(
    socket_path: Path, name: str, port: int, authority: Path, *, wait: float, also: str = "", also_name: str = ""
) -> str:
    """Ask both ways until both answer or `wait` seconds have passed. Returns an empty text or what is wrong.

    also: a path that is asked for through Nginx too, at also_name if that is given.
    """
    deadline = time.monotonic() + wait
    while True:
        began = time.monotonic()
        server = ask(_UnixConnection(str(socket_path), 5))
        nginx = "" if server else ask(_LoopbackTls(name, port, authority, 5))
        rest = "" if server or nginx or not also else ask(_LoopbackTls(also_name or name, port, authority, 5), also)
        if not server and not nginx and not rest:
            return ""
        if time.monotonic() >= deadline:
            if rest:
                return f"{also} at {also_name or name}, port {port}: {rest}"
            return f"the server at {socket_path}: {server}" if server else f"Nginx at port {port}: {nginx}"
        # Where asking takes long, what is waited for starts slowly too, and needs the processor.
        time.sleep(min(5.0, max(0.2, 9 * (time.monotonic() - began))))


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--authority", type=Path, required=True)
    parser.add_argument("--wait", type=float, default=0)
    parser.add_argument("--also", default="")
    parser.add_argument("--also-name", default="")
    given = parser.parse_args()
    also = {"also": given.also, "also_name": given.also_name}
    fault = probe(given.socket, given.name, given.port, given.authority, wait=given.wait, **also)
    sys.stderr.write(f"{fault}\n" if fault else "")
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main())
