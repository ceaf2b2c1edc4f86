"""The administrator's pages: users, one user, the audit."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from diycloud.auth.actions import (
    AddKey,
    ClearThrottle,
    EndSessions,
    ExportAudit,
    ListAudit,
    ListKeys,
    RemoveKey,
)
from diycloud.errors import Conflict, InvalidInput
from diycloud.policies.actions import ApplyPolicy
from diycloud.users import service
from diycloud.users.actions import (
    CreateUser,
    DeleteUser,
    DisableUser,
    EnableUser,
    ExportUsers,
    ListUsers,
    ModifyUser,
    PreviewPurge,
    PurgeUser,
    RestoreUser,
    SetPassword,
    ShowUser,
)
from diycloud.users.models import Changed
from diycloud.web.pages import capacity
from diycloud.web.portal import Entry, Page, download, field_errors
from diycloud.web.tenancy import choices

USER_AUDIT = 20
FILTERS = ("search", "status", "role", "domain", "group", "policy")
LIMITS = ("cpu", "memory", "disk", "tasks")
LISTS = ("groups", "allowed_client_ip", "container_gids")
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
    return page.render(template, page=found, query=shown, section="users")


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
        keys=(await page.run(ListKeys, {"username": name})).keys,
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


async def apply_policy(page: Page) -> Response:
    changed = await page.run(ApplyPolicy, {"username": page.path["username"]})
    return _back(page, changed, f"The limits are those of the policy {changed.user.policy}.")


async def end_sessions(page: Page) -> Response:
    name = page.path["username"]
    await page.run(EndSessions, {"username": name})
    return page.redirect(f"/users/{name}", ("ok", f"{name} is signed out everywhere."))


async def clear_throttle(page: Page) -> Response:
    name = page.path["username"]
    await page.run(ClearThrottle, {"username": name})
    return page.redirect(f"/users/{name}", ("ok", f"{name} can try again at once."))


async def add_key(page: Page) -> Response:
    name, key = page.path["username"], " ".join(page.sent("key").get("key", "").split())
    try:
        done = await page.run(AddKey, {"username": name, "key": key})
    except (InvalidInput, Conflict) as error:
        return await _user(page, 422, field_errors(error, {"key"})[0])
    return page.redirect(f"/users/{name}", ("ok", "The key opens the account."), *[("warn", w) for w in done.warnings])


async def remove_key(page: Page) -> Response:
    name = page.path["username"]
    done = await page.run(RemoveKey, {"username": name, **page.sent("fingerprint")})
    return page.redirect(f"/users/{name}", ("ok", "The key opens it no more."), *[("warn", w) for w in done.warnings])


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


AUDIT_FILTERS = ("target", "actor", "action", "outcome", "via", "address", "domain", "search", "since", "until")


def _audit_query(page: Page) -> tuple[dict[str, str], dict[str, str]]:
    """Return what the form shows, and the action's fields of it."""
    asked = {name: page.request.query_params.get(name, "").strip() for name in AUDIT_FILTERS}
    return asked, {"user" if name == "target" else name: value for name, value in asked.items() if value}


async def export_audit(page: Page) -> Response:
    _, raw = _audit_query(page)
    return download(await page.run(ExportAudit, {**raw, "format": page.request.query_params.get("format", "csv")}))


async def show_audit(page: Page) -> Response:
    query = page.request.query_params
    asked, raw = _audit_query(page)
    if query.get("before"):
        raw["before"] = query["before"]
    found = await page.run(ListAudit, raw)
    first = not query.get("before")
    return page.render(
        "audit.html", entries=found.entries, query=asked, next=found.next, not_first=not first, section="audit"
    )


PAGES = (
    Entry("GET", "/users", list_users),
    Entry("GET", "/export/users", export_users),
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
    Entry("POST", "/users/{username}/policy", apply_policy),
    Entry("POST", "/users/{username}/sign-out", end_sessions),
    Entry("POST", "/users/{username}/throttle", clear_throttle),
    Entry("POST", "/users/{username}/keys", add_key),
    Entry("POST", "/users/{username}/keys/remove", remove_key),
    Entry("GET", "/audit", show_audit),
    Entry("GET", "/audit/export", export_audit),
)
