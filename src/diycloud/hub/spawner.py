"""Starting and stopping users' servers: the agent does it, as the user, in the user's slice."""

from __future__ import annotations

import asyncio
import html
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

from jupyterhub import orm
from jupyterhub.objects import Server
from jupyterhub.orm import APIToken
from jupyterhub.spawner import Spawner, SpawnException
from sqlalchemy import event

from diycloud.agent.protocol import Notebook, ReadNotebooks, StartNotebook, StopNotebook
from diycloud.errors import (
    Conflict,
    DiyCloudError,
    InvalidInput,
    NotFound,
    PermissionDenied,
    TooManyRequests,
    Unavailable,
    Unsupported,
)
from diycloud.hub.portal import Event
from diycloud.hub.profiles import chosen, options_form

PASSED = re.compile(r"\AJUPYTERHUB_[A-Z_]{1,60}\Z")
"""What the agent takes of an environment (agent/protocol.py); it makes the rest itself."""
STOP_S = 60.0
STARTING = "Starting the server."
LOG_LINES = 20
REASON = 500
"""Characters of an event's reason that the server takes (notebooks/models.py)."""


@event.listens_for(orm.Server, "init")
def _without_port(_server: orm.Server, _args: tuple[()], values: dict[str, Any]) -> None:
    """Say that a server's record has no port: JupyterHub would look for a free one, and the hub can open Unix sockets alone."""
    values.setdefault("port", 0)


