"""The hub's socket is everybody's on the host: what one account may take of the hub there is bounded.

Users' servers and programs ask the hub with tokens. A program that opens connections by the thousand, or sends a body of a
hundred megabytes before anybody asks who it is, would take descriptors and memory from all.

Source: tornado 6, httpserver.py and tcpserver.py.
"""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path
from typing import Any
from weakref import WeakSet

import structlog
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

log = structlog.get_logger()
EACH = 32
"""Connections of one account; a server of a user's keeps two or three."""
BODY = 1 << 20
"""Bytes of a request's body. The longest that anybody has reason to send names some thousand users."""
QUIET_S = 60.0
_UCRED = struct.Struct("3i")


class BoundedServer(HTTPServer):
    """An HTTP server on a Unix socket with so many connections of each account. trusted: the folder of the server's socket.

    Nginx (its group), the server (its owner) and root bring many people's requests, and are not bounded.
    """

    def initialize(self, *args: Any, trusted: Path, **more: Any) -> None:
        super().initialize(*args, max_body_size=BODY, max_buffer_size=BODY, **more)
        self._trusted = trusted
        self._of: dict[int, WeakSet[IOStream]] = {}
        self._said_at = float("-inf")

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Answer a connection, or close it: its account has too many."""
        uid = self._bounded(stream)
        if uid is not None:
            before = [one for one in self._of.get(uid, ()) if not one.closed()]
            if len(before) >= EACH:
                stream.close()
                self._say_refused(uid)
                return
            self._of[uid] = WeakSet([*before, stream])
        super().handle_stream(stream, address)

    def _say_refused(self, uid: int) -> None:
        """Say it once a minute: the log is to stay small, too."""
        now = time.monotonic()
        if now - self._said_at > QUIET_S:
            self._said_at = now
            log.warning("connections refused: one account has too many", uid=uid)

    def _bounded(self, stream: IOStream) -> int | None:
        """Return whose connection it is, None if it is nobody's in particular."""
        _, uid, gid = _UCRED.unpack(stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        folder = self._trusted.stat()
        return None if uid in (0, folder.st_uid) or gid == folder.st_gid else int(uid)
