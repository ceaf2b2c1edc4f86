"""Secrets that are kept in files of their own, so that the settings can be shown to people."""

from __future__ import annotations

from pathlib import Path

from diycloud.errors import Unavailable

MAX = 4096


def read_secret(path: str) -> str:
    """Return the first line of a file. Raises Unavailable, without what is in it."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            line = file.readline(MAX).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Unavailable(
            f"{path} cannot be read: {reason}.", "The server's account must be able to read it."
        ) from None
    if not line:
        raise Unavailable(f"{path} is empty.", "Its first line is the secret.")
    return line
