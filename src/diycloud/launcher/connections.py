"""Open WebSockets of a server, each with the session at the portal in which it was opened.

Nobody asks about a connection again once it is open. So when a password changes, the hub tells its user's servers
(hub/signing_out.py), and every connection ends but those of the browser that stays signed in. Lab connects anew by itself where
it is let in; kernels go on.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from jupyter_server.auth.decorator import allow_unauthenticated
from tornado import httputil, web
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

SESSION = "X-Notebook-Session"
"""Set by Nginx from the guard's answer (templates/nginx): nobody else's word comes this far."""


class Connections:
    """The WebSockets that are open."""

    def __init__(self) -> None:
        self._open: WeakKeyDictionary[IOStream, str] = WeakKeyDictionary()

    def note(self, stream: IOStream, session: str) -> None:
        """Take one that is opened in a session."""
        self._open[stream] = session

    def end(self, last_session: int, kept_session: int) -> None:
        """End those of all sessions up to one, but of the one that is kept (0 for none). Sessions are numbered as they begin."""
        for stream, session in list(self._open.items()):
            number = int(session) if session.isdecimal() else 0
            if number <= last_session and (number != kept_session or not number):
                del self._open[stream]
                stream.close()


class WatchedServer(HTTPServer):
    """An HTTP server that knows its WebSockets."""

    connections: Connections

    def start_request(self, server_conn: object, request_conn: Any) -> httputil.HTTPMessageDelegate:
        return _Watch(super().start_request(server_conn, request_conn), self.connections, request_conn)


class _Watch(httputil.HTTPMessageDelegate):
    """Sees what a request asks for, and passes everything on."""

    def __init__(self, to: httputil.HTTPMessageDelegate, connections: Connections, line: Any) -> None:
        self._to, self._connections, self._line = to, connections, line
        # Straight through: large files come in many parts.
        self.data_received, self.finish, self.on_connection_close = to.data_received, to.finish, to.on_connection_close  # type: ignore[method-assign, unused-ignore]

    def headers_received(self, start_line: Any, headers: httputil.HTTPHeaders) -> Any:
        if headers.get("Upgrade", "").lower() == "websocket":
            self._connections.note(self._line.stream, headers.get(SESSION, ""))
        return self._to.headers_received(start_line, headers)


class SignOut(web.RequestHandler):
    """POST ?last_session=M&kept_session=N: the hub has signed the user out. Browsers, which come by Nginx, are refused."""

    def initialize(self, connections: Connections) -> None:
        self._connections = connections

    def check_xsrf_cookie(self) -> None:
        """Do without: no browser is let in."""

    @allow_unauthenticated
    def post(self) -> None:
        if SESSION in self.request.headers:
            raise web.HTTPError(404)
        last, kept = (self.get_query_argument(name) for name in ("last_session", "kept_session"))
        if not (last.isdecimal() and kept.isdecimal()):
            raise web.HTTPError(400)
        self._connections.end(int(last), int(kept))
        self.set_status(204)
