"""The agent's door: a Unix socket, the kernel's word for who knocks, frames with limits.

Each connection is a task; blocking work runs in pools of threads: one thread for changes of accounts (its queue is the
lock), four for reads, two for what takes long, as many as cores at nice +10 for password hashes, and some for notebook
servers, whose starts are waited for. What every sign-in asks is answered without one (Kind.AT_ONCE). A caller that stops
waiting takes back what has not begun; what has begun is finished.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, cast

import msgspec

from diycloud.agent import framing, protocol
from diycloud.agent.framing import FRAME_SECONDS, Reply, Request
from diycloud.agent.handlers import Handler, Kind, handler_for, log_refusal
from diycloud.agent.state import Agent, Caller, Role, Session, log
from diycloud.errors import DiyCloudError, HostError, InvalidInput, PermissionDenied, Unavailable
from diycloud.system.contract import Owner, System

PER_UID = 32
IN_ALL = 128
BACKLOG = 1024
"""Connections that wait to be accepted: a crowd of the server's must not keep root out."""
IDLE_SECONDS = 300.0
LOOK_UP_SECONDS = 5.0
"""How often a stranger's connection makes the agent look up the hub's account anew."""
MAX_WAITING = 64
"""Requests that wait in each pool; more are told to come again."""
STOP_SECONDS = 60.0
_T = TypeVar("_T")
_PEER = struct.Struct("3i")
_decoder = msgspec.msgpack.Decoder(Request)
_encoder = msgspec.msgpack.Encoder()


class _Id(msgspec.Struct):
    id: int = 0


class _Pool:
    """Threads with a bounded queue."""

    def __init__(self, name: str, threads: int, *, nice: int = 0) -> None:
        start = (lambda: os.setpriority(os.PRIO_PROCESS, 0, nice)) if nice else None  # on Linux: of this thread
        self._threads = ThreadPoolExecutor(threads, name, initializer=start)
        self._waiting = 0

    async def run(self, work: Callable[[], _T], *, refusable: bool = True) -> _T:
        """Run work in a thread. Cancelled before it has begun, it never begins; later, it is waited for.

        Raises Unavailable when too many wait, unless refusable is False.
        """
        if refusable and self._waiting >= MAX_WAITING:
            raise Unavailable("The agent has too much to do.", "Try again in a few seconds.")
        self._waiting += 1
        future: Future[_T] = self._threads.submit(work)
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            future.cancel()
            raise
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


