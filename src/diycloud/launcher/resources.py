"""What a user's slice uses, shown in Lab: JupyterLab's indicators ask here, not jupyter-resource-usage's own counting.

That one adds up the server's processes with psutil and misses whatever else is in the slice: the user's SSH session, other
servers, containers. The kernel's own numbers are the ones that limits bite on, and cost a few small files a question. A
server's own cgroup may be bounded more tightly than the slice above it: of the two, the one whose limit is tighter by now is
shown. This extension answers at the same address, so the indicators in the browser stay as they are.

Sources: the kernel's cgroup-v1/memory.rst, scheduler/sched-bwc.rst and cgroup-v2.rst; jupyter-resource-usage 1.3, api.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jupyter_resource_usage.api import KernelUsageHandler
from jupyter_resource_usage.config import ResourceUseDisplay
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web
from traitlets import Float, Int, Unicode
from traitlets.config import Configurable

_UNLIMITED = 1 << 60
"""Version 1 writes a number near 2**63 for "no limit"."""


class Usage(NamedTuple):
    """One reading. memory: bytes that are not given back at once; memory_limit: bytes, 0 for none.

    cpu_of: whose CPU time it is, a folder; cpu_s: since that one's start; cpu_limit: cores, 0 for none.
    """

    memory: int
    memory_limit: int
    cpu_of: Path
    cpu_s: float
    cpu_limit: float


def _read(path: Path) -> str:
    """Return a kernel file's text; empty where it is missing (the slice ended, or this host does not have it)."""
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""


def read_key(path: Path, key: str) -> int:
    """Return a number from a file of `key number` lines; 0 where it is missing."""
    for line in _read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdigit():
            return int(value)
    return 0


def _read_number(path: Path) -> int:
    text = _read(path).strip()
    return int(text) if text.isdigit() else 0


def _read_cores(path: Path) -> float:
    """Return the bound on CPU time from cpu.max (v2) or cpu.cfs_quota_us (v1); 0 for none."""
    if path.name == "cpu.max":
        quota, _, period = _read(path).partition(" ")
    else:
        quota, period = _read(path), _read(path.parent / "cpu.cfs_period_us")
    quota, period = quota.strip(), period.strip()
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else 0.0


def _tighter(file: Path, limit_of: Callable[[Path], float]) -> tuple[Path, float]:
    """Return the file of the server's cgroup or the same one of its slice, and the limit: of whichever has less; 0 for none."""
    above = file.parent.parent / file.name
    own, slices = limit_of(file), limit_of(above)
    return (file, own) if own and (not slices or own < slices) else (above, slices)


class SliceUsage(Configurable):  # type: ignore[misc, unused-ignore]
    """Where the server's numbers are, as the agent told the launcher; the slice's are in the folder above.

    Limits are read anew each time: an administrator may change them.
    """

    memory = Unicode("", help="The server's memory.usage_in_bytes (v1) or memory.current (v2).").tag(config=True)
    memory_limit = Int(0, help="Bytes, for where the files have no limit.").tag(config=True)
    cpu = Unicode("", help="The server's cpuacct.usage (v1) or cpu.stat (v2).").tag(config=True)
    cpu_quota = Unicode("", help="The server's cpu.cfs_quota_us (v1) or cpu.max (v2).").tag(config=True)
    cpu_limit = Float(0.0, help="Cores, for where the files have no limit.").tag(config=True)
    warn_at = Float(0.9, help="The share of a limit above which Lab warns.").tag(config=True)

    def __init__(self, **words: Any) -> None:
        super().__init__(**words)
        self._last: tuple[float, Usage] | None = None
        self._cores = 0.0

    def read(self) -> Usage:
        """Read what is used now."""
        memory, memory_limit = self._read_memory()
        quota, cores = _tighter(Path(self.cpu_quota or "/"), _read_cores)
        own = Path(self.cpu or "/")
        cpu = own if str(quota) == self.cpu_quota else own.parent.parent / own.name
        cpu_ns = _read_number(cpu) if cpu.name == "cpuacct.usage" else 1000 * read_key(cpu, "usage_usec")
        return Usage(memory, memory_limit, cpu.parent, cpu_ns / 1e9, cores or self.cpu_limit)

    def _read_memory(self) -> tuple[int, int]:
        first = self.memory.endswith("/memory.usage_in_bytes")
        cache, limit = ("total_inactive_file", "memory.limit_in_bytes") if first else ("inactive_file", "memory.max")

        def limit_of(file: Path) -> int:
            found = _read_number(file.parent / limit)
            return found if found < _UNLIMITED else 0

        file, found = _tighter(Path(self.memory or "/"), limit_of)
        # Page cache that the kernel drops at once kills nobody, and the portal leaves it out too.
        used = max(0, _read_number(file) - read_key(file.parent / "memory.stat", cache))
        return used, int(found) or self.memory_limit

    def shown(self, now: float) -> dict[str, Any]:
        """Return the answer that the indicators know. now: of a clock that does not jump, seconds.

        cpu_percent: 100 for one core, since the question before (two pages ask in turn: those within half a second of each
        other get the same answer).
        """
        usage = self.read()
        if self._last is None or now - self._last[0] >= 0.5:
            then, last = self._last or (now, usage)
            if now > then and usage.cpu_of == last.cpu_of:
                self._cores = max(0.0, (usage.cpu_s - last.cpu_s) / (now - then))
            self._last = (now, usage)
        limits: dict[str, Any] = {}
        if usage.memory_limit:
            warn = usage.memory >= self.warn_at * usage.memory_limit
            limits["memory"] = {"rss": usage.memory_limit, "pss": usage.memory_limit, "warn": warn}
        if usage.cpu_limit:
            limits["cpu"] = {"cpu": usage.cpu_limit, "warn": self._cores >= self.warn_at * usage.cpu_limit}
        return {
            "rss": usage.memory,
            "pss": usage.memory,
            "cpu_percent": round(100 * self._cores, 1),
            "cpu_count": usage.cpu_limit,
            "limits": limits,
        }


class UsageHandler(APIHandler):  # type: ignore[misc, unused-ignore]
    """`GET api/metrics/v1`."""

    @web.authenticated
    def get(self) -> None:
        """Answer with the slice's numbers."""
        usage: SliceUsage = self.settings["diycloud_slice_usage"]
        self.finish(json.dumps(usage.shown(time.monotonic())))


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    return [{"module": "diycloud.launcher.resources"}]


def _load_jupyter_server_extension(server: Any) -> None:
    """Add the addresses that the indicators and the panel of kernels ask. server: jupyter_server's ServerApp."""
    settings, base = server.web_app.settings, server.web_app.settings["base_url"]
    settings["diycloud_slice_usage"] = SliceUsage(parent=server)
    # The panel of kernels is the package's own: each kernel tells of itself.
    settings["jupyter_resource_usage_display_config"] = ResourceUseDisplay(parent=server)
    kernels = url_path_join(base, "/api/metrics/v1/kernel_usage", r"get_usage/(.+)$")
    server.web_app.add_handlers(
        ".*$", [(url_path_join(base, "/api/metrics/v1"), UsageHandler), (kernels, KernelUsageHandler)]
    )
