"""One request as REST's endpoints take it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from diycloud.auth.signin import stranger
from diycloud.web.answers import JSON
from diycloud.web.identity import Visitor

COUNTED_AS = "diycloud.route"
"""Where in a request's scope the template of its address is left, for who counts requests (web/counting.py)."""


class Call:
    """One request. given: its fields by name, lower case, the last of those that are there twice; names: of the path."""

    __slots__ = ("given", "names", "request", "visitor")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.given: dict[bytes, bytes] = dict(request.scope["headers"])
        self.names: dict[str, str] = {}
        self.visitor = NOBODY

    def field(self, name: bytes) -> str | None:
        """Return a header field, its lines joined; None if it is not there."""
        if name not in self.given:
            return None
        return ", ".join(value.decode("latin-1") for key, value in self.request.scope["headers"] if key == name)


class Endpoint(NamedTuple):
    """What answers at a path. open: to people who are not signed in; says: the media type it gives, empty for any.

    path: its template.
    """

    answer: Callable[[Call], Awaitable[Response]]
    open: bool = False
    says: str = JSON
    path: str = ""


NOBODY = Visitor(stranger("rest", "", ""), signed_in=False)
"""Who asks before that is known."""
