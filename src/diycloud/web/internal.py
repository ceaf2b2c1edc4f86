"""What the host's own parts ask over the server's socket: the notebooks' hub about people, Nginx about a request.

The hub, known by its uid, reaches /internal/hub/ and the provider's endpoints for applications, as if it came by HTTPS, and
nothing else. Nobody but the hub reaches /internal/hub/. Nginx asks the guard before each request that it lets through to
somebody's notebook server; it passes on no request of a browser's below /internal/.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import parse_qs

import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from diycloud.actions.services import Services
from diycloud.auth import forced, host_password, proof
from diycloud.auth.sessions import Session
from diycloud.errors import DiyCloudError, InvalidInput, Unauthenticated
from diycloud.notebooks import repository
from diycloud.notebooks.models import Events, HubUser
from diycloud.users.repository import by_name
from diycloud.web import identity
from diycloud.web.answers import Answer, answer, json_answer
from diycloud.web.bodies import LONG, read_body
from diycloud.web.identity import COOKIE, HUB_PEER
from diycloud.web.problems import problem_of

ROOT = "/internal/"
HUB_USERS, HUB_EVENTS, HUB_PASSWORD = "/internal/hub/users/", "/internal/hub/events", "/internal/hub/password"
GUARD = "/internal/notebooks/guard"
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

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        path: str = scope["path"]
        mine = path.startswith(ROOT) or (_is_hub(scope) and path not in BACK_CHANNEL)
        return (Match.FULL if mine else Match.NONE), {}

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(scope, receive)
        except DiyCloudError as error:
            response = problem_of(error, "")
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        path, method = scope["path"], scope["method"]
        if path == GUARD and not _is_hub(scope):
            return await self._guard(HTTPConnection(scope))
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
        return json_answer(found, 200 if found.active else 403)

    async def _events(self, request: Request) -> Response:
        try:
            told = _decode_events(await read_body(request, LONG))
        except msgspec.DecodeError as error:  # msgspec.ValidationError is one of these
            raise InvalidInput(str(error)) from None
        await self._services.database.note(lambda connection: repository.note_events(connection, told.events))
        for event in told.events:
            self._services.notebook_changes.tell(event.name)
        return answer(b"", 204)

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
        Only a session's cookie counts: no API token, and nobody who acts for another, is somebody in their own browser.
        """
        token = connection.cookies.get(COOKIE)
        try:
            found = await identity.session_of(connection, self._services, token) if token else None
        except Unauthenticated:  # not from this address
            found = None
        owner = identity.field(connection, b"x-notebook-owner")
        if found is None:
            return Answer(b"", 401 if owner else 204, [_NO_STORE])
        session = found[0]
        if (owner and owner != session.username) or not self._may_work(session):
            return Answer(b"", 403 if owner else 204, [_NO_STORE])
        return Answer(b"", 204, [_NO_STORE, (b"x-notebook-user", session.username.encode())])

    def _may_work(self, session: Session) -> bool:
        """Tell whether a session may do more than set up how its user signs in (actions/reach.py)."""
        server = self._services.settings.server
        return not session.must_change_password and not forced.must_enrol(
            server, session.role, asked=session.factor_asked, has_one=session.has_factor
        )


def _is_hub(scope: Scope) -> bool:
    client = scope.get("client")
    return client is not None and client[0] == HUB_PEER
