"""The administrators' pages about signing in: who is signed in, what was tried, who must wait."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from diycloud.auth.actions import (
    ClearThrottle,
    EndSession,
    EndSessions,
    ListAudit,
    ListSessions,
    ListTokens,
    ListWaiting,
    RevokeToken,
)
from diycloud.errors import NotFound
from diycloud.web.portal import Entry, Page

FILTERS = ("user", "address")
ATTEMPTS = (*FILTERS, "outcome")


def _asked(page: Page, names: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Return what the filter shows, and the fields of an action that it stands for; `before` is the page's."""
    query = page.request.query_params
    shown = {name: query.get(name, "").strip() for name in names}
    raw = {name: value for name, value in shown.items() if value}
    if query.get("before"):
        raw["before"] = query["before"]
    return shown, raw


async def show_sessions(page: Page) -> Response:
    shown, raw = _asked(page, FILTERS)
    found = await page.run(ListSessions, raw)
    return page.render(
        "sessions.html", sessions=found.sessions, total=found.total, next=found.next, query=shown,
        not_first="before" in raw, section="sessions",
    )  # fmt: skip


async def end_session(page: Page) -> Response:
    sent = page.sent("username", "session")
    try:
        await page.run(EndSession, sent)
    except NotFound:
        return page.redirect("/sessions", ("info", "That session had ended already."))
    return page.redirect("/sessions", ("ok", f"That session of {sent['username']} has ended."))


async def end_sessions(page: Page) -> Response:
    sent = page.sent("username")
    await page.run(EndSessions, sent)
    return page.redirect("/sessions", ("ok", f"{sent['username']} is signed out everywhere."))


async def show_tokens(page: Page) -> Response:
    found = await page.run(ListTokens, {"username": page.path["username"]})
    return page.render("user_tokens.html", username=found.username, tokens=found.tokens, section="users")


async def revoke_token(page: Page) -> Response:
    back = f"/users/{page.path['username']}/tokens"
    try:
        await page.run(RevokeToken, {"username": page.path["username"], **page.sent("key_id")})
    except NotFound:
        return page.redirect(back, ("info", "That token had ended already."))
    return page.redirect(back, ("ok", "The token has ended: it opens nothing any more."))


async def show_attempts(page: Page) -> Response:
    shown, raw = _asked(page, ATTEMPTS)
    found = await page.run(ListAudit, {**raw, "action": "session.begin"})
    waiting = await page.run(ListWaiting, {})
    return page.render(
        "attempts.html", entries=found.entries, next=found.next, query=shown, waiting=waiting.waiting,
        more_waiting=waiting.more, not_first="before" in raw, words=WORDS, section="sessions",
    )  # fmt: skip


WORDS: dict[str, Any] = {
    "": "signed in",
    "unauthenticated": "wrong name, password or network, or an account that may not sign in",
    "too-many-requests": "had to wait after failures",
    "unavailable": "the server had too much to do",
}
"""What became of a sign-in, by the code that the audit has."""


async def clear_wait(page: Page) -> Response:
    sent = page.sent("username")
    await page.run(ClearThrottle, sent)
    return page.redirect("/attempts", ("ok", f"{sent['username']} can try again at once."))


PAGES = (
    Entry("GET", "/sessions", show_sessions),
    Entry("POST", "/sessions/end", end_session),
    Entry("POST", "/sessions/end-all", end_sessions),
    Entry("GET", "/users/{username}/tokens", show_tokens),
    Entry("POST", "/users/{username}/tokens/revoke", revoke_token),
    Entry("GET", "/attempts", show_attempts),
    Entry("POST", "/attempts/clear", clear_wait),
)
