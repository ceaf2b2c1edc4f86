"""What counting costs each request, and what an answer at /metrics costs with 10,000 users stored."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.bench.beat import Delays
from tests.bench.harness import Figure, Row
from tests.bench.setting import USERS, Setting

from diycloud.config import Settings
from diycloud.core import metrics
from diycloud.core.prometheus import AGE_S
from diycloud.web.calls import COUNTED_AS
from diycloud.web.counting import Counting

REQUESTS = 20_000
ROUTES = 100


def bench_metrics(setting: Setting) -> None:
    """Counting around an application that does nothing; then answers whose readings are new, the loop watched meanwhile."""
    if not setting.ours:
        return
    counted = [_per_request(_counted()) for _ in range(setting.rounds)]
    bare = [_per_request(_nothing) for _ in range(setting.rounds)]
    cost = Figure(tuple(one - other for one, other in zip(counted, bare, strict=True)), "µs")
    setting.report.add(Row("counting a request", cost, aim="< 10 µs", note=f"{REQUESTS:,} requests of {ROUTES} routes"))
    platform = setting.platform("metrics-ours", users=USERS, tcp=True, watched=True)
    assert platform is not None
    platform.call("GET", platform.user_path(1))
    _scrape(platform.port, platform.token)  # what is loaded with the first one
    samples, late, size = [], [], 0
    for _ in range(setting.rounds):
        time.sleep(AGE_S + 0.1)
        platform.lateness()
        started = time.perf_counter()
        size = _scrape(platform.port, platform.token)
        samples.append((time.perf_counter() - started) * 1e3)
        late += platform.lateness()
    note = f"{size:,} bytes; event loop late meanwhile: {Delays(late)}"
    setting.report.add(Row(f"/metrics at {USERS:,} users", Figure(tuple(samples), "ms"), aim="< 100 ms", note=note))


def _scrape(port: int, token: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise RuntimeError(f"/metrics: {answer.status} {body[:200]!r}")
    return len(body)


async def _nothing(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    """An application that answers every request with nothing, and leaves a template as ours do."""
    scope[COUNTED_AS] = scope["path"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _counted() -> Any:
    return Counting(_nothing, metrics.make_meter(Settings()), [])


def _per_request(app: Any) -> float:
    """Return microseconds of processor time of a request."""

    async def send(message: Any) -> None:
        return None

    async def ask() -> float:
        paths = [f"/api/v1/thing{number}" for number in range(ROUTES)]
        started = time.process_time()
        for number in range(REQUESTS):
            await app({"type": "http", "method": "GET", "path": paths[number % ROUTES]}, None, send)
        return (time.process_time() - started) / REQUESTS * 1e6

    return asyncio.run(ask())
