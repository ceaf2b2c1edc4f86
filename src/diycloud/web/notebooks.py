"""The pages of notebooks: one's own servers, those of people one looks after, and what keeps both up to date.

What scripts fetch of these pages carries no CSRF token: its buttons belong to a form beside it (portal.Page.text).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import msgspec
from starlette.responses import RedirectResponse, Response

from diycloud.errors import DiyCloudError, FieldError, InvalidInput, Unsupported
from diycloud.notebooks import service as notebooks
from diycloud.notebooks.actions import ListNotebooks, StartNotebook, StopNotebook
from diycloud.notebooks.models import Notebooks
from diycloud.users import service
from diycloud.web import entering
from diycloud.web.pages import MAX_STREAM_S, EventStream, mark
from diycloud.web.portal import HEADERS, Entry, Page, field_errors
from diycloud.web.problems import STATUS

FIELDS = {"server_name", "profile"}
PENDING_S, IDLE_S = 2.0, 15.0
"""Between two looks while something starts or stops, and else; the hub's word of a change comes at once."""
PARTS = {"1": "notebooks_servers.html", "tile": "notebooks_tile.html"}


async def show_own(page: Page) -> Response:
    """Show one's own servers; with `fragment` only the part that follows what happens."""
    try:
        found = await page.run(ListNotebooks, {"username": page.visitor.actor.name})
    except Unsupported:
        return page.render("notebooks_none.html", 200, portal_only=False, section="notebooks")
    part = PARTS.get(page.request.query_params.get("fragment", ""))
    if part:
        return page.render(part, found=found, mark=mark(found), own=True)
    if (await service.get(page.portal.dispatcher.services, found.username)).portal_only:
        return page.render("notebooks_none.html", 200, portal_only=True, section="notebooks")
    return _render(page, found)


def _render(
    page: Page, found: Notebooks, status: int = 200, *, own: bool = True, error: DiyCloudError | None = None
) -> Response:
    errors, message = field_errors(error, FIELDS) if error else ({}, "")
    return page.render(
        "notebooks.html", status, found=found, mark=mark(found), own=own, errors=errors, message=message,
        values=page.sent("server_name", "profile") if page.form else {}, notes=found.warnings,
        section="notebooks" if own else "users",
    )  # fmt: skip


async def change_own(page: Page) -> Response:
    """Start or stop one of one's own servers; a start leads to it, and the hub shows its progress there."""
    assert page.form is not None
    username = page.visitor.actor.name
    if "stop" in page.form:
        return await _stop(page, username, "/notebooks")
    name = page.sent("start").get("start", "")
    asked = {"server_name": name, "profile": page.sent(f"profile:{name}").get(f"profile:{name}", "")}
    return await _start(page, asked)


async def add(page: Page) -> Response:
    """Start one more server, under a name that its user chooses."""
    sent = page.sent("server_name", "profile")
    if sent.get("server_name"):
        return await _start(page, sent)
    found = await page.run(ListNotebooks, {"username": page.visitor.actor.name})
    return _render(page, found, 422, error=InvalidInput.of([FieldError("server_name", "is needed here")]))


async def _start(page: Page, asked: dict[str, str]) -> Response:
    username = page.visitor.actor.name
    try:
        started = await page.run(StartNotebook, {"username": username, **asked})
    except DiyCloudError as error:
        found = await page.run(ListNotebooks, {"username": username})
        return _render(page, found, STATUS.get(error.code, 500), error=error)
    return RedirectResponse(entering.way_to(started.address), 303, HEADERS)


async def _stop(page: Page, username: str, back: str) -> Response:
    name = page.sent("stop").get("stop", "")
    done = await page.run(StopNotebook, {"username": username, "server_name": name})
    warned = [("warn", text) for text in done.warnings]
    return page.redirect(back, ("ok", f"{'The server ' + name if name else 'The notebook server'} has ended."), *warned)


async def show_other(page: Page) -> Response:
    """Show somebody's servers to who looks after them. Nobody opens another's: what runs there is theirs (Nginx asks)."""
    found = await page.run(ListNotebooks, {"username": page.path["username"]})
    if page.request.query_params.get("fragment"):
        return page.render(PARTS["1"], found=found, mark=mark(found), own=False)
    return _render(page, found, own=False)


async def stop_other(page: Page) -> Response:
    username = page.path["username"]
    return await _stop(page, username, f"/users/{username}/notebooks")


# -- what follows


async def live(page: Page) -> Response:
    """Stream the mark of somebody's servers whenever it changes, as server-sent events."""
    username = page.request.query_params.get("user") or page.visitor.actor.name
    await page.check(ListNotebooks, username)
    services = page.portal.dispatcher.services
    notebooks.hub_of(services)
    row = await service.get(services, username)

    async def events() -> AsyncIterator[bytes]:
        told, until = "", time.monotonic() + MAX_STREAM_S
        with services.notebook_changes.listen(username) as news:
            while time.monotonic() < until:
                if told and not await page.still_signed_in():
                    return
                found = await notebooks.read(services, row)
                if (now := mark(found)) != told:
                    told = now
                    yield b"data: " + msgspec.json.encode({"mark": now}) + b"\n\n"
                pending = any(one.state in notebooks.PENDING.values() for one in found.servers)
                await news.wait(PENDING_S if pending else IDLE_S)

    return EventStream(events(), page.portal.streams, page.visitor.actor.name)


PAGES = (
    Entry("GET", "/notebooks", show_own, scripted=True),
    Entry("POST", "/notebooks", change_own),
    Entry("POST", "/notebooks/new", add),
    Entry("GET", "/events/notebooks", live, scripted=True),
    Entry("GET", "/users/{username}/notebooks", show_other, scripted=True),
    Entry("POST", "/users/{username}/notebooks", stop_other),
)
