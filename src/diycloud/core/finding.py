"""What `diycloud doctor` finds, for its parts that are in modules of their own."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """As doctor's own. advice: what to do; empty when all is well."""

    result: Literal["ok", "warn", "fail"]
    detail: str
    advice: str = ""
