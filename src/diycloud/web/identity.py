"""Who sends a request: the kernel's word for the socket's peer, a session's cookie or a bearer token.

The server listens on one Unix socket. uid 0 there, with no forwarded-for header, is the host's administrator (the
command line). The uid of the notebooks' hub is the hub: it reaches what web/internal.py names and nothing else. Any other
peer is Nginx, which besides them alone can reach the socket's folder and always sets the header; only there does the header
count. On a TCP port (tests and benchmarks) nobody is root and no header counts.
"""

from __future__ import annotations

import pwd
import secrets
import socket
import struct
import time
from asyncio import Transport
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from starlette.requests import HTTPConnection
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from diycloud.actions.actor import Actor
from diycloud.actions.roles import Role
from diycloud.actions.services import Services
from diycloud.auth import forced, sessions, tokens
from diycloud.auth.addresses import allows
from diycloud.auth.sessions import Session
from diycloud.auth.signin import stranger
from diycloud.errors import PermissionDenied, Unauthenticated
from diycloud.notebooks import doors

COOKIE = "__Host-diycloud"
UNIX_PEER = "unix-uid"
HUB_PEER = "unix-hub"
_UCRED = struct.Struct("3i")


class PeerProtocol(HttpToolsProtocol):
    """uvicorn's protocol, telling in scope["client"] which uid is at the other end of a Unix socket, and if it is the hub."""

    hub_user: ClassVar[str] = ""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer = transport.get_extra_info("socket")
        if peer is not None and peer.family == socket.AF_UNIX:
            _, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
            self.client = (HUB_PEER if self._is_hub(uid) else UNIX_PEER, uid)

    def _is_hub(self, uid: int) -> bool:
        """Tell whether a uid is the hub's. Asked by number: a name that is not there yet would go to every directory."""
        try:
            return uid != 0 and pwd.getpwuid(uid).pw_name == self.hub_user
        except KeyError:
            return False


def protocol(hub_user: str) -> type[PeerProtocol]:
    """Return the protocol of a server whose notebooks' hub runs as that account."""
    return type("HubAwareProtocol", (PeerProtocol,), {"hub_user": hub_user})


class Visitor:
    """A request's actor with what the edges need of its session. csrf: what forms must send back, empty without a cookie."""

    __slots__ = ("actor", "csrf", "signed_in")

    def __init__(self, actor: Actor, *, signed_in: bool, csrf: str = "") -> None:
        self.actor = actor
        self.signed_in = signed_in
        self.csrf = csrf


def field(connection: HTTPConnection, name: bytes) -> str:
    """Return a header field's first line, empty without one: asked several times a request, so without Starlette's detour."""
    for key, value in connection.scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return ""


def request_id(connection: HTTPConnection) -> str:
    """Return Nginx's id of the request, or a new one."""
    given = field(connection, b"x-request-id")
    return given if given.isalnum() and len(given) <= 64 else secrets.token_hex(8)


def address(connection: HTTPConnection) -> str:
    """Return the visitor's address: the peer's own, or what Nginx says behind the Unix socket."""
    client = connection.scope.get("client")
    if client is None:
        return ""
    if client[0] == UNIX_PEER:
        return field(connection, b"x-forwarded-for").rpartition(",")[2].strip()[:64]
    return "" if client[0] == HUB_PEER else str(client[0])


def is_root(connection: HTTPConnection) -> bool:
    """Tell whether uid 0 itself speaks, not something that forwards for others."""
    return connection.scope.get("client") == (UNIX_PEER, 0) and "x-forwarded-for" not in connection.headers


async def visitor(connection: HTTPConnection, services: Services, *, via: str) -> Visitor:
    """Return who sends a request. Raises Unauthenticated for a token that does not hold."""
    header = field(connection, b"authorization")
    if header:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("Only bearer tokens are taken.", "POST /api/v1/auth/login gives one.")
        token = token.strip()
        by = _of_token if token.startswith(tokens.PREFIX) else _of_session
        found = await by(connection, services, token, via)
        if found is None:
            raise Unauthenticated("The token does not hold.", "Sign in again: POST /api/v1/auth/login.")
        return Visitor(found.actor, signed_in=True)
    if is_root(connection):
        return Visitor(Actor("root", Role.ADMIN, "cli", request_id=request_id(connection)), signed_in=True)
    if via == "rest" and is_script(connection):  # the portal has no script that asks REST: this one is a notebook's
        return Visitor(stranger(via, address(connection), request_id(connection)), signed_in=False)
    cookie = connection.cookies.get(COOKIE)
    found = await _of_session(connection, services, cookie, via) if cookie else None
    return found or Visitor(stranger(via, address(connection), request_id(connection)), signed_in=False)


