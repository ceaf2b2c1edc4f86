"""What the host's own parts ask over the server's socket: the notebooks' hub about people, Nginx about a request.

The hub, known by its uid, reaches /internal/hub/ and the provider's endpoints for applications, as if it came by HTTPS, and
nothing else. Nobody but the hub reaches /internal/hub/. Nginx asks the guard before each request that it lets through to
somebody's notebook server; it passes on no request of a browser's below /internal/.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from urllib.parse import parse_qs

import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from diycloud.actions.endings import Ending
from diycloud.actions.services import Services
from diycloud.auth import forced, host_password, proof
from diycloud.auth.sessions import Session
from diycloud.errors import DiyCloudError, InvalidInput, Unauthenticated
from diycloud.notebooks import doors, eviction, metrics, repository
from diycloud.notebooks.models import Event, Events, HubUser
from diycloud.users.repository import by_name
from diycloud.web import entering, identity
from diycloud.web.answers import Answer, answer, json_answer
from diycloud.web.bodies import LONG, read_body
from diycloud.web.calls import COUNTED_AS
from diycloud.web.identity import COOKIE, HUB_PEER
from diycloud.web.problems import problem_of

ROOT = "/internal/"
HUB_USERS, HUB_EVENTS, HUB_PASSWORD = "/internal/hub/users/", "/internal/hub/events", "/internal/hub/password"
GUARD = "/internal/notebooks/guard"
ENTER = "/internal/notebooks/enter"
"""What Nginx makes of doors.ENTER at the notebooks' own name."""
BACK_CHANNEL = frozenset(
    {
        "/.well-known/openid-configuration",
        "/oidc/jwks",
        "/oidc/token",
        "/oidc/userinfo",
        "/oidc/revoke",
        "/oidc/introspect",
    }
)
"""What an application asks by itself, with credentials of its own (web/oidc.py)."""
_NO_STORE = (b"cache-control", b"no-store")
_decode_events = msgspec.json.Decoder(Events).decode


