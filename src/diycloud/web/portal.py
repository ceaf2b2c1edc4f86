"""What every page of the portal shares: who looks, the form's protection, rendering, errors.

The pages themselves are functions in pages.py, people.py and their neighbours, each in that module's PAGES.
"""

from __future__ import annotations

import base64
import contextlib
import json
import mimetypes
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute
from starlette.routing import Route as StarletteRoute

from diycloud import __version__
from diycloud.actions.action import Action, Permission
from diycloud.actions.dispatcher import Dispatcher
from diycloud.actions.download import Download
from diycloud.actions.parsing import Source
from diycloud.actions.reach import scope_of
from diycloud.actions.roles import Scope
from diycloud.auth.oidc.keys import Keys
from diycloud.auth.signin import SignIn, stranger
from diycloud.errors import DiyCloudError, InvalidInput, PermissionDenied, ProofNeeded
from diycloud.users import repository
from diycloud.users.usage import Gauges
from diycloud.web import identity
from diycloud.web.answers import Stream
from diycloud.web.identity import Visitor
from diycloud.web.problems import STATUS, retry_after
from diycloud.web.ratelimit import Limits
from diycloud.web.templating import CONTENT_SECURITY_POLICY, STATIC, environment

R = TypeVar("R")
MAX_FORM = 9 << 20
MAX_STRANGERS_FORM = 16 << 10
MAX_FIELDS = 250
"""A page of users to be chosen among is a box for each."""
FLASH = "__Host-diycloud-flash"
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}
_COOKIE = {"path": "/", "secure": True, "httponly": True, "samesite": "lax"}


class Person(NamedTuple):
    """Who is signed in, as the masthead shows it."""

    username: str
    full_name: str
    role: str


class Page:
    """One request for a page: who looks, what was sent, and how to answer."""

    def __init__(self, portal: Portal, request: Request, visitor: Visitor, form: FormData | None) -> None:
        self.portal = portal
        self.request = request
        self.visitor = visitor
        self.form = form
        self.person: Person | None = None
        self.kept: list[tuple[str, str]] | None = None
        """What the form holds, to be sent again once who sent it has proved who they are; None: it is filled in anew."""

    @property
    def path(self) -> Mapping[str, str]:
        return self.request.path_params

    def sent(self, *names: str) -> dict[str, str]:
        """Return the text fields that the form sent, of those names."""
        assert self.form is not None
        return {name: value for name in names if isinstance(value := self.form.get(name), str)}

    async def run(self, action: type[Action[R]], raw: Mapping[str, Any], source: Source = Source.TEXT) -> R:
        """Submit an action as the one who looks. source: how the values are written."""
        return await self.portal.dispatcher.submit(self.visitor.actor, action, raw, source)

    def may(self, permission: str) -> bool:
        """Tell whether the one who looks may do something to others: what pages offer."""
        return scope_of(self.visitor.actor, Permission(permission)) > Scope.OWN

    async def check(self, action: type[Action[Any]], target: str = "") -> None:
        """Raise PermissionDenied unless the one who looks may do this: asked before its form is shown."""
        await self.portal.dispatcher.check(self.visitor.actor, action, target)

    def text(self, template: str, *, notes: Sequence[str] = (), **context: Any) -> str:
        """Return a template as it is shown to the one who looks. notes: warnings above it."""
        return self.portal.templates.get_template(template).render(
            host=self.portal.host,
            address=self.portal.address,
            version=__version__,
            actor=self.person,
            csrf="" if identity.is_script(self.request) else self.visitor.csrf,  # no script reads it from a page
            may=self.may,
            notebooks_here=self.portal.has_notebooks,
            flashes=[*_read_flashes(self.request), *({"kind": "warn", "text": text} for text in notes)],
            **context,
        )

    def render(self, template: str, status: int = 200, *, notes: Sequence[str] = (), **context: Any) -> Response:
        """Answer with a page."""
        text = self.text(template, notes=notes, **{"status": status, **context})
        response = Response(text, status, HEADERS, "text/html; charset=utf-8")
        if FLASH in self.request.cookies:
            response.delete_cookie(FLASH, **_COOKIE)  # type: ignore[arg-type]  # the keywords are its own
        return response

    def stream(self, parts: AsyncIterator[str]) -> Response:
        """Answer with a page that is sent as it is made, past what would hold it back."""
        return Stream(parts, 200, {**HEADERS, "x-accel-buffering": "no"}, "text/html; charset=utf-8")

    def redirect(self, path: str, *flashes: tuple[str, str]) -> Response:
        """Answer a post with another page. flashes: kind (ok, info, warn, error) and text, shown there once."""
        response = RedirectResponse(path, 303, HEADERS)
        if flashes:
            kept = json.dumps([[kind, text[:300]] for kind, text in flashes[:4]])
            value = base64.urlsafe_b64encode(kept.encode()).decode()
            response.set_cookie(FLASH, value, max_age=60, **_COOKIE)  # type: ignore[arg-type]  # the keywords are its own
        return response

    def set_session(self, response: Response, token: str, max_age: int) -> Response:
        response.set_cookie(identity.COOKIE, token, max_age=max_age, **_COOKIE)  # type: ignore[arg-type]
        return response

    def end_session(self, response: Response) -> Response:
        response.delete_cookie(identity.COOKIE, **_COOKIE)  # type: ignore[arg-type]
        return response

    async def still_signed_in(self) -> bool:
        """Tell whether the session that began this request still holds."""
        try:
            return (await identity.visitor(self.request, self.portal.dispatcher.services, via="portal")).signed_in
        except DiyCloudError:
            return False

    async def meet(self) -> None:
        """Find out who looks. Raises Unauthenticated for a token that does not hold."""
        services = self.portal.dispatcher.services
        self.visitor = await identity.visitor(self.request, services, via="portal")
        actor = self.visitor.actor
        if actor.user_id is not None:
            row = await services.database.read(repository.by_id, actor.user_id)
            self.person = Person(actor.name, row.full_name if row else "", actor.role)


