"""Connections to one server, kept open between requests, and what is sent again when one breaks.

A request is sent again only where that cannot do a thing twice (RFC 9110, 9.2.2): GET, PUT, DELETE, and a POST with an
Idempotency-Key. 429 says that nothing was done, so it is waited for with every method; 503 only with those.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from diycloud import __version__
from diycloud.client.wire import Broken, Wire
from diycloud.errors import InvalidInput, Unavailable

CONNECT_S = 10.0
IDLE_S = 30.0
"""A connection unused for so long is not used again: the server may be about to close it (Nginx after 65 s)."""
TRIES = 3
BACKOFF_S = 0.2
_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_URL = re.compile(r"[!-~]+\Z")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


Sink = Callable[[bytes], object]


class Request(NamedTuple):
    """path: with its query, encoded. body: JSON, None for none. headers: this request's own."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = {}

    @property
    def repeatable(self) -> bool:
        """Whether sending it twice does what sending it once does."""
        return self.method in _REPEATABLE or "Idempotency-Key" in self.headers


class Response(NamedTuple):
    """headers: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _SinkFailed(Exception):
    """What took an answer's body could not (a full disk, a reader that has gone): no break of the connection."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error


class NotListening(Unavailable):
    """Nobody listens at the address; nothing was sent."""


class Channel:
    """Connections to one server. Threads may share it: each request has a connection to itself.

    name: of the server, in errors. open: makes a connection. timeout: seconds of silence that mean the server is lost.
    patience: how many seconds in all a request may wait because the server says `Retry-After`. tries: how often a request
    is sent at most where connections break.
    """

    def __init__(
        self, name: str, open: Callable[[], Wire], *, timeout: float, patience: float, tries: int = TRIES
    ) -> None:
        self.name = name
        self._open = open
        self._timeout = timeout
        self._patience = patience
        self._tries = tries
        self._kept: list[tuple[Wire, float]] = []

    def send(self, request: Request, *, patient: bool = True, sink: Sink | None = None) -> Response:
        """Return the server's answer, whatever its status. Raises Unavailable where none comes, Untrusted.

        sink: takes the body of a good answer piece by piece, which is then not in the answer. patient: whether to wait
        where the server says so.
        """
        failures, waited, patience = 0, 0.0, self._patience if patient else 0.0
        while True:
            try:
                response = self._exchange(request, sink)
            except (OSError, Broken) as error:
                failures += 1
                if isinstance(error, TimeoutError) or not request.repeatable or failures == self._tries:
                    raise self._broken(request, error) from error
                time.sleep(BACKOFF_S * 4 ** (failures - 1) * (0.5 + os.urandom(1)[0] / 255))
                continue
            except _SinkFailed as failed:
                raise failed.error from None
            wait = _retry_after(request, response)
            if wait is None or waited + wait > patience:
                return response
            time.sleep(wait)
            waited += wait

    def close(self) -> None:
        """Close what is open. A later request opens a connection again."""
        while self._kept:
            self._kept.pop()[0].close()

    def _exchange(self, request: Request, sink: Sink | None) -> Response:
        wire = self._take() or self._connect()
        try:
            kind = {"Content-Type": "application/json"} if request.body is not None else {}
            sent = {"User-Agent": f"diycloud/{__version__}", **kind, **request.headers}
            head = wire.ask(request.method, request.path, sent, request.body)
            if sink is not None and head.status == 200:
                self._pour(request, wire.pieces(head), sink)
                body = b""
            else:
                body = b"".join(wire.pieces(head))
            self._kept.append((wire, time.monotonic()))
        except BaseException:  # an interrupted exchange leaves half an answer in the connection
            wire.close()
            raise
        return Response(head.status, head.headers, body)

    def _pour(self, request: Request, pieces: Iterator[bytes], sink: Sink) -> None:
        """Hand a body on as it comes. A break is told, not repaired: what was handed on cannot be taken back."""
        while True:
            try:
                part = next(pieces, b"")
            except (OSError, Broken) as error:
                raise self._broken(request, error) from error
            if not part:
                return
            try:
                sink(part)
            except OSError as error:
                raise _SinkFailed(error) from error

    def _take(self) -> Wire | None:
        """Return a kept connection that the server has not closed, None if there is none."""
        with contextlib.suppress(IndexError):  # another thread took the last one
            while True:
                wire, since = self._kept.pop()
                if time.monotonic() - since < IDLE_S and wire.is_free:
                    return wire
                wire.close()
        return None

    def _connect(self) -> Wire:
        try:
            wire = self._open()
        except (FileNotFoundError, ConnectionRefusedError, socket.gaierror) as error:
            raise NotListening(
                f"Nobody answers at {self.name}: {error.strerror}.", "See `diycloud status` on the server."
            ) from error
        wire.wait_at_most(self._timeout)
        return wire

    def _broken(self, request: Request, error: Exception) -> Unavailable:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if request.method == "GET":
            hint = "Try again; see `diycloud status` on the server."
        else:
            hint = "It may be done or not: look before you do it again. What was begun is finished by the server."
        return Unavailable(f"The connection to {self.name} broke: {reason}.", hint)


