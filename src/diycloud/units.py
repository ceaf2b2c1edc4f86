"""Sizes and cores: parsing, canonical text, kernel values.

A size is written NUMBER[K|M|G|T], factor 1024, an optional B or iB ignored. It is kept as bytes and shown in the
largest unit that is exact, so 2048M and 2G are the same value and are shown as 2G (docs/reference/sizes.md).
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NewType

from diycloud.errors import InvalidInput

Bytes = NewType("Bytes", int)
Cores = NewType("Cores", float)

_SIZE = re.compile(r"(?P<number>[0-9]{1,19}(?:\.[0-9]{1,6})?)\s?(?P<unit>[KMGT]?)(?P<suffix>B|iB|)\Z", re.IGNORECASE)
_FACTOR = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
MAX_SIZE = Bytes(1 << 60)
CPU_PERIOD_US = 100_000


def parse_size(text: str, *, bare: str | None = None) -> Bytes:
    """Return the bytes of a size such as `2G`, `512M`, `1.5GiB`.

    bare: the unit a number without one stands for (`M` on the command line and in CSV); None refuses it (REST, YAML).
    Raises InvalidInput: no number, unknown unit, not a whole number of bytes, zero, or above 1 EiB.
    """
    match = _SIZE.match(text)
    if match is None:
        raise InvalidInput(f"{text[:40]!r} is not a size.", "Write a number and a unit: 512M, 2G, 1.5T.")
    unit = match["unit"].upper()
    if not unit and not match["suffix"]:
        if bare is None:
            raise InvalidInput(f"{text!r} has no unit.", "Write 512M or 2G.")
        unit = bare
    value = Decimal(match["number"]) * _FACTOR[unit]
    if value != int(value):
        raise InvalidInput(f"{text!r} is not a whole number of bytes.")
    if not 0 < value <= MAX_SIZE:
        raise InvalidInput(f"{text!r} is out of range.", "A size is above 0 and at most 1048576T.")
    return Bytes(int(value))


def format_size(value: int) -> str:
    """Return the canonical text of a size: the largest unit that is exact."""
    for unit in ("T", "G", "M", "K"):
        if value and value % _FACTOR[unit] == 0:
            return f"{value // _FACTOR[unit]}{unit}"
    return f"{value}B"


def human_size(value: float) -> str:
    """Return a rounded size for people's eyes: `1.4G`. Never parse it back."""
    for unit in ("T", "G", "M", "K"):
        if value >= _FACTOR[unit]:
            return f"{value / _FACTOR[unit]:.1f}".removesuffix(".0") + unit
    return f"{value:.0f}B"


def cpu_quota_us(cores: float, *, period_us: int = CPU_PERIOD_US) -> int:
    """Return the microseconds of CPU time a limit of `cores` gives in each period.

    Raises InvalidInput if that is under 1,000 µs, the kernel's least (sched-bwc.rst: "Management").
    """
    quota = round(cores * period_us)
    if quota < 1_000:
        raise InvalidInput(f"{cores} cores is too little.", "The least is 0.01.")
    return quota


def cpu_max(cores: float, *, period_us: int = CPU_PERIOD_US) -> str:
    """Return the cgroup v2 `cpu.max` line for a CPU limit.

    Source: kernel cgroup-v2.rst, "CPU Interface Files".
    """
    return f"{cpu_quota_us(cores, period_us=period_us)} {period_us}"


def cpu_weight(cores: float) -> int:
    """Return the cgroup v2 `cpu.weight`: 100 per core, within the kernel's 1–10000."""
    return min(10_000, max(1, round(cores * 100)))


def cpu_shares(cores: float) -> int:
    """Return the cgroup v1 `cpu.shares`: 1024 per core, at least 2, at most 262144 (the kernel's limits)."""
    return min(262_144, max(2, round(cores * 1024)))


def counted(number: int, noun: str) -> str:
    """Return a number with what it counts: `1 user`, `2 users`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
