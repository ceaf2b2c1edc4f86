"""Figures against the older ways, in one run: `python -m tests.bench.run [--only NAME] [--rounds 5]`, as root.

Names: help, create, change, import, get, list, write, sign-in, openid, metrics, memory. The older ways are in older/: shell
scripts as an administrator would write them, and a Flask service; in peers/ is JupyterHub, measured where --jupyterhub-venv
says that it is installed (peers/hub.py). What is made (users dtb…, cgroups under dtbench, a prefix under /var/tmp,
processes) is removed at the end. Times are never asserted: the aims stand beside the figures.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.bench import clean, hashes, metrics, openid, people, signing_in
from tests.bench.harness import CACHE, Figure, Report, Row, alternate, milliseconds, pss_mb
from tests.bench.older.ways import Shell
from tests.bench.ours import command_line
from tests.bench.setting import CGROUP, USERS, Setting

IMPORTED = 1_000


def bench_help(setting: Setting) -> None:
    """Start of the command line: twenty runs of `diycloud --help`."""
    if not setting.ours:
        return
    command = [*command_line(), "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # byte code is written once

    def show() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    samples = tuple(milliseconds(show) for _ in range(20))
    bare = alternate(1, 20, {"bare": lambda: subprocess.run([sys.executable, "-I", "-c", ""], check=True)})["bare"]
    note = f"bare python {bare.median:.0f} ms"
    setting.report.add(Row("diycloud --help", Figure(samples, "ms"), aim="≤ 150 ms", note=note))


def bench_create(setting: Setting) -> None:
    """Create with limits: account, home, database row, cgroups, password."""
    shell = Shell(setting.place / "create", CGROUP)
    platform = setting.platform("create-ours")
    count = iter(range(10_000))
    last: dict[str, str] = {}

    def way(letter: str, create: Callable[[str], object]) -> Callable[[], None]:
        def act() -> None:
            last[letter] = f"dtb{letter}{next(count):04}"
            create(last[letter])

        return act

    ways = {"shadow": hashes.shadow(), "argon2": hashes.argon2(), "shell": way("s", shell.create)}
    if platform:
        ways |= {"rest": way("r", platform.create), "cli": way("c", platform.create_by_cli)}
    found = alternate(setting.rounds, 4, ways)
    for name in last.values():
        clean.check_account(CGROUP, name, cores=0.5, memory_mb=512)
    programs = shell.programs("create_user.sh", "dtbs9999", "dtbs9999@example.org", "0.5", "512", "1024")
    # The platform makes its two hashes side by side: only the longer is set apart, the rest counts as its own time.
    longer = max((found["shadow"], found["argon2"]), key=lambda figure: figure.median)
    older = found["shell"].less(found["shadow"].median)
    for key in ("rest", "cli"):
        ours, note = found.get(key), f"with the hash: shell {found['shell'].median:.0f} ms, {programs} programs"
        row = Row(f"create with limits, {key.upper()}, hash apart", None, older, "≤ 0.6 ×", note)
        if ours:
            row = replace(row, ours=ours.less(longer.median), note=f"{note}, ours {ours.median:.0f} ms")
        setting.report.add(row)
    setting.report.add(Row("the hash alone", longer, found["shadow"], note=hashes.WORDS))


def bench_change(setting: Setting) -> None:
    """Change a limit: stored, and in force in the kernel when the call returns."""
    shell = Shell(setting.place / "change", CGROUP)
    platform = setting.platform("change-ours")
    shell.create("dtbchs")
    cores = {"shell": "0.5", "rest": "0.5", "cli": "0.5"}

    def other(key: str) -> str:
        cores[key] = "1.25" if cores[key] == "0.5" else "0.5"
        return cores[key]

    ways: dict[str, Callable[[], object]] = {"shell": lambda: shell.set_limits("dtbchs", cores=other("shell"))}
    names = {"shell": "dtbchs"}
    if platform:
        names |= {"rest": "dtbchr", "cli": "dtbchc"}
        platform.create("dtbchr")
        platform.create("dtbchc")
        ways["rest"] = lambda: platform.set_limits("dtbchr", cores=other("rest"))
        ways["cli"] = lambda: platform.set_limits_by_cli("dtbchc", cores=other("cli"))
    found = alternate(setting.rounds, 10, ways)
    for key, name in names.items():
        clean.check_account(CGROUP, name, cores=float(cores[key]), memory_mb=512)
    programs = shell.programs("set_limits.sh", "dtbchs", "0.5", "512", "1024")
    note = f"shell starts {programs} programs"
    setting.report.add(Row("change a limit, REST", found.get("rest"), found["shell"], "≤ 0.05 ×", note))
    setting.report.add(Row("change a limit, CLI", found.get("cli"), found["shell"], "", note))


def bench_import(setting: Setting) -> None:
    """Import of 1,000 users from CSV: argon2id, shadow hash and POSIX account of every one. Once: it takes long."""
    shell = Shell(setting.place / "import", CGROUP)
    part = 20
    older = sum(milliseconds(partial(shell.create, f"dtbis{n:04}")) for n in range(part)) / 1000
    ours, note = None, f"shell: {part} measured, times {IMPORTED // part}"
    platform = setting.platform("import-ours")
    if platform:
        listing = setting.place / "import.csv"
        lines = [f"dtbi{n:04},dtbi{n:04}@example.org,bench horse {n:04} staple,0.5,512M,1G\n" for n in range(IMPORTED)]
        listing.write_text("username,email,password,cpu,memory,disk\n" + "".join(lines))
        ours = Figure((milliseconds(lambda: platform.import_csv(listing)) / 1000,), "s")
        for n in (0, IMPORTED // 2, IMPORTED - 1):
            clean.check_account(CGROUP, f"dtbi{n:04}", cores=0.5, memory_mb=512)
        used = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in platform.cpu().items())
        note += f"; ours with argon2id and shadow hash of every user, CPU time: {used}"
    setting.report.add(
        Row(
            f"import of {IMPORTED:,}",
            ours,
            Figure((older,), "s").scaled(IMPORTED / part),
            "≤ 30 s",
            note,
        )
    )


def bench_memory(setting: Setting) -> None:
    """Memory of server and agent 60 s after start (a page and a user asked for meanwhile), 10,000 users stored."""
    place = setting.place / "memory"
    flask, hub = setting.flask(place, index=False), setting.hub(place / "hub")
    platform = setting.platform("memory-ours", users=USERS)
    ours, note = None, ""
    if platform:
        platform.call("GET", platform.user_path(1))
        platform.call("GET", platform.page_paths()[0])
    time.sleep(60)
    if platform:
        sizes = {name: pss_mb([pid]) for name, pid in platform.pids().items()}
        ours = Figure((sum(sizes.values()),), "MB")
        note = ", ".join(f"{name} {size:.0f}" for name, size in sizes.items())
    others = {"Flask": flask, "JupyterHub": hub}
    for name, server in others.items():
        if server is not None:
            older = Figure((pss_mb(server.pids().values()),), "MB")
            setting.report.add(Row(f"sum of PSS 60 s after start, {name}", ours, older, "≤ 150 MB", note))


BENCHES: dict[str, Callable[[Setting], None]] = {
    "help": bench_help,
    "create": bench_create,
    "change": bench_change,
    "import": bench_import,
    "get": people.bench_get,
    "list": people.bench_list,
    "write": people.bench_write,
    "sign-in": signing_in.bench_sign_in,
    "openid": openid.bench_open_id,
    "metrics": metrics.bench_metrics,
    "memory": bench_memory,
}


def main() -> int:
    """Run the benches that were asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=BENCHES, help="one bench; may be given several times")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=3, help="seconds of load in each round (default 3)")
    parser.add_argument("--older-only", action="store_true", help="measure the older ways alone")
    parser.add_argument("--jupyterhub-venv", type=Path, help="an environment that has JupyterHub (peers/hub.py)")
    parser.add_argument("--keep-logs", action="store_true", help="leave the run's folder, with the logs, and print it")
    given = parser.parse_args()
    missing = [name for name in ("wrk", "taskset", "sqlite3", "useradd") if shutil.which(name) is None]
    if os.geteuid() != 0 or missing or (os.cpu_count() or 1) < 2:
        print(f"This needs root, two cores and: wrk, taskset, sqlite3, useradd. Missing: {missing or 'no program'}.")
        return 2
    CACHE.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="dtb-", dir=CACHE))
    place.chmod(0o755)
    report = Report()
    failed = []
    try:
        for name in given.only or BENCHES:
            print(f"{name} …", flush=True)
            with ExitStack() as stack:
                setting = Setting(
                    place, given.rounds, given.seconds, not given.older_only, given.jupyterhub_venv, report, stack
                )
                try:
                    BENCHES[name](setting)
                except Exception as error:  # the other figures are still wanted
                    failed.append(name)
                    print(f"  {name} failed: {type(error).__name__}: {error}", flush=True)
    finally:
        clean.remove_all(CGROUP, CACHE)
        if given.keep_logs:
            print(f"logs: {place}")
        else:
            shutil.rmtree(place)
    print(f"\n{report.render()}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
