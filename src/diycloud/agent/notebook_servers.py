"""What the agent knows of notebook servers: which run, how the others ended, and how one is ended.

What a server is stands in three places that outlive the agent: a record (host/notebooks.py), its part of the slice
(host/parts.py), its processes. What is kept in memory is a copy of the records, so that telling of a server costs one file
of /proc. An agent that was killed between any two steps finds, when it starts again: no record, then what is there is
nobody's and is removed (its shim never got `go`, and ends by itself); or a record, then its shim tells whether the server
runs.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import msgspec
import structlog

from diycloud.agent.protocol import Notebook
from diycloud.errors import DiyCloudError
from diycloud.host import notebooks as host
from diycloud.host.notebooks import Places, Record, ServerKey
from diycloud.host.parts import Part
from diycloud.host.slices import Counters, Slices
from diycloud.system.contract import System

log = structlog.get_logger("diycloud.agent")

GRACE_S = 5.0
"""Between SIGTERM to a server and the end of all that is in its part."""
COUNTERS_S = 10.0
"""How old counters may be in an answer about everybody."""
_LOOK_S = 0.02
_ORDERLY = frozenset({0, -signal.SIGTERM, -signal.SIGINT})


@dataclass(slots=True)
class KnownServer:
    """One server. part: None where there are no slices; tidied: nothing of it is left but the record.

    counted: monotonic time of the counters.
    """

    key: ServerKey
    record: Record
    part: Part | None
    tidied: bool = False
    counters: Counters | None = None
    counted: float = float("-inf")


class Servers:
    """The servers of this host. Safe in threads: a lock for each server for what changes it, one for the list of all."""

    def __init__(self, system: System, slices: Slices | None, places: Places, clock: Callable[[], float]) -> None:
        self._system, self._slices, self._places, self._clock = system, slices, places, clock
        self._known: dict[ServerKey, KnownServer] = {}
        self._locks: dict[ServerKey, threading.Lock] = {}
        self._users: Counter[ServerKey] = Counter()
        self._guard = threading.Lock()

    def get(self, key: ServerKey) -> KnownServer | None:
        return self._known.get(key)

    def all(self) -> list[KnownServer]:
        """Return the servers, those that have ended among them."""
        with self._guard:
            return list(self._known.values())

    def of(self, name: str) -> list[KnownServer]:
        """Return a user's servers."""
        return [server for server in self.all() if server.key.name == name]

    def add(self, key: ServerKey, record: Record, part: Part | None) -> None:
        """Write a server down, here and for the agent after this one."""
        self._places.write_record(key, record)
        with self._guard:
            self._known[key] = KnownServer(key, record, part)

    def part(self, key: ServerKey, uid: int) -> Part | None:
        """Return where a server's processes are or would be, None where there are no slices."""
        return self._slices.part(key.name, uid, key.part) if self._slices is not None else None

    @contextlib.contextmanager
    def locked(self, key: ServerKey, *, wait: bool = True) -> Iterator[bool]:
        """Hold a server's lock. Yields whether it could be had, which with `wait` it always is, in time."""
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
            self._users[key] += 1
        try:
            locked = lock.acquire(blocking=wait)
            try:
                yield locked
            finally:
                if locked:
                    lock.release()
        finally:
            with self._guard:
                self._users[key] -= 1
                if not self._users[key]:
                    del self._users[key], self._locks[key]

    def take_stock(self, uid_of: Callable[[str], int | None]) -> None:
        """Find what runs since before the agent did, and tidy the rest. uid_of: of a managed account, None for others."""
        self._places.ensure()
        for key in sorted(self._places.known()):
            uid = uid_of(key.name)
            record = self._places.read_record(key)
            part = self.part(key, uid) if uid is not None else None
            try:
                if uid is not None and record is not None and (record.name, record.server) == key:
                    server = KnownServer(key, record, part)
                    if self.is_running(server) or record.pid:
                        self._known[key] = server
                        continue
                if part is not None:
                    part.end()
                self._places.forget(key)
            except (DiyCloudError, OSError) as error:
                log.error("notebook not tidied", name=key.name, server=key.server, reason=str(error))
        if self._known:
            log.info("notebooks found", servers=len(self._known))

    # -- knowing

    def is_running(self, server: KnownServer) -> bool:
        """Tell whether a server runs, as its shim and record have it now."""
        if server.record.ended is not None:
            return False
        if host.is_looked_after(self._system, server.record):
            if not server.record.pid:  # it was starting when this was last read
                server.record = self._places.read_record(server.key) or server.record
            return server.record.ended is None
        record = self._places.read_record(server.key) or server.record
        server.record = record if record.ended else msgspec.structs.replace(record, ended=round(self._clock(), 3))
        return False

    def tell(self, server: KnownServer, *, fresh: bool) -> Notebook:
        """Return what is told of a server. fresh: its counters are read now."""
        running, record = self.is_running(server), server.record
        if running and server.part is not None:
            now = time.monotonic()
            if fresh or now - server.counted > COUNTERS_S:
                server.counters, server.counted = server.part.read(), now
        counters = server.counters if running else None
        kills = max(record.kills, counters.oom_kills if counters else 0)
        killed = running or record.exit_code in (None, -signal.SIGKILL)
        return Notebook(
            record.name,
            record.server,
            "running" if running else "stopped" if record.exit_code in _ORDERLY else "failed",
            profile=record.profile,
            pid=record.pid if running else 0,
            started=record.started,
            ended=record.ended or 0.0,
            exit_code=record.exit_code,
            memory_kill=kills > 0 and killed,
            memory_kills=kills,
            memory=counters.memory if counters else 0,
            cpu_us=counters.cpu_us if counters else 0,
            tasks=counters.tasks if counters else 0,
            socket=str(self._places.socket(server.key)) if running else "",
        )

    # -- ending

    def end(self, key: ServerKey, *, grace: float = GRACE_S) -> None:
        """End a server: SIGTERM, a grace in seconds (0: neither), then all that is in its part. Its lock is held."""
        server = self._known.get(key)
        if server is None:
            return
        if grace:
            self.ask_to_end([server], grace)
        self.bury(server)

    def ask_to_end(self, servers: Iterable[KnownServer], seconds: float) -> None:
        """Send SIGTERM to servers, and wait until they have ended, all of them together so many seconds at most."""
        asked = [server for server in servers if self._ask_to_end(server)]
        end = time.monotonic() + seconds
        while any(map(self.is_running, asked)) and time.monotonic() < end:
            time.sleep(_LOOK_S)

    def _ask_to_end(self, server: KnownServer) -> bool:
        if not self.is_running(server):
            return False
        record = server.record
        there = bool(record.pid) and host.is_child(self._system, record.pid, record.shim)
        if there:
            self._system.kill(record.pid, signal.SIGTERM)
        return there

    def bury(self, server: KnownServer) -> None:
        """End what is left of a server, remove its socket, write down that it ended. Its lock is held."""
        if server.tidied:
            return
        counters = server.part.read() if server.part is not None else None
        if server.part is not None:
            server.part.end(server.record.shim if host.is_looked_after(self._system, server.record) else 0)
        elif host.is_looked_after(self._system, server.record):
            host.kill_tree(self._system, server.record.shim)
        self._places.close(server.key)
        record = self._places.read_record(server.key) or server.record
        if record.ended is None:
            kills = max(record.kills, counters.oom_kills if counters is not None else 0)
            record = msgspec.structs.replace(record, ended=round(self._clock(), 3), kills=kills)
            try:
                self._places.write_record(server.key, record)
            except (DiyCloudError, OSError) as error:
                # A full /run is no reason to call a server unstopped; the next agent sees that the shim is gone.
                log.error("notebook not written down", name=record.name, server=record.server, reason=str(error))
        server.record, server.tidied = record, True

    def forget(self, key: ServerKey) -> None:
        """Remove all that tells of a server that runs no more. Its lock is held."""
        self._places.forget(key)
        with self._guard:
            self._known.pop(key, None)
