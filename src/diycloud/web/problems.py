"""Errors over HTTP: RFC 9457 problem details, and the table of statuses.

Each code has a type of its own, a relative reference (RFC 9457, 3.1.1): the page there tells people what it means.
"""

from __future__ import annotations

import html
from typing import Any

import msgspec
from starlette.responses import Response

from diycloud.errors import DiyCloudError, InvalidInput, SecondFactorNeeded, TooManyRequests, Unavailable
from diycloud.users.bulk import BulkRefused
from diycloud.users.importing import ImportRefused
from diycloud.web.idempotency import Busy

TYPES = "/api/v1/problems/"
STATUS = {
    "invalid-input": 422,
    "unauthenticated": 401,
    "second-factor-needed": 401,
    "permission-denied": 403,
    "proof-needed": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "not-acceptable": 406,
    "conflict": 409,
    "precondition-failed": 412,
    "too-large": 413,
    "unsupported-media-type": 415,
    "too-many-requests": 429,
    "host-error": 500,
    "error": 500,
    "unsupported": 501,
    "unavailable": 503,
}
MEANING = {
    "invalid-input": "A value breaks a rule; every field at fault is named. Nothing was changed.",
    "unauthenticated": "Nobody is signed in, or the credentials do not hold.",
    "second-factor-needed": "The password is right; POST /api/v1/auth/login/second with the ticket and a code.",
    "permission-denied": "This is not allowed to whoever asked.",
    "proof-needed": "Who asks signed in too long ago for this: POST /api/v1/account/proof with the password, then again.",
    "not-found": "There is no such thing, or no such address.",
    "method-not-allowed": "The address has other methods: the field Allow names them.",
    "not-acceptable": "The field Accept leaves out what this address gives, which is JSON.",
    "conflict": "The state of the thing forbids it.",
    "precondition-failed": "The thing is not as If-Match or If-None-Match say. Nothing was changed.",
    "too-large": "The body is larger than this address takes.",
    "unsupported-media-type": "The body is of a kind that this address does not take: the field Accept names those it does.",
    "too-many-requests": "Too many requests or failed sign-ins; the field Retry-After says how long to wait.",
    "host-error": "A program of the host refused; its last lines are in the detail.",
    "error": "Something broke. The server's log has it, with the request's id.",
    "unsupported": "This host cannot do it.",
    "unavailable": "A part is down or full; try again after the seconds of Retry-After.",
}
TITLE = {
    401: "Sign in first",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    409: "In conflict with what is",
    412: "Not as it was",
    413: "Too large",
    415: "Unsupported media type",
    422: "Invalid input",
    429: "Too many requests",
    500: "The host refused",
    501: "Not supported here",
    503: "Not available now",
}
MEDIA_TYPE = "application/problem+json"


class HttpError(DiyCloudError):
    """What only HTTP knows of. code: of STATUS; headers: what the answer must say."""

    def __init__(self, code: str, message: str, hint: str = "", *, headers: dict[str, str] | None = None) -> None:
        super().__init__(message, hint)
        self.code = code
        self.headers = headers or {}


class TooLarge(HttpError):
    """A body over the limit. It is not read on, so the connection closes."""

    def __init__(self, limit: int) -> None:
        super().__init__("too-large", f"The body is over {limit >> 20} MiB.", headers={"Connection": "close"})


def problem(status: int, code: str, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> Response:
    """Return a problem details answer. more: extension members."""
    body = {
        "type": TYPES + code,
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
    if isinstance(error, TooManyRequests | Busy):
        return error.retry_after
    return 1 if isinstance(error, Unavailable) else 0


def problem_of(error: DiyCloudError, request_id: str) -> Response:
    """Return an error as a problem: its words, its hint, every field at fault."""
    status = STATUS.get(error.code, 500)
    headers = dict(error.headers) if isinstance(error, HttpError) else {}
    more: dict[str, Any] = {"request_id": request_id}
    if error.hint:
        more["hint"] = error.hint
    if isinstance(error, InvalidInput) and error.errors:
        more["errors"] = error.errors
    if isinstance(error, SecondFactorNeeded):
        more |= {"ticket": error.ticket, "ways": error.ways}
    if isinstance(error, ImportRefused | BulkRefused):
        more["report"] = error.report
    if wait := retry_after(error):
        headers["Retry-After"] = str(wait)
    elif status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="DIY Cloud"'
    return problem(status, error.code, error.message, headers=headers, **more)


def page(code: str) -> Response | None:
    """Return the page that a problem's type leads to, None if there is no such code."""
    if code not in STATUS:
        return None
    title, text = html.escape(f"{TITLE[STATUS[code]]}: {code}"), html.escape(MEANING[code])
    body = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<h1>{title}</h1>\n<p>{text}</p>\n<p>HTTP status {STATUS[code]}.</p>\n</html>\n"
    )
    headers = {"content-security-policy": "default-src 'none'", "x-content-type-options": "nosniff"}
    return Response(body, 200, {**headers, "cache-control": "max-age=86400"}, "text/html; charset=utf-8")
