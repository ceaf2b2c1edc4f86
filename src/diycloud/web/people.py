"""The pages of users: the list, one user, new and edit. What is done to one: managing.py; to many: choosing.py."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from diycloud.auth.actions import (
    ListAudit,
    ListKeys,
)
from diycloud.auth.factor_actions import ShowFactors
from diycloud.errors import Conflict, InvalidInput
from diycloud.users import service
from diycloud.users.actions import (
    CreateUser,
    ExportUsers,
    ListUsers,
    ModifyUser,
    ShowUser,
)
from diycloud.users.models import Changed
from diycloud.users.models import Page as Listed
from diycloud.web.pages import capacity
from diycloud.web.portal import Entry, Page, download, field_errors
from diycloud.web.tenancy import choices, several_domains

USER_AUDIT = 20
FILTERS = ("search", "status", "role", "domain", "group", "policy")
MAX_AT_ONCE = 10_000
"""Users that can be changed at once: what the action takes."""
LIMITS = ("cpu", "memory", "disk", "tasks")
PLACE = (
    "domain",
    "groups",
    "policy",
    "shell",
    "external_id",
    "allowed_client_ip",
    "container_uid",
    "container_gid",
    "container_gids",
)
FIELDS = ("username", "full_name", "email", "role", "description", "password", *LIMITS, *PLACE)
EDITED = ("full_name", "email", "role", "description", *LIMITS, *PLACE)
CLEARABLE = frozenset({"full_name", "email", "description", "external_id", "container_uid", "container_gid"})


async def list_users(page: Page) -> Response:
    query = page.request.query_params
    raw: dict[str, Any] = {name: query[name] for name in (*FILTERS, "sort") if query.get(name)}
    if query.get("descending", "").lower() in ("1", "true"):
        raw["descending"] = "true"
    raw["cursor"] = query.get("cursor", "") or query.get("after", "") or query.get("before", "")
    found = await page.run(ListUsers, raw)
    shown = {name: raw.get(name, "") for name in FILTERS}
    shown |= {"sort": raw.get("sort", "username"), "descending": "descending" in raw}
    template = "users_rows.html" if query.get("fragment") == "1" else "users.html"
    return page.render(
        template, page=found, query=shown, tenants=await several_domains(page), section="users", **_whole(found, shown)
    )


def _whole(found: Listed, shown: dict[str, Any]) -> dict[str, Any]:
    """Return how many could be chosen beyond this page, 0 for none, and the filter that finds them."""
    several = len(found.users) < found.total <= MAX_AT_ONCE
    kept = {name: shown[name] for name in FILTERS if shown[name]}
    return {"everyone": found.total if several else 0, "filter": urlencode(kept)}


async def export_users(page: Page) -> Response:
    query = page.request.query_params
    raw = {name: query[name] for name in (*FILTERS, "format") if query.get(name)}
    return download(await page.run(ExportUsers, raw))


async def show_new_user(page: Page) -> Response:
    await page.check(CreateUser)
    return await _new_user(page, 200, {}, {}, "")


async def _new_user(page: Page, status: int, values: dict[str, str], errors: dict[str, str], message: str) -> Response:
    shown = {name: value for name, value in values.items() if name != "password"}
    host = await capacity(page)
    return page.render(
        "user_new.html", status, values=shown, errors=errors, message=message, capacity=host, section="users",
        **await choices(page),
    )  # fmt: skip


async def create_user(page: Page) -> Response:
    sent = page.sent(*FIELDS)
    page.kept = list(sent.items())
    try:
        created = await page.run(CreateUser, {name: value for name, value in sent.items() if value != ""})
    except (InvalidInput, Conflict) as error:
        return await _new_user(page, 422, sent, *field_errors(error, set(FIELDS)))
    return page.render(
        "user_created.html",
        201,
        kind="created",
        user=created.user,
        password=created.password,
        warnings=created.warnings,
        section="users",
    )


async def show_user(page: Page) -> Response:
    return await render_user(page, 200, {})


async def render_user(page: Page, status: int, errors: dict[str, str]) -> Response:
    name = page.path["username"]
    user = await page.run(ShowUser, {"username": name})
    history = await page.run(ListAudit, {"user": name, "limit": str(USER_AUDIT)})
    row = await service.get(page.portal.dispatcher.services, name)
    return page.render(
        "user.html",
        status,
        user=user,
        usage=None if row.portal_only else await page.portal.gauges.glance(row),
        disk=None if row.portal_only else {"used": None, "limit": row.allocation.disk},
        audit=history.entries,
        errors=errors,
        keys=(await page.run(ListKeys, {"username": name})).keys,
        factors=await page.run(ShowFactors, {"username": name}),
        others=page.portal.dispatcher.services.settings.sign_in.is_used,
        section="users",
    )


async def show_edit(page: Page) -> Response:
    await page.check(ModifyUser, page.path["username"])
    user = await page.run(ShowUser, {"username": page.path["username"]})
    values = {name: getattr(user, name) or "" for name in ("full_name", "email", "role", "description")}
    limits = user.limits
    values |= {"cpu": f"{limits.cpu:g}", "memory": limits.memory, "disk": limits.disk, "tasks": str(limits.tasks)}
    values |= {name: _text(getattr(user, name)) for name in PLACE}
    return await _edit(page, 200, values, {}, "")


def _text(value: object) -> str:
    """Return a field as its input shows it: lists with commas between."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


