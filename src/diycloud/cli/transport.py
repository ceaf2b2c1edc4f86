"""Which server a verb asks, and as whom: this machine's over its Unix socket (in place while it is down), or another one
over HTTPS as `diycloud login` signed in."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from diycloud.client import requests
from diycloud.client.connection import Channel, NotListening, Request, Sink, over_network, over_unix
from diycloud.config import Paths
from diycloud.errors import PermissionDenied, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from diycloud.client.session import Session

TIMEOUT_S = 900.0
"""An import of thousands takes minutes."""
PATIENCE_S = 5.0
"""How long a person waits without a word because a server far away is busy."""


class Target(NamedTuple):
    """What is asked. paths: of this machine's installation; server: another's URL; on_behalf_of: a user's name."""

    paths: Paths
    server: str = ""
    on_behalf_of: str = ""

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Target:
        """Return what the global options say."""
        return cls(Paths(arguments.prefix), arguments.server or "", arguments.on_behalf_of or "")

    @property
    def is_here(self) -> bool:
        """Whether this machine has a server of its own, as far as this user can see."""
        return self.paths.prefix != "/" or self.paths.server_socket.exists() or self.paths.state.exists()

    def session(self) -> Session | None:
        """Return the sign-in to use, None for this machine's own server as root.

        Root on a server asks that server, unless another is named. Raises Unauthenticated, PermissionDenied.
        """
        asked, is_root = self.server or os.environ.get("DIYCLOUD_URL", ""), os.geteuid() == 0
        if is_root and self.is_here and not asked:
            return None
        from diycloud.client import session

        found = session.find(self.server)
        if found is not None:
            return found.check()
        if asked:
            raise Unauthenticated(f"Nobody is signed in at {asked}.", f"Sign in: `diycloud login {asked}`.")
        if is_root:
            return None
        raise PermissionDenied("This needs root, or a sign-in.", "Run it with sudo, or sign in: `diycloud login URL`.")


class Answer(NamedTuple):
    """status: HTTP's; body: decoded JSON, None if empty; headers: names in lower case."""

    status: int
    body: Any
    headers: Mapping[str, str] = {}


def send(
    target: Target,
    method: str,
    path: str,
    query: dict[str, str],
    body: dict[str, Any] | None,
    *,
    keyed: bool = False,
    sink: Sink | None = None,
    accept: str = "",
) -> Answer:
    """Send one request. keyed: it is sent again if the connection breaks, and done once (Route.keyed).

    sink: takes the body of a good answer as bytes, piece by piece; the answer's is None then. accept: a media type.

    Raises PermissionDenied, Unauthenticated, Unavailable if it cannot be answered.
    """
    more = requests.key() if keyed else {}
    if target.on_behalf_of:
        more["X-On-Behalf-Of"] = target.on_behalf_of
    if accept:
        more["Accept"] = accept
    request = requests.encode(method, path, query, body, more)
    kept = target.session()
    return _at_socket(target.paths, request, sink) if kept is None else _far_away(kept, request, sink)


def _far_away(kept: Session, request: Request, sink: Sink | None) -> Answer:
    channel = over_network(kept.url, authority=kept.authority, timeout=TIMEOUT_S, patience=PATIENCE_S)
    token = {"Authorization": f"Bearer {kept.token}"}
    answer = _exchange(channel, request._replace(headers={**request.headers, **token}), sink)
    if answer.status == 401:
        raise Unauthenticated(f"Your sign-in at {kept.url} does not hold any more.", "Sign in: `diycloud login`.")
    return answer


def _at_socket(paths: Paths, request: Request, sink: Sink | None) -> Answer:
    channel = over_unix(paths.server_socket, timeout=TIMEOUT_S, patience=0, tries=1)
    try:
        return _exchange(channel, request, sink)
    except NotListening:
        return _in_place(paths, request, sink)
    except Unavailable as error:
        raise Unavailable(
            error.message, "See `diycloud status`; what was begun is finished at its next start."
        ) from error


def _exchange(channel: Channel, request: Request, sink: Sink | None) -> Answer:
    try:
        response = channel.send(request, sink=sink)
    finally:
        channel.close()
    return Answer(response.status, _decode(response.body), response.headers)


def _in_place(paths: Paths, request: Request, sink: Sink | None) -> Answer:
    """Run the request without the server, in a child with the server's own uid (a file made by root would be root's)."""
    if not paths.state.exists():
        raise Unavailable(
            "DIY Cloud is not set up here.", "Run `sudo ./install.sh`, or use another server: `diycloud login URL`."
        )
    from diycloud.core.in_place import request_in_place

    path, _, query = request.path.partition("?")
    body = None if request.body is None else request.body.decode()
    asked = {"method": request.method, "path": path, "query": query, "body": body, "headers": dict(request.headers)}
    status, text = request_in_place(paths, asked)
    if sink is not None and status == 200:
        sink(text.encode())
        return Answer(status, None)
    return Answer(status, _decode(text.encode()))


def _decode(body: bytes) -> Any:
    """Return JSON decoded, None for nothing and for what is none (an answer that is not the platform's)."""
    try:
        return msgspec.json.decode(body) if body else None
    except msgspec.DecodeError:
        return None


def checked(answer: Answer) -> Any:
    """Return the body of a good answer. Raises the error that a problem answer tells of."""
    if 200 <= answer.status < 300:
        return answer.body
    problem = answer.body if isinstance(answer.body, dict) else {}
    raise requests.error_of(answer.status, problem, answer.headers)