def over_unix(path: Path, *, timeout: float, patience: float, tries: int = TRIES) -> Channel:
    """Return a channel to the server's own socket, where the kernel says who asks."""
    return Channel(str(path), lambda: open_unix(path), timeout=timeout, patience=patience, tries=tries)


def over_network(url: str, *, authority: str = "", timeout: float, patience: float) -> Channel:
    """Return a channel to a checked URL. authority: the only one that is believed (PEM); empty: the system's."""
    scheme, host, port = split_url(url)
    named = url.partition("://")[2]
    if scheme == "http":
        return Channel(url, lambda: Wire(_dial(host, port), named), timeout=timeout, patience=patience)
    from diycloud.client import trust  # TLS takes 15 ms to load, and the server's own socket needs none

    context = trust.context(authority)
    return Channel(
        url, lambda: Wire(trust.secure(_dial(host, port), context, host), named), timeout=timeout, patience=patience
    )


def probe(url: str, authority: str = "") -> None:
    """See that a server answers whose certificate holds. Raises Untrusted, Unavailable."""
    channel = over_network(url, authority=authority, timeout=CONNECT_S, patience=0)
    try:
        channel.send(Request("GET", "/api/v1/health"))
    finally:
        channel.close()


def open_unix(path: Path) -> Wire:
    """Connect to a Unix socket."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(CONNECT_S)
        made.connect(str(path))
    except BaseException:
        made.close()
        raise
    return Wire(made, "localhost")


def _dial(host: str, port: int) -> socket.socket:
    made = socket.create_connection((host, port), CONNECT_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def check_url(text: str) -> str:
    """Return a server's address as it is kept: `https://cloud.example.org` or with `:PORT`.

    A bare name means https. Raises InvalidInput for anything else, for http but to this very machine too: a password
    would be readable on its way.
    """
    scheme, host, port = split_url(text)
    shown = f"[{host}]" if ":" in host else host
    usual = {"https": 443, "http": 80}[scheme]
    return f"{scheme}://{shown}" + (f":{port}" if port != usual else "")


def split_url(text: str) -> tuple[str, str, int]:
    """Return scheme, host and port of a server's address. Raises InvalidInput as `check_url`."""
    from urllib.parse import urlsplit

    given = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(given)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    extra = parts.username is not None or parts.query or parts.fragment or parts.path not in ("", "/")
    if parts.scheme not in ("https", "http") or not host or extra or not _URL.match(given):
        raise InvalidInput(f"{text[:80]!r} is no address of a server.", "Write it like https://cloud.example.org.")
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise InvalidInput("Over http everybody on the way could read the password.", f"Use https://{host}.")
    return parts.scheme, host, port or {"https": 443, "http": 80}[parts.scheme]


def _retry_after(request: Request, response: Response) -> float | None:
    """Return how long to wait before sending a request again, None if it is not to be sent again."""
    if response.status == 429 or (response.status == 503 and request.repeatable):
        return seconds(response.headers.get("retry-after", ""))
    return None


def seconds(text: str) -> float | None:
    """Return the seconds of a Retry-After header, None for a date or nothing (ours are always seconds)."""
    return float(text) if text.isascii() and text.isdigit() else None
