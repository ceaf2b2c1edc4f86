"""REST's good answers: statuses, bodies and the fields that go with them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from diycloud.actions.download import Download
from diycloud.auth.models import AuditPage, SessionPage
from diycloud.core.routes import Route
from diycloud.groups.models import GroupChanged, GroupPage
from diycloud.users.models import Created, Page, Status
from diycloud.web import oldforms

JSON = "application/json"
encode = msgspec.json.Encoder().encode
_BARE = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
_FIXED = [(b"content-type", b"application/json"), *_BARE]
_NAMES = {"ETag": b"etag", "Link": b"link", "Location": b"location"}
_NO_BODY = frozenset({204, 304})


class Answer(Response):
    """An answer whose fields are complete: Starlette's own way of adding them takes longer than a look-up."""

    def __init__(self, body: bytes, status: int, fields: list[tuple[bytes, bytes]]) -> None:
        self.body = body
        self.status_code = status
        self.background = None
        self.raw_headers = fields


class Stream(StreamingResponse):
    """An answer sent piece by piece, until its reader leaves.

    Starlette's own way loads anyio's half with the first answer of this kind, and for 0.2 to 0.5 s nobody else is heard.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self.stream_response(send))
        leaving = asyncio.create_task(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()  # raises what broke it off
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)


def answer(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer of JSON that is made already, stored by nobody."""
    fields = [*_BARE] if status in _NO_BODY else [*_FIXED, (b"content-length", b"%d" % len(body))]
    for name, value in (headers or {}).items():
        fields.append((_NAMES.get(name) or name.lower().encode("latin-1"), value.encode("latin-1")))
    return Answer(body, status, fields)


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a value as an answer."""
    return answer(encode(value), status, headers)


def download(file: Download) -> Response:
    """Return a file, sent piece by piece."""
    headers = {
        "cache-control": "no-store",
        "content-disposition": f'attachment; filename="{file.filename}"',
        "x-content-type-options": "nosniff",
    }
    return Stream(file.chunks, 200, headers, file.media_type)


def status_of(route: Route, result: Any) -> int:
    """Return the status of a success: 202 if the host could not be reached, so that what was made is not there yet."""
    if isinstance(result, Created) and result.user.status is Status.PENDING:
        return 202
    if route.status == 201 and isinstance(result, GroupChanged) and result.group.gid is None:
        return 202
    return route.status


def shown(route: Route, result: Any) -> tuple[int, bytes]:
    """Return the status and the body of a result."""
    status = status_of(route, result)
    return status, b"" if status == 204 else encode(result)


def shown_to_old(route: Route, result: Any) -> tuple[int, bytes]:
    """Return the same for an old client."""
    status = status_of(route, result)
    return status, b"" if status == 204 else encode(oldforms.answer(result))


def links(request: Request, result: Any) -> dict[str, str]:
    """Return the Link field of a page (RFC 8288): the pages after and before it."""
    found: list[tuple[str, str, object]] = []
    if isinstance(result, Page):
        found = [("next", "cursor", result.next), ("prev", "cursor", result.previous)]
    elif isinstance(result, GroupPage):
        found = [("next", "after", result.next)]
    elif isinstance(result, AuditPage | SessionPage):
        found = [("next", "before", result.next)]
    told = []
    for relation, name, value in found:
        if value is not None:
            asked = urlencode({**request.query_params, name: value})
            told.append(f'<{quote(request.scope["path"])}?{asked}>; rel="{relation}"')
    return {"Link": ", ".join(told)} if told else {}
