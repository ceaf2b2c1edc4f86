"""Signing in and out: name and password, then the second factor if there is one; or a passkey alone.

Between the two steps the browser holds a ticket in a cookie of its own, for five minutes (auth/signin.py).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from diycloud.actions.parsing import Source, parse_action
from diycloud.auth import factors, passkeys
from diycloud.auth.actions import Credentials, SignOut
from diycloud.auth.signin import SignedIn, Visit
from diycloud.errors import DiyCloudError, SecondFactorNeeded, TooManyRequests, Unauthenticated, Unavailable
from diycloud.web.pages import safe_next
from diycloud.web.portal import HEADERS, Entry, Page
from diycloud.web.problems import STATUS
from diycloud.web.ratelimit import network

TICKET = "__Host-diycloud-second"
TICKET_S = 300
_ATTRIBUTES: dict[str, Any] = {"path": "/", "secure": True, "httponly": True, "samesite": "lax"}
LATE = "That took too long, or had too many wrong codes. Sign in again."


def visit_of(page: Page) -> Visit:
    """Return where a sign-in in a browser comes from."""
    return Visit(page.visitor.actor, "browser", page.request.headers.get("user-agent", ""), time.monotonic())


async def show_sign_in(page: Page) -> Response:
    if page.visitor.csrf:
        return page.redirect("/")
    asked = page.request.query_params
    return _first(page, 200, {"next": asked.get("next", ""), "username": asked.get("username", "")[:64]})


def _first(page: Page, status: int, shown: dict[str, Any]) -> Response:
    return page.render("sign_in.html", status, passkeys=_party(page), **shown)


def _party(page: Page) -> passkeys.Party | None:
    """Return what passkeys are bound to, None where browsers would refuse them."""
    here = passkeys.party(page.portal.dispatcher.services.settings.server)
    return here if here.possible else None


async def sign_in(page: Page) -> Response:
    """Take a name and password, or a passkey alone."""
    sent, visit = page.sent("username", "password", "next", "passkey"), visit_of(page)
    target, shown = sent.get("next", ""), {"next": sent.get("next", ""), "username": sent.get("username", "")[:64]}
    if sent.get("passkey"):
        going = page.portal.sign_in.by_passkey(sent["passkey"], visit)
    else:
        given = {"username": sent.get("username", ""), "password": sent.get("password", "")}
        asked = parse_action(Credentials, given, Source.TEXT)
        going = page.portal.sign_in(
            asked.username.strip(), asked.password, actor=visit.actor, kind=visit.kind, user_agent=visit.user_agent
        )
    try:
        return await conclude(page, going, target)
    except (Unauthenticated, Unavailable, TooManyRequests) as error:
        return _wait(_first(page, STATUS[error.code], {**shown, **_told(error)}), error)


async def conclude(page: Page, going: Awaitable[SignedIn], target: str) -> Response:
    """Answer with the session of a sign-in, or with the page of its second factor. Raises what else the sign-in raises."""
    try:
        done = await going
    except SecondFactorNeeded as needed:
        response = page.redirect(_second_page(target))
        response.set_cookie(TICKET, needed.ticket, max_age=TICKET_S, **_ATTRIBUTES)
        return response
    if page.visitor.csrf:  # signed in before, in this browser: that session ends with the new one
        await page.run(SignOut, {})
    first = "/account" if done.must_change_password else "/account/second-factor" if done.must_enrol else ""
    max_age = page.portal.dispatcher.services.settings.server.session_max_hours * 3600
    return _without_ticket(page.set_session(page.redirect(first or safe_next(target)), done.token, max_age))


def _second_page(target: str) -> str:
    target = safe_next(target)
    return "/sign-in/second" if target == "/" else f"/sign-in/second?{urlencode({'next': target})}"


def _without_ticket(response: Response) -> Response:
    response.delete_cookie(TICKET, **_ATTRIBUTES)
    return response


def _wait(response: Response, error: DiyCloudError) -> Response:
    if isinstance(error, TooManyRequests):
        response.headers["retry-after"] = str(error.retry_after)
    return response


def _told(error: DiyCloudError) -> dict[str, Any]:
    """Return what a page says about a refusal."""
    if isinstance(error, TooManyRequests):
        return {"error": error.message, "retry_after": error.retry_after}
    return {"error": str(error)}


async def show_second(page: Page) -> Response:
    return await _second(page, 200, page.request.query_params.get("next", ""), {})


async def _second(page: Page, status: int, target: str, told: dict[str, Any]) -> Response:
    """Show the page of the second step; who has no ticket any more begins again."""
    found = await page.portal.sign_in.ways(page.request.cookies.get(TICKET, ""))
    if found is None:
        return _without_ticket(page.redirect("/sign-in", ("warn", LATE)))
    row, ways = found
    wanted = page.request.query_params.get("way", "")
    way = wanted if wanted in ways else ways[0] if ways else factors.RECOVERY
    here = _party(page)
    return page.render(
        "sign_in_second.html", status, username=row.username, ways=ways, way=way, next=target, passkeys=here, **told
    )


async def second(page: Page) -> Response:
    """Take the second factor: a code, a recovery code or a passkey."""
    sent = page.sent("code", "passkey", "next")
    target, ticket = sent.get("next", ""), page.request.cookies.get(TICKET, "")
    going = page.portal.sign_in.second(
        ticket, visit_of(page), code=sent.get("code", "")[:64], passkey=sent.get("passkey", "")
    )
    try:
        done = await going
    except SecondFactorNeeded as error:
        return await _second(page, 401, target, {"error": error.message})
    except Unauthenticated:
        return _without_ticket(page.redirect("/sign-in", ("warn", LATE)))
    except TooManyRequests as error:
        return _wait(await _second(page, 429, target, _told(error)), error)
    return await conclude(page, _now(done), target)


async def _now(done: SignedIn) -> SignedIn:
    return done


async def ask_passkey(page: Page) -> Response:
    """Give the page's script what it asks the browser for: any passkey of this portal, or one of who holds a ticket."""
    services = page.portal.dispatcher.services
    asked, owner = passkeys.Challenge(passkeys.ALONE, None), f"network {network(page.visitor.actor.address)!r}"
    if page.sent("second").get("second"):
        found = await page.portal.sign_in.ways(page.request.cookies.get(TICKET, ""))
        if found is None:
            raise Unauthenticated(LATE)
        asked, owner = passkeys.Challenge(passkeys.SECOND, found[0].id), f"user {found[0].id}"
    options = await factors.ask_passkey(services, asked, owner)
    return Response(options, 200, HEADERS, "application/json")


async def sign_out(page: Page) -> Response:
    await page.run(SignOut, {})
    return page.end_session(page.redirect("/sign-in", ("ok", "You are signed out.")))


PAGES = (
    Entry("GET", "/sign-in", show_sign_in, open=True),
    Entry("POST", "/sign-in", sign_in, open=True),
    Entry("GET", "/sign-in/second", show_second, open=True),
    Entry("POST", "/sign-in/second", second, open=True),
    Entry("POST", "/sign-in/passkey", ask_passkey, open=True, scripted=True),
    Entry("POST", "/sign-out", sign_out, open=True),
)