async def _edit(
    page: Page, status: int, values: dict[str, str], errors: dict[str, str], message: str, *, offer_force: str = ""
) -> Response:
    user = await page.run(ShowUser, {"username": page.path["username"]})
    given = (await service.get(page.portal.dispatcher.services, user.username)).allocation
    host = await capacity(page, without=(given.cpu, given.memory))
    return page.render(
        "user_edit.html",
        status,
        user=user,
        values=values,
        errors=errors,
        message=message,
        capacity=host,
        offer_force=offer_force,
        section="users",
        **await choices(page),
    )


async def edit_user(page: Page) -> Response:
    sent = page.sent(*EDITED)
    page.kept = list(page.sent(*EDITED, "force").items())
    raw: dict[str, Any] = {name: None if not value and name in CLEARABLE else value for name, value in sent.items()}
    raw["username"] = page.path["username"]
    before = await page.run(ShowUser, {"username": raw["username"]})
    for name in PLACE:  # what was not touched is not sent: a domain's administrator may not set all of it
        if name in raw and sent[name].strip() == _text(getattr(before, name)):
            del raw[name]
    if raw.get("role") == before.role:
        del raw["role"]
    if page.sent("force").get("force"):
        raw["force"] = "true"
    try:
        changed = await page.run(ModifyUser, raw)
    except (InvalidInput, Conflict) as error:
        errors, message = field_errors(error, set(EDITED))
        refusal = error.message if isinstance(error, Conflict) else ""
        offer = "address" if refusal.startswith("allowed_client_ip") else "memory" if "memory" in refusal else ""
        return await _edit(page, 422, sent, errors, message, offer_force=offer)
    return back_to_user(page, changed, "The changes are in force.")


def back_to_user(page: Page, changed: Changed, text: str) -> Response:
    """Go to the user's page, saying what was done; not as done what the host has still to follow."""
    flashes = [("warn", warning) for warning in changed.warnings]
    if changed.user.settled:
        flashes.insert(0, ("ok", text))
    return page.redirect(f"/users/{changed.user.username}", *flashes)


PAGES = (
    Entry("GET", "/users", list_users, scripted=True),
    Entry("GET", "/export/users", export_users),
    Entry("GET", "/new-user", show_new_user),
    Entry("POST", "/new-user", create_user),
    Entry("GET", "/users/{username}", show_user),
    Entry("GET", "/users/{username}/edit", show_edit),
    Entry("POST", "/users/{username}/edit", edit_user),
)
