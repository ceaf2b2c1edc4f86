"""The REST API: one endpoint for every row of the route table, and what HTTP asks of each (RFC 9110)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from diycloud.actions.action import Action, Kind
from diycloud.actions.actor import Actor
from diycloud.actions.claims import Answered, Claim
from diycloud.actions.dispatcher import Context, Dispatcher, Terms
from diycloud.actions.download import Download
from diycloud.actions.parsing import Source
from diycloud.auth.signin import SignIn, stranger
from diycloud.core.routes import PREFIX, ROUTES, Route, result_type
from diycloud.errors import Conflict, DiyCloudError, FieldError, InvalidInput, NotFound, Unauthenticated
from diycloud.groups.models import GroupChanged, GroupDetail
from diycloud.policies.models import Policy, PolicyChanged
from diycloud.resources.actions import ReadMetrics
from diycloud.users.models import Changed, Created, User
from diycloud.web import bodies, etag, identity, oldforms, problems, streams
from diycloud.web.answers import JSON, Answer, answer, download, encode, json_answer, links, shown, shown_to_old
from diycloud.web.calls import COUNTED_AS, Call, Endpoint
from diycloud.web.etag import Precondition
from diycloud.web.idempotency import Keys, parse_key, repeated
from diycloud.web.identity import Visitor
from diycloud.web.logins import Logins
from diycloud.web.oldclients import OldClients
from diycloud.web.paths import Paths
from diycloud.web.problems import HttpError
from diycloud.web.ratelimit import Limits, Quota

_USUAL = frozenset({b"*/*", b"application/json"})
"""Accept fields that need no reading."""
METRICS = "/metrics"
"""Where Prometheus looks unless it is told otherwise."""
_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}\Z")
_INTERRUPTED = "The server stopped while this was done; it is done, but a generated password is lost: set another."


class Rest(BaseRoute):
    """Everything below /api/. Endpoints parse nothing themselves: raw input goes to the dispatcher with the action's class."""

    def __init__(self, dispatcher: Dispatcher, sign_in: SignIn, limits: Limits) -> None:
        self._dispatcher = dispatcher
        self._logins = Logins(sign_in)
        self.login = self._logins.first
        self._limits = limits
        self._keys = Keys(dispatcher.services.database)
        self._described: bytes = b""
        self._paths: Paths[Endpoint] = Paths()
        for method, path, end in self._endpoints():
            self._paths.add(method, path, end._replace(path=path))

    def _endpoints(self) -> list[tuple[str, str, Endpoint]]:
        made = [
            ("GET", f"{PREFIX}/health", Endpoint(self._health, open=True)),
            ("GET", f"{PREFIX}/openapi.json", Endpoint(self._openapi, open=True)),
            ("GET", problems.TYPES + "{code}", Endpoint(self._problem, open=True, says="")),
            ("GET", METRICS, Endpoint(self._metrics, open=True, says="")),
            ("GET", f"{PREFIX}/auth/whoami", Endpoint(self._whoami)),
            ("POST", f"{PREFIX}/auth/login", Endpoint(self.login, open=True)),
            ("POST", f"{PREFIX}/auth/login/second", Endpoint(self._logins.second, open=True)),
            *OldClients(self).endpoints(),
        ]
        for route in ROUTES:
            says = "" if route.status == 204 or _is_download(route.action) or route.action in streams.STREAMED else JSON
            made.append((route.method, PREFIX + route.path, Endpoint(self._endpoint(route), says=says)))
        return made

    # -- as a route of Starlette's

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        there = scope["type"] == "http" and (scope["path"].startswith("/api/") or scope["path"] == METRICS)
        return (Match.FULL if there else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.answer(Request(scope, receive, send))
        if scope["method"] == "HEAD":
            if isinstance(response, StreamingResponse):
                response = Answer(b"", response.status_code, response.raw_headers)
            response.body = b""
        await response(scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        raise NoMatchFound(name, path_params)

    # -- every request

    async def answer(self, request: Request) -> Response:
        """Answer a request, whatever it is; what goes wrong is answered as a problem."""
        call, method = Call(request), request.method
        path: str = request.scope["path"]
        found = self._paths.find("GET" if method == "HEAD" else method, path)
        quota: Quota | None = None
        try:
            visitor, refusal = await self._meet(call)
            signing_in = found is not None and path.endswith(("/auth/login", "/auth/login/second"))
            call.visitor, quota = visitor, self._limits.take(visitor.actor, signing_in=signing_in)
            if quota is not None:
                quota.check()
            if refusal is not None and not (found and found[0].open):
                raise refusal
            if found is None:
                response = self._no_such(method, path)
            else:
                end, call.names = found
                request.scope[COUNTED_AS] = end.path
                if end.says and call.given.get(b"accept", b"*/*") not in _USUAL:
                    bodies.check_acceptable(call.field(b"accept") or "", end.says)
                if not (end.open or visitor.signed_in):
                    raise Unauthenticated("Nobody is signed in.", "POST /api/v1/auth/login gives a token.")
                response = await end.answer(call)
        except DiyCloudError as error:
            response = problems.problem_of(error, call.visitor.actor.request_id or identity.request_id(request))
        if quota is not None:
            response.raw_headers += quota.headers
        return response

    async def _meet(self, call: Call) -> tuple[Visitor, DiyCloudError | None]:
        """Return who asks, and what is wrong with the credentials if they do not hold."""
        request = call.request
        try:
            return await identity.visitor(request, self._dispatcher.services, via="rest"), None
        except Unauthenticated as error:
            nobody = stranger("rest", identity.address(request), identity.request_id(request))
            return Visitor(nobody, signed_in=False), error

    def _no_such(self, method: str, path: str) -> Response:
        there = self._paths.methods(path)
        if not there:
            raise NotFound("There is nothing at this address.", f"{PREFIX}/openapi.json tells what there is.")
        allowed = ", ".join(sorted(there | ({"HEAD"} if "GET" in there else set()) | {"OPTIONS"}))
        if method == "OPTIONS":
            return answer(b"", 204, {"Allow": allowed})
        raise HttpError("method-not-allowed", f"{method} is not for this address.", headers={"Allow": allowed})

    # -- what is open to all

    async def _health(self, call: Call) -> Response:
        """Answer that the server lives. Says nothing else: anybody may ask."""
        return json_answer({"status": "ok"})

    async def _metrics(self, call: Call) -> Response:
        """Tell Prometheus what is counted, where it looks for it. Strangers learn what to send."""
        if not call.visitor.signed_in:
            raise Unauthenticated(
                "What is counted is told to administrators' programs only.",
                "Send an API token with the permission metrics:read that holds, as `Authorization: Bearer …`.",
            )
        return download(await self.run(call, ReadMetrics, {}, Source.TEXT))

    async def _openapi(self, call: Call) -> Response:
        if not self._described:
            from diycloud.web.openapi import document

            self._described = encode(document())
        return answer(self._described, 200, {})

    async def _problem(self, call: Call) -> Response:
        page = problems.page(call.names["code"])
        if page is None:
            raise NotFound("There is no such problem.")
        return page

    async def _whoami(self, call: Call) -> Response:
        """Tell whose credentials these are. Every session and API token may ask, whatever else it may do."""
        actor = call.visitor.actor
        lent = None if actor.scopes is None else sorted(actor.scopes)
        return json_answer(
            {
                "username": actor.name,
                "role": actor.role,
                "domain": actor.domain,
                "scopes": lent,
                "must_change_password": actor.must_change_password,
            }
        )

    # -- actions

    def _endpoint(self, route: Route) -> Callable[[Call], Awaitable[Response]]:
        if route.method == "GET":
            return lambda call: self._read(route, call)
        if route.action in streams.STREAMED:
            return lambda call: self._told(route, call)
        return lambda call: self.change(route, call)

    async def _told(self, route: Route, call: Call) -> Response:
        """Run a change that may take minutes, row by row for who asks so."""
        if not streams.is_asked_for(call.field(b"accept") or ""):
            return await self.change(route, call)
        return await streams.answer(lambda: self.change(route, call), call.visitor.actor.request_id)

    async def _read(self, route: Route, call: Call) -> Response:
        raw = bodies.query(call.request)
        raw.update(call.names)
        result = await self.run(call, route.action, raw, Source.TEXT)
        if isinstance(result, Download):
            return download(result)
        body, headers = encode(result), links(call.request, result)
        if not etag.has_tag(result):
            return answer(body, 200, headers)
        current = etag.tag(result, body)
        headers["ETag"] = current
        if b"if-match" in call.given:
            etag.check(current, call.field(b"if-match"), None)
        wanted = call.field(b"if-none-match")
        if wanted is not None and not etag.differs(wanted, current):
            return answer(b"", 304, headers)
        return answer(body, 200, headers)

    async def change(
        self, route: Route, call: Call, *, old: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    ) -> Response:
        """Run a change. old: gives the API's names to the fields of a short form."""
        sent = await self.sent(route, call, call.names)
        show, raw = (shown_to_old, old(sent)) if old else (shown, sent)
        raw = {**raw, **call.names}
        name = str(raw.get(route.action.target_field, ""))
        terms = self.conditions(call, route.action.kind, name)
        claim = None
        if route.keyed and b"idempotency-key" in call.given:
            key = parse_key(call.field(b"idempotency-key") or "")
            asked = [call.request.url.path, call.given.get(b"x-on-behalf-of", b"").decode("latin-1"), raw]
            claim = Claim(call.visitor.actor.name, key, asked, lambda result: show(route, result))
            terms.append(claim)
        place = {"Location": f"{call.request.url.path}/{quote(name)}"} if route.status == 201 else {}
        try:
            if claim is None:
                result = await self.run(call, route.action, raw, Source.JSON, terms)
                status, body = show(route, result)
            else:
                status, body, result = await self._once(route, call, raw, claim, terms)
        except InvalidInput as error:
            raise (oldforms.renamed(error, sent) if old else error) from None
        if result is None:
            again = {} if status == 204 else {**place, "Idempotency-Replayed": "true"}
            return answer(body, status, again)
        return answer(body, status, {**place, **await self.tag_after(result)})

    async def _once(
        self, route: Route, call: Call, raw: dict[str, Any], claim: Claim, terms: list[Terms]
    ) -> tuple[int, bytes, Any]:
        """Run a change that has a key, unless it was run before: then its result is None."""
        found = await self._keys.find(claim)
        if found is not None and found.status is not None:
            return found.status, await self._recall(route, call, raw, claim, found), None
        try:
            if found is None:
                result = await self.run(call, route.action, raw, Source.JSON, terms)
            else:
                await self._recall(route, call, raw, claim, found)
                result = await self._cut_off(route, call, raw, claim)
                if result is None:  # the host had refused it, and the crash came before the key was forgotten
                    result = await self.run(call, route.action, raw, Source.JSON, terms)
            status, body = claim.shown(result)
            if claim.begun:
                self._keys.keep(claim, status, body)
            return status, body, result
        finally:
            self._keys.release(claim)

    async def _recall(self, route: Route, call: Call, raw: dict[str, Any], claim: Claim, found: Answered) -> bytes:
        """Return the body of an answer, if who asks again may do now what it tells of. Raises PermissionDenied."""

        async def again(ctx: Context, _: object) -> bytes:
            return await repeated(self._dispatcher, ctx, claim, found)

        body: bytes = await self._dispatcher.recall(_actor(call), route.action, raw, Source.JSON, again)
        return body

    async def _cut_off(self, route: Route, call: Call, raw: dict[str, Any], claim: Claim) -> Any:
        """Return what a request made that a crash cut off, None (and the key is free again) if it made nothing.

        Raises Conflict where that cannot be told.
        """
        write = self._dispatcher.services.database.write
        name = str(raw.get(route.action.target_field, ""))
        show = next((r.action for r in ROUTES if r.method == "GET" and _is_one_of(r, route)), None)
        if show is None:
            raise Conflict(
                "The server stopped while this was done; what it had begun is finished.", "See what is there."
            )
        try:
            thing = await self.run(call, show, {show.target_field: name}, Source.TEXT)
        except NotFound:
            await write(claim.end, None, "refused")
            return None
        result: Any = thing
        if isinstance(thing, User):
            result = Created(thing, None, (_INTERRUPTED,))
        elif isinstance(thing, GroupDetail):
            result = GroupChanged(thing.group)
        elif isinstance(thing, Policy):
            result = PolicyChanged(thing)
        await write(claim.end, result, "done")
        return result

    async def run(
        self,
        call: Call,
        action: type[Action[Any]],
        raw: dict[str, Any],
        source: Source,
        terms: list[Terms] | None = None,
    ) -> Any:
        return await self._dispatcher.submit(_actor(call), action, raw, source, _together(terms or []))

    async def sent(self, route: Route, call: Call, names: dict[str, str]) -> dict[str, Any]:
        """Return a change's body. names: what its path says already. Raises PermissionDenied for what another site sent."""
        visitor = call.visitor
        if visitor.csrf:
            identity.check_same_origin(call.request)
            identity.check_csrf(visitor, call.field(b"x-csrf-token"))
        return await bodies.read_change(route, call.request, names)

    def conditions(self, call: Call, kind: Kind, name: str) -> list[Terms]:
        """Return what a change asks of the thing of that kind and name."""
        if b"if-match" not in call.given and b"if-none-match" not in call.given:
            return []
        fields = call.field(b"if-match"), call.field(b"if-none-match")
        return [Precondition(self._dispatcher.services, kind, name, *fields)]

    async def tag_after(self, result: Any) -> dict[str, str]:
        """Return the ETag of what was changed, as the answer shows it."""
        if isinstance(result, GroupChanged):  # without its members: is it still what the answer shows?
            services = self._dispatcher.services

            def read(connection: Connection) -> Any:
                return etag.read(connection, services, Kind.GROUP, result.group.name)

            detail = await services.database.read_long(read)
            return {"ETag": etag.tag(detail)} if detail is not None and detail.group == result.group else {}
        thing: Any = result
        if isinstance(result, Changed | Created):
            thing = result.user
        elif isinstance(result, PolicyChanged):
            thing = result.policy
        return {"ETag": etag.tag(thing)} if etag.has_tag(thing) else {}


def _actor(call: Call) -> Actor:
    """Return who asks, and as whom it is to be done. Raises InvalidInput for what is no name."""
    actor = call.visitor.actor
    if b"x-on-behalf-of" not in call.given:
        return actor
    name = call.given[b"x-on-behalf-of"].decode("latin-1")
    if not _NAME.match(name):
        raise InvalidInput.of([FieldError("X-On-Behalf-Of", "is no name of a user")])
    return actor._replace(on_behalf_of=name)


class _Together(Terms):
    """Several terms, each held."""

    def __init__(self, parts: list[Terms]) -> None:
        self._parts = parts

    def check(self, connection: Connection) -> None:
        for part in self._parts:
            part.check(connection)

    def begin(self, connection: Connection, actor: Actor) -> None:
        for part in self._parts:
            part.begin(connection, actor)

    def end(self, connection: Connection, result: object, outcome: str) -> None:
        for part in self._parts:
            part.end(connection, result, outcome)


def _together(parts: list[Terms]) -> Terms | None:
    return parts[0] if len(parts) == 1 else _Together(parts) if parts else None


def _is_download(action: type[Action[Any]]) -> bool:
    return result_type(action) is Download


def _is_one_of(route: Route, creates: Route) -> bool:
    """Tell whether a route shows one of what another creates."""
    return creates.status == 201 and re.fullmatch(re.escape(creates.path) + r"/{\w+}", route.path) is not None
