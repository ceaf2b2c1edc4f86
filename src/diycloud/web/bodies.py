"""What a REST request sends: its query, its body, what it will take back."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request

from diycloud.actions.parsing import decode_json
from diycloud.core.routes import Route
from diycloud.errors import FieldError, InvalidInput
from diycloud.users.actions import BulkUsers, ImportUsers
from diycloud.web.answers import JSON
from diycloud.web.problems import HttpError, TooLarge

MAX_BODY = 1 << 20
LONG = 64 << 10
MAX_IMPORT = 9 << 20
_LARGE = frozenset({ImportUsers, BulkUsers})
CSV = "text/csv"


async def read_body(request: Request, limit: int) -> bytes:
    """Return a request's body. Raises TooLarge above the limit, without reading on."""
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > limit:
        raise TooLarge(limit)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise TooLarge(limit)
        parts.append(part)
    return b"".join(parts)


async def read_json(request: Request) -> dict[str, Any]:
    """Return the object of a JSON body, an empty one for none. Raises InvalidInput, HttpError."""
    return _json(request, await read_body(request, MAX_BODY), JSON)


async def read_change(route: Route, request: Request, names: dict[str, str]) -> dict[str, Any]:
    """Return what a change sends. names: what its path says already. Raises InvalidInput, HttpError."""
    takes_csv = route.action is ImportUsers
    body = await read_body(request, MAX_IMPORT if route.action in _LARGE else MAX_BODY)
    if takes_csv and _media_type(request) == CSV:
        return _csv(request, body)
    if request.scope["query_string"]:
        raise InvalidInput("A change takes no query.", "Send the fields in the body, as JSON.")
    taken = f"{JSON}, {CSV}" if takes_csv else JSON
    large = len(body) > LONG  # megabytes are taken apart beside the event loop
    raw = await asyncio.to_thread(_json, request, body, taken) if large else _json(request, body, taken)
    both = set(raw) & set(names)
    if both:
        raise InvalidInput.of([FieldError(name, "is in the path already") for name in sorted(both)])
    return raw


def _csv(request: Request, body: bytes) -> dict[str, Any]:
    asked = query(request)
    dry_run = asked.pop("dry_run", "false").lower()
    if asked or dry_run not in ("0", "1", "true", "false", "yes", "no"):
        raise InvalidInput("With text/csv the query may only say dry_run: true or false.")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput("csv: is not UTF-8.", "Save it as CSV UTF-8.") from None
    return {"csv": text, "dry_run": dry_run in ("1", "true", "yes")}


def _json(request: Request, body: bytes, taken: str) -> dict[str, Any]:
    kind = _media_type(request)
    if body and kind != JSON:
        raise HttpError(
            "unsupported-media-type",
            f"The body is {kind or 'of no type'}.",
            f"Send {taken}.",
            headers={"Accept": taken},
        )
    return decode_json(body) if body else {}


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", JSON).partition(";")[0].strip().lower()


def query(request: Request) -> dict[str, Any]:
    """Return a query's parameters. Raises InvalidInput for one that is there twice."""
    if not request.scope["query_string"]:
        return {}
    pairs = request.query_params.multi_items()
    if len({name for name, _ in pairs}) != len(pairs):
        raise InvalidInput("A query parameter is there twice.", "Send each once.")
    return dict(pairs)


def check_acceptable(accept: str, gives: str) -> None:
    """Raise HttpError if an Accept field leaves a media type out (RFC 9110, 12.5.1): the most precise range counts."""
    ranges: dict[str, bool] = {}
    for part in accept.lower().split(","):
        name, *parameters = (text.strip() for text in part.split(";"))
        weight = next((text[2:].strip() for text in parameters if text.startswith("q=")), "1")
        if "/" in name:
            ranges[name] = weight.strip("0.") != ""
    for name in (gives, f"{gives.partition('/')[0]}/*", "*/*"):
        if name in ranges:
            if ranges[name]:
                return
            break
    else:
        if not ranges:
            return
    raise HttpError("not-acceptable", f"This address gives {gives}.", f"Send `Accept: {gives}`, or none.")
