"""Talking to the agent: `Client` for the server (async, kept connections), `call_blocking` for the command line."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from types import NoneType
from typing import TypeVar

import msgspec

from diycloud.agent import framing
from diycloud.agent.framing import Reply, Request
from diycloud.agent.protocol import (
    MAX_PART,
    MAX_READ,
    Message,
    ReadUsage,
    Sync,
    SyncReport,
    Usage,
    Wish,
)
from diycloud.errors import DiyCloudError, InvalidInput, Unavailable

T = TypeVar("T")
CONNECTIONS = 8
MARGIN_S = 5.0
"""How much longer than the deadline an answer is waited for: the agent says itself that it was too slow."""
QUEUE_TRIES, QUEUE_PAUSE_S = 100, 0.02
_decoder = msgspec.msgpack.Decoder(Reply)


class Connection:
    """One conversation; the parts of a wish list need the same one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._count = 0

    async def call(self, message: Message, answer: type[T], *, deadline: float = 60.0) -> T:
        """Ask, and return the answer as the type given. Raises the agent's error; OSError, EOFError: a broken line."""
        self._count += 1
        self._writer.write(_frame(self._count, message, deadline))
        async with asyncio.timeout(deadline + MARGIN_S):
            await self._writer.drain()
            length = framing.frame_length(await self._reader.readexactly(4))
            frame = await self._reader.readexactly(length)
        return _open_reply(frame, self._count, answer)

    def close(self) -> None:
        self._writer.close()


class Client:
    """The server's, or the hub's, way to the agent. Safe for any number of tasks; opens so many connections at most."""

    def __init__(self, path: Path, *, connections: int = CONNECTIONS) -> None:
        self._path = path
        self._kept: list[Connection] = []
        self._free = asyncio.Semaphore(connections)

    async def call(self, message: Message, answer: type[T], *, deadline: float = 60.0) -> T:
        """Ask the agent, and return the answer as the type given (`list[Outcome]`, `int`).

        deadline: seconds. Raises Unavailable if the agent does not answer, else the agent's own error. Every message
        may be sent twice, so a kept connection that turns out to be dead is replaced once.
        """
        async with self._free:
            while True:
                kept = bool(self._kept)
                try:
                    async with self._connection() as connection:
                        return await connection.call(message, answer, deadline=deadline)
                except (OSError, EOFError, TimeoutError) as error:
                    if not kept or isinstance(error, TimeoutError):
                        raise _silent(error) from error

    async def sync(self, wishes: Iterable[Wish], *, deadline: float = 600.0) -> SyncReport:
        """Send the whole wish list and have it applied."""
        parts = list(framing.parts(wishes, MAX_PART))
        async with self._free:
            self._drop()  # a kept connection may be dead, and the parts cannot be sent twice over two
            try:
                async with self._connection() as connection:
                    for number, part in enumerate(parts[:-1]):
                        await connection.call(Sync(part, number == 0, False), NoneType)
                    last = Sync(parts[-1], len(parts) == 1, True)
                    return await connection.call(last, SyncReport, deadline=deadline)
            except (OSError, EOFError, TimeoutError) as error:
                raise _silent(error) from error

    async def read_usage(self, names: Sequence[str]) -> list[Usage]:
        """Read the counters of any number of users."""
        found: list[Usage] = []
        for start in range(0, len(names), MAX_READ):
            found += await self.call(ReadUsage(list(names[start : start + MAX_READ])), list[Usage])
        return found

    async def close(self) -> None:
        self._drop()

    def _drop(self) -> None:
        while self._kept:
            self._kept.pop().close()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        connection = self._kept.pop() if self._kept else await _open_connection(self._path)
        try:
            yield connection
        except DiyCloudError as error:
            # The agent answered and keeps the line open, unless it could not read the message.
            if isinstance(error, Unavailable | InvalidInput):
                connection.close()
            else:
                self._kept.append(connection)
            raise
        except BaseException:
            connection.close()
            raise
        self._kept.append(connection)


def call_blocking(path: Path, message: Message, answer: type[T], *, deadline: float = 60.0) -> T:
    """Ask the agent once, without an event loop. Raises as Client.call."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(deadline + MARGIN_S)
            _connect(line, path)
            line.sendall(_frame(1, message, deadline))
            frame = _receive(line, framing.frame_length(_receive(line, 4)))
    except (OSError, EOFError) as error:
        raise _silent(error) from error
    return _open_reply(frame, 1, answer)


def _connect(line: socket.socket, path: Path) -> None:
    """Connect, waiting a while if the socket's queue is full (unix(7): EAGAIN)."""
    for _ in range(QUEUE_TRIES):
        with contextlib.suppress(BlockingIOError):
            line.connect(str(path))
            return
        time.sleep(QUEUE_PAUSE_S)
    line.connect(str(path))


async def _open_connection(path: Path) -> Connection:
    for _ in range(QUEUE_TRIES):
        with contextlib.suppress(BlockingIOError):
            return Connection(*await asyncio.open_unix_connection(str(path)))
        await asyncio.sleep(QUEUE_PAUSE_S)
    return Connection(*await asyncio.open_unix_connection(str(path)))


def _receive(line: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = line.recv(length - len(parts))
        if not part:
            raise EOFError("the agent closed the connection")
        parts += part
    return bytes(parts)


def _frame(number: int, message: Message, deadline: float) -> bytes:
    try:
        return framing.pack(Request(number, message, deadline=deadline))  # type: ignore[arg-type]  # Message: see TABLE
    except ValueError as error:
        raise InvalidInput(f"The message is too large for the agent: {error}.", "Send less at once.") from error


def _open_reply(frame: bytes, number: int, answer: type[T]) -> T:
    reply = _decoder.decode(frame)
    if error := reply.error():
        raise error
    if reply.id != number:
        raise Unavailable("The agent's answer is not to the question asked.", "Restart the agent.")
    return msgspec.msgpack.decode(reply.ok, type=answer)


def _silent(error: BaseException) -> Unavailable:
    reason = str(error) or type(error).__name__
    return Unavailable("The agent does not answer.", f"`diycloud up` starts it; see `diycloud doctor` ({reason}).")
