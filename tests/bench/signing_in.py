"""Sign-ins per second beside what the machine's cores can hash at all, and what the others feel meanwhile.

The ceiling is as many threads as cores that do nothing but check the same hash, with the same niceness. Nothing is pinned:
hashing is what both cores are for, and whoever asks meanwhile takes their share of them in both measurements. The load
generator takes its own from the sign-ins alone; the note says how much. CPU times hold on a busy machine, too; rates do not.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from tests.bench.beat import Delays, beating
from tests.bench.fill import PASSWORD, name_of
from tests.bench.harness import CACHE, WRK_DONE, Figure, Row
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
"""


def bench_sign_in(setting: Setting) -> None:
    """Sign-ins by REST against the ceiling of argon2id; an authenticated GET every 25 ms meanwhile."""
    platform = setting.platform("signin-ours", users=USERS, tcp=True, watched=True)
    if platform is None:
        return
    signed_in: list[Run] = []
    ceilings: list[Run] = []
    waits: list[float] = []
    late: list[float] = []
    others = partial(beating, platform.base + platform.user_path(7), EVERY_MS, token=platform.token)
    for turn in range(setting.rounds):
        used, start = _used_s(platform), time.perf_counter()
        with others():
            ceilings.append(_ceiling(setting.seconds))
        beside = (_used_s(platform) - used) / (time.perf_counter() - start)
        platform.lateness()
        with others() as delays:
            signed_in.append(_sign_ins(platform, setting.seconds, turn * 97, beside))
        waits += delays.samples
        late += platform.lateness()
    found = Delays(waits)
    report = setting.report
    load = Figure(tuple(run.load_ms for run in signed_in), "ms")
    ceiling = f"{os.cpu_count()} threads that only check such a hash, nice 10"
    note = f"wrk -t1 -c{CONNECTIONS}, {load} of a core each; ceiling: {ceiling}; a GET every {EVERY_MS} ms beside both"
    report.add(Row("sign-ins", _rates(signed_in), _rates(ceilings), "≥ 0.85 ×", note))
    note = "of a core; ours: server and agent, less what the GETs took while the ceiling was measured; beside it the hash alone"
    report.add(Row("CPU time of a sign-in", _cpu(signed_in), _cpu(ceilings), "", note))
    p99 = sorted(waits)[int(len(waits) * 0.99) - 1]
    report.add(Row("authenticated GET p99 meanwhile", Figure((p99,), "ms"), None, "< 20 ms", str(found)))
    report.add(
        Row("event loop late, longest, meanwhile", Figure((max(late),), "ms"), None, "≤ 50 ms", str(Delays(late)))
    )


class Run(NamedTuple):
    """rate: a second; cpu_ms: CPU time of each, in ms of a core; load_ms: the load generator's."""

    rate: float
    cpu_ms: float
    load_ms: float = 0.0


def _rates(runs: Sequence[Run]) -> Figure:
    return Figure(tuple(run.rate for run in runs), "/s")


def _cpu(runs: Sequence[Run]) -> Figure:
    return Figure(tuple(run.cpu_ms for run in runs), "ms")


def _sign_ins(platform: Platform, seconds: float, first: int, beside: float) -> Run:
    """Return sign-ins per second and what they cost. beside: CPU seconds that the platform uses in a second without them.

    Raises RuntimeError if one was refused.
    """
    script = CACHE / "sign-in.lua"
    script.write_text(_SCRIPT.format(users=USERS, password=PASSWORD) + WRK_DONE)
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
    used, load, start = _used_s(platform), _children_s(), time.perf_counter()
    done = subprocess.run(
        command, env=os.environ | {"BENCH_FIRST": str(first)}, capture_output=True, text=True, check=True
    )
    took = time.perf_counter() - start
    ours, load = _used_s(platform) - used - beside * took, _children_s() - load
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if found["bad"]:
        raise RuntimeError(f"{found['bad']} of {found['requests']} sign-ins failed:\n{done.stdout}")
    count = found["requests"]
    return Run(count / found["us"] * 1e6, ours / count * 1e3, load / count * 1e3)


def _used_s(platform: Platform) -> float:
    """Return the CPU time that server and agent have used, in seconds."""
    return sum(platform.cpu().values())


def _children_s() -> float:
    """Return the CPU time of programs that this one ran and that have ended, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _ceiling(seconds: float) -> Run:
    """Return hashes checked per second by a process of nothing else, and what each costs."""
    command = [sys.executable, "-m", "tests.bench.signing_in", f"{seconds:g}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Run(*json.loads(done.stdout))


def _check_hashes(seconds: float) -> Run:
    from diycloud.auth.passwords import hash_password, matches

    hashed = hash_password(PASSWORD)
    counts = [0] * (os.cpu_count() or 1)
    cpu = time.process_time()
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
    return Run(sum(counts) / seconds, (time.process_time() - cpu) / sum(counts) * 1e3)


assert name_of(0) == "user00000"  # what the script of the load generator writes

if __name__ == "__main__":
    print(json.dumps(_check_hashes(float(sys.argv[1]))))
