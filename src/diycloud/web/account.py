"""The pages of one's own account, each a tab: password, SSH keys, API tokens, sessions, and what other modules add to TABS."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from starlette.responses import RedirectResponse, Response

from diycloud.auth import factors, passkeys, proof, tokens
from diycloud.auth.actions import (
    AddKey,
    ChangePassword,
    CreateToken,
    EndSession,
    EndSessions,
    ListKeys,
    ListTokens,
    Prove,
    RemoveKey,
    RevokeToken,
    ShowSessions,
)
from diycloud.auth.outside.actions import ListIdentities
from diycloud.config_sign_in import LDAP
from diycloud.errors import Conflict, InvalidInput, NotFound, TooManyRequests, Unavailable
from diycloud.users.actions import ShowUser
from diycloud.web import pages
from diycloud.web.portal import HEADERS, Entry, Page, field_errors

TOKEN_FIELDS = ("label", "days")
TOKEN_DAYS = ("7", "30", "90", "365")


class Tab(NamedTuple):
    """One page of the account. host: only for who has an account on the host; outside: only where the settings name others."""

    key: str
    path: str
    text: str
    host: bool = False
    outside: bool = False


TABS = (
    Tab("password", "/account", "Password"),
    Tab("factors", "/account/second-factor", "Second factor"),
    Tab("keys", "/account/keys", "SSH keys", host=True),
    Tab("tokens", "/account/tokens", "API tokens"),
    Tab("sessions", "/account/sessions", "Sessions"),
    Tab("apps", "/account/apps", "Applications"),
    Tab("identities", "/account/identities", "Other sign-ins", outside=True),
)
"""In the order in which they are shown."""


async def render(page: Page, template: str, tab: str, status: int = 200, **context: Any) -> Response:
    """Answer with a page of the account. template: extends account.html; tab: its key in TABS."""
    user = await page.run(ShowUser, {"username": page.visitor.actor.name})
    others = page.portal.dispatcher.services.settings.sign_in.is_used
    tabs = [one for one in TABS if not (one.host and user.portal_only) and (others or not one.outside)]
    return page.render(template, status, user=user, tabs=tabs, tab=tab, section="account", **context)


# -- password


async def show_account(page: Page) -> Response:
    if not page.visitor.csrf:
        return page.redirect("/sign-in")
    return await _password(page, 200, {}, "")


async def _password(page: Page, status: int, errors: dict[str, str], message: str) -> Response:
    shortest = page.portal.dispatcher.services.settings.server.password_min_length
    about: dict[str, Any] = {"min_length": shortest, "errors": errors, "message": message}
    if page.visitor.actor.must_change_password:
        return page.render("account_password.html", status, forced=True, section="account", **about)
    mine = await page.run(ListTokens, {"username": page.visitor.actor.name})
    about |= {"kept_by": await _kept_by(page), "tokens": mine.tokens}
    return await render(page, "account_password.html", "password", status, forced=False, **about)


async def _kept_by(page: Page) -> str:
    """Return who keeps the password: `here`, `directory`, or `nobody` if there is none yet."""
    found = await page.run(ListIdentities, {"username": page.visitor.actor.name})
    if found.password:
        return "here"
    asked = page.portal.dispatcher.services.settings.sign_in.ldap is not None
    return "directory" if asked and any(one.provider == LDAP for one in found.identities) else "nobody"


async def change_password(page: Page) -> Response:
    sent = page.sent("current", "password", "keep_tokens")
    if page.sent("again").get("again") != sent.get("password"):
        return await _password(page, 422, {"again": "is not the same"}, "")
    try:
        changed = await page.run(ChangePassword, sent)
    except InvalidInput as error:
        return await _password(page, 422, *field_errors(error, {"current", "password"}))
    flashes = [("ok", "Your password is changed."), *(("warn", text) for text in changed.warnings)]
    return _go_on(page, page.redirect("/", *flashes), changed.session_token)


def _go_on(page: Page, response: Response, token: str | None) -> Response:
    """Give the browser the token that its session has from now on."""
    if token is None:
        return response
    return page.set_session(response, token, page.portal.dispatcher.services.settings.server.session_max_hours * 3600)


# -- SSH keys


async def show_keys(page: Page) -> Response:
    return await _keys(page, 200, {}, "")


async def _keys(page: Page, status: int, errors: dict[str, str], message: str) -> Response:
    found = await page.run(ListKeys, {"username": page.visitor.actor.name})
    return await render(page, "account_keys.html", "keys", status, keys=found.keys, errors=errors, message=message)


async def add_key(page: Page) -> Response:
    key = " ".join(page.sent("key").get("key", "").split())
    try:
        done = await page.run(AddKey, {"username": page.visitor.actor.name, "key": key})
    except (InvalidInput, Conflict) as error:
        return await _keys(page, 422, *field_errors(error, {"key"}))
    notes = [("warn", text) for text in done.warnings]
    return page.redirect("/account/keys", ("ok", "The key opens your account."), *notes)


async def remove_key(page: Page) -> Response:
    done = await page.run(RemoveKey, {"username": page.visitor.actor.name, **page.sent("fingerprint")})
    notes = [("warn", text) for text in done.warnings]
    return page.redirect("/account/keys", ("ok", "The key opens it no more."), *notes)


# -- API tokens


async def show_tokens(page: Page) -> Response:
    found = await page.run(ListTokens, {"username": page.visitor.actor.name})
    return await render(page, "account_tokens.html", "tokens", tokens=found.tokens, most=tokens.MOST)


async def show_new_token(page: Page) -> Response:
    proof.require(page.visitor.actor)  # asked before anything is typed, so that nothing typed is lost
    return await _new_token(page, 200, {"label": "", "days": "90"}, ["read"], {}, "")


async def _new_token(
    page: Page, status: int, values: dict[str, str], chosen: list[str], errors: dict[str, str], message: str
) -> Response:
    return await render(
        page, "account_token_new.html", "tokens", status, values=values, chosen=chosen, errors=errors, message=message,
        scopes=tokens.widen(["all"], page.visitor.actor.role), days=TOKEN_DAYS,
    )  # fmt: skip


async def create_token(page: Page) -> Response:
    assert page.form is not None
    sent, what = page.sent(*TOKEN_FIELDS), page.sent("what").get("what", "")
    chosen = [what] if what in ("read", "all") else [str(scope) for scope in page.form.getlist("scope")]
    raw = {**sent, "username": page.visitor.actor.name, "scopes": ",".join(chosen)}
    try:
        made = await page.run(CreateToken, raw)
    except (InvalidInput, Conflict) as error:
        return await _new_token(page, 422, sent, chosen, *field_errors(error, {*TOKEN_FIELDS, "scopes"}))
    return await render(page, "account_token_created.html", "tokens", 201, made=made.token, secret=made.secret)


async def revoke_token(page: Page) -> Response:
    try:
        await page.run(RevokeToken, {"username": page.visitor.actor.name, **page.sent("key_id")})
    except NotFound:
        return page.redirect("/account/tokens", ("info", "That token had ended already."))
    return page.redirect("/account/tokens", ("ok", "The token has ended: it opens nothing any more."))


# -- sessions


async def show_sessions(page: Page) -> Response:
    found = await page.run(ShowSessions, {"username": page.visitor.actor.name})
    return await render(page, "account_sessions.html", "sessions", sessions=found.sessions)


async def end_session(page: Page) -> Response:
    try:
        await page.run(EndSession, {"username": page.visitor.actor.name, **page.sent("session")})
    except NotFound:
        return page.redirect("/account/sessions", ("info", "That session had ended already."))
    return page.redirect("/account/sessions", ("ok", "That session has ended."))


async def end_other_sessions(page: Page) -> Response:
    raw = {"username": page.visitor.actor.name, "keep_this": "true", "keep_tokens": "true"}
    await page.run(EndSessions, raw)
    return page.redirect("/account/sessions", ("ok", "You are signed in here only."))


# -- proof


class Kept(msgspec.Struct, frozen=True):
    """A form that waits in the browser for its proof. to: the page that takes it; fields: but for its token."""

    to: str
    fields: list[tuple[str, str]]


class Asked(NamedTuple):
    """What a proof is asked for. target: where to go after; again: a form was lost on the way; kept: one was not, as JSON."""

    target: str
    again: str = ""
    kept: str = ""


async def show_confirm(page: Page) -> Response:
    query = page.request.query_params
    return await _confirm(page, 200, Asked(query.get("next", ""), "1" if query.get("again") else ""), "")


async def _confirm(page: Page, status: int, asked: Asked, error: str, wait: int = 0) -> Response:
    services = page.portal.dispatcher.services
    found = await services.database.read(factors.state, page.visitor.actor.user_id or 0)
    mine = await page.run(ListIdentities, {"username": page.visitor.actor.name})
    party = passkeys.party(services.settings.server)
    known = {one.name: one.label or one.name for one in services.settings.sign_in.providers}
    linked = [(one.provider, known[one.provider]) for one in mine.identities if one.provider in known]
    return page.render(
        "confirm.html", status, next=asked.target, asked=asked, error=error, retry_after=wait, factors=found,
        providers=linked, has_password=mine.password or any(one.provider == LDAP for one in mine.identities),
        passkeys=party if found.passkey and party.possible else None, minutes=proof.FRESH_S // 60,
    )  # fmt: skip


async def confirm(page: Page) -> Response:
    sent = page.sent("next", "again", "kept")
    asked = Asked(sent.get("next", ""), sent.get("again", ""), sent.get("kept", ""))
    try:
        done = await page.run(Prove, page.sent("password", "code", "passkey"))
    except TooManyRequests as error:
        return await _confirm(page, 429, asked, error.message, error.retry_after)
    except (InvalidInput, Unavailable) as error:
        return await _confirm(page, 422 if isinstance(error, InvalidInput) else 503, asked, error.message)
    if asked.kept:
        return _go_on(page, _send_again(page, asked.kept), done.session_token)
    flashes = [("info", "Thank you. Nothing was changed before: please do it once more.")] if asked.again else []
    return _go_on(page, page.redirect(pages.safe_next(asked.target), *flashes), done.session_token)


def _send_again(page: Page, text: str) -> Response:
    """Answer with a page that holds a form as it was sent, and a button that sends it."""
    try:
        kept = msgspec.json.decode(text, type=Kept)
    except msgspec.DecodeError:
        return page.redirect("/", ("warn", "The form was damaged: please fill it in once more."))
    return page.render("again.html", to=pages.safe_next(kept.to), fields=kept.fields)


async def ask_passkey(page: Page) -> Response:
    """Give the page's script what it asks the browser for: a passkey of who is signed in."""
    user_id = page.visitor.actor.user_id
    assert user_id is not None  # who has a session is somebody
    asked = passkeys.Challenge(passkeys.PROVE, user_id)
    options = await factors.ask_passkey(page.portal.dispatcher.services, asked, f"user {user_id}")
    return Response(options, 200, HEADERS, "application/json")


