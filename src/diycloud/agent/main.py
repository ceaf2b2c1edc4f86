"""`python -m diycloud.agent.main`: the agent in the foreground, for systemd or the supervisor."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import gc
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog

from diycloud import config
from diycloud.agent.notebooks import LOOK_AFTER_S, Notebooks
from diycloud.agent.protocol import State
from diycloud.agent.reconcile import empty_trash, restore_limits
from diycloud.agent.registry import Registry
from diycloud.agent.server import Server, listen
from diycloud.agent.state import Agent, log
from diycloud.config import Paths, Settings
from diycloud.distro.os_release import read_distribution
from diycloud.distro.tables import family
from diycloud.errors import Conflict, DiyCloudError, Unsupported
from diycloud.host.accounts import HostAccounts
from diycloud.host.slices import detect_slices
from diycloud.host.torn import ACCOUNT_FILES, booted_at, remove_torn
from diycloud.system.local import Local

TRASH_SECONDS = 3600.0


def ensure_folders(system: Local, paths: Paths) -> None:
    """Make the agent's places."""
    for folder, mode in ((paths.agent_state.parent, 0o755), (paths.agent_state, 0o700), (paths.run, 0o755)):
        for missing in [p for p in reversed(folder.parents) if not p.exists()]:
            system.make_dir(missing)
        system.make_dir(folder, mode=mode)


def lock(folder: Path) -> int:
    """Hold the agent's state for this process, until it ends: two agents would overwrite each other's file.

    Returns the descriptor that holds it. Raises Conflict if another process does.
    """
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise Conflict(f"Another agent runs on this host and holds {folder}/lock.", "Stop it first.") from error
    return fd


def make_agent(system: Local, paths: Paths, settings: Settings) -> Agent:
    """Put the agent together on this host; without cgroup controllers it manages accounts without limits."""
    wanted = settings.agent
    registry = Registry(system, paths.managed, uid_min=wanted.uid_min, uid_max=wanted.uid_max)
    found, unsupported = detect_slices(system, wanted.cgroup), ""
    if isinstance(found, Unsupported):
        unsupported = str(found)
        log.warning("no limits", reason=unsupported)
    slices = None if isinstance(found, Unsupported) else found
    notebooks = Notebooks(system, slices, settings.notebooks, paths, nginx_gid=nginx_gid(system))
    days = settings.server.password_max_age_days
    return Agent(system, wanted, registry, slices, unsupported=unsupported, notebooks=notebooks, password_days=days)


def nginx_gid(system: Local) -> int:
    """Return the group that Nginx's workers are in, root's own where there is none yet."""
    try:
        name = family(read_distribution(system).family).nginx.group
    except Unsupported:
        return 0
    return HostAccounts(system).group_id(name) or 0


def take_stock(agent: Agent) -> None:
    """Find the notebook servers that an agent before this one started, before anybody can ask for more.

    While the agent's file is broken, the host's accounts of its range have to do: nobody's work is ended for that.
    """
    users = {entry.name: entry.uid for entry in agent.registry.entries.values()}
    if agent.registry.problem:
        found = HostAccounts(agent.system).in_range(agent.settings.uid_min, agent.settings.uid_max)
        users = {account.name: account.uid for account in found}
    if agent.notebooks is not None:
        agent.notebooks.take_stock(users.get)


def tidy(system: Local, paths: Paths) -> None:
    """Remove what the end of the last boot left half-written."""
    before = booted_at(system)
    for folder, names in (
        (paths.agent_state, ()),
        (paths.keys, ()),
        (paths.config_dir, ()),
        (Path("/etc"), ACCOUNT_FILES),
    ):
        try:
            if found := remove_torn(system, folder, before=before, names=names):
                log.warning("half-written files removed", paths=found)
        except (DiyCloudError, OSError) as error:
            log.warning("half-written files stay", folder=str(folder), reason=str(error))


async def serve(agent: Agent, paths: Paths) -> None:
    """Answer until SIGTERM or SIGINT; first put limits in force, then empty the trash every hour."""
    system = agent.system
    listener, server_uid = listen(system, paths.agent_socket, agent.settings.server_user)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = Server(agent, server_uid=server_uid)
    own_work = [asyncio.create_task(_work(agent, server))]
    if agent.notebooks is not None:
        own_work.append(asyncio.create_task(_look_after_notebooks(agent, server, agent.notebooks)))
    log.info("agent started", pid=os.getpid(), socket=str(paths.agent_socket))
    await server.serve(listener, stop)
    for task in own_work:
        task.cancel()
    log.info("agent stopped")


async def _look_after_notebooks(agent: Agent, server: Server, notebooks: Notebooks) -> None:
    """Tidy after notebook servers that ended; stop those of accounts that were locked, whoever forgot to."""

    def may_run(name: str) -> bool:
        entry = agent.registry.get(name)
        return bool(agent.registry.problem) or (entry is not None and entry.state is State.ACTIVE)

    while True:
        try:
            await server.in_notebooks(lambda: notebooks.look_after(may_run))
        except Exception:
            log.exception("notebooks not looked after")
        await asyncio.sleep(LOOK_AFTER_S)


async def _work(agent: Agent, server: Server) -> None:
    try:
        changed = await server.in_turn(restore_limits(agent))
        log.info("limits restored", changed=changed, accounts=len(agent.registry.entries))
    except Exception:
        log.exception("limits not restored")  # the next wish list mends them
    while True:
        try:
            await server.in_background(lambda: empty_trash(agent))
        except Exception:
            log.exception("trash not emptied")
        await asyncio.sleep(TRASH_SECONDS)


class Flood:
    """A structlog processor: what a caller can cause without end is logged BURST times, then A_SECOND, and counted.

    Changes of accounts are always logged. `unsaid` on a line: how many of its kind were dropped before it.
    """

    REFUSALS = frozenset({"refused", "account refused", "message refused", "connection refused", "connection lost"})
    BURST, A_SECOND = 200, 5

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._left: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()

    def __call__(self, logger: object, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event = str(line.get("event"))
        if event not in self.REFUSALS:
            return line
        now = time.monotonic()
        earned = (now - self._last.get(event, now)) * self.A_SECOND
        self._last[event] = now
        self._left[event] = min(self.BURST, self._left.get(event, self.BURST) + earned)
        if self._left[event] < 1:
            self._unsaid[event] += 1
            raise structlog.DropEvent
        self._left[event] -= 1
        if unsaid := self._unsaid.pop(event, 0):
            line["unsaid"] = unsaid
        return line


def main() -> int:
    parser = argparse.ArgumentParser(prog="diycloud-agent", description=__doc__)
    parser.add_argument("--prefix", default="/", help="folder that all of the platform's places are under (tests)")
    paths = Paths(parser.parse_args().prefix)
    structlog.configure(
        processors=[
            Flood(),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    if os.geteuid() != 0:
        sys.stderr.write("diycloud-agent: it changes accounts and limits, so it must run as root.\n")
        return 4
    os.umask(0o022)
    try:
        ensure_folders(Local(), paths)
        lock(paths.agent_state)
        tidy(Local(), paths)
        settings = config.load(Path(paths.config))
        agent = make_agent(Local(), paths, settings)
        take_stock(agent)
        gc.freeze()  # what is loaded stays; collections need not walk it
        asyncio.run(serve(agent, paths))
    except DiyCloudError as error:
        sys.stderr.write(f"diycloud-agent: {error}\n")
        return 8
    return 0


if __name__ == "__main__":
    sys.exit(main())