async def session_of(connection: HTTPConnection, services: Services, token: str) -> tuple[Session, str] | None:
    """Return the session of a token with where the request comes from, None if it holds no more; counts as use of it.

    Raises Unauthenticated for a user who may not come from there.
    """
    return await _in_use(connection, services, partial(sessions.find, token=token))


async def session_behind(connection: HTTPConnection, services: Services, cookie: str) -> tuple[Session, str] | None:
    """Return the session that a cookie of the notebooks' own name stands for (notebooks/doors.py), as `session_of` does."""
    door = doors.opened(services.vault, cookie)
    if door is None:
        return None
    return await _in_use(connection, services, partial(sessions.find_by_id, session_id=door.session_id, csrf=door.csrf))


async def _in_use(
    connection: HTTPConnection, services: Services, find: Callable[..., Session | None]
) -> tuple[Session, str] | None:
    now, idle = int(time.time()), services.settings.server.session_idle_minutes * 60
    session = await services.database.read(find, now=now, idle_s=idle)
    if session is None:
        return None
    came_from = _allowed_address(connection, session.username, session.allowed_client_ip)
    if now - session.last_seen >= sessions.SEEN_EVERY_S:
        services.database.write_later(sessions.seen, session.id, now)
    return session, came_from


async def _of_session(connection: HTTPConnection, services: Services, token: str, via: str) -> Visitor | None:
    found = await session_of(connection, services, token)
    if found is None:
        return None
    session, came_from = found
    must_enrol = forced.must_enrol(
        services.settings.server, session.role, asked=session.factor_asked, has_one=session.has_factor
    )
    actor = Actor(
        session.username, session.role, via, session.user_id, came_from, request_id(connection),
        session.id, session.must_change_password, session.domain, methods=session.methods, proved_at=session.proved_at,
        must_enrol=must_enrol,
    )  # fmt: skip
    return Visitor(actor, signed_in=True, csrf=session.csrf)


async def _of_token(connection: HTTPConnection, services: Services, token: str, via: str) -> Visitor | None:
    now = int(time.time())
    holder = await services.database.read(tokens.find, token, now=now)
    if holder is None:
        return None
    came_from = _allowed_address(connection, holder.username, holder.allowed_client_ip)
    if now - holder.last_used >= tokens.SEEN_EVERY_S:
        services.database.write_later(tokens.used, holder.id, now, came_from)
    must_enrol = forced.must_enrol(
        services.settings.server, holder.role, asked=holder.factor_asked, has_one=holder.has_factor
    )
    actor = Actor(
        holder.username, holder.role, via, holder.user_id, came_from, request_id(connection), None,
        holder.must_change_password, holder.domain, scopes=holder.scopes, token_id=holder.id,
        must_enrol=must_enrol, token=holder.key_id,
    )  # fmt: skip
    return Visitor(actor, signed_in=True)


def _allowed_address(connection: HTTPConnection, username: str, networks: str) -> str:
    """Return where a request comes from. Raises Unauthenticated if its user may not come from there."""
    found = address(connection)
    if not allows(networks, found):
        raise Unauthenticated(f"{username} may not come from {found or 'an unknown address'}.", "Ask an administrator.")
    return found


def is_script(connection: HTTPConnection) -> bool:
    """Tell whether a page's script sent a request, by the browser's own word (Fetch Metadata, 2.3).

    Scripts of this origin are not all the portal's: what answers under /jupyter/user/ is its user's code.
    """
    mode = field(connection, b"sec-fetch-mode")
    return mode not in ("", "navigate")


def check_same_origin(connection: HTTPConnection) -> None:
    """Raise PermissionDenied for a state-changing request that another site made the browser send.

    Fetch metadata where the browser sends it, else the Origin header (OWASP, Cross-Site Request Forgery Prevention).
    """
    site = connection.headers.get("sec-fetch-site")
    if site is not None:
        if site not in ("same-origin", "none"):
            raise PermissionDenied("This form was sent by another site.", "Open the portal itself and try again.")
        return
    origin = connection.headers.get("origin")
    host = connection.headers.get("host", "")
    if origin is not None and origin.partition("://")[2] != host:
        raise PermissionDenied("This form was sent by another site.", "Open the portal itself and try again.")


def check_csrf(found: Visitor, given: Any) -> None:
    """Raise PermissionDenied unless a cookie's request carries its session's token."""
    if not isinstance(given, str) or not found.csrf or not secrets.compare_digest(given.encode(), found.csrf.encode()):
        raise PermissionDenied(
            "The form was too old, or sent by another site.", "Load the page again and send it once more."
        )