async def to_confirm(page: Page) -> Response:
    """Have somebody prove who they are, and from there go on where they were.

    A form that is kept (Page.kept) waits in the page itself; for others it is the form's page.
    """
    url = page.request.url
    if page.kept is not None:
        kept = msgspec.json.encode(Kept(url.path, page.kept)).decode()
        return await _confirm(page, 403, Asked(url.path, kept=kept), "")
    asked = {"next": url.path + (f"?{url.query}" if url.query else "")}
    if page.request.method == "POST":
        asked = {"next": _came_from(page) or "/account", "again": "1"}
    return RedirectResponse(f"/confirm?{urlencode(asked)}", 303, HEADERS)


def _came_from(page: Page) -> str:
    """Return the page of ours that a form was on, empty if the browser does not tell."""
    scheme, _, rest = page.request.headers.get("referer", "").partition("://")
    host, slash, path = rest.partition("/")
    ours = scheme in ("http", "https") and host == page.request.headers.get("host") and slash
    return f"/{path.partition('#')[0]}" if ours else ""


PAGES = (
    Entry("GET", "/account", show_account, open=True),
    Entry("POST", "/account", change_password, open=True),
    Entry("GET", "/account/keys", show_keys),
    Entry("POST", "/account/keys", add_key),
    Entry("POST", "/account/keys/remove", remove_key),
    Entry("GET", "/account/tokens", show_tokens),
    Entry("GET", "/account/tokens/new", show_new_token),
    Entry("POST", "/account/tokens/new", create_token),
    Entry("POST", "/account/tokens/revoke", revoke_token),
    Entry("GET", "/account/sessions", show_sessions),
    Entry("POST", "/account/sessions/end", end_session),
    Entry("POST", "/account/sessions/end-others", end_other_sessions),
    Entry("GET", "/confirm", show_confirm),
    Entry("POST", "/confirm", confirm),
    Entry("POST", "/confirm/passkey", ask_passkey, scripted=True),
)
