"""Notebook servers as they are asked for: started, stopped, read; and looked after while nobody asks."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import structlog

from diycloud.agent.notebook_servers import KnownServer, Servers
from diycloud.agent.notebook_start import Check, Person, choose_profile, make_bounds, make_request
from diycloud.agent.protocol import MAX_NOTEBOOKS, Notebook, ReadNotebooks, StartNotebook
from diycloud.config import Paths
from diycloud.config_notebooks import NotebookSettings
from diycloud.errors import Conflict, DiyCloudError, HostError, TooManyRequests, Unavailable
from diycloud.host import notebooks as host
from diycloud.host.accounts import HostAccounts
from diycloud.host.notebooks import Answer, Places, Record, ServerKey
from diycloud.host.parts import Bounds, Part
from diycloud.host.slices import Slices
from diycloud.system.contract import Owner, System
from diycloud.units import Cores

log = structlog.get_logger("diycloud.agent")

LOOK_AFTER_S = 2.0
"""How often what ended is tidied, and what may not run any more is stopped."""
RETRY_S = 2
"""When it is worth asking again for a start that had no place."""
SHUT_OUT_S = 2.0
"""Between SIGTERM to the servers of somebody who is shut out and the end of all that is in them."""
KEPT_S = 24 * 3600.0
"""How long it is told of a server how it ended."""


class AgentStops(Unavailable):
    """The agent is about to end; a server that is on its way goes on without it."""


@dataclass(slots=True)
class _Start:
    """A start under way. cancelled: somebody wants it to end; let_go: the server was told to begin."""

    key: ServerKey
    cancelled: bool = False
    let_go: bool = False


class Notebooks:
    """The servers of this host. Safe in threads: one lock a server for what changes it, one for what is known of all."""

    def __init__(
        self,
        system: System,
        slices: Slices | None,
        settings: NotebookSettings,
        paths: Paths,
        *,
        nginx_gid: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._system, self._slices, self._clock = system, slices, clock
        self._paths, self._nginx_gid = paths, nginx_gid
        self._places = Places(system, paths)
        self._servers = Servers(system, slices, self._places, clock)
        self._starts: list[_Start] = []
        self._guard, self._bounding = threading.Lock(), threading.Lock()

    @property
    def threads(self) -> int:
        """How many the starts that may be under way take, with some for stops beside them."""
        return self.settings.at_once + 6

    def hub_uid(self) -> int | None:
        """Look up the UID of the hub's account, None if there is none."""
        account = HostAccounts(self._system).get(self.settings.hub_user)
        return account.uid if account is not None else None

    # -- what is asked

    def start(self, message: StartNotebook, check: Check, stopping: threading.Event) -> Notebook:
        """Start a server and wait until it answers. stopping: set when the agent is about to end.

        Raises what `check` does; InvalidInput or Unsupported for the profile; Conflict: one server too many, or it was
        stopped meanwhile; TooManyRequests: too many starts at a time; Unavailable, HostError: it did not come up.
        """
        key = ServerKey(message.name, message.server)
        choose_profile(self.settings, message.profile)
        check()
        self._forget_oldest(key.name)
        with self._starting(key) as start, self._servers.locked(key):
            self._servers.end(key)
            began = time.monotonic()
            server = self._launch(start, message, check, stopping)
        told = self._servers.tell(server, fresh=True)
        log.info(
            "notebook started", name=key.name, server=key.server, pid=told.pid,
            seconds=round(time.monotonic() - began, 3),
        )  # fmt: skip
        return told

    def stop(self, name: str, server: str, uid: int | None) -> Notebook:
        """End a server with all it started; a start under way gives up. uid: of its user, None if not managed."""
        key = ServerKey(name, server)
        self._cancel(lambda start: start.key == key)
        with self._servers.locked(key):
            known = self._servers.get(key)
            if known is None:
                if uid is not None and (part := self._servers.part(key, uid)) is not None:
                    part.end()
                self._places.forget(key)
                return Notebook(name, server, "stopped")
            ran = self._servers.is_running(known)
            self._servers.end(key)
            self._servers.forget(key)
        if ran:
            log.info("notebook stopped", name=name, server=server, exit_code=known.record.exit_code)
        return msgspec.structs.replace(self._servers.tell(known, fresh=False), state="stopped", socket="")

    def end_all(self, name: str) -> int:
        """End all of a user's servers together: who is shut out does not gain time by having many. Returns how many ran.

        Raises HostError, once the others have ended, if one could not be ended.
        """
        self.interrupt(name)
        running = [server for server in self._servers.of(name) if self._servers.is_running(server)]
        self._servers.ask_to_end(running, SHUT_OUT_S)
        problem: HostError | None = None
        for server in running:
            with self._servers.locked(server.key):
                if self._servers.get(server.key) is server:
                    try:
                        self._servers.end(server.key, grace=0.0)
                        self._servers.forget(server.key)
                    except HostError as error:
                        problem = error
        if running:
            log.info("notebooks ended", name=name, servers=len(running))
        if problem is not None:
            raise problem
        return len(running)

    def read(self, message: ReadNotebooks) -> list[Notebook]:
        """Tell how servers fare, without changing anything."""
        after = ServerKey.of_stem(message.after)
        chosen = sorted(
            (
                server
                for server in self._servers.all()
                if message.name in ("", server.key.name)
                and message.server in (None, server.key.server)
                and (not message.after or server.key > after)
            ),
            key=lambda server: server.key,
        )
        told = [self._servers.tell(server, fresh=bool(message.name)) for server in chosen[:MAX_NOTEBOOKS]]
        if message.name and message.server is not None:
            logs = [self._places.read_log(server.key) for server in chosen]
            told = [msgspec.structs.replace(one, log=lines) for one, lines in zip(told, logs, strict=True)]
        return told

    # -- beside what is asked

    def take_stock(self, uid_of: Callable[[str], int | None]) -> None:
        """Find what runs since before the agent did, and tidy the rest. uid_of: of a managed account, None for others."""
        self._servers.take_stock(uid_of)

    def look_after(self, may_run: Callable[[str], bool]) -> None:
        """Tidy what has ended, stop what may not run any more, forget what ended long ago. may_run: of an account."""
        for name in {server.key.name for server in self._servers.all() if server.record.ended is None}:
            if not may_run(name):
                try:
                    self.end_all(name)
                except HostError as error:
                    _log_untidy(ServerKey(name, ""), error)
        for server in self._servers.all():
            with self._servers.locked(server.key, wait=False) as locked:
                if locked and self._servers.get(server.key) is server:
                    try:
                        self._look_after(server, may_run(server.key.name))
                    except (DiyCloudError, OSError) as error:
                        _log_untidy(server.key, error)

    def follow(self, name: str) -> None:
        """Hold what a user runs to its profiles within the limits that the slice has by now."""
        for server in self._servers.of(name):
            self._follow(server)

    def interrupt(self, name: str) -> None:
        """Have the starts of a user's servers give up."""
        self._cancel(lambda start: start.key.name == name)

    def tidy(self, name: str) -> None:
        """Forget a user's servers after all of the user's processes were ended. Those that start tidy up themselves."""
        for server in self._servers.of(name):
            with self._servers.locked(server.key, wait=False) as locked:
                if locked:
                    self._servers.end(server.key)
                    self._servers.forget(server.key)

    def forget_user(self, name: str, uid: int) -> None:
        """Remove every trace of a user's servers, who has nothing running any more."""
        self.interrupt(name)
        for key in self._places.known() | {server.key for server in self._servers.of(name)}:
            if key.name == name:
                with self._servers.locked(key):
                    self._servers.end(key)
                    self._servers.forget(key)
        self._places.forget_tmp(uid)

    # -- starting

    @contextlib.contextmanager
    def _starting(self, key: ServerKey) -> Iterator[_Start]:
        """Be one of the starts under way. Raises TooManyRequests, or Conflict if the user has servers enough.

        A server that never answers holds its place until its time is up, so one user gets a share of the places only.
        """
        with self._guard:
            mine = [start.key for start in self._starts if start.key.name == key.name]
            if len(mine) >= self.settings.own_at_once:
                raise TooManyRequests(
                    f"{len(mine)} notebook servers of {key.name} are starting.",
                    "They come first; try again in a moment.",
                    retry_after=RETRY_S,
                )
            if len(self._starts) >= self.settings.at_once:
                raise TooManyRequests(
                    f"{len(self._starts)} notebook servers are starting.", "Try again in a moment.", retry_after=RETRY_S
                )
            running = (server.key for server in self._servers.of(key.name) if self._servers.is_running(server))
            others = {*mine, *running} - {key}
            if len(others) > self.settings.named_servers:
                raise Conflict(f"{key.name} has {len(others)} notebook servers already.", "Stop one of them first.")
            start = _Start(key)
            self._starts.append(start)
        try:
            yield start
        finally:
            with self._guard:
                self._starts.remove(start)

    def _cancel(self, which: Callable[[_Start], bool]) -> None:
        with self._guard:
            for start in filter(which, self._starts):
                start.cancelled = True

    def _launch(self, start: _Start, message: StartNotebook, check: Check, stopping: threading.Event) -> KnownServer:
        """Start a server in the place of none."""
        person = self._ensure_slice(check)
        profile, chosen = choose_profile(self.settings, message.profile)
        part = self._servers.part(start.key, person.uid)
        bounds = make_bounds(chosen, person.limits)
        request = make_request(
            self._system, self._paths, self._places, start.key, person, message.environment,
            profile=profile, part=part, bounds=bounds, templates=self.settings.templates,
        )  # fmt: skip

        def look() -> None:
            if start.cancelled:
                raise Conflict(f"The server of {person.name} was stopped while it started.")
            if stopping.is_set():
                raise AgentStops("The agent is being started anew.", "Ask again in a few seconds.")

        def confirm() -> None:
            look()
            check()

        try:
            answer = self._converse(start, person, profile, part, bounds, request, confirm, look)
            if answer.failed:
                raise Unavailable(answer.failed, "\n".join(answer.log))
            confirm()
        except AgentStops:
            if not start.let_go:
                self._give_up(start, part)
            raise  # else the shim goes on, and the next agent finds it
        except Unavailable as error:
            raise self._failed(start, part, error) from error
        except BaseException:
            start.let_go = False  # it was not to run: nothing is told of it
            self._give_up(start, part)
            raise
        server = self._servers.get(start.key)
        if server is None:
            raise RuntimeError("a server that answers was written down")
        server.record = self._places.read_record(start.key) or msgspec.structs.replace(server.record, pid=answer.pid)
        return server

    def _converse(
        self, start: _Start, person: Person, profile: str, part: Part | None, bounds: Bounds,
        request: dict[str, object], confirm: Callable[[], None], look: Callable[[], None],
    ) -> Answer:  # fmt: skip
        """Bind the socket, have the shim forked, put it where it belongs, let it go, and wait. Raises Unavailable, HostError."""
        key = start.key
        self._places.ensure_own(key, Owner(person.uid, person.gid))
        owner = Owner(person.uid, self._nginx_gid)
        with (
            host.bind_socket(self._places.socket(key), owner) as listener,
            host.launching(self._paths.launcher_socket) as launch,
        ):
            shim = launch.ask(request, listener, look)
            if part is not None:
                part.hold(shim, bounds)
            start_of, now = host.start_of(self._system, shim), round(self._clock(), 3)
            self._servers.add(key, Record(*key, profile, shim=shim, shim_start=start_of, started=now), part)
            confirm()
            launch.go()
            start.let_go = True
            return launch.wait(self.settings.start_seconds, look)

    def _ensure_slice(self, check: Check) -> Person:
        """Have the slice with the limits as they are by now; returns whom it is of."""
        person = check()
        while self._slices is not None and self._slices.read_limits(person.name, person.uid) is None:
            self._slices.ensure(person.name, person.uid, person.limits)
            before, person = person, check()
            if before.limits == person.limits:
                break
        return person

    def _failed(self, start: _Start, part: Part | None, error: Unavailable) -> Unavailable:
        """Tidy up after a server that did not come up; returns what is told of it."""
        known = self._servers.get(start.key)
        ended = known is not None and not self._servers.is_running(known)
        self._give_up(start, part)
        lines = "\n".join(self._places.read_log(start.key)) if start.let_go else ""
        reason = error.message
        if known is not None and ended and self._servers.tell(known, fresh=False).memory_kill:
            reason = "It was killed because all of the memory it may have was in use."
        return Unavailable(f"The notebook server of {start.key.name} did not start: {reason}", lines or error.hint)

    def _give_up(self, start: _Start, part: Part | None) -> None:
        """End what a start has made. How it ended is kept if the server was let go."""
        try:
            known = self._servers.get(start.key)
            if known is not None:
                self._servers.bury(known)
            elif part is not None:
                part.end()
            if not start.let_go:
                self._servers.forget(start.key)
        except (DiyCloudError, OSError) as error:
            _log_untidy(start.key, error)

    def _look_after(self, server: KnownServer, may_run: bool) -> None:
        key, now = server.key, self._clock()
        if self._servers.is_running(server):
            self._follow(server)  # limits that changed just while it was started, or while no agent ran
        elif not server.tidied:
            self._servers.bury(server)
            told = {"exit_code": server.record.exit_code, "memory_kills": server.record.kills}
            log.info("notebook ended", name=key.name, server=key.server, **told)
        elif not may_run or now - (server.record.ended or now) > KEPT_S:
            self._servers.forget(key)

    def _follow(self, server: KnownServer) -> None:
        profile = self.settings.profiles.get(server.record.profile)
        if server.part is None or server.tidied or profile is None:
            return
        try:
            with self._bounding:
                server.part.follow(Cores(profile.cpu))
        except HostError as error:
            _log_untidy(server.key, error)

    def _forget_oldest(self, name: str) -> None:
        """Keep what is told of a user's servers that ended to as many as may run: names are free, and logs take room."""
        ended = [server for server in self._servers.of(name) if server.tidied]
        ended.sort(key=lambda server: server.record.ended or 0.0)
        for server in ended[: -1 - self.settings.named_servers]:
            with self._servers.locked(server.key, wait=False) as locked:
                if locked and self._servers.get(server.key) is server:
                    self._servers.forget(server.key)


def _log_untidy(key: ServerKey, error: Exception) -> None:
    log.error("notebook not tidied", name=key.name, server=key.server, reason=str(error))
