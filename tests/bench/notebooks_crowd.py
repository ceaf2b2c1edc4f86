"""Two hundred signed-in people, fifty with Lab open over a sleeping kernel: `python -m tests.bench.notebooks_crowd`, as root.

--minutes 10 --people 200 --servers 50. Told: what failed (nothing should), how long requests took, how late the event loops of
the hub and the server woke, how long the agent took to tell of all servers, CPU and memory of each. Times are never asserted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.bench.beat import Delays
from tests.bench.harness import cpu_seconds, machine
from tests.bench.notebooks import CGROUP, FIRST_UID, pss
from tests.bench.watched import PATH
from tests.notebooks import PASSWORD, Notebooks, why_not
from tests.stack import ROOT, Stack

from diycloud.agent.client import call_blocking
from diycloud.agent.protocol import Notebook, ReadNotebooks

FILE, HELD_FILE = "lateness", "held"
"""Where watched_hub.py, which runs in the hub's environment, writes."""
WATCHED_HUB = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.bench.watched_hub import main; main()"


class WatchedStack(Stack):
    """A stack whose server tells how late its event loop is."""

    def start_server(self, module: str = "tests.bench.watched", *more: str) -> None:
        super().start_server(module, *more)


class WatchedNotebooks(Notebooks):
    """The same for the hub; Nginx lets so many sign in."""

    def start_hub(self, *program: str) -> None:
        super().start_hub(*(program or ("-c", WATCHED_HUB)))

    def start_nginx(self) -> None:
        """Start it with room for sign-ins: here they all come from one address."""
        site = self.stack.prefix / "nginx/site.conf"
        site.write_text(site.read_text().replace("rate=2r/s", "rate=200r/s"))
        super().start_nginx()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--servers", type=int, default=50)
    options = parser.parse_args()
    if reason := why_not():
        sys.exit(reason)
    last = FIRST_UID + options.people - 1
    with WatchedNotebooks(WatchedStack(uid_min=FIRST_UID, uid_max=last, cgroup=CGROUP)) as running:
        names = [f"dtnbc{number:03}" for number in range(options.people)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: make(running, name), names))
        print(
            f"{machine()}; {options.people} signed in, {options.servers} servers, {options.minutes:g} minutes",
            flush=True,
        )
        run(running, names, options.servers, options.minutes)


def make(running: Notebooks, name: str) -> None:
    """Make a person who may open notebooks."""
    asked = {"username": name, "password": PASSWORD, "cpu": 1, "memory": "1G"}
    status, _, body = running.stack.http("POST", "/api/v1/users", asked)
    assert status in (201, 202), body


def run(running: Notebooks, names: list[str], servers: int, minutes: float) -> None:
    """Let them work, and print what was seen."""
    process = subprocess.Popen(
        [running.lab_environment / "bin/python", ROOT / "tests/bench/lab_crowd.py"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin and process.stdout and running.hub and running.nginx and running.launcher
    assert running.stack.server and running.stack.agent
    people = [(name, PASSWORD) for name in names]
    process.stdin.write(
        json.dumps({"url": running.url, "people": people, "servers": servers, "minutes": minutes}) + "\n"
    )
    process.stdin.flush()
    opened = process.stdout.readline()
    if not opened:
        raise SystemExit(f"they could not begin:\n{running.stack.log('hub')[-3000:]}")
    parts = {
        "server": running.stack.server.pid, "hub": running.hub.pid, "agent": running.stack.agent.pid,
        "Nginx": running.nginx.pid, "launcher": running.launcher.pid,
    }  # fmt: skip
    late = running.paths.hub_state / FILE
    held = running.paths.hub_state / HELD_FILE
    for file in (late, held):
        file.write_bytes(b"")  # from here on
    running.stack.http("GET", PATH)
    before = {name: cpu_seconds(pid) for name, pid in parts.items() if name != "launcher"}
    begin = time.monotonic()
    process.stdin.write("\n")
    process.stdin.flush()
    reads = watch(lambda: process.poll() is None and time.monotonic() < begin + minutes * 60, running)
    seen = json.loads(process.stdout.readline())
    seconds = time.monotonic() - begin
    print(f"starts, ten at a time: {Delays([1e3 * s for s in seen['starts']])}")
    for where in ("lab", "portal"):
        found = seen[where]
        print(
            f"{where}: {found['count']} requests, p50 {found['p50']:.1f} p99 {found['p99']:.1f} max {found['max']:.0f} ms"
        )
    print(
        f"failed: {seen['errors'] or 'nothing'}; kernels and connections as they were: {seen['as they were']} of {servers}"
    )
    print(f"event loop late, server: {Delays(running.stack.http('GET', PATH)[2])}")  # type: ignore[arg-type]
    print(
        f"event loop late, hub, the longest of each second: {Delays([float(line) for line in late.read_text().split()])}"
    )
    for line in held.read_text().splitlines():
        facts = json.loads(line)
        print(
            f"  held {facts['late'] * 1e3:.0f} ms, computing {facts['computed'] * 1e3:.0f} ms of it, collecting "
            f"{facts['collected'] * 1e3:.0f} ms\n{facts['at']}"
        )
    print(f"the agent tells of {len(ask(running))} servers: {Delays(reads)}")
    for name, pid in parts.items():
        used = f", {100 * (cpu_seconds(pid) - before[name]) / seconds:.1f} % of a core" if name in before else ""
        print(f"{name}: {pss([pid]):.0f} MB{used}")
    process.communicate()


def ask(running: Notebooks) -> list[Notebook]:
    """Have the agent tell of everybody's servers."""
    return call_blocking(running.paths.agent_socket, ReadNotebooks(), list[Notebook])


def watch(goes_on: Callable[[], bool], running: Notebooks) -> list[float]:
    """Ask the agent every second. Returns how long it took, in ms."""
    times = []
    while goes_on():
        begin = time.monotonic()
        ask(running)
        times.append((time.monotonic() - begin) * 1e3)
        time.sleep(1)
    return times


if __name__ == "__main__":
    main()
