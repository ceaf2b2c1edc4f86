"""One connection that speaks HTTP/1.1 (RFC 9112), as much of it as a client of ours needs.

Not http.client: that takes 15 ms to load, a fifth of a short command, and takes an answer that breaks off within its
headers for a whole one. An answer says how long it is (Content-Length or chunks) or it is not taken.
"""

from __future__ import annotations

import re
import select
import socket
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from diycloud.errors import InvalidInput

MAX_LINE = 64 << 10
MAX_LINES = 200
PIECE = 64 << 10
_NO_BODY = frozenset({204, 304})
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: |\Z)")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*\Z", re.DOTALL)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;|\Z)")
_LENGTH = re.compile(r"[0-9]{1,18}\Z")
_SENT = re.compile(r"[ -~]*\Z")


class Broken(Exception):
    """An answer ended before its end, or is no HTTP."""


class Head(NamedTuple):
    """The beginning of an answer. headers: names in lower case, those that came twice joined by commas (RFC 9110, 5.3)."""

    status: int
    headers: Mapping[str, str]


class Wire:
    """A connected socket. One request at a time: `ask`, then all of `pieces`, then `is_free` says whether it can go on."""

    def __init__(self, connected: socket.socket, host: str) -> None:
        self._socket = connected
        self._host = host
        self._buffer = bytearray()
        self._open = False

    def wait_at_most(self, seconds: float) -> None:
        """Set how long a silence is borne; then TimeoutError is raised."""
        self._socket.settimeout(seconds)

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Head:
        """Send a request and return the beginning of its answer. Raises Broken, OSError, InvalidInput for control
        characters in a header (they would begin another)."""
        self._open = False
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}", *(f"{name}: {headers[name]}" for name in headers)]
        if body is not None or method in ("POST", "PUT", "PATCH"):
            lines.append(f"Content-Length: {len(body or b'')}")
        if not all(map(_SENT.match, lines)):
            raise InvalidInput("A name or token has characters that a request cannot carry.", "Check it for line ends.")
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode("ascii") + (body or b""))
        while True:
            version, head = self._head()
            if head.status >= 200:
                self._open = version == b"1" and head.headers.get("connection", "").lower() != "close"
                return head

    def pieces(self, head: Head) -> Iterator[bytes]:
        """Yield the body as it comes. Raises Broken, OSError if it ends before its end."""
        whole, self._open = self._open, False
        if head.status not in _NO_BODY:
            coding, length = head.headers.get("transfer-encoding", ""), head.headers.get("content-length", "")
            if coding.lower() == "chunked":
                yield from self._chunks()
            elif not coding and _LENGTH.match(length):
                yield from self._exactly(int(length))
            else:
                raise Broken("the answer does not say how long it is")
        self._open = whole

    @property
    def is_free(self) -> bool:
        """Whether another request can be sent: the last answer is read, and nothing came since, above all no end."""
        if not self._open or self._buffer:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Close the connection."""
        self._open = False
        self._socket.close()

    def _head(self) -> tuple[bytes, Head]:
        first = _STATUS.match(self._line())
        if first is None:
            raise Broken("what answers there speaks no HTTP")
        headers: dict[str, str] = {}
        for _ in range(MAX_LINES):
            line = self._line()
            if not line:
                return first[1], Head(int(first[2]), headers)
            found = _HEADER.match(line)
            if found is None:
                raise Broken("the answer has a header that is none")
            name, value = found[1].decode("ascii").lower(), found[2].decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        raise Broken("the answer has too many headers")

    def _chunks(self) -> Iterator[bytes]:
        while True:
            found = _CHUNK.match(self._line())
            if found is None:
                raise Broken("the answer has a piece of no size")
            size = int(found[1], 16)
            if not size:
                break
            yield from self._exactly(size)
            if self._line():
                raise Broken("a piece of the answer is longer than it says")
        while self._line():  # trailers, which we have no use for
            pass

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            if not self._buffer:
                self._fill()
            part = bytes(self._buffer[:size])
            del self._buffer[:size]
            size -= len(part)
            yield part

    def _line(self) -> bytes:
        start = 0
        while (end := self._buffer.find(b"\n", start)) < 0:
            start = len(self._buffer)
            if start > MAX_LINE:
                raise Broken("the answer has a line without end")
            self._fill()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.removesuffix(b"\r")

    def _fill(self) -> None:
        part = self._socket.recv(PIECE)
        if not part:
            raise Broken("the server closed it")
        self._buffer += part