PageFunction = Callable[[Page], Awaitable[Response]]


class Entry(NamedTuple):
    """A row of a module's PAGES. open: for people who are not signed in or must change their password first.

    scripted: what the portal's own scripts ask for. All other pages are for people: a script that asks for one is a
    notebook's, which shares this origin (web/internal.py).
    """

    methods: str
    path: str
    function: PageFunction
    open: bool = False
    scripted: bool = False


class Portal:
    """The pages as routes, and the parts they use."""

    def __init__(self, dispatcher: Dispatcher, sign_in: SignIn, gauges: Gauges, limits: Limits) -> None:
        self.dispatcher = dispatcher
        self.sign_in = sign_in
        self.gauges = gauges
        self.limits = limits
        self.streams: Counter[str] = Counter()
        """Open streams of gauges by who looks."""
        self.templates = environment()
        providers = dispatcher.services.settings.sign_in.providers
        self.templates.globals["providers"] = [(found.name, found.label or found.name) for found in providers]
        server = dispatcher.services.settings.server
        self.host, self.address = server.name, server.address
        self.keys = Keys(dispatcher.services.database, dispatcher.services.vault, server.oidc_key_days)
        """Of the provider's ID tokens."""
        self._static = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.is_file()}

    @property
    def has_notebooks(self) -> bool:
        """Whether notebooks are set up on this host."""
        hub = self.dispatcher.services.hub
        return hub is not None and hub.is_set_up

    def routes(self) -> list[BaseRoute]:
        """Return Starlette's routes of every page."""
        from diycloud.web import (
            account,
            applications,
            auditing,
            choosing,
            entering,
            importing,
            managing,
            notebooks,
            oidc_pages,
            outside,
            pages,
            people,
            second_factor,
            signed_in,
            signing_in,
            tenancy,
        )

        modules = (
            signing_in,
            outside,
            pages,
            notebooks,
            entering,
            account,
            second_factor,
            signed_in,
            people,
            managing,
            choosing,
            auditing,
            tenancy,
            importing,
            applications,
            oidc_pages,
        )
        entries = [entry for module in modules for entry in module.PAGES]
        made: list[BaseRoute] = [
            StarletteRoute(entry.path, self._endpoint(entry), methods=entry.methods.split()) for entry in entries
        ]
        return [*made, StarletteRoute("/static/{version}/{path:path}", self._static_file)]

    def _endpoint(self, entry: Entry) -> Callable[[Request], Awaitable[Response]]:
        from diycloud.web import account

        async def endpoint(request: Request) -> Response:
            page = Page(self, request, nobody(request), None)
            try:
                if not entry.scripted and identity.is_script(request):
                    raise PermissionDenied(
                        "This page is for people, not for scripts.", "Open it in a window of its own."
                    )
                await page.meet()
                visitor = page.visitor
                if (
                    visitor.csrf or request.method == "POST"
                ):  # pages for strangers are looked at by whole classes at once
                    quota = self.limits.take(visitor.actor, signing_in=entry.path.startswith("/sign-in"))
                    if quota is not None:
                        quota.check()
                if not entry.open and not visitor.csrf:
                    return self._to_sign_in(request)
                if not entry.open and visitor.actor.must_change_password:
                    return RedirectResponse("/account", 303, HEADERS)
                if visitor.actor.must_enrol and not visitor.actor.must_change_password and not _enrols(entry):
                    return RedirectResponse("/account/second-factor", 303, HEADERS)
                if request.method == "POST":
                    page.form = await self._form(request, visitor)
                return await entry.function(page)
            except ProofNeeded:
                return await account.to_confirm(page)
            except DiyCloudError as error:
                return _error_page(page, error)

        return endpoint

    def _to_sign_in(self, request: Request) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        there = request.url.path + query if request.method == "GET" else "/"
        target = "/sign-in" if there == "/" else f"/sign-in?{urlencode({'next': there})}"
        return RedirectResponse(target, 303, HEADERS)

    async def _form(self, request: Request, visitor: Visitor) -> FormData:
        """Return a form that this very site's page sent. Raises PermissionDenied, InvalidInput for a size unsaid or too big."""
        identity.check_same_origin(request)
        length = request.headers.get("content-length", "")
        limit = MAX_FORM if visitor.csrf else MAX_STRANGERS_FORM
        if not length.isdigit() or int(length) > limit:
            raise InvalidInput(f"The form is over {limit >> 10} KiB.")
        form = await request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=limit)
        if visitor.csrf:
            identity.check_csrf(visitor, form.get("csrf"))
        elif not request.url.path.startswith("/sign-in"):
            raise PermissionDenied("You are not signed in any more.", "Sign in and send the form again.")
        return form

    async def _static_file(self, request: Request) -> Response:
        path = self._static.get(request.path_params["path"])
        if path is None:
            return await self.plain_error(request, 404)
        return _file(path)

    async def plain_error(self, request: Request, status: int) -> Response:
        """Answer with the error page, for what no page function answers."""
        with contextlib.suppress(DiyCloudError):
            page = Page(self, request, nobody(request), None)
            await page.meet()
            return page.render("error.html", status)
        return Response(str(status), status, HEADERS)


