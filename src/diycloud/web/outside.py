"""Signing in with an OpenID Connect provider; which providers open one's own account, and which a user's."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from diycloud.actions.action import Permission
from diycloud.actions.reach import scope_of
from diycloud.actions.roles import Scope
from diycloud.auth import proof
from diycloud.auth.outside.actions import LinkIdentity, ListIdentities, UnlinkIdentity
from diycloud.config_sign_in import LDAP
from diycloud.errors import Conflict, InvalidInput, NotFound, Unauthenticated, Unavailable
from diycloud.web import account, signing_in
from diycloud.web.pages import safe_next
from diycloud.web.portal import Entry, Page, field_errors

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
    quota = page.portal.limits.take(page.visitor.actor, signing_in=True)
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


async def show_theirs(page: Page) -> Response:
    return await _theirs(page, 200, {}, {}, "")


async def _theirs(page: Page, status: int, values: dict[str, str], errors: dict[str, str], message: str) -> Response:
    """Show who a user is elsewhere, and to who may say so the form that links them."""
    found = await page.run(ListIdentities, {"username": page.path["username"]})
    settings = page.portal.dispatcher.services.settings.sign_in
    labels = {one.name: one.label or one.name for one in settings.providers}
    if settings.ldap is not None:
        labels[LDAP] = settings.ldap.label or "the directory"
    linked = {one.provider for one in found.identities}
    return page.render(
        "user_identities.html", status, username=found.username, found=found, labels=labels, ldap=LDAP,
        free=[(name, label) for name, label in labels.items() if name not in linked],
        may_link=scope_of(page.visitor.actor, Permission.USERS_PASSWORD) is Scope.ALL, values=values, errors=errors,
        message=message, section="users",
    )  # fmt: skip


async def link_theirs(page: Page) -> Response:
    sent = {name: value.strip() for name, value in page.sent("provider", "subject", "name_there").items()}
    page.kept = list(sent.items())
    name = page.path["username"]
    try:
        done = await page.run(LinkIdentity, {"username": name, **{key: value for key, value in sent.items() if value}})
    except (InvalidInput, Conflict, NotFound, Unavailable) as error:
        return await _theirs(page, 422, sent, *field_errors(error, {"provider", "subject", "name_there"}))
    notes = [("warn", text) for text in done.warnings]
    return page.redirect(
        f"/users/{name}/identities", ("ok", f"Whoever that is signs in as {name} from now on."), *notes
    )


async def unlink_theirs(page: Page) -> Response:
    name, sent = page.path["username"], page.sent("provider")
    page.kept = list(sent.items())
    try:
        await page.run(UnlinkIdentity, {"username": name, **sent})
    except (NotFound, Conflict) as error:
        return page.redirect(f"/users/{name}/identities", ("error", str(error)))
    return page.redirect(f"/users/{name}/identities", ("ok", f"It opens the account of {name} no more."))


PAGES = (
    Entry("POST", "/sign-in/with/{name}", start, open=True),
    Entry("GET", "/sign-in/with/{name}/back", come_back, open=True),
    Entry("GET", MINE, show_mine),
    Entry("POST", f"{MINE}/link", link_mine),
    Entry("POST", f"{MINE}/unlink", unlink_mine),
    Entry("GET", "/users/{username}/identities", show_theirs),
    Entry("POST", "/users/{username}/identities", link_theirs),
    Entry("POST", "/users/{username}/identities/unlink", unlink_theirs),
)
