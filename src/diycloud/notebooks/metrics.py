"""What is told of notebook servers: those there are, from one question to the agent, and what the hub tells of their lives."""

from __future__ import annotations

from diycloud.actions.meter import Kind, Meter, Metric, Sample, total
from diycloud.actions.services import Services
from diycloud.agent import protocol as wire
from diycloud.config_notebooks import NotebookSettings
from diycloud.notebooks.models import Event

STATES = ("running", "stopped", "failed")
OTHER = "other"
"""A size that the settings do not name (any more)."""

SERVERS = Metric(
    "diycloud_notebook_servers", Kind.GAUGE,
    "Notebook servers by size and state; those that ended are told of for a day, or until they are started again.",
    ("profile", "state"),
)  # fmt: skip
MEMORY = Metric(
    "diycloud_notebook_memory_bytes", Kind.GAUGE, "Memory that running notebook servers use together.", ("profile",)
)
STARTS = Metric(
    "diycloud_notebook_starts_total", Kind.COUNTER, "Starts of notebook servers, by how they ended.", ("outcome",),
    ("started", "failed"),
)  # fmt: skip
START_SECONDS = Metric(
    "diycloud_notebook_start_seconds", Kind.HISTOGRAM,
    "How long starts took, from the hub's question to a server that answers.",
    buckets=(0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0),
)  # fmt: skip
STOPS = Metric(
    "diycloud_notebook_stops_total", Kind.COUNTER, "Ends of notebook servers, by why they ended.", ("reason",),
    ("owner", "administrator", "shut-out", "idle", "age", "memory", "failed"),
)  # fmt: skip
USER_MEMORY = Metric(
    "diycloud_user_notebook_memory_bytes", Kind.GAUGE,
    "Memory that a running notebook server uses (metrics.per_user).", ("user", "server"),
)  # fmt: skip
USER_CPU = Metric(
    "diycloud_user_notebook_cpu_seconds_total", Kind.COUNTER,
    "Processor time that a running notebook server has used (metrics.per_user).", ("user", "server"),
)  # fmt: skip

COUNTED = (STARTS, START_SECONDS, STOPS)
READ = (SERVERS, MEMORY, USER_MEMORY, USER_CPU)


def count(meter: Meter, event: Event, *, asked: str = "") -> None:
    """Count what the hub tells. asked: what the end that somebody asked for counts as."""
    if event.kind == "started":
        meter.count(STARTS, "started")
        meter.time(START_SECONDS, event.seconds)
    elif event.cause == "start":
        meter.count(STARTS, "failed")
    else:
        meter.count(STOPS, _reason(event, asked))


def _reason(event: Event, asked: str) -> str:
    """Return why a server ended. What nobody else is known to have asked for, its user did in JupyterLab."""
    if event.kind == "failed":
        return "memory" if event.cause == "memory" else "failed"
    return asked or event.cause or "owner"


async def read(services: Services) -> list[Sample]:
    """Read what runs. Raises Unavailable if the agent does not answer."""
    settings = services.settings.notebooks
    found = await _servers(services)
    sizes = tuple(settings.profiles) or ("",)
    samples = [Sample(SERVERS, 0, (size, state)) for size in sizes for state in STATES]
    samples += [Sample(MEMORY, 0, (size,)) for size in sizes]
    for one in found:
        size = _size(one.profile, settings)
        samples.append(Sample(SERVERS, 1, (size, one.state)))
        samples.append(Sample(MEMORY, one.memory, (size,)))
    samples = total(samples)
    if services.settings.metrics.per_user:
        running = [one for one in found if one.state == "running"]
        samples += [Sample(USER_MEMORY, one.memory, (one.name, one.server)) for one in running]
        samples += [Sample(USER_CPU, one.cpu_us / 1e6, (one.name, one.server)) for one in running]
    return samples


def _size(profile: str, settings: NotebookSettings) -> str:
    return profile if profile in settings.profiles or not profile else OTHER


async def _servers(services: Services) -> list[wire.Notebook]:
    """Return every server that the agent knows of: one question, and one more for each full answer."""
    if services.hub is None or not services.hub.is_set_up:
        return []
    found: list[wire.Notebook] = []
    after = ""
    while True:
        part = await services.agent.call(wire.ReadNotebooks(after=after), list[wire.Notebook])
        found += part
        if len(part) < wire.MAX_NOTEBOOKS:
            return found
        after = f"{part[-1].name}+{part[-1].server}" if part[-1].server else part[-1].name
