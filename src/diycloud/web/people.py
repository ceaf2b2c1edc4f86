"""The administrator's pages: users, one user, the audit."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from diycloud.actions.dispatcher import authorise
from diycloud.auth.actions import ListAudit
from diycloud.errors import Conflict, InvalidInput
from diycloud.units import format_size
from diycloud.users import service
from diycloud.users.actions import (
    CreateUser,
    DeleteUser,
    DisableUser,
    EnableUser,
    ListUsers,
    ModifyUser,
    PreviewPurge,
    PurgeUser,
    RestoreUser,
    SetPassword,
    ShowUser,
)
from diycloud.users.models import Allocation, Changed
from diycloud.web.pages import capacity
from diycloud.web.portal import Entry, Page, field_errors

FIELDS = ("username", "full_name", "email", "role", "description", "password", "cpu", "memory", "disk", "tasks")
EDITED = ("full_name", "email", "role", "description", "cpu", "memory", "disk", "tasks")
CLEARABLE = frozenset({"full_name", "email", "description"})
USER_AUDIT = 20


async def list_users(page: Page) -> Response:
    query = page.request.query_params
    raw: dict[str, Any] = {name: query[name] for name in ("search", "status", "role", "sort") if query.get(name)}
    if query.get("descending", "").lower() in ("1", "true"):
        raw["descending"] = "true"
    raw["cursor"] = query.get("cursor", "") or query.get("after", "") or query.get("before", "")
    found = await page.run(ListUsers, raw)
    shown = {name: raw.get(name, "") for name in ("search", "status", "role")}
    shown |= {"sort": raw.get("sort", "username"), "descending": "descending" in raw}
    template = "users_rows.html" if query.get("fragment") == "1" else "users.html"
    return page.render(template, page=found, query=shown, section="users")


async def show_new_user(page: Page) -> Response:
    authorise(page.visitor.actor, CreateUser, "")
    usual = Allocation()
    values = {
        "cpu": f"{usual.cpu:g}",
        "memory": format_size(usual.memory),
        "disk": format_size(usual.disk),
        "tasks": str(usual.tasks),
    }
    return await _new_user(page, 200, values, {}, "")


async def _new_user(page: Page, status: int, values: dict[str, str], errors: dict[str, str], message: str) -> Response:
    shown = {name: value for name, value in values.items() if name != "password"}
    host = await capacity(page)
    return page.render(
        "user_new.html", status, values=shown, errors=errors, message=message, capacity=host, section="users"
    )


async def create_user(page: Page) -> Response:
    sent = page.sent(*FIELDS)
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
    return await _user(page, 200, {})


async def _user(page: Page, status: int, errors: dict[str, str]) -> Response:
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
        section="users",
    )


async def show_edit(page: Page) -> Response:
    authorise(page.visitor.actor, ModifyUser, page.path["username"])
    user = await page.run(ShowUser, {"username": page.path["username"]})
    values = {name: getattr(user, name) or "" for name in ("full_name", "email", "role", "description")}
    limits = user.limits
    values |= {"cpu": f"{limits.cpu:g}", "memory": limits.memory, "disk": limits.disk, "tasks": str(limits.tasks)}
    return await _edit(page, 200, values, {}, "")


async def _edit(
    page: Page, status: int, values: dict[str, str], errors: dict[str, str], message: str, *, offer_force: bool = False
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
    )


async def edit_user(page: Page) -> Response:
    sent = page.sent(*EDITED)
    raw: dict[str, Any] = {name: None if not value and name in CLEARABLE else value for name, value in sent.items()}
    raw["username"] = page.path["username"]
    if page.sent("force").get("force"):
        raw["force"] = "true"
    try:
        changed = await page.run(ModifyUser, raw)
    except (InvalidInput, Conflict) as error:
        errors, message = field_errors(error, set(EDITED))
        below_use = isinstance(error, Conflict) and "memory" in error.message
        return await _edit(page, 422, sent, errors, message, offer_force=below_use)
    return _back(page, changed, "The changes are in force.")


def _back(page: Page, changed: Changed, text: str) -> Response:
    """Go to the user's page, saying what was done; not as done what the host has still to follow."""
    flashes = [("warn", warning) for warning in changed.warnings]
    if changed.user.settled:
        flashes.insert(0, ("ok", text))
    return page.redirect(f"/users/{changed.user.username}", *flashes)