class PlatformSpawner(Spawner):
    """One server of a user's. Its truth is the agent's: nothing about it is kept but that it should run."""

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self._asked = False
        """The agent was asked to start it, and has not said that it runs."""
        self._runs_since = 0.0
        """When it began to run, by the clock; 0 if it does not, or its end was told already."""
        self._waits = ""
        """What people are told while it starts."""
        self._token_id = 0

    @property
    def _hub(self) -> Any:
        return self.user.settings["app"]

    # -- where it answers

    @property
    def server(self) -> Any:
        """JupyterHub's record of where it answers, which cannot keep the path of a socket: that follows from the names."""
        found = Spawner.server.fget(self)
        if found is not None and not found.connect_url:
            found.connect_url = self.address
        return found

    @server.setter
    def server(self, value: Server | None) -> None:
        Spawner.server.fset(self, value)

    @property
    def address(self) -> str:
        """Return the server's URL, without a path (agent/notebooks.py makes the socket)."""
        stem = f"{self.user.name}+{self.name}" if self.name else self.user.name
        return socket_url(f"{self._hub.paths.notebooks}/sockets/{stem}.sock")

    # -- life

    async def start(self) -> str:
        """Start it and return where it answers. Raises SpawnException, which says why not and what to do."""
        try:
            profile = chosen(self._hub.settings.notebooks, self.user_options)
        except SpawnException:
            self.orm_spawner.user_options = None  # else it would be remembered, and refused for ever
            raise
        environment = {key: str(value) for key, value in self.get_env().items() if PASSED.match(key)}
        async with self._hub.turns.take(self.user.name, self._say):
            self._say(STARTING)
            began, self._asked = time.time(), True
            message = StartNotebook(self.user.name, self.name, profile, environment)
            try:
                started = await self._start(message)
            except DiyCloudError as error:
                self._asked = isinstance(error, Unavailable)  # else the agent refused, and there is nothing to stop
                raise await self._failure(error, profile, began) from error
        self._hub.board.forget()
        self._hub.ends.forget((self.user.name, self.name))
        self._asked, self._runs_since = False, started.started or time.time()
        self._tell("started", profile=profile, seconds=max(0.0, time.time() - began))  # clocks are set
        return self.address

    def _say(self, words: str) -> None:
        self._waits = words

    async def _start(self, message: StartNotebook) -> Notebook:
        """Ask the agent; while it has its hands full (with starts that a hub before this one asked for), again."""
        seconds = float(self._hub.settings.notebooks.start_seconds)
        last = time.monotonic() + seconds
        while True:
            try:
                started: Notebook = await self._hub.starter.call(message, Notebook, deadline=seconds)
                return started
            except TooManyRequests as error:
                if time.monotonic() + error.retry_after > last:
                    raise
                await asyncio.sleep(error.retry_after)

    async def stop(self, now: bool = False) -> None:
        """End it with all it started. Raises Unavailable if the agent is away; the hub's sweep ends it then."""
        try:
            ended = await self._hub.agent.call(StopNotebook(self.user.name, self.name), Notebook, deadline=STOP_S)
        finally:
            self._hub.board.forget()
        self._asked = False
        why = self._hub.why_ends(self)
        by, reason, cause = ("the hub", why.reason, why.cause) if why else ("", "", "")
        if reason:
            self._hub.ends.note((self.user.name, self.name), reason)
        self._tell_end("stopped", profile=ended.profile, by=by, reason=reason, cause=cause)

    async def poll(self) -> int | None:
        """Return None while it runs, else how it ended. An agent that is away is no reason to give a server up."""
        if self._asked:
            return None  # a start that was broken off may still come about: it must be stopped
        try:
            found = (await self._hub.board.read()).get((self.user.name, self.name))
        except Unavailable as error:
            self.log.warning("Nobody can tell whether %s runs: %s", self._log_name, error)
            return None if self.server is not None else 0
        if found is not None and found.state == "running":
            self._runs_since = self._runs_since or found.started
            return None
        if self._runs_since:
            self._note_end(found)
        return 0 if found is None or found.exit_code is None else found.exit_code

    def _note_end(self, found: Notebook | None) -> None:
        """Tell, once, of a server that ended without the hub."""
        if found is None or found.state == "stopped":
            self._tell_end("stopped", profile=found.profile if found else "")
            return
        why = _why_ended(found)
        self._hub.ends.note((self.user.name, self.name), why)
        self._tell_end("failed", profile=found.profile, reason=why, cause="memory" if found.memory_kill else "")

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Say what is going on, for clients of the hub's API."""
        said = ""
        while self.pending:
            if said != (said := self._waits):
                yield {"progress": 50 if said == STARTING else 10, "message": said}
            await asyncio.sleep(0.2)

    @property
    def waits(self) -> str:
        """What people read while it starts."""
        return self._waits or STARTING

    # -- its token

    @property
    def token_id(self) -> int:
        """The id of the token that the server itself has of the hub, 0 without a server. Notes tell nothing: users write them."""
        if self.api_token:
            found = APIToken.find(self._deprecated_db_session, self.api_token)
            self._token_id = found.id if found is not None else 0
        return self._token_id

    def get_state(self) -> dict[str, Any]:
        """Return what a hub that starts anew must know of a server that runs."""
        return {**super().get_state(), "token_id": self.token_id, "runs_since": self._runs_since}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self._token_id = int(state.get("token_id", 0))
        self._runs_since = float(state.get("runs_since", 0.0))  # so that an end while no hub ran is told of

    # -- after it

    def clear_state(self) -> None:
        super().clear_state()
        self._waits, self._token_id = "", 0

    def forget_tokens(self) -> None:
        """Remove the tokens of earlier lives of this server, which a hub that was killed in between left behind."""
        note, db = f"Server at {self.user.base_url}{self.name + '/' if self.name else ''}", self._deprecated_db_session
        for token in db.query(APIToken).filter(APIToken.user_id == self.user.id, APIToken.note == note):
            db.delete(token)
        db.commit()

    # -- what is chosen

    async def _run_apply_user_options(self, user_options: Mapping[str, Any]) -> None:
        """Apply nothing: `start` takes the profile, and refuses what else there is."""

    async def get_options_form(self) -> str:
        """Return the choice of profiles, nothing where there is none."""
        return options_form(self._hub.settings.notebooks, self.orm_spawner.user_options or {})

    def run_options_from_form(self, form_data: Mapping[str, list[str]]) -> dict[str, str]:
        """Return what a form, or a query, says of the profile."""
        given = form_data.get("profile")
        return {"profile": given[0]} if given else {}

    def options_from_query(self, query_data: Mapping[str, list[str]]) -> dict[str, str]:
        return self.run_options_from_form(query_data)

    # -- telling

    async def _failure(self, error: DiyCloudError, profile: str, began: float) -> SpawnException:
        """Return what people are told of a start that failed, with the server's last lines."""
        found = None
        if isinstance(error, Unavailable):
            try:
                answers = await self._hub.agent.call(ReadNotebooks(self.user.name, self.name), list[Notebook])
                found = answers[0] if answers else None
            except DiyCloudError:
                found = None
        if found is not None and found.state == "failed" and found.ended >= began:
            self._asked = False  # there is nothing to stop: the agent keeps what is told of it
        self._hub.board.forget()
        memory = found is not None and found.memory_kill
        lines = found.log if found is not None else ()
        # The error's hint is those lines, in one; they are shown as lines.
        message = _why_ended(found) if found is not None and memory else error.message if lines else str(error)
        self._hub.ends.note((self.user.name, self.name), message)
        self._tell("failed", profile=profile, reason=_with_last(message, lines), cause="start")
        failed = SpawnException(
            message,
            reason="memory" if memory else error.code,
            message_html=_in_html(message, lines),
            status_code=_STATUS.get(type(error), 500),
        )
        failed.jupyterhub_message, failed.jupyterhub_html_message = message, failed.message_html
        return failed

    def _tell_end(self, kind: str, *, profile: str, reason: str = "", by: str = "", cause: str = "") -> None:
        """Tell of an end, unless it was told already."""
        if self._runs_since:
            seconds, self._runs_since = max(0.0, time.time() - self._runs_since), 0.0
            self._tell(kind, profile=profile, seconds=seconds, reason=reason, by=by, cause=cause)

    def _tell(
        self, kind: str, *, profile: str, seconds: float = 0.0, reason: str = "", by: str = "", cause: str = ""
    ) -> None:
        self._hub.portal.tell(
            Event(
                kind=kind, name=self.user.name, server=self.name, at=time.time(), profile=profile, seconds=seconds,
                by=by, reason=reason[:REASON], cause=cause,
            )
        )  # fmt: skip


