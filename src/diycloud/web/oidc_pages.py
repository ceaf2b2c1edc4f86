"""What people see when an application signs them in: authorization, consent, signing out.

An application's address is believed only once it is found in the table; until then errors are shown here and nobody is
sent anywhere. Browsers that come from a form of ours are never redirected to another site: Chrome holds `form-action` of
our Content-Security-Policy against the whole chain. They get a page that goes on by itself (/oidc/resume).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from urllib.parse import parse_qsl, urlencode

from sqlalchemy import Connection
from starlette.responses import RedirectResponse, Response

from diycloud.actions import audit
from diycloud.auth.actions import SignOut
from diycloud.auth.oidc import clients, consents, grants, requests
from diycloud.auth.oidc.actions import ListOwnApps
from diycloud.auth.oidc.clients import Client
from diycloud.auth.oidc.requests import Asked, AuthorizationError, Parameters
from diycloud.auth.oidc.service import issuer
from diycloud.errors import HostError, InvalidInput, PermissionDenied
from diycloud.users import repository
from diycloud.web.portal import HEADERS, Entry, Page

MAX_QUERY = 4096
MAX_FIELDS = 40
AGAIN_S = 600
"""How long somebody may take to prove anew who they are."""
_AGAIN = "again"
_ALLOWED = "allowed"
ALLOWED_S = 60
"""How long it takes at most from what somebody allowed to the request that goes on."""
NO_REFERRER = {**HEADERS, "referrer-policy": "no-referrer"}
"""Codes and hints are in addresses here: no page that follows may learn them."""
WORDS = {
    "openid": "that you are you: a number that stays the same",
    "profile": "your user name and your name",
    "email": "your e-mail address",
    "groups": "your groups, your role and your domain",
    "offline_access": "all of this also while you are signed out",
}
Pairs = list[tuple[str, str]]


# -- authorization


async def authorize(page: Page) -> Response:
    """Answer the authorization request of an application (OpenID Connect Core 1.0, 3.1.2)."""
    pairs = _pairs(page)
    client, uri, given = await _addressee(page, pairs)
    try:
        asked = requests.read(client, uri, given)
        return await _admit(page, asked, pairs)
    except AuthorizationError as error:
        more = {"error_description": error.description} if error.description else {}
        return _away(page, uri, given.values.get("state", ""), error=error.error, **more)


async def _admit(page: Page, asked: Asked, pairs: Pairs) -> Response:
    """Send the person back with a code, or first to where they sign in, prove it is them, or allow it."""
    actor, now = page.visitor.actor, int(time.time())
    silent = "none" in asked.prompt
    again = _opened(page, pairs, now)
    if again is None and "login" in asked.prompt:
        pairs = _marked(page, pairs, now)
    if not page.visitor.csrf:
        if silent:
            raise AuthorizationError("login_required")
        hint = {"username": asked.login_hint[:64]} if asked.login_hint else {}
        return page.redirect(f"/sign-in?{urlencode({'next': _resume(pairs), **hint})}")
    try:
        await page.check(ListOwnApps)
    except PermissionDenied:  # the password must be changed first, and the like
        if silent:
            raise AuthorizationError("interaction_required") from None
        return page.redirect("/account/second-factor" if actor.must_enrol else "/account")
    if not _is_fresh(asked, actor.proved_at, again, now):
        if silent:
            raise AuthorizationError("login_required")
        pairs = pairs if again is None and "login" in asked.prompt else _marked(page, pairs, now)
        return page.redirect(f"/confirm?{urlencode({'next': _resume(pairs)})}")
    if await _must_ask(page, asked, pairs, now):
        if silent:
            raise AuthorizationError("consent_required")
        return _ask(page, asked, pairs)
    return await _grant(page, asked, now)


def _is_fresh(asked: Asked, proved_at: int, again: int | None, now: int) -> bool:
    """Tell whether the proof of who it is, is new enough for the request. again: since when it had to be anew."""
    if again is not None and proved_at >= again:
        return True
    return "login" not in asked.prompt and (asked.max_age is None or now - proved_at <= asked.max_age)


async def _must_ask(page: Page, asked: Asked, pairs: Pairs, now: int) -> bool:
    """Tell whether the person must be asked, as they are each time for a program that anybody can pass for.

    Nothing proves which program on a device takes a code at a public application's address there (RFC 8252, 8.6).
    """
    if asked.prompt & {"consent", "select_account"}:
        return True
    if asked.client.app.public and not asked.redirect_uri.startswith("https:"):
        return not _was_allowed(page, pairs, now)
    if asked.client.app.trusted:
        return False
    user_id = page.visitor.actor.user_id
    assert user_id is not None
    allowed = await page.portal.dispatcher.services.database.read(consents.read, user_id, asked.client.id)
    return not set(asked.scopes) <= allowed


async def _grant(page: Page, asked: Asked, now: int) -> Response:
    actor, client = page.visitor.actor, asked.client
    assert actor.user_id is not None
    user_id = actor.user_id
    changes = {"scopes": " ".join(asked.scopes)}

    def store(connection: Connection) -> str:
        row = audit.begin(connection, actor, "app.sign-in", client.name, changes, domain=actor.domain)
        code = grants.begin(
            connection, client_row=client.id, user_id=user_id, session_id=actor.session_id, redirect_uri=asked.redirect_uri,
            challenge=asked.challenge, nonce=asked.nonce, scopes=asked.scopes, methods=actor.methods,
            address=actor.address, signed_in_at=actor.proved_at, now=now,
        )  # fmt: skip
        audit.end(connection, row, "done", duration_ms=0, changes=None)
        return code

    code = await page.portal.dispatcher.services.database.write(store)
    return _away(page, asked.redirect_uri, asked.state, code=code)


def _away(page: Page, uri: str, state: str, **told: str) -> Response:
    there = requests.answer(uri, issuer(page.portal.dispatcher.services.settings.server), state, **told)
    return RedirectResponse(there, 303, NO_REFERRER)  # 303: a form that led here is not sent on (RFC 9700, 4.12)


# -- consent


def _ask(page: Page, asked: Asked, pairs: Pairs) -> Response:
    server = page.portal.dispatcher.services.settings.server
    return page.render(
        "consent.html",
        client=asked.client.app,
        goes_to=_place(asked.redirect_uri),
        scopes=asked.scopes,
        words=[WORDS[scope] for scope in asked.scopes],
        query=urlencode(pairs),
        refuse=requests.answer(asked.redirect_uri, issuer(server), asked.state, error="access_denied"),
    )


async def consent(page: Page) -> Response:
    """Take what the person answered; then the request goes on as it came."""
    sent = page.sent("query", "do")
    pairs = _parsed(sent.get("query", ""))
    client, uri, given = await _addressee(page, pairs)
    try:
        asked = requests.read(client, uri, given)
    except AuthorizationError:
        raise InvalidInput("The application's request is no longer valid.", "Start again at the application.") from None
    rest = _without(pairs, "consent", "select_account")
    if sent.get("do") == "switch":
        await page.run(SignOut, {})
        target = f"/sign-in?{urlencode({'next': _resume(rest)})}"
        return page.end_session(page.redirect(target))
    if sent.get("do") != "allow":
        raise InvalidInput("Nothing was allowed.", "Start again at the application.")
    await page.check(ListOwnApps)
    if not client.app.trusted:
        await _allow(page, asked)
    return page.redirect(_resume(_with_allowance(page, rest)))


async def _allow(page: Page, asked: Asked) -> None:
    actor = page.visitor.actor
    assert actor.user_id is not None
    user_id = actor.user_id

    def store(connection: Connection) -> None:
        changes = {"scopes": " ".join(asked.scopes)}
        row = audit.begin(connection, actor, "app.allow", asked.client.name, changes, domain=actor.domain)
        consents.give(connection, user_id, asked.client.id, asked.scopes)
        audit.end(connection, row, "done", duration_ms=0, changes=None)

    await page.portal.dispatcher.services.database.write(store)


async def resume(page: Page) -> Response:
    """Go on with a request by a page of its own, which ends the chain of a form's redirects."""
    return _onward(page, f"/oidc/authorize?{urlencode(_pairs(page))}")


