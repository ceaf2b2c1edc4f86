"""What is told to those who watch the server: how to declare it, and how to say that it happened.

A module declares what it counts as `Metric`s in a metrics.py of its own; core/metrics.py has the table of all. Where
something happens, one of the methods of `Services.meter` is called. This meter keeps nothing, which is right for a command
and for most tests; the server's (core/prometheus.py) keeps all and answers with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import Any, NamedTuple

from diycloud.errors import NotFound


class Kind(StrEnum):
    """COUNTER: only grows; GAUGE: as it is now; HISTOGRAM: how often something took how long."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """One name that is told. name: with its unit at the end, of a counter with `_total`; help: one sentence.

    labels: their names. The values of a label are few and known beforehand, never what a visitor sends, never a user's name
    (unless metrics.per_user says so). values: of a counter's only label, told as 0 before it first happens. buckets: upper
    bounds of a histogram, in seconds.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


class Sample(NamedTuple):
    """What was read just now. labels: the values, in the order of the metric's names."""

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()


READINGS_FAILED = Metric(
    "diycloud_metrics_readings_failed_total", Kind.COUNTER,
    "Readings that are left out of an answer, as what was asked did not answer in time.", ("reading",),
)  # fmt: skip


class Reader(NamedTuple):
    """What is read when somebody asks. metrics: all that it may tell; read: takes the services, raises DiyCloudError."""

    name: str
    metrics: tuple[Metric, ...]
    read: Callable[[Any], Awaitable[Iterable[Sample]]]


class Child:
    """One combination of labels of a counter (`inc`) or histogram (`observe`)."""

    def inc(self, amount: float = 1.0) -> None: ...

    def observe(self, amount: float) -> None: ...


class Meter:
    """Where things are counted. keeps: whether anything comes of it."""

    keeps = False

    def count(self, metric: Metric, *labels: str, by: float = 1.0) -> None:
        """Add to a counter."""

    def time(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Add to a histogram."""

    def child(self, metric: Metric, *labels: str) -> Child:
        """Return where one combination of labels is counted, for who counts at every request."""
        return Child()

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Say how a gauge stands."""

    async def page(self, services: Any) -> bytes:
        """Return all of it as text. Raises NotFound where nothing is kept."""
        raise NotFound(
            "Nothing is counted here.", "The server counts while it runs, unless the setting metrics.enabled is false."
        )


def total(samples: Iterable[Sample]) -> list[Sample]:
    """Return samples with those of the same labels added up."""
    found: dict[tuple[Metric, tuple[str, ...]], float] = {}
    for metric, value, labels in samples:
        found[metric, labels] = found.get((metric, labels), 0.0) + value
    return [Sample(metric, value, labels) for (metric, labels), value in found.items()]
