"""Errors over HTTP: RFC 9457 problem details, and the table of statuses."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from diycloud.errors import DiyCloudError, InvalidInput, TooManyRequests, Unavailable
from diycloud.users.importing import ImportRefused

STATUS = {
    "invalid-input": 422,
    "unauthenticated": 401,
    "permission-denied": 403,
    "not-found": 404,
    "conflict": 409,
    "unsupported": 501,
    "host-error": 500,
    "unavailable": 503,
    "too-many-requests": 429,
}
TITLE = {
    401: "Sign in first",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "In conflict with what is",
    413: "Too large",
    415: "Unsupported media type",
    422: "Invalid input",
    429: "Too many requests",
    500: "The host refused",
    501: "Not supported here",
    503: "Not available now",
}
MEDIA_TYPE = "application/problem+json"


def problem(status: int, code: str, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> Response:
    """Return a problem details answer. more: extension members."""
    body = {
        "type": "about:blank",
        "title": TITLE.get(status, "Error"),
        "status": status,
        "code": code,
        "detail": detail,
        **more,
    }
    fixed = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(msgspec.json.encode(body), status, {**fixed, **(headers or {})}, MEDIA_TYPE)


def retry_after(error: DiyCloudError) -> int:
    """Return after how many seconds to try again, 0 if that is of no use."""
    if isinstance(error, TooManyRequests):
        return error.retry_after
    return 1 if isinstance(error, Unavailable) else 0


def problem_of(error: DiyCloudError, request_id: str) -> Response:
    """Return an error as a problem: its words, its hint, every field at fault."""
    status, headers = STATUS.get(error.code, 500), {}
    more: dict[str, Any] = {"request_id": request_id}
    if error.hint:
        more["hint"] = error.hint
    if isinstance(error, InvalidInput) and error.errors:
        more["errors"] = error.errors
    if isinstance(error, ImportRefused):
        more["report"] = error.report
    if wait := retry_after(error):
        headers["Retry-After"] = str(wait)
    elif status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="DIY Cloud"'
    return problem(status, error.code, error.message, headers=headers, **more)
