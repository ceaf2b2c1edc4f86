"""Sign-ins per second beside what the machine's cores can hash at all, and what the others feel meanwhile.

The ceiling is as many threads as cores that do nothing but check the same hash, with the same niceness. Nothing is pinned:
hashing is what both cores are for, and the load generator takes its share of them in both measurements.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from tests.bench.beat import Delays, beating
from tests.bench.fill import PASSWORD, name_of
from tests.bench.harness import CACHE, Figure, Row
from tests.bench.ours import Platform
from tests.bench.setting import Setting

USERS = 500
CONNECTIONS = 8
EVERY_MS = 25
"""Who asks every 5 ms, from Python, takes a tenth of what both cores have."""

_SCRIPT = """
local at = tonumber(os.getenv("BENCH_FIRST"))
request = function()
  at = at % {users} + 1
  local body = string.format('{{"username": "user%05d", "password": "{password}"}}', at - 1)
  return wrk.format("POST", "/api/v1/auth/login", {{["Content-Type"] = "application/json"}}, body)
end
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('\\n{{"requests": %d, "us": %d, "bad": %d, "p50": %d, "p99": %d}}\\n',
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


def bench_sign_in(setting: Setting) -> None:
    """Sign-ins by REST against the ceiling of argon2id; an authenticated GET every 25 ms meanwhile."""
    platform = setting.platform("signin-ours", users=USERS, tcp=True, watched=True)
    if platform is None:
        return
    rates: list[float] = []
    ceilings: list[float] = []
    waits: list[float] = []
    late: list[float] = []
    for turn in range(setting.rounds):
        ceilings.append(_ceiling(setting.seconds))
        platform.lateness()
        with beating(platform.base + platform.user_path(7), EVERY_MS, token=platform.token) as delays:
            rates.append(_sign_ins(platform, setting.seconds, turn * 97))
        waits += delays.samples
        late += platform.lateness()
    found = Delays(waits)
    report = setting.report
    note = f"wrk -t1 -c{CONNECTIONS}; ceiling: {os.cpu_count()} threads that only check such a hash, nice 10"
    report.add(Row("sign-ins", Figure(tuple(rates), "/s"), Figure(tuple(ceilings), "/s"), "≥ 0.85 ×", note))
    p99 = sorted(waits)[int(len(waits) * 0.99) - 1]
    report.add(Row("authenticated GET p99 meanwhile", Figure((p99,), "ms"), None, "< 20 ms", str(found)))
    report.add(
        Row("event loop late, longest, meanwhile", Figure((max(late),), "ms"), None, "≤ 50 ms", str(Delays(late)))
    )


def _sign_ins(platform: Platform, seconds: float, first: int) -> float:
    """Return sign-ins per second. Raises RuntimeError if one was refused."""
    script = CACHE / "sign-in.lua"
    script.write_text(_SCRIPT.format(users=USERS, password=PASSWORD))
    command = [
        "wrk",
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds:g}s",
        "--timeout",
        "10s",
        "-s",
        str(script),
        platform.base,
    ]
    done = subprocess.run(
        command, env=os.environ | {"BENCH_FIRST": str(first)}, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if found["bad"]:
        raise RuntimeError(f"{found['bad']} of {found['requests']} sign-ins failed:\n{done.stdout}")
    return float(found["requests"]) / found["us"] * 1e6


def _ceiling(seconds: float) -> float:
    """Return hashes checked per second by a process of nothing else."""
    command = [sys.executable, "-m", "tests.bench.signing_in", f"{seconds:g}"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _check_hashes(seconds: float) -> float:
    from diycloud.auth.passwords import hash_password, matches

    hashed = hash_password(PASSWORD)
    counts = [0] * (os.cpu_count() or 1)
    end = time.perf_counter() + seconds

    def work(which: int) -> None:
        os.setpriority(os.PRIO_PROCESS, 0, 10)
        while time.perf_counter() < end:
            matches(PASSWORD, hashed)
            counts[which] += 1

    threads: Sequence[threading.Thread] = [threading.Thread(target=work, args=(n,)) for n in range(len(counts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


assert name_of(0) == "user00000"  # what the script of the load generator writes

if __name__ == "__main__":
    print(_check_hashes(float(sys.argv[1])))