async def disable_user(page: Page) -> Response:
    keep = "true" if page.sent("keep_running").get("keep_running") else "false"
    changed = await page.run(DisableUser, {"username": page.path["username"], "keep_running": keep})
    return _back(page, changed, f"{changed.user.username} is disabled.")


async def enable_user(page: Page) -> Response:
    changed = await page.run(EnableUser, {"username": page.path["username"]})
    return _back(page, changed, f"{changed.user.username} is enabled.")


async def delete_user(page: Page) -> Response:
    changed = await page.run(DeleteUser, {"username": page.path["username"]})
    return _back(page, changed, f"{changed.user.username} is deleted; nothing of theirs is lost.")


async def restore_user(page: Page) -> Response:
    changed = await page.run(RestoreUser, {"username": page.path["username"]})
    return _back(page, changed, f"{changed.user.username} is back.")


async def set_password(page: Page) -> Response:
    sent = page.sent("password").get("password", "")
    raw = {"username": page.path["username"], **({"password": sent} if sent else {})}
    try:
        changed = await page.run(SetPassword, raw)
    except InvalidInput as error:
        errors, _ = field_errors(error, {"password"})
        return await _user(page, 422, errors)
    if changed.password is None:
        return _back(page, changed, "The password is set. Every session of theirs has ended.")
    return page.render(
        "user_created.html",
        kind="password",
        user=changed.user,
        password=changed.password,
        warnings=changed.warnings,
        section="users",
    )


async def show_purge(page: Page) -> Response:
    return await _purge(page, 200, {}, "")


async def _purge(page: Page, status: int, errors: dict[str, str], message: str) -> Response:
    plan = await page.run(PreviewPurge, {"username": page.path["username"]})
    hours = page.portal.dispatcher.services.settings.agent.trash_hours
    return page.render(
        "purge.html", status, plan=plan, errors=errors, message=message, trash_hours=hours, section="users"
    )


async def purge_user(page: Page) -> Response:
    name = page.path["username"]
    if page.sent("confirm").get("confirm", "").strip() != name:
        return await _purge(page, 422, {"confirm": "is not the name"}, "")
    try:
        await page.run(PurgeUser, {"username": name})
    except Conflict as error:
        return await _purge(page, 409, {}, str(error))
    return page.redirect("/users", ("ok", f"{name} is purged."))


async def show_audit(page: Page) -> Response:
    query = page.request.query_params
    asked = {name: query.get(name, "") for name in ("target", "actor", "action", "outcome")}
    raw = {"user" if name == "target" else name: value for name, value in asked.items() if value}
    if query.get("before"):
        raw["before"] = query["before"]
    found = await page.run(ListAudit, raw)
    first = not query.get("before")
    return page.render(
        "audit.html", entries=found.entries, query=asked, next=found.next, not_first=not first, section="audit"
    )


PAGES = (
    Entry("GET", "/users", list_users),
    Entry("GET", "/new-user", show_new_user),
    Entry("POST", "/new-user", create_user),
    Entry("GET", "/users/{username}", show_user),
    Entry("GET", "/users/{username}/edit", show_edit),
    Entry("POST", "/users/{username}/edit", edit_user),
    Entry("POST", "/users/{username}/disable", disable_user),
    Entry("POST", "/users/{username}/enable", enable_user),
    Entry("POST", "/users/{username}/delete", delete_user),
    Entry("POST", "/users/{username}/restore", restore_user),
    Entry("POST", "/users/{username}/password", set_password),
    Entry("GET", "/users/{username}/purge", show_purge),
    Entry("POST", "/users/{username}/purge", purge_user),
    Entry("GET", "/audit", show_audit),
)