def _onward(page: Page, target: str) -> Response:
    response = page.render("onward.html", target=target)
    response.headers["referrer-policy"] = "no-referrer"
    return response


# -- signing out


async def log_out(page: Page) -> Response:
    """Sign out for an application (RP-Initiated Logout 1.0).

    At once where it shows an ID token of who is signed in; else they are asked: the address alone may be anybody's link.
    """
    pairs = _pairs(page)
    client, subject, target = await _leaving(page, pairs)
    if not page.visitor.csrf:
        return RedirectResponse(target, 303, NO_REFERRER) if target else page.redirect("/sign-in")
    assert page.visitor.actor.user_id is not None
    row = await page.portal.dispatcher.services.database.read(repository.by_id, page.visitor.actor.user_id)
    if row is None or subject != row.uuid:
        return page.render("log_out.html", client=client.app if client else None, query=urlencode(pairs))
    await page.run(SignOut, {})
    response = RedirectResponse(target or "/sign-in", 303, NO_REFERRER)
    return page.end_session(response)


async def confirm_log_out(page: Page) -> Response:
    _, _, target = await _leaving(page, _parsed(page.sent("query").get("query", "")))
    await page.run(SignOut, {})
    if target:
        return page.end_session(_onward(page, target))
    return page.end_session(page.redirect("/sign-in", ("ok", "You are signed out.")))


