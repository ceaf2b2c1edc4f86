"""The meter that keeps: in the classes of prometheus-client, in a registry of its own, told in Prometheus' text format.

Imported by the server alone, as the library takes some 30 ms and 2 MB.
Source: Prometheus, "Exposition formats", text-based format 0.0.4.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from typing import Any

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from diycloud.actions.meter import READINGS_FAILED, Kind, Meter, Metric, Reader, Sample
from diycloud.errors import DiyCloudError

log = structlog.get_logger()
AGE_S = 2.0
"""For how long a reading serves: two who ask at once are one question to agent and database."""
READ_S = 5.0
"""A reading that takes longer is left out: Prometheus itself waits for 10 s, and then has nothing at all."""


class Prometheus(Meter):
    """metrics: what is counted as it happens; readers: what is read when somebody asks."""

    keeps = True

    def __init__(self, metrics: Iterable[Metric], readers: Iterable[Reader]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the moment at which each counter began: nobody asks, and it doubles the answer
        self._registry = CollectorRegistry()
        self._kept: dict[str, Any] = {metric.name: _make(metric, self._registry) for metric in metrics}
        self._readers = tuple(readers)
        self._samples: list[Sample] = []
        self._at = float("-inf")
        self._lock = asyncio.Lock()

    def child(self, metric: Metric, *labels: str) -> Any:
        kept = self._kept[metric.name]
        return kept.labels(*labels) if labels else kept

    def count(self, metric: Metric, *labels: str, by: float = 1.0) -> None:
        self.child(metric, *labels).inc(by)

    def time(self, metric: Metric, seconds: float, *labels: str) -> None:
        self.child(metric, *labels).observe(seconds)

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        self.child(metric, *labels).set(value)

    async def page(self, services: Any) -> bytes:
        """Return the whole answer, made in a thread: some thousand lines take longer than the event loop has."""
        async with self._lock:
            if time.monotonic() - self._at > AGE_S:
                readings = await asyncio.gather(*(self._read(reader, services) for reader in self._readers))
                self._samples, self._at = [sample for part in readings for sample in part], time.monotonic()
            samples = self._samples
        return await asyncio.to_thread(self._render, samples)

    async def _read(self, reader: Reader, services: Any) -> list[Sample]:
        """Read one kind; what cannot be read is a gap, never a nought."""
        try:
            async with asyncio.timeout(READ_S):
                return list(await reader.read(services))
        except (DiyCloudError, TimeoutError) as error:
            log.warning("metrics without a reading", reading=reader.name, reason=str(error) or type(error).__name__)
        except Exception:
            log.exception("metrics without a reading", reading=reader.name)
        self.count(READINGS_FAILED, reader.name)
        return []

    def _render(self, samples: list[Sample]) -> bytes:
        read = CollectorRegistry()
        read.register(_Readings(samples))
        return generate_latest(self._registry) + generate_latest(read)


class _Readings(Collector):
    """Samples as the library takes them."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for metric, value, labels in self._samples:
            family = families.get(metric.name)
            if family is None:
                kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
                family = families[metric.name] = kind(metric.name, metric.help, labels=metric.labels)
            family.add_metric(labels, value)
        yield from families.values()


def _make(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    made: Counter | Gauge | Histogram
    if metric.kind is Kind.COUNTER:
        made = Counter(metric.name, metric.help, metric.labels, registry=registry)
        for value in metric.values:
            made.labels(value)
    elif metric.kind is Kind.GAUGE:
        made = Gauge(metric.name, metric.help, metric.labels, registry=registry)
    else:
        made = Histogram(metric.name, metric.help, metric.labels, registry=registry, buckets=metric.buckets)
    return made
