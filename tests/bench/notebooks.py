"""Opening Lab, beside a plain JupyterHub, in one run: `python -m tests.bench.notebooks [--rounds 3] [--proxy PATH]`, as root.

One person alone and ten at once: click → page of Lab with its REST → result of a first cell; memory of each server and of what
serves everybody. peers/notebook_hub.py says what the other is and how its proxy is installed; without --proxy only ours is
measured. Times are never asserted: the aims stand beside the figures. Needs the notebooks' environments (tests/notebooks.py).
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.bench.harness import Figure, Report, Row, cpu_seconds
from tests.bench.peers.notebook_hub import PlainHub, processes_of, words_of
from tests.notebooks import Notebooks, why_not
from tests.stack import ROOT, Stack

CGROUP, FIRST_UID = "dtnoteb", 58_500


class Way(Protocol):
    """A running hub. way: how its pages are opened (lab_visit.py)."""

    way: str
    url: str

    def people(self) -> list[tuple[str, str]]: ...

    def stop_servers(self, names: list[str]) -> None: ...

    def parts(self) -> dict[str, list[int]]: ...

    def roots(self) -> list[int]: ...


class Ours:
    """The platform with notebooks, and people who may open them."""

    way = "ours"

    def __init__(self, people: int, notebooks: Notebooks | None = None) -> None:
        stack = Stack(uid_min=FIRST_UID, uid_max=FIRST_UID + 99, cgroup=CGROUP)
        self.notebooks = notebooks or Notebooks(stack)
        self.names = [f"dtnbo{number:03}" for number in range(people)]
        self.password = ""

    def __enter__(self) -> Ours:
        self.notebooks.__enter__()
        for name in self.names:
            # Together more than the machine has: as much for each as nobody has beside us, so that no limit slows them.
            self.password = self.notebooks.user(name, "--cpu", str(os.cpu_count()), "--memory", "1G")
        self.url = self.notebooks.url
        return self

    def __exit__(self, *_: object) -> None:
        self.notebooks.__exit__()

    def people(self) -> list[tuple[str, str]]:
        return [(name, self.password) for name in self.names]

    def stop_servers(self, names: list[str]) -> None:
        """End servers, and return when they have ended."""
        for name in names:
            self.notebooks.hub_api("DELETE", f"/users/{name}/server")
        end = time.monotonic() + 30
        while any(processes_of(pwd.getpwnam(name).pw_uid) for name in names) and time.monotonic() < end:
            time.sleep(0.1)

    def parts(self) -> dict[str, list[int]]:
        """Return the processes that serve everybody, by what they are."""
        assert self.notebooks.hub and self.notebooks.launcher and self.notebooks.nginx
        return {
            "hub": [self.notebooks.hub.pid],
            "launcher": [
                self.notebooks.launcher.pid,
                *_children(self.notebooks.launcher.pid),
            ],  # with one shim for each server
            "proxy": [self.notebooks.nginx.pid, *_children(self.notebooks.nginx.pid)],
        }

    def roots(self) -> list[int]:
        """Return the processes that all others descend from."""
        stack = self.notebooks.stack
        found = (self.notebooks.hub, self.notebooks.launcher, self.notebooks.nginx, stack.server, stack.agent)
        return [process.pid for process in found if process]


@dataclass
class Seen:
    """Samples of one way: seconds since the click, seconds of CPU for one opening, MB."""

    page: dict[int, list[float]] = field(default_factory=dict)
    cell: dict[int, list[float]] = field(default_factory=dict)
    last: dict[int, list[float]] = field(default_factory=dict)
    cpu: dict[int, list[float]] = field(default_factory=dict)
    server: list[float] = field(default_factory=list)
    kernel: list[float] = field(default_factory=list)
    common: dict[str, list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


@contextmanager
def visiting(way: Way, lab: Path, people: Sequence[tuple[str, str]]) -> Iterator[tuple[list[dict[str, Any]], float]]:
    """Have people open Lab at once, and keep their pages open meanwhile. Yields what each saw, and the CPU seconds of all."""
    process = subprocess.Popen(
        [lab / "bin/python", ROOT / "tests/bench/lab_visit.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps({"way": way.way, "url": way.url, "people": people}) + "\n")
        process.stdin.flush()
        if not process.stdout.readline():
            raise RuntimeError(f"not everybody of {way.way} could sign in")
        used = cpu_of(way)
        process.stdin.write("\n")
        process.stdin.flush()
        told = json.loads(process.stdout.readline())
        yield told, cpu_of(way) - used
    finally:
        process.communicate()


def measure(way: Way, lab: Path, count: int, seen: Seen) -> None:
    """Have the first `count` people open Lab at once, once; note times and memory."""
    people = way.people()[:count]
    with visiting(way, lab, people) as (told, cpu):
        good = [answer for answer in told if "error" not in answer]
        seen.errors += [answer["error"] for answer in told if "error" in answer]
        for where, key in ((seen.page, "page"), (seen.cell, "cell")):
            where.setdefault(count, []).extend(answer[key] for answer in good)
        if good:
            seen.last.setdefault(count, []).append(max(answer["cell"] for answer in good))
            seen.cpu.setdefault(count, []).append(cpu / len(good))
        if count > 1:
            note_memory(way, [name for name, _ in people], seen)
    way.stop_servers([name for name, _ in people])


def note_memory(way: Way, names: list[str], seen: Seen) -> None:
    """Note the proportional set size of servers, kernels and what serves everybody, in MB."""
    time.sleep(1)
    for name in names:
        kernels, servers = [], []
        for pid in processes_of(pwd.getpwnam(name).pw_uid):
            (kernels if b"ipykernel" in words_of(pid) else servers).append(pid)
        seen.server.append(pss(servers))
        seen.kernel.append(pss(kernels))
    for part, pids in way.parts().items():
        seen.common.setdefault(part, []).append(pss(pids))


def cpu_of(way: Way) -> float:
    """Return the CPU seconds of all that the way has, servers and kernels with it, since it began."""
    while True:
        try:
            return sum(cpu_seconds(pid) for pid in way.roots())
        except OSError:  # a process ended between being found and being read
            continue


def pss(pids: Sequence[int]) -> float:
    """Return the proportional set size of processes, without their children, in MB (10⁶ bytes). Source: proc(5)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total / 1e6


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def tell(report: Report, ours: Seen, other: Seen | None, crowd: int) -> None:
    """Put the figures into the table."""

    def row(name: str, mine: list[float], theirs: list[float] | None, unit: str, aim: str = "") -> None:
        shown = Figure(tuple(theirs), unit) if theirs else None
        report.add(Row(name, Figure(tuple(mine), unit) if mine else None, shown, aim))

    half = "≤ half of the other"
    for count, who in ((1, "one alone"), (crowd, f"{crowd} at once, each")):
        row(f"{who}: click → Lab and its REST", ours.page.get(count, []), other and other.page.get(count), "s")
        row(
            f"{who}: click → first cell",
            ours.cell.get(count, []),
            other and other.cell.get(count),
            "s",
            "≤ 2 s" * (count == 1),
        )
    row(
        f"{crowd} at once, the last: click → first cell",
        ours.last.get(crowd, []),
        other and other.last.get(crowd),
        "s",
        f"≤ 10 s, {half}",
    )
    for count, who in ((1, "one alone"), (crowd, f"{crowd} at once")):
        row(f"{who}: CPU time for one to get there", ours.cpu.get(count, []), other and other.cpu.get(count), "s")
    row("memory of a server", ours.server, other and other.server, "MB")
    row("memory of its kernel", ours.kernel, other and other.kernel, "MB")
    for part in ours.common:
        row(f"memory of the {part}, {crowd} servers", ours.common[part], other and other.common.get(part), "MB")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--people", type=int, default=10, help="who open Lab at once")
    parser.add_argument("--proxy", type=Path, help="a folder with node_modules/configurable-http-proxy")
    options = parser.parse_args()
    if reason := why_not():
        raise SystemExit(reason)
    report, ours, other = Report(), Seen(), Seen()
    with ExitStack() as stack:
        mine = stack.enter_context(Ours(options.people))
        ways: list[tuple[Way, Seen]] = [(mine, ours)]
        if options.proxy:
            place = Path(tempfile.mkdtemp(prefix="dtnb-", dir="/var/tmp"))
            place.rmdir()
            environments = mine.notebooks.hub_environment, mine.notebooks.lab_environment
            ways.append((stack.enter_context(PlainHub(place, *environments, options.proxy, options.people)), other))
        for way, _ in ways:
            measure(way, mine.notebooks.lab_environment, 1, Seen())  # what is written once: homes, byte code
        for _ in range(options.rounds):
            for count in (1, options.people):
                for way, seen in ways:
                    measure(way, mine.notebooks.lab_environment, count, seen)
        for error in ours.errors + other.errors:
            print("error:", error)
    tell(report, ours, other if options.proxy else None, options.people)
    print(report.render())


if __name__ == "__main__":
    main()
