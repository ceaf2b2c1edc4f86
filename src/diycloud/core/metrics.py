"""The table of all that is told at /metrics, what is told of the server itself, and the action that tells it.

A module adds a row: its COUNTED to METRICS, and a Reader for what is read when somebody asks. docs/reference/metrics.md is
made of it.
"""

from __future__ import annotations

import resource
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from diycloud import __version__
from diycloud.actions.actor import Actor
from diycloud.actions.dispatcher import Context, Monitor
from diycloud.actions.download import Download
from diycloud.actions.meter import READINGS_FAILED, Kind, Meter, Metric, Reader, Sample
from diycloud.actions.services import Agent, Services
from diycloud.agent import protocol as wire
from diycloud.auth import metrics as auth
from diycloud.config import Settings
from diycloud.errors import DiyCloudError, Unavailable
from diycloud.notebooks import metrics as notebooks
from diycloud.resources.actions import ReadMetrics
from diycloud.users import metrics as users

T = TypeVar("T")
PING_S = 2.0
_BEGAN = time.time()
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

REQUESTS = Metric(
    "diycloud_http_requests_total", Kind.COUNTER,
    "Requests by the template of their address, never by the address itself; `(none)`: nothing is there.",
    ("method", "route", "status"),
)  # fmt: skip
REQUEST_SECONDS = Metric(
    "diycloud_http_request_seconds", Kind.HISTOGRAM, "How long requests took until their answer began.",
    ("method", "route"), buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)  # fmt: skip
LOOP_LAG = Metric(
    "diycloud_event_loop_lag_seconds", Kind.HISTOGRAM,
    "How late the event loop woke a sleeper, tried twice a second: what everybody waits for.",
    buckets=(0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0),
)  # fmt: skip
ACTIONS = Metric(
    "diycloud_actions_total", Kind.COUNTER, "Actions by how they ended; by command line, REST and portal alike.",
    ("action", "outcome"),
)  # fmt: skip
AGENT_SECONDS = Metric(
    "diycloud_agent_call_seconds", Kind.HISTOGRAM,
    "How long the agent's answers took; outcome: answered, refused, or away (no answer).", ("message", "outcome"),
    buckets=(0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0),
)  # fmt: skip
AGENT_UP = Metric("diycloud_agent_up", Kind.GAUGE, "1 if the agent answers, else 0.")
DATABASE = Metric("diycloud_database_bytes", Kind.GAUGE, "Size of the database.")
RESIDENT = Metric("process_resident_memory_bytes", Kind.GAUGE, "Memory of the server's own process.")
PROCESSOR = Metric("process_cpu_seconds_total", Kind.COUNTER, "Processor time of the server's own process.")
OPEN_FILES = Metric("process_open_fds", Kind.GAUGE, "Files and sockets that the server has open.")
STARTED = Metric("process_start_time_seconds", Kind.GAUGE, "When the server was started, in seconds since 1970.")
BUILD = Metric("diycloud_build_info", Kind.GAUGE, "Always 1; which program this is.", ("version",))

METRICS = (
    REQUESTS, REQUEST_SECONDS, LOOP_LAG, ACTIONS, AGENT_SECONDS, *users.COUNTED, *auth.COUNTED, *notebooks.COUNTED,
    READINGS_FAILED,
)  # fmt: skip
"""What is counted as it happens."""


def keep(services: Services) -> None:
    """Have what happens be counted from now on, if the settings say so; and the agent's answers timed."""
    services.meter = make_meter(services.settings)
    if services.meter.keeps:
        services.agent = WatchedAgent(services.agent, services.meter)


def make_meter(settings: Settings) -> Meter:
    """Return the meter of the settings. Counters begin at nought with each."""
    if not settings.metrics.enabled:
        return Meter()
    from diycloud.core.prometheus import Prometheus  # the library takes its time and memory

    return Prometheus(METRICS, READERS)


def monitor(meter: Meter) -> Monitor:
    """Return what the dispatcher tells of each action."""

    def count(actor: Actor, action: str, outcome: str, seconds: float) -> None:
        meter.count(ACTIONS, action, outcome)

    return count


class WatchedAgent:
    """The way to the agent, with a look at the clock."""

    def __init__(self, agent: Agent, meter: Meter) -> None:
        self._agent, self._meter = agent, meter

    async def call(self, message: wire.Message, answer: type[T], *, deadline: float = 60.0) -> T:
        with self._timed(str(message.__struct_config__.tag)):
            return await self._agent.call(message, answer, deadline=deadline)

    async def sync(self, wishes: Iterable[wire.Wish]) -> wire.SyncReport:
        with self._timed("sync"):
            return await self._agent.sync(wishes)

    async def close(self) -> None:
        await self._agent.close()

    @contextmanager
    def _timed(self, message: str) -> Iterator[None]:
        started, outcome = time.monotonic(), "away"
        try:
            yield
            outcome = "answered"
        except DiyCloudError as error:
            outcome = "away" if isinstance(error, Unavailable) else "refused"
            raise
        finally:
            self._meter.time(AGENT_SECONDS, time.monotonic() - started, message, outcome)


async def read_metrics(ctx: Context, action: ReadMetrics) -> Download:
    """Return all that is counted and what can be read now."""
    text = await ctx.services.meter.page(ctx.services)

    async def whole() -> AsyncIterator[bytes]:
        yield text

    return Download(MEDIA_TYPE, "metrics.txt", whole())


# -- what is read when somebody asks


async def _read_agent(services: Services) -> list[Sample]:
    try:
        await services.agent.call(wire.Ping(), wire.Pong, deadline=PING_S)
    except Unavailable:
        return [Sample(AGENT_UP, 0)]
    return [Sample(AGENT_UP, 1)]


async def _read_server(services: Services) -> list[Sample]:
    size = await services.database.read_long(bytes_of)
    return [Sample(DATABASE, size), Sample(BUILD, 1, (__version__,)), *_of_process()]


def _of_process() -> list[Sample]:
    """Read what the library's own collector would tell: it needs /proc/stat, which systemd hides from the server."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    used = resource.getrusage(resource.RUSAGE_SELF)
    return [
        Sample(RESIDENT, pages * resource.getpagesize()),
        Sample(PROCESSOR, used.ru_utime + used.ru_stime),
        Sample(OPEN_FILES, sum(1 for _ in Path("/proc/self/fd").iterdir())),
        Sample(STARTED, _BEGAN),
    ]


def bytes_of(connection: Connection) -> int:
    """Return the size of the database: of its file, or what PostgreSQL says of it."""
    if connection.dialect.name == "postgresql":
        return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())
    pages = connection.exec_driver_sql("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
    return int(pages.scalar_one())


READERS = (
    Reader("agent", (AGENT_UP,), _read_agent),
    Reader("server", (DATABASE, BUILD, RESIDENT, PROCESSOR, OPEN_FILES, STARTED), _read_server),
    Reader("users", users.READ, users.read),
    Reader("sign-in", auth.READ, auth.read),
    Reader("notebooks", notebooks.READ, notebooks.read),
)
"""What is read when somebody asks, all at once; one that fails leaves the others alone."""
