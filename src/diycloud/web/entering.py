"""From the portal to notebooks at a host name of their own, step by step (notebooks/doors.py tells why).

1. A page of notebooks without a cookie there: Nginx leads to ENTER at the notebooks' name, which leaves the browser's half.
2. `/notebooks/enter` at the portal: who is signed in is sent back with a code, bound to that half; others sign in first.
3. ENTER again: for code and half the browser gets its cookie, and goes on to the page.

`/notebooks/open` is for browsers that come from a form of the portal's: Chrome holds `form-action` of our
Content-Security-Policy against a whole chain of redirects, and a page of its own ends that chain.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from diycloud.actions.services import Services
from diycloud.errors import PermissionDenied, Unauthenticated
from diycloud.notebooks import doors
from diycloud.notebooks.actions import ListNotebooks
from diycloud.web import identity
from diycloud.web.portal import HEADERS, Entry, Page

NO_REFERRER = {**HEADERS, "referrer-policy": "no-referrer"}
"""Codes are in addresses here: no page that follows may learn them."""
_COOKIE: dict[str, Any] = {"path": "/", "secure": True, "httponly": True, "samesite": "lax"}
LATE = (
    "This way to notebooks is no longer open: it holds for half a minute, once, and in the browser that asked for it, "
    "which must keep cookies.\nOpen {address}/jupyter/ again.\n"
)


def way_to(address: str) -> str:
    """Return where a form of the portal's leads to get to a server. address: the server's own."""
    return address if address.startswith("/") else f"/notebooks/open?{urlencode({'next': urlsplit(address).path})}"


# -- at the portal's name


async def open_page(page: Page) -> Response:
    """Go on to a page of notebooks by a page of its own."""
    there = page.portal.dispatcher.services.settings.notebooks_address
    path = doors.page(page.request.query_params.get("next", ""))
    return page.render("onward.html", target=f"{there}{path}") if there else page.redirect(path)


async def enter(page: Page) -> Response:
    """Give the browser a code for the session that it has here."""
    services, asked = page.portal.dispatcher.services, page.request.query_params
    there, path = services.settings.notebooks_address, doors.page(asked.get("next", ""))
    if not there:
        return page.redirect(path)
    if not page.visitor.csrf:
        onward = f"/notebooks/open?{urlencode({'next': asked.get('next', '')})}"
        return page.redirect(f"/sign-in?{urlencode({'next': onward})}")
    actor, bound = page.visitor.actor, asked.get("bound", "")
    try:
        await page.check(ListNotebooks, actor.name)
    except PermissionDenied:  # the password must be changed first, and the like
        return page.redirect("/account/second-factor" if actor.must_enrol else "/account")
    if actor.session_id is None or not doors.is_bound(bound):
        return RedirectResponse(f"{there}{path}", 303, NO_REFERRER)
    code = doors.Code(doors.Door(actor.session_id, page.visitor.csrf), bound, path)
    query = urlencode({"code": services.notebook_codes.put(f"session {actor.session_id}", code)})
    return RedirectResponse(f"{there}{doors.ENTER}?{query}", 303, NO_REFERRER)


# -- at the notebooks' name


async def at_notebooks(services: Services, request: Request) -> Response:
    """Answer ENTER: begin, or take what the portal gave. The portal's own cookie is neither here nor asked for."""
    there = services.settings.notebooks_address
    if not there or request.method not in ("GET", "HEAD"):
        return Response("", 404 if not there else 405, NO_REFERRER)
    try:
        asked = parse_qs(request.scope["query_string"].decode("latin-1"), max_num_fields=8)
    except ValueError:  # nothing of ours has so many
        asked = {}
    if "code" not in asked:
        return _begin(services, request, asked.get("next", [""])[-1])
    code = services.notebook_codes.take(asked["code"][-1])
    half = request.cookies.get(doors.HALF, "")
    if code is not None and doors.bound(half) == code.bound:
        cookie = doors.sealed(services.vault, code.door)
        try:
            found = await identity.session_behind(request, services, cookie)
        except Unauthenticated:  # not from this address
            found = None
        if found is not None:
            response = RedirectResponse(code.page, 303, NO_REFERRER)
            max_age = max(1, found[0].expires_at - int(time.time()))
            response.set_cookie(doors.COOKIE, cookie, max_age=max_age, **_COOKIE)
            return response
    return PlainTextResponse(LATE.format(address=there), 403, NO_REFERRER)


def _begin(services: Services, request: Request, path: str) -> Response:
    half = doors.half(request.cookies.get(doors.HALF))
    query = urlencode({"next": path, "bound": doors.bound(half)})
    response = RedirectResponse(f"{services.settings.server.address}notebooks/enter?{query}", 303, NO_REFERRER)
    response.set_cookie(doors.HALF, half, max_age=doors.HALF_S, **_COOKIE)
    return response


PAGES = (
    Entry("GET", "/notebooks/enter", enter, open=True),
    Entry("GET", "/notebooks/open", open_page),
)
