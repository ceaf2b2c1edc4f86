"""Signing in with an OpenID Connect provider, and which of them open one's own account."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from diycloud.auth import proof
from diycloud.auth.outside.actions import ListIdentities, UnlinkIdentity
from diycloud.config_sign_in import LDAP
from diycloud.errors import Conflict, NotFound, Unauthenticated, Unavailable
from diycloud.web import account, signing_in
from diycloud.web.pages import safe_next
from diycloud.web.portal import Entry, Page

COOKIE = "__Host-diycloud-outside"
COOKIE_S = 600
SIGN_IN, AGAIN, LINK = "sign-in", "again", "link"
"""As auth/outside/journey.py has them, which is loaded only where there is a provider."""
_ATTRIBUTES: dict[str, Any] = {"path": "/", "secure": True, "httponly": True, "samesite": "lax"}
MINE = "/account/identities"


async def start(page: Page) -> Response:
    """Send somebody to a provider: to sign in, or to prove anew who is signed in."""
    what_for = AGAIN if page.visitor.csrf else SIGN_IN
    return await _depart(page, page.path["name"], what_for, page.sent("next").get("next", ""))


async def _depart(page: Page, name: str, what_for: str, target: str) -> Response:
    outside = page.portal.dispatcher.services.outside
    if outside is None:
        raise NotFound("There is no such provider.")
    try:
        url, cookie = await outside.depart(
            name, page.visitor.actor, base=page.portal.address, target=safe_next(target), what_for=what_for
        )
    except Unavailable as error:
        return page.redirect(MINE if what_for == LINK else "/sign-in", ("error", str(error)))
    # A redirect would be the form's, and the page's policy lets forms go nowhere else.
    response = page.render("onward.html", target=url)
    response.set_cookie(COOKIE, cookie, max_age=COOKIE_S, **_ATTRIBUTES)
    return response


async def come_back(page: Page) -> Response:
    """Take the answer of a provider, by which somebody came back."""
    quota = page.portal.limits.take(page.visitor.actor)
    if quota is not None:
        quota.check()  # each makes us ask the provider
    outside, name = page.portal.dispatcher.services.outside, page.path["name"]
    if outside is None:
        raise NotFound("There is no such provider.")
    failed = MINE if page.visitor.csrf else "/sign-in"
    try:
        query = dict(page.request.query_params)
        cookie = page.request.cookies.get(COOKIE, "")
        person, found = await outside.come_back(name, query, cookie, page.visitor.actor, base=page.portal.address)
        if found.what_for == LINK:
            response = await _link(page, person)
        else:
            visit, who = signing_in.visit_of(page), page.visitor.actor.user_id
            going = page.portal.sign_in.by_provider(person, visit, must_be=who)
            response = await signing_in.conclude(page, going, found.target)
    except (Unauthenticated, Unavailable, Conflict) as error:
        response = page.redirect(failed, ("error", str(error)))
    response.delete_cookie(COOKIE, **_ATTRIBUTES)
    return response


async def _link(page: Page, person: Any) -> Response:
    from diycloud.auth.outside.linking import link_own

    await link_own(page.portal.dispatcher.services, page.visitor.actor, person)
    return page.redirect(MINE, ("ok", "From now on you can sign in with it."))


async def show_mine(page: Page) -> Response:
    found = await page.run(ListIdentities, {"username": page.visitor.actor.name})
    linked = {identity.provider: identity for identity in found.identities}
    settings = page.portal.dispatcher.services.settings.sign_in
    labels = {provider.name: provider.label or provider.name for provider in settings.providers}
    if LDAP in linked:
        labels[LDAP] = (settings.ldap.label if settings.ldap else "") or "the directory"
    gone = {name: name for name in linked if name not in labels}
    return await account.render(
        page, "account_identities.html", "identities", linked=linked, labels=labels | gone, ldap=LDAP
    )


async def link_mine(page: Page) -> Response:
    proof.require(page.visitor.actor)
    return await _depart(page, page.sent("provider").get("provider", ""), LINK, MINE)


async def unlink_mine(page: Page) -> Response:
    try:
        await page.run(UnlinkIdentity, {"username": page.visitor.actor.name, **page.sent("provider")})
    except (NotFound, Conflict) as error:
        return page.redirect(MINE, ("error", str(error)))
    return page.redirect(MINE, ("ok", "It opens your account no more."))


PAGES = (
    Entry("POST", "/sign-in/with/{name}", start, open=True),
    Entry("GET", "/sign-in/with/{name}/back", come_back, open=True),
    Entry("GET", MINE, show_mine),
    Entry("POST", f"{MINE}/link", link_mine),
    Entry("POST", f"{MINE}/unlink", unlink_mine),
)
