"""What is done to one user from that user's page: disable, delete, password, keys, purge and so on."""

from __future__ import annotations

from starlette.responses import Response

from diycloud.auth.actions import AddKey, ClearThrottle, EndSessions, RemoveKey
from diycloud.errors import Conflict, InvalidInput
from diycloud.policies.actions import ApplyPolicy
from diycloud.users.actions import (
    DeleteUser,
    DisableUser,
    EnableUser,
    PreviewPurge,
    PurgeUser,
    RestoreUser,
    SetPassword,
)
from diycloud.web.people import back_to_user, render_user
from diycloud.web.portal import Entry, Page, field_errors


async def disable_user(page: Page) -> Response:
    keep = "true" if page.sent("keep_running").get("keep_running") else "false"
    changed = await page.run(DisableUser, {"username": page.path["username"], "keep_running": keep})
    return back_to_user(page, changed, f"{changed.user.username} is disabled.")


async def enable_user(page: Page) -> Response:
    changed = await page.run(EnableUser, {"username": page.path["username"]})
    return back_to_user(page, changed, f"{changed.user.username} is enabled.")


async def delete_user(page: Page) -> Response:
    changed = await page.run(DeleteUser, {"username": page.path["username"]})
    return back_to_user(page, changed, f"{changed.user.username} is deleted; nothing of theirs is lost.")


async def restore_user(page: Page) -> Response:
    changed = await page.run(RestoreUser, {"username": page.path["username"]})
    return back_to_user(page, changed, f"{changed.user.username} is back.")


async def set_password(page: Page) -> Response:
    sent = page.sent("password").get("password", "")
    raw = {"username": page.path["username"], **({"password": sent} if sent else {})}
    try:
        changed = await page.run(SetPassword, raw)
    except InvalidInput as error:
        errors, _ = field_errors(error, {"password"})
        return await render_user(page, 422, errors)
    if changed.password is None:
        return back_to_user(page, changed, "The password is set. Every session of theirs has ended.")
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
    return back_to_user(page, changed, f"The limits are those of the policy {changed.user.policy}.")


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
        return await render_user(page, 422, field_errors(error, {"key"})[0])
    return page.redirect(f"/users/{name}", ("ok", "The key opens the account."), *[("warn", w) for w in done.warnings])


async def remove_key(page: Page) -> Response:
    name = page.path["username"]
    done = await page.run(RemoveKey, {"username": name, **page.sent("fingerprint")})
    return page.redirect(f"/users/{name}", ("ok", "The key opens it no more."), *[("warn", w) for w in done.warnings])


async def show_purge(page: Page) -> Response:
    return await _purge(page, 200, {}, {}, "")


async def _purge(page: Page, status: int, values: dict[str, str], errors: dict[str, str], message: str) -> Response:
    plan = await page.run(PreviewPurge, {"username": page.path["username"]})
    hours = page.portal.dispatcher.services.settings.agent.trash_hours
    return page.render(
        "purge.html", status, plan=plan, values=values, errors=errors, message=message, trash_hours=hours,
        section="users",
    )  # fmt: skip


async def purge_user(page: Page) -> Response:
    name, sent = page.path["username"], page.sent("confirm", "archive", "hand_over_to", "history")
    if sent.pop("confirm", "").strip() != name:
        return await _purge(page, 422, sent, {"confirm": "is not the name"}, "")
    try:
        purged = await page.run(PurgeUser, {"username": name, **{key: value for key, value in sent.items() if value}})
    except InvalidInput as error:
        return await _purge(page, 422, sent, *field_errors(error, {"hand_over_to"}))
    except Conflict as error:
        return await _purge(page, 409, sent, {}, str(error))
    packed = f" The home is packed: {purged.archive} ({purged.archive_size})." if purged.archive else ""
    return page.redirect("/users", ("ok", f"{name} is purged.{packed}"), *[("warn", text) for text in purged.warnings])


PAGES = (
    Entry("POST", "/users/{username}/disable", disable_user),
    Entry("POST", "/users/{username}/enable", enable_user),
    Entry("POST", "/users/{username}/delete", delete_user),
    Entry("POST", "/users/{username}/restore", restore_user),
    Entry("POST", "/users/{username}/password", set_password),
    Entry("POST", "/users/{username}/policy", apply_policy),
    Entry("POST", "/users/{username}/sign-out", end_sessions),
    Entry("POST", "/users/{username}/throttle", clear_throttle),
    Entry("POST", "/users/{username}/keys", add_key),
    Entry("POST", "/users/{username}/keys/remove", remove_key),
    Entry("GET", "/users/{username}/purge", show_purge),
    Entry("POST", "/users/{username}/purge", purge_user),
)
