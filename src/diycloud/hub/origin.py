"""Where a request to the hub comes from, by the kernel's word for the socket's peer.

Users' servers and API clients on the host reach the hub's socket too, so what Nginx says in headers counts only where Nginx
speaks: a process of its group (the one of the folder of the server's socket), or root.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any, NamedTuple

_UCRED = struct.Struct("3i")
VISITOR = "X-Notebook-User"
"""Set by Nginx: who is signed in at the portal in this browser, by the guard's answer; left out for nobody."""


class Origin(NamedTuple):
    """address: the visitor's; visitor: who is signed in at the portal in that browser, empty for nobody.

    Both are None for what did not come by Nginx.
    """

    address: str | None = None
    visitor: str | None = None


def origin_of(request: Any, server_folder: Path) -> Origin:
    """Return where a request (tornado's HTTPServerRequest) comes from. server_folder: of the server's socket."""
    if not _is_nginx(request, server_folder):
        return Origin()
    return Origin(request.remote_ip or "", request.headers.get(VISITOR, ""))


def _is_nginx(request: Any, server_folder: Path) -> bool:
    stream = getattr(request.connection, "stream", None)
    peer = getattr(stream, "socket", None)
    if peer is None or peer.family != socket.AF_UNIX:
        return False
    _, uid, gid = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return bool(uid == 0 or gid == server_folder.stat().st_gid)
