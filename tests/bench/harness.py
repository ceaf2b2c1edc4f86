"""Measuring: samples in alternating rounds, medians, and the table that is printed. Nothing here asserts a time."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CACHE = Path("/var/tmp/diycloud-bench")
SERVER_CORE, LOAD_CORE = 0, 1


@dataclass(frozen=True)
class Figure:
    """Samples of one quantity. unit: `ms`, `s`, `/s`, `MB`."""

    samples: tuple[float, ...]
    unit: str

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def scaled(self, factor: float) -> Figure:
        return Figure(tuple(sample * factor for sample in self.samples), self.unit)

    def less(self, amount: float) -> Figure:
        """Return the samples with a constant part taken off."""
        return Figure(tuple(sample - amount for sample in self.samples), self.unit)

    def __str__(self) -> str:
        texts = [_number(value) for value in (self.median, min(self.samples), max(self.samples))]
        return f"{texts[0]} ({texts[1]}–{texts[2]}) {self.unit}"


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, ours and the older way, and the aim."""

    name: str
    ours: Figure | None
    older: Figure | None = None
    aim: str = ""
    note: str = ""

    def ratio(self) -> str:
        """Return ours divided by the older way's, in words; empty if either was not measured."""
        if self.ours is None or self.older is None or not self.older.median:
            return ""
        return f"{self.ours.median / self.older.median:.3g} ×"


@dataclass
class Report:
    """Rows as they come, and the machine they were seen on."""

    rows: list[Row] = field(default_factory=list)
    started: float = field(default_factory=time.time)

    def add(self, *rows: Row) -> None:
        for row in rows:
            self.rows.append(row)
            print(f"  {row.name}: {row.ours or '–'} | older {row.older or '–'} | {row.ratio() or '–'}", flush=True)

    def render(self) -> str:
        """Return the table as Markdown."""
        lines = [
            f"Figures of {time.strftime('%Y-%m-%d %H:%M', time.gmtime(self.started))} UTC, {machine()}. "
            "Form: median (min–max). Trust the ratios of one run, not figures across runs.",
            "",
            "| what | DIY Cloud | older way | ratio | aim | note |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row.name} | {row.ours or '–'} | {row.older or '–'} | {row.ratio() or '–'} | {row.aim} | {row.note} |"
            for row in self.rows
        ]
        return "\n".join(lines)


def machine() -> str:
    """Return cores, memory, kernel, Python and load, in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )


def milliseconds(act: Callable[[], object]) -> float:
    """Return how long one call takes on the wall clock."""
    start = time.perf_counter_ns()
    act()
    return (time.perf_counter_ns() - start) / 1e6


def alternate(rounds: int, each: int, ways: Mapping[str, Callable[[], object]]) -> dict[str, Figure]:
    """Time each way `each` times in a row, the ways taking turns round by round, and return the figure of every way.

    Turns keep a disturbance of the machine from falling on one way alone; a row, one way's caches from another's cost.
    """
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, act in ways.items():
            samples[name] += [milliseconds(act) for _ in range(each)]
    return {name: Figure(tuple(found), "ms") for name, found in samples.items()}


_WRK_SCRIPT = """
local paths, at = {}, 0
for line in io.lines(os.getenv("BENCH_PATHS")) do paths[#paths + 1] = line end
request = function()
  at = at % #paths + 1
  return wrk.format("GET", paths[at])
end
"""
WRK_DONE = """
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('\\n{"requests": %d, "us": %d, "bad": %d, "p50": %d, "p99": %d}\\n',
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""
"""The end of a script for wrk: it prints a line of JSON."""


@dataclass(frozen=True)
class Load:
    """One run of wrk. rate: requests/s; p50_ms, p99_ms: latency; cpu_us: the server's CPU time for one request."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


def load(
    base: str,
    paths: Sequence[str],
    headers: Mapping[str, str],
    server: int,
    *,
    seconds: float,
    connections: int = 8,
) -> Load:
    """Ask for the paths in turn over HTTP from the load core and return what was reached. server: its pid.

    Raises RuntimeError if a single answer was not 2xx or a connection failed: such a rate means nothing.
    """
    script, listing = CACHE / "load.lua", CACHE / "paths"
    script.write_text(_WRK_SCRIPT + WRK_DONE)
    listing.write_text("".join(f"{path}\n" for path in paths))
    command = ["taskset", "-c", str(LOAD_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script)]
    command += [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")] + [base]
    cpu = cpu_seconds(server)
    done = subprocess.run(
        command, env=os.environ | {"BENCH_PATHS": str(listing)}, capture_output=True, text=True, check=True
    )
    cpu = cpu_seconds(server) - cpu
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if found["bad"]:
        raise RuntimeError(f"{found['bad']} of {found['requests']} requests to {base} failed:\n{done.stdout}")
    rate = found["requests"] / found["us"] * 1e6
    return Load(rate, found["p50"] / 1e3, found["p99"] / 1e3, cpu / found["requests"] * 1e6)


def pin(pid: int, core: int) -> None:
    """Keep a process, its threads and its children on one core."""
    for member in family(pid):
        for task in Path(f"/proc/{member}/task").iterdir():
            try:
                os.sched_setaffinity(int(task.name), {core})
            except ProcessLookupError:
                pass


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for member in found:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split()]
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process and its descendants, ended ones too, have used, in seconds.

    Source: proc(5), /proc/PID/stat, fields utime, stime, cutime and cstime.
    """
    ticks = 0
    for member in family(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def pss_mb(pids: Iterable[int]) -> float:
    """Return the proportional set size of the processes and their descendants, in MB (10⁶ bytes).

    Source: proc(5), /proc/PID/smaps_rollup.
    """
    total = 0
    for pid in pids:
        for member in family(pid):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total / 1e6


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that the bench started, and its children with it."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        for member in reversed(family(process.pid)):
            os.kill(member, 9)
        process.wait(10)


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes], what: str, seconds: float = 30) -> None:
    """Wait until ready() holds. Raises RuntimeError if the process ends first or time runs out."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{what} ended with status {process.returncode} before it was ready")
        try:
            if ready():
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"{what} was not ready within {seconds:g} s")