class Password(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody typed into the hub's form, and from where."""

    name: Annotated[str, msgspec.Meta(max_length=64)]
    password: Annotated[str, msgspec.Meta(max_length=1024)]
    code: Annotated[str, msgspec.Meta(max_length=64)] = ""
    address: Annotated[str, msgspec.Meta(max_length=64)] = ""


_decode_password = msgspec.json.Decoder(Password).decode


class Internal(BaseRoute):
    """Starlette's route of all that is internal, and of all that the hub must not reach: it comes before every other."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._evicting: dict[str, asyncio.Task[tuple[str, ...]]] = {}

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        path: str = scope["path"]
        mine = path.startswith(ROOT) or (_is_hub(scope) and path not in BACK_CHANNEL)
        return (Match.FULL if mine else Match.NONE), {}

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[COUNTED_AS] = _template(scope["path"])
        try:
            response = await self._answer(scope, receive)
        except DiyCloudError as error:
            response = problem_of(error, "")
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        path, method = scope["path"], scope["method"]
        if path == GUARD and not _is_hub(scope):
            return await self._guard(HTTPConnection(scope))
        if path == ENTER and not _is_hub(scope):
            return await entering.at_notebooks(self._services, Request(scope, receive))
        if _is_hub(scope):
            if method == "GET" and path.startswith(HUB_USERS):
                return await self._user(path.removeprefix(HUB_USERS), scope["query_string"])
            if method == "POST" and path == HUB_EVENTS:
                return await self._events(Request(scope, receive))
            if method == "POST" and path == HUB_PASSWORD:
                return await self._password(Request(scope, receive))
        return Answer(b"", 404, [_NO_STORE])

    # -- for the hub

    async def _user(self, name: str, query: bytes) -> Response:
        """Tell whether somebody may work with notebooks: 200, else 403 or 404, with the reason."""
        given = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("address")
        address = given[-1][:64] if given else None
        server = self._services.settings.server
        found = await self._services.database.read(repository.standing, name, address, server)
        if found is None:
            return json_answer(HubUser(name[:64], False, "There is no such user."), 404)
        if found.reason in (repository.LEFT_BEHIND, repository.BEING_ENDED):
            self._evict(found.name)
        return json_answer(found, 200 if found.active else 403)

    def _evict(self, name: str) -> None:
        """Carry out what waited for the hub, which is there now. Not awaited: the hub waits for this answer."""
        if name not in self._evicting:
            task = self._evicting[name] = asyncio.create_task(eviction.carry_out(self._services, name))
            task.add_done_callback(lambda _: self._evicting.pop(name, None))

    async def _events(self, request: Request) -> Response:
        try:
            told = _decode_events(await read_body(request, LONG))
        except msgspec.DecodeError as error:  # msgspec.ValidationError is one of these
            raise InvalidInput(str(error)) from None
        endings = [self._ending(event) for event in told.events]
        events = [
            event if ending is None else msgspec.structs.replace(event, by=ending.by)
            for event, ending in zip(told.events, endings, strict=True)
        ]
        await self._services.database.note(lambda connection: repository.note_events(connection, events))
        for event, ending in zip(events, endings, strict=True):
            metrics.count(self._services.meter, event, asked=ending.reason if ending else "")
            self._services.notebook_changes.tell(event.name)
        return answer(b"", 204)

    def _ending(self, event: Event) -> Ending | None:
        """Return who asked for an end: the hub knows that the server did, not for whom."""
        if event.kind != "stopped" or event.by:
            return None
        return self._services.notebook_endings.find(event.name, event.server)

    async def _password(self, request: Request) -> Response:
        """Compare a password, and a code of who has a second factor: 204, 403 for a wrong one, 429 for too many tries.

        For a hub that asks for passwords itself (settings: notebooks.sign_in).
        """
        try:
            given = _decode_password(await read_body(request, LONG))
        except msgspec.DecodeError as error:
            raise InvalidInput(str(error)) from None
        if self._services.settings.notebooks.sign_in != "pam":
            return Answer(b"", 404, [_NO_STORE])
        row = await self._services.database.read(by_name, given.name)
        if row is None:  # as slow as a wrong one, and counted as one
            self._services.throttle.check(given.name, given.address)
            self._services.throttle.failed(given.name, given.address)
            await host_password.verify(self._services, given.name, None, given.password)
            return Answer(b"", 403, [_NO_STORE])
        right = await proof.holds(self._services, row, given.password, given.code, given.address)
        return Answer(b"", 204 if right else 403, [_NO_STORE])

    # -- for Nginx

    async def _guard(self, connection: HTTPConnection) -> Response:
        """Tell Nginx whether a request may pass to a notebook server: 204, 401 for nobody, 403 for somebody else.

        Without an owner, which is asked for the hub's own pages, nobody is refused: who is signed in is named, if anybody is.
        (At a host name of notebooks' own people come in by entering.py first, to the hub's pages too.)
        Only a session's cookie counts: no API token, and nobody who acts for another, is somebody in their own browser.
        """
        try:
            found = await self._session(connection)
        except Unauthenticated:  # not from this address
            found = None
        owner = identity.field(connection, b"x-notebook-owner")
        if found is None:
            enters = owner or identity.field(connection, b"x-notebook-enters")
            return Answer(b"", 401 if enters else 204, [_NO_STORE])
        session = found[0]
        if (owner and owner != session.username) or not self._may_work(session):
            return Answer(b"", 403 if owner else 204, [_NO_STORE])
        told = [(b"x-notebook-user", session.username.encode()), (b"x-notebook-session", str(session.id).encode())]
        return Answer(b"", 204, [_NO_STORE, *told])

    async def _session(self, connection: HTTPConnection) -> tuple[Session, str] | None:
        """Return the session of a browser: by the portal's cookie, or by that of the notebooks' own name where they have one."""
        own_name = bool(self._services.settings.notebooks.host)
        cookie = connection.cookies.get(doors.COOKIE if own_name else COOKIE)
        if not cookie:
            return None
        find = identity.session_behind if own_name else identity.session_of
        return await find(connection, self._services, cookie)

    def _may_work(self, session: Session) -> bool:
        """Tell whether a session may do more than set up how its user signs in (actions/reach.py)."""
        server = self._services.settings.server
        return not session.must_change_password and not forced.must_enrol(
            server, session.role, asked=session.factor_asked, has_one=session.has_factor
        )


def _template(path: str) -> str:
    """Return what a request is counted as, empty for what is none of ours."""
    if path.startswith(HUB_USERS):
        return f"{HUB_USERS}{{username}}"
    return path if path in (HUB_EVENTS, HUB_PASSWORD, GUARD, ENTER) else ""


def _is_hub(scope: Scope) -> bool:
    client = scope.get("client")
    return client is not None and client[0] == HUB_PEER
