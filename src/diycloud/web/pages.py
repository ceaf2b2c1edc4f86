"""The pages everybody has: home and live gauges. Signing in: signing_in.py; one's own account: account.py."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from diycloud.actions import roles
from diycloud.actions.action import Permission
from diycloud.actions.reach import scope_of
from diycloud.auth import notices
from diycloud.auth.actions import ListAudit
from diycloud.errors import DiyCloudError, NotFound, TooManyRequests
from diycloud.groups import repository as groups_repository
from diycloud.groups import service as groups_service
from diycloud.groups.models import Group
from diycloud.notebooks import service as notebooks
from diycloud.notebooks.models import Notebooks
from diycloud.resources.actions import ShowHost
from diycloud.users import host, repository, service, shown
from diycloud.users.actions import ListUsers, ReadUsage
from diycloud.users.models import Row, Status
from diycloud.users.usage import EVERY_S, as_event
from diycloud.web.answers import Stream
from diycloud.web.portal import HEADERS, Entry, Page

SHOWN = (Status.ACTIVE, Status.INACTIVE, Status.PENDING)
MAX_STREAMS = 12
"""Of one person: a dozen open pages."""
CHECK_EVERY = 10
"""Readings after which the session is asked for again."""
MAX_STREAM_S = 600
"""A stream of gauges ends then; the browser opens another, whose session is checked anew."""


def safe_next(path: str) -> str:
    """Return a path of this site to go to after signing in, / for anything that could lead elsewhere."""
    plain = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if plain and not path.startswith("/sign-") else "/"


async def home(page: Page) -> Response:
    actor, services = page.visitor.actor, page.portal.dispatcher.services
    row = await service.get(services, actor.name)
    usage = None if row.portal_only else await page.portal.gauges.glance(row)
    servers = await notebooks_tile(page, row)
    reach = scope_of(actor, Permission.USERS_READ)
    return page.render(
        "home.html",
        usage=usage,
        disk=None if row.portal_only else {"used": None, "limit": row.allocation.disk},
        ssh=None if row.portal_only else f"ssh {row.username}@{page.portal.host}",
        notebooks=servers,
        mark=mark(servers) if servers else "",
        containers=None,
        folders=await _folders(page, row),
        notices=await services.database.read(notices.of_user, row.id),
        overview=await _overview(page, reach) if reach > roles.Scope.OWN else None,
        section="home",
    )


async def notebooks_tile(page: Page, row: Row) -> Notebooks | None:
    """Return somebody's servers as the agent has them; None where they have none, or notebooks are not set up."""
    hub = page.portal.dispatcher.services.hub
    if row.portal_only or hub is None or not hub.is_set_up:
        return None
    return await notebooks.read(page.portal.dispatcher.services, row, ask_hub=False)


def mark(found: Notebooks) -> str:
    """Return what is another text whenever the page would show something else than other figures."""
    shown = [(one.name, one.state, one.profile, one.reason, one.started_at) for one in found.servers]
    return hashlib.sha256(msgspec.json.encode([shown, found.more, found.warnings])).hexdigest()[:16]


async def _folders(page: Page, row: Row) -> list[Group]:
    """Return the groups somebody is in, whose folders they share."""
    services = page.portal.dispatcher.services
    found = [await services.database.read(groups_repository.by_name, name) for name in shown.names(row.groups)]
    return [groups_service.view(services, group) for group in found if group is not None]


async def _overview(page: Page, reach: roles.Scope) -> dict[str, Any]:
    """Return what somebody who looks after others sees first: of the whole host, or of one domain."""
    everywhere = reach is roles.Scope.ALL
    audit = await page.run(ListAudit, {"limit": "6"})
    return {
        **(await _counts(page) if everywhere else await _counts_of_domain(page)),
        "domain": "" if everywhere else page.visitor.actor.domain,
        "capacity": await capacity(page) if everywhere else None,
        "audit": audit.entries,
    }


async def _counts(page: Page) -> dict[str, int]:
    counts = await page.portal.dispatcher.services.database.read_long(repository.count_by_status)
    total = sum(count for status, count in counts.items() if status != Status.DELETED)
    return {"total": total, **{status.value: counts.get(status, 0) for status in SHOWN}}


async def _counts_of_domain(page: Page) -> dict[str, int]:
    found = {}
    for name, asked in (("total", {}), *((status.value, {"status": status.value}) for status in SHOWN)):
        found[name] = (await page.run(ListUsers, {**asked, "limit": "1"})).total
    return found


async def capacity(page: Page, *, without: tuple[float, int] = (0.0, 0)) -> dict[str, Any] | None:
    """Return what the host has and has promised, less one user's own part; None if the agent does not answer."""
    try:
        host = await page.run(ShowHost, {})
    except DiyCloudError:
        return None
    promised = {"cpu": host.promised_cores - without[0], "memory": host.promised_memory - without[1]}
    return {"cores": host.cores, "memory": host.memory, "disk": None, "promised": promised}


async def live_usage(page: Page) -> Response:
    """Stream one user's readings as server-sent events."""
    username = page.request.query_params.get("user") or page.visitor.actor.name
    await page.check(ReadUsage, username)
    row = await service.get(page.portal.dispatcher.services, username)
    if row.portal_only or host.impossible(row):
        raise NotFound(f"There is nothing to measure of {username}.")

    async def events() -> AsyncIterator[bytes]:
        sent = 0
        async for reading in page.portal.gauges.watch(username):
            sent += 1
            if sent % CHECK_EVERY == 0 and not await page.still_signed_in():
                return
            yield as_event(reading)
            if sent * EVERY_S >= MAX_STREAM_S:
                return

    return EventStream(events(), page.portal.streams, page.visitor.actor.name)


class EventStream(Stream):
    """A stream that is counted from when it is admitted, before anything is sent, until it ends, however it ends.

    open_streams: by watcher. Raises TooManyRequests for one too many.
    """

    def __init__(self, events: AsyncIterator[bytes], open_streams: Counter[str], watcher: str) -> None:
        if open_streams[watcher] >= MAX_STREAMS:
            raise TooManyRequests(
                f"{watcher} looks at {MAX_STREAMS} live pages already.", "Close a page.", retry_after=5
            )
        super().__init__(events, 200, {**HEADERS, "x-accel-buffering": "no"}, "text/event-stream")
        self._open_streams, self._watcher = open_streams, watcher
        open_streams[watcher] += 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._open_streams[self._watcher] -= 1
            if not self._open_streams[self._watcher]:
                del self._open_streams[self._watcher]


async def components(page: Page) -> Response:
    return page.render("components.html")


PAGES = (
    Entry("GET", "/", home),
    Entry("GET", "/events/usage", live_usage, scripted=True),
    Entry("GET", "/components", components),
)
