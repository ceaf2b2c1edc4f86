"""Archives of homes before a purge, and the trash that purged homes wait in.

A purge with archive is two messages: ArchiveHome while the account is only locked, then PurgeAccount. Whatever breaks off
between them, nothing has been removed yet, and the same two messages complete it: an archive of the home as it is now is
not made again.
"""

from __future__ import annotations

from pathlib import Path

from diycloud.agent.changes import stop_workloads
from diycloud.agent.framing import parts
from diycloud.agent.protocol import MAX_FOUND, Archived, State, Trashed
from diycloud.agent.state import Agent, Caller, log
from diycloud.errors import Conflict, InvalidInput, PermissionDenied, TooManyRequests, Unavailable
from diycloud.host import archive, homes
from diycloud.host.accounts import HostAccounts
from diycloud.system.contract import Owner

ARCHIVES_AN_HOUR = 20
"""More need UID 0: a stolen server cannot fill the disk with copies of the homes."""


def archive_home(agent: Agent, caller: Caller, name: str) -> Archived:
    """End what runs and pack the home of a locked account, unless there is an archive of it as it is now.

    Raises Conflict for an account that is not locked or a home with something mounted inside, TooManyRequests beyond
    the hour's share, Unavailable while another call packs the same home, HostError if it cannot be packed.
    """
    agent.registry.require_sound()
    folder = Path(agent.settings.archive)
    entry = agent.registry.get(name)
    if entry is None:
        return Archived()  # a purge came through; its archive was told of before
    live = agent.check_live(caller, entry, HostAccounts(agent.system))
    home = Path(agent.home(name))
    if live is None or not homes.check_home(agent.settings.home, name, entry.uid):
        return _told(archive.find_archive(folder, name, entry.uid, home))
    if entry.state is not State.LOCKED or not live.locked:
        raise Conflict(f"{name} is not locked.", "Delete the user first, so that the home stays as it is packed.")
    homes.check_no_mount(agent.system, home)
    with agent.packing(name):
        found = archive.find_archive(folder, name, entry.uid, home)
        if found is not None:
            return _told(found)
        _check_rate(agent, caller, folder)
        stop_workloads(agent, entry)
        within = []
        if agent.slices is not None:
            agent.slices.ensure(name, entry.uid, entry.limits)
            within = agent.slices.within(name, entry.uid)
        made = archive.pack_home(
            agent.system, folder, agent.settings.home, name, Owner(entry.uid, live.gid),
            within=within, now=agent.clock(), still_wanted=lambda: _check_running(agent),
        )  # fmt: skip
    log.info("home archived", caller=caller.uid, name=name, uid=entry.uid, path=str(made.path), bytes=made.bytes)
    return _told(made)


def _told(found: archive.Archive | None) -> Archived:
    return Archived(str(found.path), found.bytes, found.left_out) if found else Archived()


def _check_running(agent: Agent) -> None:
    if agent.stopping.is_set():
        raise Unavailable("The agent stops, and gave up the archive that it was making.", "Ask again.")


def _check_rate(agent: Agent, caller: Caller, folder: Path) -> None:
    now = agent.clock()
    times = [found.path.stat().st_mtime for found, _, _ in archive.archives(folder)]
    lately = [at for at in times if now - at < 3600]
    if not caller.is_root and len(lately) >= ARCHIVES_AN_HOUR:
        raise TooManyRequests(
            f"{ARCHIVES_AN_HOUR} homes were archived within the hour.",
            "As root the same command goes on at once; or wait.",
            retry_after=max(1, int(3600 - (now - min(lately)))),
        )


def list_trash(agent: Agent) -> list[Trashed]:
    """Return what is in the trash of homes and of groups' folders, the oldest first."""
    bases = (agent.settings.home, agent.settings.shared)
    found = [(int(at), path) for base in bases for path, at in homes.trashed(agent.system, base)]
    return next(parts((_trashed(path, at) for at, path in sorted(found)[:MAX_FOUND]), MAX_FOUND))


def _trashed(path: Path, at: int) -> Trashed:
    name, number, _ = path.name.split(".")
    size = homes.measure_home(str(path.parent), path.name, patience_s=0.2)
    return Trashed(str(path), name, int(number), at, size.bytes, more=not size.whole)


def remove_from_trash(agent: Agent, caller: Caller, folders: list[str]) -> list[str]:
    """Remove folders in the trash for good. Raises PermissionDenied for any other path, before anything is removed."""
    known = {
        str(path)
        for base in (agent.settings.home, agent.settings.shared)
        for path, _ in homes.trashed(agent.system, base)
    }
    trashes = {f"{base}/{homes.TRASH}" for base in (agent.settings.home, agent.settings.shared)}
    for folder in folders:
        if str(Path(folder).parent) not in trashes:
            raise PermissionDenied(f"{folder} is not in the trash.", "`diycloud trash list` shows what is.")
    if len(set(folders)) != len(folders):
        raise InvalidInput("folders: one is there twice.")
    removed = [folder for folder in folders if folder in known and agent.system.remove_tree(folder)]
    log.info("removed from the trash", caller=caller.uid, folders=removed)
    return removed