async def _leaving(page: Page, pairs: Pairs) -> tuple[Client | None, str | None, str | None]:
    """Return the application that asks, whose ID token it showed, and where to go then (only to an address of its own)."""
    given = Parameters.of(pairs)
    values = given.values
    if given.twice:
        raise InvalidInput("The application sent something twice.", "Sign out here: /sign-out.")
    claims = None
    if hint := values.get("id_token_hint"):
        claims = await page.portal.keys.read(hint, issuer(page.portal.dispatcher.services.settings.server))
    name = str(claims["aud"]) if claims else values.get("client_id", "")
    if claims and values.get("client_id", name) != name:
        raise InvalidInput("The application showed another one's ID token.", "Sign out in the portal.")
    client = await _client(page, name) if name else None
    target = values.get("post_logout_redirect_uri")
    if client is None or target not in client.app.logout_uris or (hint and claims is None):
        target = None
    if target is not None and "state" in values:
        target = requests.extended(target, {"state": values["state"]})
    return client, str(claims["sub"]) if claims else None, target


# -- addresses


async def _addressee(page: Page, pairs: Pairs) -> tuple[Client, str, Parameters]:
    """Return which application asks, where it gets the answer and what it gave. Raises as `requests.addressee`."""
    given = Parameters.of(pairs)
    client = await _client(page, given.only("client_id"))
    uri = requests.addressee(client, given)
    assert client is not None
    return client, uri, given


async def _client(page: Page, name: str) -> Client | None:
    return await page.portal.dispatcher.services.database.read(clients.by_name, name)


def _pairs(page: Page) -> Pairs:
    return _parsed(page.request.scope["query_string"].decode("latin-1"))


def _parsed(query: str) -> Pairs:
    """Return a query's parameters. Raises InvalidInput for one that is too long."""
    try:
        if len(query) <= MAX_QUERY:
            return parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        pass
    raise InvalidInput("The application's request is too long.", "Tell its administrator.")


def _resume(pairs: Pairs) -> str:
    return f"/oidc/resume?{urlencode(pairs)}"


def _without(pairs: Pairs, *prompts: str) -> Pairs:
    """Return a request without prompts that were answered."""
    rest = []
    for name, value in pairs:
        kept = " ".join(word for word in value.split() if word not in prompts) if name == "prompt" else value
        rest.append((name, kept))
    return rest


def _marked(page: Page, pairs: Pairs, now: int) -> Pairs:
    """Return a request that says since when a proof must be new, sealed: nobody can say so but this server."""
    sealed = page.portal.dispatcher.services.vault.seal(str(now).encode(), purpose="oidc again")
    return [*((n, v) for n, v in pairs if n != _AGAIN), (_AGAIN, base64.urlsafe_b64encode(sealed).decode())]


def _opened(page: Page, pairs: Pairs, now: int) -> int | None:
    """Return since when a proof must be new, None if nothing valid is said."""
    given = Parameters.of(pairs).values.get(_AGAIN)
    if given is None:
        return None
    try:
        vault = page.portal.dispatcher.services.vault
        since = int(vault.open(base64.urlsafe_b64decode(given), purpose="oidc again"))
    except (HostError, binascii.Error, ValueError):
        return None
    return since if now - since <= AGAIN_S else None


def _with_allowance(page: Page, pairs: Pairs) -> Pairs:
    """Return a request that says, sealed, that this person has just allowed this very request."""
    said = f"{int(time.time())} {_fingerprint(page, pairs)}".encode()
    sealed = page.portal.dispatcher.services.vault.seal(said, purpose="oidc allowed")
    return [*((n, v) for n, v in pairs if n != _ALLOWED), (_ALLOWED, base64.urlsafe_b64encode(sealed).decode())]


def _was_allowed(page: Page, pairs: Pairs, now: int) -> bool:
    try:
        given = base64.urlsafe_b64decode(Parameters.of(pairs).values.get(_ALLOWED, ""))
        at, of = page.portal.dispatcher.services.vault.open(given, purpose="oidc allowed").decode().split()
    except (HostError, binascii.Error, ValueError):
        return False
    return now - int(at) <= ALLOWED_S and of == _fingerprint(page, pairs)


def _fingerprint(page: Page, pairs: Pairs) -> str:
    """Return what tells a person's request from every other."""
    plain = urlencode([(name, value) for name, value in pairs if name not in (_AGAIN, _ALLOWED)])
    return hashlib.sha256(f"{page.visitor.actor.user_id} {plain}".encode()).hexdigest()


def _place(uri: str) -> str:
    """Return what of an address people should see: its host, or its scheme where it is a program's own."""
    scheme, _, rest = uri.partition(":")
    return rest[2:].partition("/")[0].partition("?")[0] if scheme in ("http", "https") else f"a program ({scheme})"


PAGES = (
    Entry("GET", "/oidc/authorize", authorize, open=True),
    Entry("GET", "/oidc/resume", resume, open=True),
    Entry("POST", "/oidc/consent", consent),
    Entry("GET", "/oidc/logout", log_out, open=True),
    Entry("POST", "/oidc/sign-out", confirm_log_out),
)
