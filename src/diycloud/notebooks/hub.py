"""Asking the notebooks' hub (JupyterHub's REST API) over its Unix socket, with the token that the hub made for the portal.

The hub may be away: whoever asks gets Unavailable at once for a while after it did not answer, so that a list of a thousand
changes does not wait for it a thousand times.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from diycloud.errors import Conflict, HostError, NotFound, TooManyRequests, Unavailable

API = "http://hub/jupyter/hub/api/"
ANSWER_S = 10.0
START_S = 75.0
"""The hub answers a start when the server runs, or after its own patience (`slow_spawn_timeout`)."""
SIGN_OUT_S = 3.0
"""Somebody who changes a password waits no longer; it is done as soon as the hub answers again."""
SILENT_S = 3.0
HINT = "`diycloud up` starts it; see `diycloud doctor`."


class HubServer(NamedTuple):
    """A server as the hub has it. pending: `spawn`, `stop` or empty."""

    name: str
    ready: bool
    pending: str
    profile: str = ""


class Hub:
    """The way to the hub. socket: where it listens; token: the file with what it knows us by."""

    def __init__(self, socket: Path, token: Path) -> None:
        self._socket, self._token = socket, token
        self._client: Any = None
        self._silent_until = 0.0

    @property
    def is_set_up(self) -> bool:
        """Whether notebooks are set up on this host."""
        return self._token.exists()

    async def servers(self, name: str) -> dict[str, HubServer]:
        """Return a user's servers by name, stopped ones too; none of a user that the hub does not know."""
        try:
            found = await self._ask("GET", f"users/{_seg(name)}?include_stopped_servers=1")
        except NotFound:
            return {}
        servers = found.get("servers") or {}
        return {key: _server(key, value) for key, value in servers.items() if isinstance(value, dict)}

    async def start(self, name: str, server: str, profile: str) -> bool:
        """Start a server; True if it answers, False if it takes a while. One that runs is fine.

        Raises Conflict for what the hub does not allow, TooManyRequests, HostError with why it did not start.
        """
        body = {"user_options": {"profile": profile}} if profile else {}
        for known in (True, False):
            try:
                status = await self._send("POST", _path(name, server), body, START_S)
                return status == 201
            except NotFound:
                if not known:
                    raise
                await self._add(name)
            except Conflict as error:
                if "already running" in error.message:
                    return True
                if "is pending stop" in error.message:
                    raise Conflict("The server is about to end.", "Start it again in a moment.") from None
                raise
        return False

    async def _add(self, name: str) -> None:
        try:
            await self._send("POST", f"users/{_seg(name)}", {})
        except Conflict:  # somebody else was quicker
            return

    async def stop(self, name: str, server: str) -> None:
        """Have a server end; one that does not run is fine."""
        try:
            await self._send("DELETE", _path(name, server))
        except NotFound:
            return

    async def sign_out(self, name: str, *, tokens: bool, kept_session: int | None, last_session: int) -> None:
        """End what lets a user in at the hub, but the tokens of servers that run (hub/signing_out.py).

        tokens: the API tokens that the user made, too; kept_session: of the portal's, whose browser stays; last_session: the
        newest that is meant.
        """
        body = {"tokens": tokens, "kept_session": kept_session, "last_session": last_session}
        try:
            await self._send("POST", f"users/{_seg(name)}/sign-out", body, SIGN_OUT_S)
        except NotFound:
            return

    async def remove(self, name: str) -> None:
        """Have the hub forget a user with servers and tokens."""
        try:
            await self._send("DELETE", f"users/{_seg(name)}")
        except NotFound:
            return

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    # -- one request

    async def _ask(self, method: str, path: str) -> dict[str, Any]:
        answer = await self._request(method, path, None, ANSWER_S)
        try:
            return msgspec.json.decode(answer.content, type=dict[str, Any])
        except msgspec.DecodeError:
            raise Unavailable("The notebooks' hub gave an answer that is none.", HINT) from None

    async def _send(self, method: str, path: str, body: object = None, seconds: float = ANSWER_S) -> int:
        return int((await self._request(method, path, body, seconds)).status_code)

    async def _request(self, method: str, path: str, body: object, seconds: float) -> Any:
        if time.monotonic() < self._silent_until:
            raise Unavailable("The notebooks' hub does not answer.", HINT)
        httpx = await asyncio.to_thread(importlib.import_module, "httpx")  # most of a second, the first time
        if self._client is None:
            transport = httpx.AsyncHTTPTransport(uds=str(self._socket), retries=1)
            self._client = httpx.AsyncClient(transport=transport, base_url=API, trust_env=False)
        try:
            token = self._token.read_text().strip()
            content = None if body is None else msgspec.json.encode(body)
            headers = {"authorization": f"token {token}"}
            answer = await self._client.request(method, path, content=content, headers=headers, timeout=seconds)
        except (OSError, httpx.HTTPError) as error:
            if seconds >= ANSWER_S or not isinstance(error, httpx.TimeoutException):
                self._silent_until = time.monotonic() + SILENT_S
            raise Unavailable("The notebooks' hub does not answer.", f"{HINT} ({type(error).__name__})") from error
        _check(answer)
        return answer


def _check(answer: Any) -> None:
    """Raise what an answer that is no success means."""
    status = answer.status_code
    if status < 400:
        return
    try:
        message = str(msgspec.json.decode(answer.content, type=dict[str, Any]).get("message") or "")[:500]
    except msgspec.DecodeError:
        message = ""
    if status == 404:
        raise NotFound(message or "The hub knows no such thing.")
    if status == 429:
        wait = answer.headers.get("retry-after", "")
        seconds = int(wait) if wait.isdecimal() else 10
        raise TooManyRequests(
            "Many notebooks are starting now.", "Try again in a moment.", retry_after=min(seconds, 600)
        )
    if status in (400, 403, 409):
        raise Conflict(message or "The hub does not allow it.")
    if status in (502, 503, 504):
        raise Unavailable(message or "The notebooks' hub cannot do it now.", "Try again in a moment.")
    raise HostError(message or f"The notebooks' hub answered {status}.", "Its log says more: `diycloud doctor`.")


def _path(name: str, server: str) -> str:
    return f"users/{_seg(name)}/servers/{_seg(server)}" if server else f"users/{_seg(name)}/server"


def _seg(text: str) -> str:
    return quote(text, safe="")


def _server(name: str, model: dict[str, Any]) -> HubServer:
    options = model.get("user_options")
    profile = options.get("profile") if isinstance(options, dict) else ""
    return HubServer(name, bool(model.get("ready")), str(model.get("pending") or ""), str(profile or ""))
