"""Changes to many users: chosen in the list, looked at, confirmed, done; the rows say how each went.

Chosen are the users whose boxes are ticked, or all that match the list's filter, on whichever page. Those are looked up
anew at each step, as the one who looks may see them; if others match by then, they are shown again before anything is done.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import parse_qsl

from msgspec.structs import asdict
from starlette.responses import Response

from diycloud.actions.parsing import Source
from diycloud.actions.turns import Turns
from diycloud.errors import DiyCloudError, InvalidInput
from diycloud.policies.actions import ListPolicies
from diycloud.users.actions import BulkUsers, ListUsers, ShowUser
from diycloud.users.models import BulkReport, User
from diycloud.users.models import Page as UserPage
from diycloud.web import streams
from diycloud.web.growing import GAP, growing
from diycloud.web.people import FILTERS, MAX_AT_ONCE
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
MAX_ROWS = 500
"""Rows shown of a report, those with something in the way first: a page of ten thousand helps nobody."""


async def change_users(page: Page) -> Response:
    """Ask what is still to be said, show what would be done, or do it (`confirm`)."""
    await page.check(BulkUsers)
    sent = page.sent("do", "group", "policy", "limits", "confirm", "everyone", "filter", "seen")
    verb, notes, confirmed = sent.get("do", ""), list[str](), bool(sent.get("confirm"))
    if "everyone" in sent:
        users: dict[str, User | None] = await _matching(page, sent.get("filter", ""))
        others = confirmed and sent.get("seen") != _sum_of(users)
        confirmed = confirmed and not others
        if others or sent["everyone"] != str(len(users)):
            notes.append(f"Other users match by now: they were {sent['everyone'][:10]}, they are {len(users)}.")
        sent |= {"everyone": str(len(users)), "seen": _sum_of(users)}
    else:
        users = _ticked(page)
    if verb not in VERBS or not users:
        return page.redirect("/users", ("warn", "Choose users in the list first, then what is to be done with them."))
    shown: dict[str, Any] = {"verb": verb, "verbs": VERBS, "names": list(users), "values": sent, "section": "users"}
    asked = ASKS.get(verb)
    if asked is not None and not sent.get(asked, "").strip():
        return await _ask(page, shown, {asked: "is needed"} if asked in sent else {}, notes)
    try:
        changes = await _changes(page, verb, users, sent)
    except InvalidInput as error:
        return await _ask(page, shown, {asked or "": error.message}, notes)

    async def work() -> BulkReport:
        raw = {"changes": changes, "dry_run": not confirmed, "on_error": "continue"}
        return await page.run(BulkUsers, raw, Source.JSON)

    if not confirmed:
        return page.render("bulk.html", stage="preview", notes=notes, **shown, **_rows(await work()))
    rows, task = streams.begin(work)
    whole = page.text("bulk.html", stage="running", gap=GAP, status=200, **shown)
    parts = growing(page, whole, "bulk_progress.html", len(users), rows, lambda: _end(page, shown, task))
    return page.stream(parts)


async def _end(page: Page, shown: dict[str, Any], task: asyncio.Task[BulkReport]) -> str:
    """Return what changes came to, as the page shows it."""
    try:
        found, broken = _rows(await task), ""
    except DiyCloudError as error:
        found, broken = {}, str(error)
    except Exception:  # it is in the log; the page must not end in the middle
        found, broken = {}, "Something broke; it is in the server’s log."
    return page.text("bulk_report.html", stage="done", broken=broken, **shown, **found)


def _rows(report: BulkReport) -> dict[str, Any]:
    """Return a report as the pages show it."""
    ordered = sorted(report.rows, key=lambda row: not row.errors)
    return {"report": report, "rows": ordered[:MAX_ROWS], "more": len(ordered[MAX_ROWS:])}


async def _ask(page: Page, shown: dict[str, Any], errors: dict[str, str], notes: list[str]) -> Response:
    policies = (await page.run(ListPolicies, {})).policies if shown["verb"] == "policy" else []
    options = [(one.name, one.name) for one in policies]
    status = 422 if errors else 200
    return page.render("bulk.html", status, stage="ask", errors=errors, policies=options, notes=notes, **shown)


def _ticked(page: Page) -> dict[str, User | None]:
    """Return the names that were ticked."""
    assert page.form is not None
    return dict.fromkeys([str(name) for name in page.form.getlist("user")][:MAX_FIELDS])


async def _matching(page: Page, query: str) -> dict[str, User | None]:
    """Return all users that match a filter, as the list's address has it. Raises InvalidInput for too many of them."""
    asked = {name: value for name, value in parse_qsl(query) if name in FILTERS}
    found: dict[str, User | None] = {}
    cursor: str | None = ""
    while cursor is not None:
        raw = {**asked, "limit": "1000", "cursor": cursor}
        part: UserPage = await page.run(ListUsers, raw)
        found |= {user.username: user for user in part.users}
        if part.total > MAX_AT_ONCE or len(found) > MAX_AT_ONCE:
            raise InvalidInput(f"{part.total} users match, more than {MAX_AT_ONCE}.", "Narrow the filter.")
        cursor = part.next
    return found


def _sum_of(names: Collection[str]) -> str:
    """Return what tells whether the users that match are still the same."""
    return hashlib.blake2b(" ".join(sorted(names)).encode(), digest_size=16).hexdigest()


async def _changes(
    page: Page, verb: str, users: Mapping[str, User | None], sent: dict[str, str]
) -> list[dict[str, Any]]:
    """Return each user's change. Who is not there or not theirs gets an empty one, in whose row the check says so.

    Raises InvalidInput for a policy that is not there.
    """
    if verb not in ("group", "policy", "apply"):
        return [{"action": verb, "username": name} for name in users]
    known = {one.name: one.defaults for one in (await page.run(ListPolicies, {})).policies} if verb != "group" else {}
    found: list[dict[str, Any]] = []
    turns = Turns()
    for name, listed in users.items():
        user = listed or await _shown(page, name)
        fields: dict[str, Any] = {}
        if user is not None and verb == "group":
            fields = {"groups": [*dict.fromkeys([*user.groups, sent["group"].strip()])]}
        elif user is not None:
            policy = sent["policy"] if verb == "policy" else user.policy
            fields = {"policy": policy} if verb == "policy" else {}
            if verb == "apply" or sent.get("limits"):
                if policy not in known:
                    raise InvalidInput("there is no such policy")
                fields |= asdict(known[policy])
        found.append({"action": "modify", "username": name, **fields})
        await turns.give_way()
    return found


async def _shown(page: Page, name: str) -> User | None:
    try:
        return await page.run(ShowUser, {"username": name})
    except DiyCloudError:
        return None


PAGES = (Entry("POST", "/change-users", change_users),)
