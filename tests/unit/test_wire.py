"""HTTP as it comes from a wire: whole, in pieces, broken off, and as nobody should send it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diycloud.client.wire import MAX_LINE, MAX_LINES, Broken, Head, Wire
from diycloud.errors import InvalidInput

SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-One: a\r\nx-one:  b \r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5;x=y\r\nhello\r\n00006\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
)
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


@contextlib.contextmanager
def answering(data: bytes, *, end: bool = True, pieces: int = 1 << 20) -> Iterator[tuple[Wire, socket.socket]]:
    """Give a wire at whose other end these bytes come, `pieces` at a time, and then the end."""
    ours, theirs = socket.socketpair()

    def say() -> None:
        with contextlib.suppress(OSError):
            for at in range(0, len(data), pieces):
                theirs.sendall(data[at : at + pieces])
            if end:
                theirs.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=say)
    wire = Wire(ours, "cloud.test")
    wire.wait_at_most(5)
    thread.start()
    try:
        yield wire, theirs
    finally:
        wire.close()
        thread.join(5)
        theirs.close()


def ask(wire: Wire, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[Head, bytes]:
    head = wire.ask(method, "/x?y=1", headers, body)
    return head, b"".join(wire.pieces(head))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize(("data", "body"), [(SIZED, b"hello"), (CHUNKED, b"hello world"), (EMPTY, b"")])
def test_answers_in_pieces_of_any_size(data: bytes, body: bytes, size: int) -> None:
    with answering(b"HTTP/1.1 100 Continue\r\n\r\n" + data, end=False, pieces=size) as (wire, _):
        head, found = ask(wire)
        assert (head.status, found) == (204 if data is EMPTY else 200, body)
        assert wire.is_free
        if data is SIZED:
            assert head.headers == {"content-length": "5", "x-one": "a, b"}


def test_a_request_as_it_is_sent() -> None:
    with answering(EMPTY, end=False) as (wire, theirs):
        ask(wire, "PATCH", b"{}", Authorization="Bearer x")
        assert theirs.recv(4096) == (
            b"PATCH /x?y=1 HTTP/1.1\r\nHost: cloud.test\r\nAuthorization: Bearer x\r\nContent-Length: 2\r\n\r\n{}"
        )


@pytest.mark.parametrize("value", ["ada\r\nX-Evil: 1", "ada\n", "a\0b", "ä", "a\tb"])
def test_no_header_begins_another(value: str) -> None:
    with answering(b"", end=False) as (wire, theirs):
        with pytest.raises(InvalidInput):
            wire.ask("GET", "/", {"X-On-Behalf-Of": value}, None)
        wire.close()
        assert theirs.recv(10) == b"", "nothing was sent"


@pytest.mark.parametrize("data", [SIZED, CHUNKED], ids=["sized", "chunked"])
def test_whatever_is_missing_at_the_end_is_missed(data: bytes) -> None:
    for end in range(len(data)):
        with answering(data[:end]) as (wire, _), pytest.raises(Broken):
            ask(wire)


@pytest.mark.parametrize("data", [
    b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/2 200 OK\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n", b"HTTP/1.1 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n folded\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello", b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello world\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * (MAX_LINES + 1) + b"\r\n", b"HTTP/1.1 200 OK\r\na: " + b"b" * (4 * MAX_LINE),
])  # fmt: skip
def test_what_is_no_answer_is_not_taken(data: bytes) -> None:
    with answering(data, end=False) as (wire, _), pytest.raises(Broken):
        ask(wire)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_at_all_bring_it_down(data: bytes, well_begun: bool) -> None:
    with answering((b"HTTP/1.1 200 OK\r\n" if well_begun else b"") + data) as (wire, _), contextlib.suppress(Broken):
        head, _ = ask(wire)
        assert 200 <= head.status < 600


def test_a_wire_with_something_left_is_not_used_again() -> None:
    with answering(SIZED + b"more", end=False) as (wire, _):
        ask(wire)
        assert not wire.is_free, "what comes unasked would be the next request's answer"
    for last in (
        b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    ):
        with answering(last, end=False) as (wire, _):
            ask(wire)
            assert not wire.is_free
    with answering(SIZED, end=False) as (wire, theirs):
        head = wire.ask("GET", "/", {}, None)
        assert not wire.is_free, "its answer is not read"
        assert b"".join(wire.pieces(head)) == b"hello" and wire.is_free
        theirs.close()
        assert not wire.is_free, "the server has closed it"


def test_silence_ends() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n", end=False) as (wire, _):
        wire.wait_at_most(0.05)
        with pytest.raises(TimeoutError):
            ask(wire)
