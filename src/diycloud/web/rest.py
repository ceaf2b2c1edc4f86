"""The REST API: one endpoint for every row of the route table."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.routing import Route as StarletteRoute

from diycloud.actions.dispatcher import Dispatcher
from diycloud.actions.parsing import Source, decode_json, parse_action
from diycloud.auth.actions import Credentials
from diycloud.auth.service import SignIn, stranger
from diycloud.core.routes import PREFIX, ROUTES, Route
from diycloud.errors import DiyCloudError, FieldError, InvalidInput, Unauthenticated
from diycloud.users.actions import ImportUsers
from diycloud.users.models import Created, Page, Status
from diycloud.web import identity, problems

MAX_BODY = 1 << 20
MAX_IMPORT = 9 << 20
_JSON = "application/json"
_encode = msgspec.json.Encoder().encode


async def read_body(request: Request, limit: int) -> bytes:
    """Return a request's body. Raises InvalidInput above the limit, without reading on."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise InvalidInput(f"The body is over {limit >> 20} MiB.")
        parts.append(part)
    return b"".join(parts)


def json_answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer that nobody stores."""
    answer = Response(_encode(value), status, headers, _JSON)
    answer.headers["cache-control"] = "no-store"
    answer.headers["x-content-type-options"] = "nosniff"
    return answer


class Rest:
    """The endpoints. They parse nothing themselves: raw input goes to the dispatcher with the action's class."""

    def __init__(self, dispatcher: Dispatcher, sign_in: SignIn) -> None:
        self._dispatcher = dispatcher
        self._sign_in = sign_in

    def routes(self) -> list[BaseRoute]:
        """Return Starlette's routes, one for each path and method, with the short forms of old clients."""
        made: list[BaseRoute] = []
        for prefix in (PREFIX, "/api"):
            made.append(StarletteRoute(f"{prefix}/auth/login", self.login, methods=["POST"]))
            made += [StarletteRoute(prefix + r.path, self._endpoint(r), methods=[r.method]) for r in ROUTES]
        return made

    def _endpoint(self, route: Route) -> Any:
        async def endpoint(request: Request) -> Response:
            try:
                return await self._answer(route, request)
            except DiyCloudError as error:
                return problems.problem_of(error, identity.request_id(request))

        return endpoint

    async def _answer(self, route: Route, request: Request) -> Response:
        found = await identity.visitor(request, self._dispatcher.services, via="rest")
        if not found.signed_in:
            raise Unauthenticated("Nobody is signed in.", "POST /api/v1/auth/login gives a token.")
        if route.method == "GET":
            raw, source = _query(request), Source.TEXT
        else:
            if found.csrf:
                identity.check_same_origin(request)
                identity.check_csrf(found, request.headers.get("x-csrf-token"))
            raw, source = await _body(route, request), Source.JSON
        raw.update(request.path_params)
        result = await self._dispatcher.submit(found.actor, route.action, raw, source)
        if route.status == 204:
            return Response(status_code=204)
        status = 202 if isinstance(result, Created) and result.user.status is Status.PENDING else route.status
        return json_answer(result, status, _headers(route, request, raw, result))

    async def login(self, request: Request) -> Response:
        """Give a bearer token for a name and password."""
        actor = stranger("rest", identity.address(request), identity.request_id(request))
        try:
            sent = parse_action(Credentials, _json(request, await read_body(request, MAX_BODY)), Source.JSON)
            agent = request.headers.get("user-agent", "")
            done = await self._sign_in(sent.username, sent.password, actor=actor, kind="api", user_agent=agent)
        except DiyCloudError as error:
            return problems.problem_of(error, actor.request_id)
        body = {
            "token": done.token,
            "token_type": "bearer",
            "username": done.username,
            "expires_at": done.expires_at,
            "must_change_password": done.must_change_password,
        }
        return json_answer(body)


def _query(request: Request) -> dict[str, Any]:
    pairs = request.query_params.multi_items()
    if len({name for name, _ in pairs}) != len(pairs):
        raise InvalidInput("A query parameter is there twice.", "Send each once.")
    return dict(pairs)


async def _body(route: Route, request: Request) -> dict[str, Any]:
    limit = MAX_IMPORT if route.action is ImportUsers else MAX_BODY
    body = await read_body(request, limit)
    if route.action is ImportUsers and _media_type(request) == "text/csv":
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidInput("csv: is not UTF-8.", "Save it as CSV UTF-8.") from None
        return {"csv": text, "dry_run": request.query_params.get("dry_run", "").lower() in ("1", "true", "yes")}
    raw = _json(request, body)
    both = set(raw) & set(request.path_params)
    if both:
        raise InvalidInput.of([FieldError(name, "is in the path already") for name in sorted(both)])
    return raw


def _json(request: Request, body: bytes) -> dict[str, Any]:
    """Return the object of a JSON body, an empty one for none. Raises InvalidInput, for another media type too."""
    kind = _media_type(request)
    if body and kind != _JSON:
        raise InvalidInput(f"The body is {kind or 'of no type'}.", f"Send {_JSON}.")
    return decode_json(body) if body else {}


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()


def _headers(route: Route, request: Request, raw: dict[str, Any], result: Any) -> dict[str, str]:
    if route.status == 201:
        return {"Location": f"{PREFIX}/users/{result.user.username}"}
    if isinstance(result, Page):
        links, url = [], request.url
        for relation, cursor in (("next", result.next), ("prev", result.previous)):
            if cursor:
                there = url.include_query_params(cursor=cursor)
                links.append(f'<{there.path}?{there.query}>; rel="{relation}"')
        return {"Link": ", ".join(links)} if links else {}
    return {}