_STATUS: dict[type[DiyCloudError], int] = {
    Conflict: 403, PermissionDenied: 403, NotFound: 403, InvalidInput: 400, Unavailable: 503, Unsupported: 501,
    TooManyRequests: 429,
}  # fmt: skip


def socket_url(path: str) -> str:
    """Return the URL of what answers at a Unix socket, without a path. JupyterHub's client writes hosts small."""
    return f"http+unix://{quote(path, safe='')}"


def _why_ended(found: Notebook) -> str:
    if found.memory_kill:
        return "It was killed because your memory was used up. Close what you do not need, or choose more, and start it again."
    if found.exit_code is not None and found.exit_code < 0:
        return f"It was ended by signal {-found.exit_code}. Start it again; its last lines say more."
    return f"It ended by itself with status {found.exit_code}. Its last lines say why."


def _with_last(message: str, lines: tuple[str, ...]) -> str:
    """Return a message and below it as many of a server's last lines as an event's reason has room for."""
    room, kept = REASON - len(message), len(lines)
    while kept and (room := room - len(lines[kept - 1]) - 1) >= 0:
        kept -= 1
    return "\n".join([message, *lines[kept:]])


def _in_html(message: str, lines: tuple[str, ...]) -> str:
    """Return a message and a server's last lines, which are the user's own words, as HTML."""
    told = f"<p>{html.escape(message)}</p>"
    if not lines:
        return told
    shown = html.escape(chr(10).join(lines[-LOG_LINES:]))
    return f'{told}<div class="log"><pre tabindex="0" role="group" aria-label="The last lines of its log">{shown}</pre></div>'
