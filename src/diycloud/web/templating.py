"""The portal's templates: one Jinja environment, its filters, the header that guards its pages.

Templates get plain values (numbers in cores and bytes, times as epoch seconds, ISO text or datetime) and turn them
into text here, so that no route formats anything. templates/README.md lists every template with its context.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlencode

import jinja2

from diycloud.units import format_size, human_size

HERE = Path(__file__).parent
STATIC = HERE / "static"
TEMPLATES = HERE / "templates"

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

Moment = datetime | float | int | str | None


@cache
def static_version() -> str:
    """Return a digest of every static file: the folder name under /static/, so that browsers may keep them for good."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(STATIC).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def asset(path: str) -> str:
    """Return the address of a static file; relative imports between modules keep the version."""
    return f"/static/{static_version()}/{path}"


def page_url(path: str, query: Mapping[str, object] | None = None, **changes: object) -> str:
    """Return `path` with the query, changed; empty values and old cursors are left out.

    A change of the filter starts at the first page, so a cursor is only there where it is given. True is `true`,
    False is left out: the text forms of the actions' fields.
    """
    kept = {k: v for k, v in (query or {}).items() if k not in ("cursor", "before", "fragment")} | changes
    text = urlencode({k: "true" if v is True else str(v) for k, v in kept.items() if v not in (None, "", False)})
    return f"{path}?{text}" if text else path


def parse_moment(value: Moment) -> datetime | None:
    """Return an aware UTC time of an epoch, ISO text or datetime; None for none or 0. A naive one is taken as UTC."""
    if value is None or value in ("", 0):
        return None
    if isinstance(value, (int, float)):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None  # somebody wrote something else into the database
    moment = value
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def iso(value: Moment) -> str:
    """Return the machine's form of a time for `<time datetime>`: `2026-11-21T08:53:07Z`."""
    moment = parse_moment(value)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else ""


def clock(value: Moment) -> str:
    """Return a time in full: `21 Nov 2026, 08:53 UTC`."""
    moment = parse_moment(value)
    return f"{moment.day} {moment:%b %Y, %H:%M} UTC" if moment else "never"


def ago(value: Moment, now: datetime | None = None) -> str:
    """Return how long ago a time is, in words: `just now`, `5 min ago`, `3 h ago`, `2 days ago`, then the date."""
    moment = parse_moment(value)
    if moment is None:
        return "never"
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{int(seconds // 60)} min ago"
    if seconds < 86_400:
        return f"{int(seconds // 3600)} h ago"
    if seconds < 14 * 86_400:
        days = int(seconds // 86_400)
        return f"{days} day{'s' if days > 1 else ''} ago"
    return f"{moment.day} {moment:%b %Y}"


def lasting(seconds: float | None) -> str:
    """Return a length of time for reading: `0.4 s`, `12 s`, `5 min`, `3 h`, `2 days`."""
    if seconds is None:
        return ""
    for unit, size in (("days", 172_800), ("h", 7200), ("min", 120)):
        if seconds >= size:
            return f"{seconds / {'days': 86_400, 'h': 3600, 'min': 60}[unit]:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def cores(value: float | None) -> str:
    """Return cores without needless zeros: `1`, `0.5`, `0.42`."""
    return "–" if value is None else f"{value:.2f}".rstrip("0").rstrip(".")


def size(value: int | str | None) -> str:
    """Return the exact, canonical text of bytes; text is passed through (it is what the person typed)."""
    if value is None:
        return "–"
    return format_size(value) if isinstance(value, int) else value


def human(value: float | None) -> str:
    """Return rounded bytes for reading, `1.4G`."""
    return "–" if value is None else human_size(value)


def number(value: float) -> str:
    """Return a count with thin spaces between thousands: `10 000`."""
    return f"{value:,.0f}".replace(",", "\u202f")


def percent(used: float | None, limit: float | None) -> int:
    """Return used/limit as whole per cent, 0–100; 0 where either is unknown."""
    if used is None or not limit:
        return 0
    return max(0, min(100, round(100 * used / limit)))


def data_url(text: str, kind: str = "text/csv") -> str:
    """Return text as a `data:` address, for a download that needs no second request."""
    return f"data:{kind};charset=utf-8,{quote(text)}"


def environment() -> jinja2.Environment:
    """Make the Jinja environment: escaping always on, an unknown name is an error and never an empty string."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    env.globals.update(asset=asset, page_url=page_url)
    env.filters.update(
        ago=ago,
        clock=clock,
        cores=cores,
        data_url=data_url,
        human=human,
        iso=iso,
        lasting=lasting,
        number=number,
        percent=percent,
        size=size,
        seg=lambda value: quote(str(value), safe=""),
    )
    return env
