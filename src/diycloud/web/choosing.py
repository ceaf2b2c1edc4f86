"""Changes to many users: chosen in the list, looked at, confirmed, done; the rows say how each went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import asdict
from starlette.responses import Response

from diycloud.actions.parsing import Source
from diycloud.errors import DiyCloudError, InvalidInput
from diycloud.policies.actions import ListPolicies
from diycloud.users.actions import BulkUsers, ShowUser
from diycloud.users.models import BulkReport, User
from diycloud.web.portal import MAX_FIELDS, Entry, Page

VERBS = {
    "disable": "Disable",
    "enable": "Enable",
    "delete": "Delete",
    "restore": "Restore",
    "group": "Put into a group",
    "policy": "Give a policy",
    "apply": "Apply the policy to",
}
ASKS = {"group": "group", "policy": "policy"}
"""What a verb needs to know beside the users."""


async def change_users(page: Page) -> Response:
    """Ask what is still to be said, show what would be done, or do it (`confirm`)."""
    await page.check(BulkUsers)
    assert page.form is not None
    names = list(dict.fromkeys(str(name) for name in page.form.getlist("user")))[:MAX_FIELDS]
    sent = page.sent("do", "group", "policy", "limits", "confirm")
    verb = sent.get("do", "")
    if verb not in VERBS or not names:
        return page.redirect("/users", ("warn", "Choose users in the list first, then what is to be done with them."))
    asked = ASKS.get(verb)
    if asked is not None and not sent.get(asked, "").strip():
        missing = {asked: "is needed"} if asked in sent else {}
        return await _show(page, verb, names, sent, errors=missing)
    try:
        changes = [await _change(page, verb, name, sent) for name in names]
    except InvalidInput as error:
        return await _show(page, verb, names, sent, errors={asked or "": error.message})
    confirmed = bool(sent.get("confirm"))
    raw = {"changes": changes, "dry_run": not confirmed, "on_error": "continue"}
    report = await page.run(BulkUsers, raw, Source.JSON)
    return await _show(page, verb, names, sent, report=report)


async def _show(
    page: Page,
    verb: str,
    names: Sequence[str],
    sent: dict[str, str],
    *,
    errors: dict[str, str] | None = None,
    report: BulkReport | None = None,
) -> Response:
    policies = (await page.run(ListPolicies, {})).policies if verb == "policy" else []
    return page.render(
        "bulk.html", 422 if errors else 200, verb=verb, verbs=VERBS, names=names, values=sent, errors=errors or {},
        report=report, policies=[(one.name, one.name) for one in policies], section="users",
    )  # fmt: skip


async def _change(page: Page, verb: str, name: str, sent: dict[str, str]) -> dict[str, Any]:
    """Return one user's change. Who is not there or not theirs gets an empty one, in whose row the check says so."""
    if verb not in ("group", "policy", "apply"):
        return {"action": verb, "username": name}
    try:
        user = await page.run(ShowUser, {"username": name})
    except DiyCloudError:
        return {"action": "modify", "username": name}
    return {"action": "modify", "username": name, **await _fields(page, verb, user, sent)}


async def _fields(page: Page, verb: str, user: User, sent: dict[str, str]) -> dict[str, Any]:
    if verb == "group":
        return {"groups": [*dict.fromkeys([*user.groups, sent["group"].strip()])]}
    policy = sent["policy"] if verb == "policy" else user.policy
    wanted: dict[str, Any] = {"policy": policy} if verb == "policy" else {}
    if verb == "apply" or sent.get("limits"):
        known = {one.name: one.defaults for one in (await page.run(ListPolicies, {})).policies}
        if policy not in known:
            raise InvalidInput("there is no such policy")
        wanted |= asdict(known[policy])
    return wanted


PAGES = (Entry("POST", "/change-users", change_users),)
