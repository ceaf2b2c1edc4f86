"""The user service beside the Flask service and JupyterHub's user API, 10,000 users stored, all servers on one core.

The hub makes less of a user than the platform does: a row, without password, account, home or limits. What that is worth
stands in the notes; the figures are what each needs until its answer is there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from tests.bench.beat import Delays, beating
from tests.bench.client import Client
from tests.bench.harness import LOAD_CORE, SERVER_CORE, Figure, Load, Report, Row, alternate, load
from tests.bench.ours import Platform
from tests.bench.peers.hub import Hub
from tests.bench.setting import USERS, Service, Setting

PLACES = f"core {SERVER_CORE} serves, core {LOAD_CORE} asks"
BULK, HUB_CALL = 1_000, 500


def bench_get(setting: Setting) -> None:
    """GET one user and a page of 50 among 10,000: servers on one core, wrk on the other."""
    place = setting.place / "get"
    flask, indexed = (setting.flask(place, index=index) for index in (False, True))
    servers: dict[str, Service] = {"flask": flask, "indexed": indexed}
    if hub := setting.hub(place / "hub"):
        servers["hub"] = hub
    if platform := setting.platform("get-ours", users=USERS, tcp=True, pinned=True):
        servers["ours"] = platform
    for what in ("one user", "page of 50"):
        found: dict[str, list[Load]] = {name: [] for name in servers}
        paths = {name: _paths(server, what) for name, server in servers.items()}
        for _ in range(setting.rounds):
            for name, server in servers.items():
                found[name].append(_load(server, paths[name], server.token, setting.seconds))
            if hub and what == "one user":
                found.setdefault("config", []).append(_load(hub, paths["hub"], hub.config_token, setting.seconds))
        _report_rates(setting.report, f"GET {what} at {USERS:,}", found)


def _load(server: Service, paths: Sequence[str], token: str, seconds: float) -> Load:
    headers = {"Authorization": f"Bearer {token}", **server.headers}
    return load(server.base, paths, headers, server.pids()["server"], seconds=seconds)


def _paths(server: Service, what: str) -> list[str]:
    return server.page_paths() if what == "page of 50" else [server.user_path(n * 37 % USERS) for n in range(1_000)]


def _report_rates(report: Report, what: str, found: dict[str, list[Load]]) -> None:
    """Add the rates against all others, and the CPU time a request costs (a busy machine moves that the least)."""
    rates = {name: Figure(tuple(one.rate for one in loads), "/s") for name, loads in found.items()}
    costs = {name: Figure(tuple(one.cpu_us for one in loads), "µs") for name, loads in found.items()}
    tails = ", ".join(f"{name} {max(one.p99_ms for one in loads):.0f}" for name, loads in found.items())
    note = f"{PLACES}, wrk -t1 -c8; worst p99 in ms: {tails}"
    others = {
        "flask": ("Flask as found", "≥ 5 ×", "≤ 0.2 ×"),
        "indexed": ("Flask with an index", "≥ 5 ×", "≤ 0.2 ×"),
        "hub": ("JupyterHub, its own token", "≥ 20 ×", "≤ 0.05 ×"),
        "config": ("JupyterHub, a token of its configuration", "", ""),
    }
    for name, (words, aim, _) in others.items():
        if name in rates:
            report.add(Row(f"{what}, {words}", rates.get("ours"), rates[name], aim, note))
            note = ""
    for name, (words, _, aim) in others.items():
        if name in rates:
            report.add(Row(f"{what}, CPU a request, {words}", costs.get("ours"), costs[name], aim))


def bench_list(setting: Setting) -> None:
    """The whole list of 10,000 as JSON to its last byte, and search by substring; what each does to the server's event loop."""
    place = setting.place / "list"
    flask, hub = setting.flask(place, index=True), setting.hub(place / "hub")
    platform = setting.platform("list-ours", users=USERS, tcp=True, watched=True, pinned=True)
    os.sched_setaffinity(0, {LOAD_CORE})
    clients = {name: Client(server) for name, server in (("flask", flask), ("hub", hub), ("ours", platform)) if server}
    pages = hub.walk_paths() if hub else []
    _whole_list(setting, platform, hub, clients, pages)
    if platform:
        _search(setting, platform, clients)


def _whole_list(
    setting: Setting, platform: Platform | None, hub: Hub | None, clients: dict[str, Client], pages: Sequence[str]
) -> None:
    report = setting.report
    ways: dict[str, Callable[[], object]] = {"flask": lambda: clients["flask"].raw("/api/users")}
    if hub:
        ways["hub"] = lambda: [clients["hub"].raw(path) for path in pages]
    if platform:
        walk = platform.walk_paths()
        ways["walk"] = lambda: [clients["ours"].raw(path) for path in walk]
        if path := platform.export_path():
            ways["export"] = lambda: clients["ours"].raw(path)
    found = alternate(setting.rounds, 2, ways)
    for ours, words in (("export", "one answer"), ("walk", "pages of 1,000")):
        if ours in found or ours == "walk":
            what, mine = f"whole list of {USERS:,} as JSON, {words}", found.get(ours)
            aim = "≤ 100 ms" if ours == "export" else ""
            report.add(Row(f"{what}, Flask with an index", mine, found["flask"], aim, PLACES))
            if hub:
                report.add(Row(f"{what}, JupyterHub", mine, found["hub"], aim, "the hub: pages of 200, its largest"))
    for ours in ("export", "walk"):
        if platform and ours in ways:
            with _Blocking(setting, platform, f"whole list, {ours}"):
                for _ in range(10):
                    ways[ours]()


