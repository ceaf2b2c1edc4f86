"""The page of the audit: what happened, searched and exported."""

from __future__ import annotations

from starlette.responses import Response

from diycloud.auth.actions import ExportAudit, ListAudit
from diycloud.web.portal import Entry, Page, download

AUDIT_FILTERS = (
    "target",
    "actor",
    "action",
    "outcome",
    "via",
    "address",
    "token",
    "domain",
    "search",
    "since",
    "until",
)


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
    Entry("GET", "/audit", show_audit),
    Entry("GET", "/audit/export", export_audit),
)
