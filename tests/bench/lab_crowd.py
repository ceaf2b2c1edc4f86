"""Many people who are signed in, some with Lab open: one JSON line in, one out. Run by the lab environment's Python (aiohttp).

In: {"url", "people": [[name, password], …], "servers": how many of them open Lab, "minutes"}. Those start a kernel, have a cell
sleep in it, keep its WebSocket and ask what Lab asks by itself; the others look at the portal every ten seconds. Out: requests,
what failed, latencies in ms, and how many kernels and connections were still as they were at the end.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.bench.lab_visit import Person
from tests.lab import Lab

AT_ONCE = 10
LAB_ASKS = {
    "/api/metrics/v1": 5.0,
    "/api/kernels": 10.0,
    "/api/sessions": 10.0,
    "/api/terminals": 10.0,
    "/api/contents?content=1": 10.0,
}
"""What a page of Lab asks by itself, and how often, in seconds (jupyterlab, services; jupyter-resource-usage, refreshRate)."""
PORTAL_S = 10.0
SLEEP = "import time\ntime.sleep(7200)"


@dataclass
class Seen:
    """What happened. The lists are latencies in ms."""

    lab: list[float] = field(default_factory=list)
    portal: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    starts: list[float] = field(default_factory=list)


class Worker:
    """Somebody with Lab open and a kernel that sleeps."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.lab: Lab | None = None
        self.kernel = ""
        self.socket: aiohttp.ClientWebSocketResponse | None = None

    async def begin(self, seen: Seen) -> None:
        """Open Lab, start a kernel and let a cell sleep."""
        begin = time.monotonic()
        _, page = await self.person.open()
        config = json.loads(
            page.partition('id="jupyter-config-data" type="application/json">')[2].partition("</script>")[0]
        )
        base = self.person.url + config["baseUrl"].rstrip("/")
        self.lab = Lab(self.person.session, base, {"Authorization": f"token {config['token']}"})
        self.kernel = await self.lab.start_kernel()
        channels = f"{base}/api/kernels/{self.kernel}/channels"
        self.socket = await self.person.session.ws_connect(channels, headers=self.lab.headers, heartbeat=30)
        await self.lab.run(self.socket, "1")
        header = {"msg_id": "sleep", "msg_type": "execute_request", "username": "", "session": "s", "version": "5.3"}
        content = {"code": SLEEP, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        asked = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        await self.socket.send_str(json.dumps(asked))
        seen.starts.append(time.monotonic() - begin)

    async def listen(self, seen: Seen) -> None:
        """Read what comes; the end of it is an error."""
        assert self.socket is not None
        async for _ in self.socket:
            pass
        seen.errors[f"a WebSocket ended: {self.socket.close_code}"] += 1

    async def is_as_it_was(self) -> bool:
        """Tell whether the kernel still sleeps and the page is still connected to it."""
        assert self.lab is not None and self.socket is not None
        kernels = await self.lab.ask("GET", "/api/kernels")
        found = [kernel for kernel in kernels if kernel["id"] == self.kernel]
        return bool(found) and found[0]["execution_state"] == "busy" and not self.socket.closed


async def again(
    session: aiohttp.ClientSession,
    address: str,
    every: float,
    until: float,
    times: list[float],
    seen: Seen,
    **words: Any,
) -> None:
    """Ask for an address until the end, each time a while after the last."""
    await asyncio.sleep(random.uniform(0, every))
    while time.monotonic() < until:
        begin = time.monotonic()
        try:
            async with session.get(address, allow_redirects=False, **words) as answer:
                await answer.read()
                if answer.status != 200:
                    seen.errors[f"{answer.status} {answer.url.path}"] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            seen.errors[f"{type(error).__name__} {error}"[:200]] += 1
        times.append((time.monotonic() - begin) * 1e3)
        await asyncio.sleep(every * random.uniform(0.9, 1.1))


def told(times: list[float]) -> dict[str, float]:
    """Return how long requests took, in ms."""
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {"count": len(times), "p50": cuts[49], "p99": cuts[98], "max": max(times)}


async def main() -> None:
    """Do what is asked, and tell."""
    asked = json.loads(sys.stdin.readline())
    people = [Person("ours", asked["url"], *who) for who in asked["people"]]
    seen, workers = Seen(), [Worker(person) for person in people[: asked["servers"]]]
    for some in range(0, len(people), 4):
        await asyncio.gather(*(person.sign_in() for person in people[some : some + 4]))
    for some in range(0, len(workers), AT_ONCE):
        await asyncio.gather(*(worker.begin(seen) for worker in workers[some : some + AT_ONCE]))
    print(json.dumps({"open": len(workers)}), flush=True)
    sys.stdin.readline()
    until = time.monotonic() + asked["minutes"] * 60
    listening = [asyncio.create_task(worker.listen(seen)) for worker in workers]
    asking = [
        again(worker.person.session, worker.lab.base + path, every, until, seen.lab, seen, headers=worker.lab.headers)
        for worker in workers
        for path, every in LAB_ASKS.items()
        if worker.lab is not None
    ]
    asking += [again(p.session, p.url + "/", PORTAL_S, until, seen.portal, seen) for p in people[len(workers) :]]
    await asyncio.gather(*asking)
    as_they_were = await asyncio.gather(*(worker.is_as_it_was() for worker in workers))
    for task in listening:
        task.cancel()
    print(
        json.dumps(
            {
                "lab": told(seen.lab), "portal": told(seen.portal), "errors": dict(seen.errors.most_common(20)),
                "as they were": sum(as_they_were), "starts": seen.starts,
            }
        ),
        flush=True,
    )  # fmt: skip
    for person in people:
        await person.session.close()


if __name__ == "__main__":
    asyncio.run(main())