def _search(setting: Setting, platform: Platform, clients: dict[str, Client]) -> None:
    """Search for words that nobody asked for before, so that no remembered count helps. The hub searches names alone."""
    everyone = ["e", "r", "s", "us", "er", "se", "ser", "use", "user", "@", "xam", "amp", "mpl", "ple", "le.", "e.o"]
    everyone += [".or", "org", "rg", "example", "xample", "ample", "mple", "per", "son", "num", "ber", "@example"]
    words = {"nobody": ([f"zq{n}" for n in range(1_000)], 0), "ten": ([f"r0{n:03}" for n in range(1_000)], 10)}
    words["everyone"] = (everyone, USERS)
    paths = {"ours": "/api/v1/users?limit=50&search=", "hub": "/hub/api/users?limit=50&offset=0&name_filter="}
    with _Blocking(setting, platform, "search"):
        for name, (terms, wanted) in words.items():
            first, asked = terms[0], iter(terms[1:])
            found = clients["ours"].get(paths["ours"] + first)["total"]
            if not wanted <= found <= wanted + 1:  # the administrator may match too
                raise RuntimeError(f"{found} users match {first!r}, not {wanted}")
            ways = {
                server: partial(_ask_next, clients[server], paths[server], asked)
                for server in ("ours", "hub")
                if server in clients
            }
            each = min(4, (len(terms) - 1) // (setting.rounds * len(ways)))
            figures = alternate(setting.rounds, each, ways)
            what = f"search by substring, {name} found"
            setting.report.add(Row(what, figures["ours"], figures.get("hub"), "≤ 20 ms", "the hub: in names alone"))


def _ask_next(client: Client, path: str, words: Iterator[str]) -> None:
    client.raw(path + next(words))


def bench_write(setting: Setting) -> None:
    """Create one, and 1,000 at once, among 10,000: how long, and how long the event loop stands still."""
    place = setting.place / "write"
    flask, hub = setting.flask(place, index=True), setting.hub(place / "hub")
    platform = setting.platform("write-ours", users=USERS, tcp=True, watched=True, pinned=True)
    os.sched_setaffinity(0, {LOAD_CORE})
    count = iter(range(10_000))
    servers: dict[str, Service] = {
        name: server for name, server in (("flask", flask), ("hub", hub), ("ours", platform)) if server
    }
    clients = {name: Client(server) for name, server in servers.items()}
    asks = {
        "flask": lambda: clients["flask"].post("/api/users", _person(next(count))),
        "hub": lambda: clients["hub"].post(f"/hub/api/users/dtbo{next(count):04}"),
        "ours": lambda: clients["ours"].post("/api/v1/users", _person(next(count))),
    }
    found = alternate(setting.rounds, 4, {name: asks[name] for name in servers})
    words = "the platform makes hashes, account, home and limits; the hub one row; Flask a row and a SHA-256"
    for name, title in (("flask", "Flask"), ("hub", "JupyterHub")):
        if name in found:
            setting.report.add(Row(f"create one, {title}", found.get("ours"), found[name], "", words))
    hub_seconds = _bulk_of_hub(setting, hub) if hub else None
    if platform:
        lines = [f"dtbw{n:04},dtbw{n:04}@example.org,bench horse {n:04} staple,0.5,512M,1G\n" for n in range(BULK)]
        text = "username,email,password,cpu,memory,disk\n" + "".join(lines)
        with _Blocking(setting, platform, f"import of {BULK:,}"):
            start = time.perf_counter()
            report = clients["ours"].post("/api/v1/users/import", text, "text/csv")
            seconds = time.perf_counter() - start
        if report["created"] != BULK:
            raise RuntimeError(f"{report['created']} of {BULK} created")
        note = "both of the platform's processes on one core; argon2id, shadow hash and account of every user"
        setting.report.add(Row(f"bulk create of {BULK:,}", Figure((seconds,), "s"), hub_seconds, "", note))


def _person(n: int) -> dict[str, object]:
    name = f"dtbo{n:04}"
    limits = {"cpu": 0.5, "memory": "512M", "disk": "1G"}
    return {"username": name, "password": "correct horse battery staple", "email": f"{name}@example.org"} | limits


def _bulk_of_hub(setting: Setting, hub: Hub) -> Figure:
    """Add 1,000 users in calls of 500, and report how long the hub answers nobody."""
    names = [f"dtbw{n:04}" for n in range(BULK)]
    with beating(hub.base + hub.health) as delays:
        start = time.perf_counter()
        for first in range(0, BULK, HUB_CALL):
            hub.call("POST", "/hub/api/users", {"usernames": names[first : first + HUB_CALL]})
        seconds = time.perf_counter() - start
    setting.report.add(_others_delay(f"somebody else's wait during bulk create of {BULK:,}, JupyterHub", delays))
    return Figure((seconds,), "s")


def _others_delay(what: str, delays: Delays) -> Row:
    return Row(what, None, Figure((delays.longest,), "ms"), "", str(delays))


class _Blocking:
    """Report what a piece of work does to everybody else: a request every 5 ms from outside, and the loop's own word."""

    def __init__(self, setting: Setting, platform: Platform, what: str) -> None:
        self._setting, self._platform, self._what = setting, platform, what
        self._beating = beating(platform.base + platform.health)

    def __enter__(self) -> None:
        self._platform.lateness()
        self._delays = self._beating.__enter__()

    def __exit__(self, *error: object) -> None:
        late = Delays(self._platform.lateness())
        self._beating.__exit__(None, None, None)
        if error[0] is None:
            for words, found in (("event loop late", late), ("somebody else's wait", self._delays)):
                figure = Figure((found.longest,), "ms")
                aim = "≤ 50 ms" if found is late else ""
                load_now = f"load {os.getloadavg()[0]:.1f}"
                self._setting.report.add(
                    Row(f"{words}, longest, during {self._what}", figure, None, aim, f"{found}; {load_now}")
                )
