"""Reading the audit: pages, search, export."""

from __future__ import annotations

import csv
import datetime
import io
from typing import Any

import msgspec
from sqlalchemy import Connection

from diycloud.actions import audit
from diycloud.actions.dispatcher import Context
from diycloud.actions.download import Download, pages
from diycloud.actions.entry import Entry
from diycloud.auth.actions import AuditFilter, ExportAudit, ListAudit
from diycloud.auth.models import AuditPage
from diycloud.errors import FieldError, InvalidInput

EXPORT_PAGE = 1000
COLUMNS = tuple(name for name in Entry.__struct_fields__)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


async def list_audit(ctx: Context, action: ListAudit) -> AuditPage:
    asked = _asked(ctx, action)

    def read(connection: Connection) -> list[Entry]:
        return audit.page(connection, before=action.before, limit=action.limit, **asked)

    entries = await ctx.services.database.read_long(read)
    return AuditPage(entries, entries[-1].id if len(entries) == action.limit else None)


async def export_audit(ctx: Context, action: ExportAudit) -> Download:
    """Send all entries that are asked for, oldest first, a thousand at a time."""
    asked, as_csv = _asked(ctx, action), action.format == "csv"

    def read(connection: Connection, after: int) -> tuple[bytes, int | None]:
        entries = audit.following(connection, after, EXPORT_PAGE, **asked)
        data = (_csv(entries, heading=after == 0) if as_csv else _lines(entries)).encode()
        return data, entries[-1].id if len(entries) == EXPORT_PAGE else None

    name = f"audit-{datetime.datetime.now(datetime.UTC):%Y-%m-%d}.{'csv' if as_csv else 'ndjson'}"
    kind = "text/csv; charset=utf-8" if as_csv else "application/x-ndjson"
    return Download(kind, name, pages(ctx.services.database, read, 0))


def _asked(ctx: Context, action: AuditFilter) -> dict[str, Any]:
    names = ("actor", "action", "via", "address", "request_id", "token", "search")
    found: dict[str, Any] = {name: getattr(action, name) for name in names}
    return found | {
        "target": action.user,
        "outcome": action.outcome or "",
        "domain": ctx.within(action.domain),
        "since": _moment("since", action.since),
        "until": _moment("until", action.until, end_of_day=True),
    }


def _moment(field: str, text: str | None, *, end_of_day: bool = False) -> str:
    """Return a time as the table keeps it. Raises InvalidInput for a day that does not exist."""
    if not text:
        return ""
    try:
        found = datetime.datetime.fromisoformat(text.removesuffix("Z").replace("T", " "))
        if end_of_day and len(text) == len("2026-11-21"):
            found += datetime.timedelta(days=1)
    except (ValueError, OverflowError):
        raise InvalidInput.of([FieldError(field, f"{text} is no time")]) from None
    return f"{found:%Y-%m-%d %H:%M:%S}"


def _csv(entries: list[Entry], *, heading: bool) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    if heading:
        writer.writerow(COLUMNS)
    for entry in entries:
        writer.writerow([_cell(getattr(entry, name)) for name in COLUMNS])
    return out.getvalue()


def _cell(value: Any) -> str:
    """Return a cell; what a spreadsheet would run (a name mistyped at sign-in may be anything) begins with an apostrophe."""
    if value is None:
        return ""
    text = msgspec.json.encode(value).decode() if isinstance(value, dict) else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _lines(entries: list[Entry]) -> str:
    return "".join(f"{msgspec.json.encode(entry).decode()}\n" for entry in entries)