def _enrols(entry: Entry) -> bool:
    """Tell whether a page is for people who must set up a second factor first. Those of /oidc/ answer the application."""
    return entry.path.startswith(("/account/second-factor", "/sign-", "/confirm", "/oidc/"))


def download(found: Download) -> Response:
    """Answer with a file that is sent as it is made."""
    headers = {**HEADERS, "content-disposition": f'attachment; filename="{found.filename}"'}
    return Stream(found.chunks, 200, headers, found.media_type)


def nobody(request: Request) -> Visitor:
    """Return the visitor of a request before it is known who sends it."""
    return Visitor(stranger("portal", identity.address(request), identity.request_id(request)), signed_in=False)


def _error_page(page: Page, error: DiyCloudError) -> Response:
    status = STATUS.get(error.code, 500)
    request_id = page.visitor.actor.request_id
    response = page.render("error.html", status, message=error.message, hint=error.hint, request_id=request_id)
    if wait := retry_after(error):
        response.headers["retry-after"] = str(wait)
    return response


def field_errors(error: DiyCloudError, names: set[str]) -> tuple[dict[str, str], str]:
    """Return an error as the form shows it: field → what is wrong, and what belongs to no field."""
    if isinstance(error, InvalidInput) and error.errors:
        known = {e.field: e.message for e in error.errors if e.field in names}
        rest = "; ".join(f"{e.field}: {e.message}" for e in error.errors if e.field not in names)
        return known, rest
    field, _, text = error.message.partition(": ")
    if text and field in names:
        return {field: text}, ""
    return {}, str(error)


def _read_flashes(request: Request) -> list[dict[str, str]]:
    try:
        found = json.loads(base64.urlsafe_b64decode(request.cookies.get(FLASH, "")))
        return [{"kind": kind, "text": str(text)} for kind, text in found if kind in ("ok", "info", "warn", "error")]
    except (ValueError, TypeError):
        return []


def _file(path: Path) -> Response:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    headers = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
    if kind == "image/svg+xml":
        headers["content-security-policy"] = "default-src 'none'; style-src 'unsafe-inline'"  # an SVG opened as a page
    return Response(path.read_bytes(), 200, headers, kind)
