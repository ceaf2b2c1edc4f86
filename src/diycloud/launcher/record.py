"""What the shim writes of a server, for the agent: it outlives both of them, and tells how the server ended."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass
class Record:
    """One server. shim_start: field 22 of /proc/PID/stat, which together with its pid means the shim and no later process.

    started, ended: seconds since 1970; ended and exit_code (negative for a signal) are None while it runs. kills: processes of
    it that the kernel killed for memory.
    """

    name: str
    server: str
    profile: str
    shim: int
    shim_start: int
    pid: int = 0
    started: float = 0.0
    ended: float | None = None
    exit_code: int | None = None
    kills: int = 0


def read_start_time(pid: int) -> int:
    """Return when a process started, in the kernel's ticks since boot."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    return int(stat.rpartition(")")[2].split()[19])


def write_record(record: Record, file: Path) -> None:
    """Replace the file. It is root's alone, in a folder of root's. Raises OSError."""
    facts = {key: value for key, value in asdict(record).items() if value is not None}
    beside = file.with_suffix(".new")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as new:
        new.write(json.dumps(facts))
    beside.replace(file)


def read_kills(file: str, key: str) -> int:
    """Return the kernel's count of processes killed for memory; 0 where there is none."""
    try:
        lines = Path(file).read_text(encoding="ascii").splitlines() if file else []
    except OSError:
        return 0
    for line in lines:
        name, _, value = line.partition(" ")
        if name == key and value.isdigit():
            return int(value)
    return 0


def now() -> float:
    """Return the time, seconds since 1970, to the millisecond."""
    return round(time.time(), 3)
