"""How far long work is: told row by row to whoever asked for it to be (web/streams.py), to nobody else."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

import msgspec

listener: ContextVar[Callable[[msgspec.Struct], None] | None] = ContextVar("listener", default=None)


def tell(row: msgspec.Struct) -> None:
    """Say that a row is done."""
    if listen := listener.get():
        listen(row)
