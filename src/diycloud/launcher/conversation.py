"""The agent's side of a shim: lines of JSON on one connection, with a deadline, and the descriptor that comes with the first."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from typing import Any

from diycloud.launcher.request import MAX_LINE, Refused, parse_object

REQUEST_SECONDS = 10.0
GO_SECONDS = 30.0


class Broken(Exception):
    """The agent went away, or took too long."""


def peer_uid(connection: socket.socket) -> int:
    """Return the UID of the process at the other end, by the kernel's word."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("3i", credentials)[1])


class Conversation:
    """One connection. Not more than one descriptor is taken, and none but a Unix socket that listens."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self._descriptors: list[int] = []

    def fileno(self) -> int:
        """Return the connection's descriptor."""
        return self._connection.fileno()

    def read_line(self, seconds: float) -> bytes:
        """Return the next line. Raises Broken, and Refused if it is too long."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            if len(self._buffer) >= MAX_LINE:
                raise Refused(f"a line of more than {MAX_LINE} bytes")
            self._connection.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data, found, _, _ = socket.recv_fds(self._connection, 65_536, 4)
            except OSError as error:
                raise Broken(str(error)) from error
            self._descriptors += found
            if not data or time.monotonic() > deadline:
                raise Broken("no whole line came")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def take_listener(self) -> socket.socket:
        """Return the socket that came with what was read. Raises Refused if it is none to listen on."""
        if len(self._descriptors) != 1:
            raise Refused(f"{len(self._descriptors)} descriptors came, not the one to listen on")
        os.set_inheritable(self._descriptors[0], False)
        try:
            listener = socket.socket(fileno=self._descriptors[0])
            listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise Refused(f"the descriptor is no socket: {error}") from error
        if not listens or listener.family != socket.AF_UNIX:
            raise Refused("the descriptor is no Unix socket that listens")
        listener.setblocking(False)
        return listener

    def wait_for_go(self) -> None:
        """Return once the agent has put this process where it belongs. Raises Broken or Refused."""
        if parse_object(self.read_line(GO_SECONDS)) != {"go": True}:
            raise Refused("`go` was expected")

    def say(self, **facts: Any) -> None:
        """Send a line. An agent that is gone misses it: it finds the record."""
        self._connection.settimeout(5)
        try:
            self._connection.sendall(json.dumps(facts).encode() + b"\n")
        except OSError:
            pass

    def close(self) -> None:
        """End the connection."""
        self._connection.close()
