"""The pages of one's own second factors: an app, passkeys, recovery codes; and what an administrator takes away."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from diycloud.auth import notices, passkeys
from diycloud.auth.factor_actions import (
    ActivateTotp,
    AddPasskey,
    BeginPasskey,
    BeginTotp,
    FactorsChanged,
    RemovePasskey,
    RemoveTotp,
    RenamePasskey,
    RenewCodes,
    ResetFactors,
    ShowFactors,
)
from diycloud.errors import Conflict, InvalidInput, NotFound, TooManyRequests
from diycloud.web import account
from diycloud.web.portal import HEADERS, Entry, Page, field_errors

HERE = "/account/second-factor"


async def show(page: Page) -> Response:
    return await _show(page, 200, {}, "")


async def _show(page: Page, status: int, errors: dict[str, str], message: str) -> Response:
    found = await page.run(ShowFactors, {"username": page.visitor.actor.name})
    party = passkeys.party(page.portal.dispatcher.services.settings.server)
    return await _render(page, "second_factor.html", status, factors=found, party=party, errors=errors, message=message)


async def _render(page: Page, template: str, status: int, **context: Any) -> Response:
    """Answer with a page of the account; who must set up a second factor first sees nothing else of it."""
    if page.visitor.actor.must_enrol:
        return page.render(template, status, forced=True, section="account", **context)
    return await account.render(page, template, "factors", status, forced=False, **context)


async def show_app(page: Page) -> Response:
    return await _app(page, 200, {}, "")


async def _app(page: Page, status: int, errors: dict[str, str], message: str) -> Response:
    begun = await page.run(BeginTotp, {})
    key = " ".join(begun.secret[at : at + 4] for at in range(0, len(begun.secret), 4))
    return await _render(page, "second_factor_app.html", status, begun=begun, key=key, errors=errors, message=message)


async def activate_app(page: Page) -> Response:
    try:
        done = await page.run(ActivateTotp, page.sent("code"))
    except (InvalidInput, Conflict, TooManyRequests) as error:
        return await _app(page, 422, *field_errors(error, {"code"}))
    return _done(page, done, "Your app is set up: signing in asks for its code from now on.")


def _done(page: Page, done: FactorsChanged, text: str) -> Response:
    """Go back to the page; new recovery codes are shown first, this once."""
    warnings = [("warn", warning) for warning in done.warnings]
    if done.codes:
        response = page.render(
            "recovery_codes.html", text=text, codes=done.codes, notes=done.warnings, section="account"
        )
    else:
        response = page.redirect(HERE, ("ok", text), *warnings)
    if done.session_token is None:
        return response
    max_age = page.portal.dispatcher.services.settings.server.session_max_hours * 3600
    return page.set_session(response, done.session_token, max_age)


async def remove_app(page: Page) -> Response:
    try:
        done = await page.run(RemoveTotp, {})
    except (Conflict, NotFound) as error:
        return page.redirect(HERE, ("error", str(error)))
    return _done(page, done, "Signing in asks for no code of the app any more.")


async def renew_codes(page: Page) -> Response:
    try:
        done = await page.run(RenewCodes, {})
    except Conflict as error:
        return page.redirect(HERE, ("error", str(error)))
    return _done(page, done, "These are your new recovery codes. The old ones hold no more.")


async def begin_passkey(page: Page) -> Response:
    """Give the page's script what it asks the browser for."""
    begun = await page.run(BeginPasskey, {})
    return Response(begun.options, 200, HEADERS, "application/json")


async def add_passkey(page: Page) -> Response:
    sent = {name: value for name, value in page.sent("credential", "label").items() if value.strip()}
    try:
        done = await page.run(AddPasskey, sent)
    except (InvalidInput, Conflict) as error:
        return await _show(page, 422, *field_errors(error, {"credential", "label"}))
    return _done(page, done, "The passkey is yours: you can sign in with it alone.")


async def rename_passkey(page: Page) -> Response:
    try:
        await page.run(RenamePasskey, page.sent("passkey", "label"))
    except (InvalidInput, NotFound) as error:
        return page.redirect(HERE, ("error", str(error)))
    return page.redirect(HERE, ("ok", "The passkey has its new name."))


async def remove_passkey(page: Page) -> Response:
    try:
        done = await page.run(RemovePasskey, page.sent("passkey"))
    except (Conflict, NotFound) as error:
        return page.redirect(HERE, ("error", str(error)))
    return _done(page, done, "The passkey opens your account no more.")


async def reset(page: Page) -> Response:
    """Take somebody's second factors away."""
    name = page.path["username"]
    try:
        done = await page.run(ResetFactors, {"username": name})
    except Conflict as error:
        return page.redirect(f"/users/{name}", ("error", str(error)))
    warnings = [("warn", text) for text in done.warnings]
    return page.redirect(f"/users/{name}", ("ok", f"{name} has no second factor now, and is told so."), *warnings)


async def forget_notices(page: Page) -> Response:
    """Show what was read no more. It is about nobody's rights, so it is no action."""
    assert page.visitor.actor.user_id is not None
    await page.portal.dispatcher.services.database.write(notices.forget, page.visitor.actor.user_id)
    return page.redirect("/")


PAGES = (
    Entry("GET", HERE, show),
    Entry("GET", f"{HERE}/app", show_app),
    Entry("POST", f"{HERE}/app", activate_app),
    Entry("POST", f"{HERE}/app/remove", remove_app),
    Entry("POST", f"{HERE}/codes", renew_codes),
    Entry("POST", f"{HERE}/passkeys/begin", begin_passkey, scripted=True),
    Entry("POST", f"{HERE}/passkeys", add_passkey),
    Entry("POST", f"{HERE}/passkeys/rename", rename_passkey),
    Entry("POST", f"{HERE}/passkeys/remove", remove_passkey),
    Entry("POST", "/users/{username}/second-factor/reset", reset),
    Entry("POST", "/notices/read", forget_notices),
)
