"""Ask one path every few milliseconds until stdin ends, then print the latencies: `python -m tests.bench.beat URL MS`.

Stands for the people who use the portal while something large runs. A latency counts from the moment the request was
due, so a server that stands still for a second is seen by all who would have asked in it, not by one.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.bench.harness import LOAD_CORE


@dataclass
class Delays:
    """Delays in ms, filled when the watching ends."""

    samples: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        if len(self.samples) < 2:
            return "too short to say"
        cuts = statistics.quantiles(self.samples, n=100, method="inclusive")
        return f"p50 {cuts[49]:.1f} p99 {cuts[98]:.1f} max {max(self.samples):.1f} ms"

    @property
    def longest(self) -> float:
        return max(self.samples, default=0.0)


@contextmanager
def beating(url: str, every_ms: float = 5, *, token: str = "") -> Iterator[Delays]:
    """Ask a path all the while, from the load core, in a process of its own. token: of who asks."""
    command = ["taskset", "-c", str(LOAD_CORE), sys.executable, "-m", "tests.bench.beat", url, str(every_ms)]
    environment = os.environ | {"BENCH_TOKEN": token}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    process.stdout.readline()  # it has begun
    found = Delays()
    try:
        yield found
    finally:
        text, _ = process.communicate()
        found.samples += json.loads(text)


def beat(url: str, every: float) -> list[float]:
    """Return the latencies in ms. every: seconds. Raises RuntimeError if the server refuses."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=600)
    token = os.environ.get("BENCH_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}

    def ask() -> None:
        connection.request("GET", parts.path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{url}: {answer.status}")

    ask()  # connected: from now on it counts
    print("begun", flush=True)
    latencies: list[float] = []
    due = time.perf_counter() + every
    while not select.select([sys.stdin], [], [], max(0.0, due - time.perf_counter()))[0]:
        ask()
        latencies.append((time.perf_counter() - due) * 1e3)
        due += every
    return latencies


if __name__ == "__main__":
    print(json.dumps(beat(sys.argv[1], float(sys.argv[2]) / 1e3)))
