"""The launcher's socket: each connection of the agent's gets a fork of its own, and nothing of it stays in the launcher.

What a request says (a hub's token among it) is read in that fork: no server's memory ever has held another one's secrets.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

from diycloud.launcher.conversation import peer_uid
from diycloud.launcher.shim import run_shim

BACKLOG = 128


def say(event: str, **facts: object) -> None:
    """Write one line of JSON to standard error, as the platform's other processes do."""
    sys.stderr.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stderr.flush()


def open_socket(path: Path) -> socket.socket:
    """Return a socket that listens for root only. Raises OSError; one that another launcher answers on is not taken away."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    if path.exists():
        with socket.socket(socket.AF_UNIX) as other:
            if other.connect_ex(str(path)) == 0:
                raise OSError(f"A launcher answers on {path} already: end it first.")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    return listener


def serve(listener: socket.socket, visible: list[Path]) -> NoReturn:
    """Answer connections for ever. Servers and their shims outlive this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a shim ended: it writes that down itself
    while True:
        connection, _ = listener.accept()
        with connection:
            uid = peer_uid(connection)
            if uid != 0:
                say("refused a connection", uid=uid)
                continue
            try:
                pid = os.fork()
            except OSError as error:
                say("cannot fork", error=str(error))
                continue
            if pid == 0:
                run_shim(connection, visible)
