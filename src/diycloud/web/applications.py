"""The pages of applications that sign people in through the platform."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from diycloud.auth.oidc.actions import (
    CreateApp,
    ListApps,
    ListOwnApps,
    ModifyApp,
    RemoveApp,
    RotateKeys,
    RotateSecret,
    ShowApp,
    WithdrawApp,
)
from diycloud.auth.oidc.models import SCOPES, AppDetail, AppIssued
from diycloud.errors import Conflict, InvalidInput
from diycloud.web import account
from diycloud.web.oidc_pages import WORDS
from diycloud.web.portal import Entry, Page, field_errors

TEXTS = ("name", "title", "redirect_uris", "logout_uris")
FLAGS = ("public", "trusted", "pkce", "refresh", "enabled")
FIELDS = {*TEXTS, *FLAGS, "scopes"}
NEW: dict[str, Any] = {"scopes": ("openid", "profile", "email"), "pkce": "true"}


async def list_apps(page: Page) -> Response:
    found = await page.run(ListApps, {})
    return page.render("applications.html", apps=found.apps, section="applications")


async def show_new(page: Page) -> Response:
    await page.check(CreateApp)
    return _form(page, 200, None, NEW, {}, "")


def _form(
    page: Page, status: int, found: AppDetail | None, values: dict[str, Any], errors: dict[str, str], message: str
) -> Response:
    return page.render(
        "application.html", status, found=found, values=values, errors=errors, message=message, scopes=SCOPES, words=WORDS,
        section="applications",
    )  # fmt: skip


def _sent(page: Page, flags: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the form holds, as it is shown again, and as the action takes it."""
    assert page.form is not None
    scopes = tuple(str(scope) for scope in page.form.getlist("scopes"))
    values = {**page.sent(*TEXTS, *flags), "scopes": scopes}
    raw = {name: value for name, value in values.items() if name in TEXTS}
    raw |= {flag: "true" if values.get(flag) else "false" for flag in flags}
    return values, raw | {"scopes": ",".join(scopes)}


async def create(page: Page) -> Response:
    values, raw = _sent(page, ("public", "trusted", "pkce", "refresh"))
    try:
        made = await page.run(CreateApp, {name: value for name, value in raw.items() if value})
    except (InvalidInput, Conflict) as error:
        return _form(page, 422, None, values, *field_errors(error, FIELDS))
    return _issued(page, made, "created")


def _issued(page: Page, made: AppIssued, kind: str) -> Response:
    return page.render("application_secret.html", made=made, kind=kind, notes=made.warnings, section="applications")


async def show(page: Page) -> Response:
    found = await page.run(ShowApp, {"name": page.path["name"]})
    return _form(page, 200, found, _values(found), {}, "")


def _values(found: AppDetail) -> dict[str, Any]:
    app = found.app
    values: dict[str, Any] = {flag: "true" if getattr(app, flag) else "" for flag in FLAGS}
    values |= {"title": app.title, "scopes": app.scopes}
    return values | {name: "\n".join(getattr(app, name)) for name in ("redirect_uris", "logout_uris")}


async def edit(page: Page) -> Response:
    values, raw = _sent(page, ("trusted", "pkce", "refresh", "enabled"))
    raw["name"] = page.path["name"]
    try:
        changed = await page.run(ModifyApp, raw)
    except (InvalidInput, Conflict) as error:
        found = await page.run(ShowApp, {"name": raw["name"]})
        return _form(page, 422, found, {**_values(found), **values}, *field_errors(error, FIELDS))
    notes = [("warn", text) for text in changed.warnings]
    return page.redirect("/applications", ("ok", f"{changed.app.title} is changed."), *notes)


async def rotate_secret(page: Page) -> Response:
    return _issued(page, await page.run(RotateSecret, {"name": page.path["name"]}), "rotated")


async def remove(page: Page) -> Response:
    await page.run(RemoveApp, {"name": page.path["name"]})
    return page.redirect("/applications", ("ok", "The application is gone; what it was given has ended."))


async def rotate_keys(page: Page) -> Response:
    await page.run(RotateKeys, {})
    return page.redirect("/applications", ("ok", "ID tokens are signed with a new key from now on."))


async def show_own(page: Page) -> Response:
    """Show which applications know the one who looks."""
    found = await page.run(ListOwnApps, {})
    return await account.render(page, "account_apps.html", "apps", apps=found.apps, words=WORDS)


async def withdraw(page: Page) -> Response:
    """Take back what one allowed an application."""
    await page.run(WithdrawApp, {"name": page.path["name"]})
    return page.redirect("/account/apps", ("ok", "It knows you no more; your sign-ins there have ended."))


PAGES = (
    Entry("GET", "/applications", list_apps),
    Entry("GET", "/new-application", show_new),
    Entry("POST", "/new-application", create),
    Entry("GET", "/applications/{name}", show),
    Entry("POST", "/applications/{name}", edit),
    Entry("POST", "/applications/{name}/secret", rotate_secret),
    Entry("POST", "/applications/{name}/remove", remove),
    Entry("POST", "/rotate-signing-keys", rotate_keys),
    Entry("GET", "/account/apps", show_own),
    Entry("POST", "/account/apps/{name}/withdraw", withdraw),
)