class Server:
    """Serves an Agent on a Unix socket until `stop` is called."""

    def __init__(self, agent: Agent, *, server_uid: int | None) -> None:
        self._agent = agent
        self._server_uid = server_uid
        self._hub_uid: int | None = None
        self._looked_up = float("-inf")
        self._changes = _Pool("changes", 1)
        self._reads = _Pool("reads", 4)
        self._long = _Pool("long", 2)
        self._notebooks = _Pool("notebooks", agent.notebooks.threads if agent.notebooks is not None else 1)
        self._hashes = _Pool("hashes", agent.cores, nice=10)
        self._open: Counter[int] = Counter()
        self._idle: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def serve(self, listener: socket.socket, stop: asyncio.Event) -> None:
        """Answer until `stop` is set, then finish what runs and close."""
        server = await asyncio.start_unix_server(
            self._connected, sock=listener, limit=framing.MAX_FRAME, backlog=BACKLOG
        )
        await stop.wait()
        self._stopping = True
        self._agent.stopping.set()
        server.close()
        for task in list(self._idle):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
        for pool in (self._changes, self._reads, self._long, self._notebooks, self._hashes):
            await asyncio.to_thread(pool.close)

    async def in_turn(self, steps: Generator[None, None, _T]) -> _T:
        """Run a generator's steps among the changes, others between them. Returns what it returns."""
        while True:
            done, answer = await self._changes.run(lambda: _step(steps), refusable=False)
            if done:
                return cast(_T, answer)

    async def in_background(self, work: Callable[[], _T]) -> _T:
        """Run work of the agent's own beside the reads."""
        return await self._reads.run(work, refusable=False)

    async def in_notebooks(self, work: Callable[[], _T]) -> _T:
        """Run work of the agent's own beside the starts of notebook servers."""
        return await self._notebooks.run(work, refusable=False)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = _this_task()
        self._tasks.add(task)
        peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        pid, uid, _ = _PEER.unpack(peer)
        self._open[uid] += 1
        try:
            caller = self._identify(uid, pid)
            await self._converse(Session(caller), reader, writer)
        except DiyCloudError as error:
            log.warning("connection refused", caller=uid, pid=pid, code=error.code, reason=error.message)
            with contextlib.suppress(OSError, TimeoutError):
                await _send(writer, _failure(0, error))
        except (OSError, EOFError, TimeoutError) as error:
            log.info("connection lost", caller=uid, pid=pid, reason=str(error) or type(error).__name__)
        except asyncio.CancelledError:
            pass  # the agent stops, and this connection is idle
        finally:
            self._open[uid] -= 1
            self._open += Counter()  # drops zeros
            self._tasks.discard(task)
            writer.close()

    def _identify(self, uid: int, pid: int) -> Caller:
        """Return who a peer is. Raises PermissionDenied for strangers, Unavailable for one connection too many."""
        if uid == 0:
            caller = Caller(uid, pid, Role.ROOT)
        elif uid == self._server_uid:
            caller = Caller(uid, pid, Role.SERVER)
        elif self._is_hub(uid):
            caller = Caller(uid, pid, Role.HUB)
        else:
            raise PermissionDenied("The agent talks to root, the server and the notebooks' hub only.")
        if self._open[uid] > PER_UID or self._open.total() > IN_ALL:
            raise Unavailable("Too many connections to the agent.", f"At most {PER_UID} for each user.")
        return caller

    def _is_hub(self, uid: int) -> bool:
        """Tell whether a peer is the hub, whose account may be made, or made anew, while the agent runs."""
        notebooks, now = self._agent.notebooks, time.monotonic()
        if notebooks is not None and uid != self._hub_uid and now - self._looked_up > LOOK_UP_SECONDS:
            self._looked_up = now
            self._hub_uid = notebooks.hub_uid()
        users = range(self._agent.settings.uid_min, self._agent.settings.uid_max + 1)
        return uid == self._hub_uid and uid not in users

    async def _converse(self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not self._stopping:
            frame = await self._frame(reader)
            if frame is None:
                return
            try:
                request = _decode(frame)
            except InvalidInput as error:
                with contextlib.suppress(msgspec.DecodeError, msgspec.ValidationError):
                    await _send(writer, _failure(msgspec.msgpack.decode(frame, type=_Id).id, error))
                    log.warning("message refused", caller=session.caller.uid, reason=error.message)
                    return
                raise
            await _send(writer, await self._answer(session, request))

    async def _frame(self, reader: asyncio.StreamReader) -> bytes | None:
        """Return the next frame, None when the peer is done. Raises InvalidInput for one that is too long or slow."""
        task = _this_task()
        self._idle.add(task)
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                first = await reader.read(1)
        finally:
            self._idle.discard(task)
        if not first:
            return None
        try:
            async with asyncio.timeout(FRAME_SECONDS):
                length = framing.frame_length(first + await reader.readexactly(3))
                return await reader.readexactly(length)
        except TimeoutError as error:
            raise InvalidInput(f"A frame was not whole within {FRAME_SECONDS:.0f} s.") from error
        except ValueError as error:
            raise InvalidInput(f"The frame is refused: {error}.") from error

    async def _answer(self, session: Session, request: Request) -> Reply:
        message = request.body
        try:
            handler = handler_for(message, session.caller)
            async with asyncio.timeout(request.deadline):
                answer = await self._work(handler, session, message)
            return _whole(Reply(request.id, msgspec.Raw(_encoder.encode(answer))))
        except TimeoutError:
            error: DiyCloudError = Unavailable("The agent did not finish in time.", "What it has begun, it completes.")
        except DiyCloudError as refused:
            error = refused
        except Exception as crash:
            log.exception("handler failed", message=type(message).__name__)
            error = HostError(f"The agent failed: {type(crash).__name__}.", "Its log has the details.")
        log_refusal(session, message, error)
        return _failure(request.id, error)

    async def _work(self, handler: Handler, session: Session, message: protocol.Message) -> object:
        if handler.kind is Kind.AT_ONCE:
            return handler.act(self._agent, session, message)
        pools = {Kind.READ: self._reads, Kind.HASH: self._hashes, Kind.LONG: self._long, Kind.NOTEBOOK: self._notebooks}
        pool = pools.get(handler.kind, self._changes)
        if handler.kind is Kind.HASH and isinstance(message, protocol.HashPasswords):
            # One job for each password, so that a batch uses every core.
            jobs = [protocol.HashPasswords([password]) for password in message.passwords]
            hashed = await asyncio.gather(*(self._hash(handler, session, job) for job in jobs))
            return [part[0] for part in hashed if isinstance(part, list)]
        answer = await pool.run(lambda: handler.act(self._agent, session, message))
        if handler.kind is Kind.STEPS and isinstance(answer, Generator):
            return await self.in_turn(answer)
        return answer

    async def _hash(self, handler: Handler, session: Session, job: protocol.HashPasswords) -> object:
        return await self._hashes.run(lambda: handler.act(self._agent, session, job))


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("not in a task")
    return task


def _step(steps: Generator[None, None, _T]) -> tuple[bool, _T | None]:
    try:
        next(steps)
    except StopIteration as end:
        return True, end.value
    return False, None


def _decode(frame: bytes) -> Request:
    """Return a request. Raises InvalidInput for anything but the one encoding that msgspec makes of it.

    Compared with its own re-encoding, so that a map with a key twice is refused, not half read.
    """
    try:
        if _encoder.encode(msgspec.msgpack.decode(frame)) != frame:
            raise InvalidInput("The message is not in its one encoding: a key is there twice, or a number padded.")
        request = _decoder.decode(frame)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, TypeError, ValueError) as error:
        raise InvalidInput(f"The message is refused: {error}.") from error
    if request.version != framing.VERSION:
        raise InvalidInput(f"The agent speaks version {framing.VERSION}, not {request.version}.", "Restart both.")
    return request


def _failure(request: int, error: DiyCloudError) -> Reply:
    return Reply.of_error(request, error)


def _whole(reply: Reply) -> Reply:
    if len(_encoder.encode(reply)) > framing.MAX_FRAME:
        raise InvalidInput("The answer does not fit a frame.", "Ask for less at once.")
    return reply


async def _send(writer: asyncio.StreamWriter, reply: Reply) -> None:
    writer.write(framing.pack(reply))
    async with asyncio.timeout(FRAME_SECONDS):
        await writer.drain()


def listen(system: System, path: Path, server_user: str) -> tuple[socket.socket, int | None]:
    """Return a listening socket only root and the server's group reach, and the server's UID (None: no such user).

    The folder is 0750 root:<group>, the socket 0660. One that an earlier agent left is replaced.
    """
    try:
        found = pwd.getpwnam(server_user)
        uid, gid = found.pw_uid, found.pw_gid
    except KeyError:
        uid, gid = None, 0
        log.warning("no server user", user=server_user)
    system.make_dir(path.parent, mode=0o750, owner=Owner(0, gid))
    system.remove(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    os.chown(path, 0, gid, follow_symlinks=False)
    path.chmod(0o660)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener, uid
