"""`python -m diycloud.core.probe`: ask the server, by its socket and through Nginx, and notebooks' hub, whether they live.

A process of its own, because the installation touches the host through `System` only. Prints a Fault as JSON, with the exit
status 1, if one does not.
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
from typing import Any, Literal

import msgspec

from diycloud.errors import Unavailable

PATH = "/api/v1/health"
_ANSWER_S = 5
_UP = "`diycloud up` starts what is down; if it runs and yet does not answer, `diycloud {}` starts it again."
_AGAIN = {"portal": "install", "notebooks": "jupyter setup"}
_FOLLOW = "If the settings were changed, have what is served follow: `diycloud {}`."


class Fault(msgspec.Struct, frozen=True):
    """What does not answer. part: as `diycloud doctor` calls it; message: what happened; hint: what to do."""

    part: Literal["portal", "notebooks"]
    message: str
    hint: str = ""


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


def ask(connection: http.client.HTTPConnection, path: str = PATH) -> int | Exception:
    """Return the status of the answer, or why there is none."""
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return error
    finally:
        connection.close()


def _of_server(socket_path: Path, found: int | Exception) -> Fault:
    why = f"it answers {found}" if isinstance(found, int) else _reason(found)
    return Fault("portal", f"The server does not answer at {socket_path} ({why}).", _UP.format(_AGAIN["portal"]))


def _of_nginx(part: Literal["portal", "notebooks"], name: str, port: int, found: int | Exception) -> Fault:
    """Tell what is wrong where Nginx should answer for a name; the server itself is well."""
    away = "The notebooks' hub" if part == "notebooks" else "Behind Nginx the server"
    up, follow = _UP.format(_AGAIN[part]), _FOLLOW.format(_AGAIN[part])
    if isinstance(found, ssl.SSLCertVerificationError):
        if found.verify_code in _OTHER_NAME:
            return Fault(part, f"The certificate at port {port} does not name {name}.", follow)
        message = f"The certificate at port {port} is not of the platform's own authority ({found.verify_message})."
        return Fault(
            part, message,
            "`diycloud install` makes the platform's own again; another authority's cannot be used yet. If another "
            f"program has the port, or another of Nginx's sites the name {name}, end that.",
        )  # fmt: skip
    if isinstance(found, TimeoutError):
        return Fault(part, f"{away} does not answer within {_ANSWER_S} s.", up)
    if isinstance(found, Exception):
        return Fault(part, f"Nothing answers for {name} at port {port} ({_reason(found)}).", up)
    if found in (502, 503, 504):
        return Fault(part, f"{away} does not answer (Nginx says {found}).", up)
    message = f"What answers for {name} at port {port} is something else of Nginx's (status {found})."
    return Fault(part, message, f"{follow} Else another site in Nginx's settings may have that name.")


_OTHER_NAME = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH (openssl x509_vfy.h)."""


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


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
    socket_path: Path, name: str, port: int, authority: Path, *, wait: float, hub: str = "", hub_name: str = ""
) -> Fault | None:
    """Ask each way until all answer or `wait` seconds have passed. Returns the first that does not answer, None if all do.

    hub: a path of the hub's that is asked for through Nginx too, at hub_name if that is given.
    """
    deadline = time.monotonic() + wait
    while True:
        began = time.monotonic()
        fault = _probe_once(socket_path, name, port, authority, hub, hub_name or name)
        if fault is None or time.monotonic() >= deadline:
            return fault
        # Where asking takes long, what is waited for starts slowly too, and needs the processor.
        time.sleep(min(5.0, max(0.2, 9 * (time.monotonic() - began))))


def _probe_once(socket_path: Path, name: str, port: int, authority: Path, hub: str, hub_name: str) -> Fault | None:
    found = ask(_UnixConnection(str(socket_path), _ANSWER_S))
    if found != 200:
        return _of_server(socket_path, found)
    found = ask(_LoopbackTls(name, port, authority, _ANSWER_S))
    if found != 200:
        return _of_nginx("portal", name, port, found)
    found = ask(_LoopbackTls(hub_name, port, authority, _ANSWER_S), hub) if hub else 200
    return None if found == 200 else _of_nginx("notebooks", hub_name, port, found)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--authority", type=Path, required=True)
    parser.add_argument("--wait", type=float, default=0)
    parser.add_argument("--hub", default="")
    parser.add_argument("--hub-name", default="")
    given = parser.parse_args()
    hub = {"hub": given.hub, "hub_name": given.hub_name}
    fault = probe(given.socket, given.name, given.port, given.authority, wait=given.wait, **hub)
    sys.stdout.write(msgspec.json.encode(fault).decode() + "\n" if fault else "")
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main())
