"""`diycloud jupyter backup` and `restore`: a user's notebooks, packed and unpacked as the user, in the user's slice."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from diycloud.agent.registry import Registry
from diycloud.config import Paths
from diycloud.core.installation import Installation
from diycloud.core.operations import need_root
from diycloud.core.options import InstallOptions
from diycloud.errors import InvalidInput, NotFound, Unsupported
from diycloud.host.accounts import HostAccounts
from diycloud.host.archive import Archive, archives, pack_folder, unpack_folder
from diycloud.host.slices import detect_slices
from diycloud.system import Local, Owner, System
from diycloud.system.dry_run import DryRun

FOLDER = "notebooks"


class _User(NamedTuple):
    """Whose notebooks. within: words ahead of a command that put it into the user's slice; kept: where archives are."""

    name: str
    owner: Owner
    home: Path
    within: Sequence[str]
    kept: Path


def backup(paths: Paths, name: str, system: System | None = None) -> Archive:
    """Pack a user's `notebooks` folder; kept beside the archives of homes, for root.

    Raises NotFound for others than managed users and where there is no such folder, HostError if it cannot be packed.
    """
    host = system or Local()
    user = _user(paths, name, host)
    source = user.home / FOLDER
    if not source.is_dir() or source.is_symlink():
        raise NotFound(
            f"{name} has no folder {source}.", "It is made with the account, and again with the next notebook."
        )
    return pack_folder(host, user.kept, source, name, user.owner, within=user.within, now=time.time())


def restore(paths: Paths, name: str, archive: str = "", system: System | None = None) -> str:
    """Unpack an archive of notebooks into a user's home; returns the folder: `notebooks`, or a new one beside it.

    archive: a path, or the name of one of the kept; empty: the user's last. Raises NotFound for others than managed
    users and where there is no archive, InvalidInput for what is none, HostError if it cannot be unpacked.
    """
    host = system or Local()
    user = _user(paths, name, host)
    found = _find(user, archive)
    beside = f"{FOLDER}-restored-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    return unpack_folder(host, found, user.home, (FOLDER, beside), user.owner, within=user.within)


def _find(user: _User, archive: str) -> Path:
    if not archive:
        mine = [one.path for one, name, uid in archives(user.kept) if (name, uid) == (user.name, user.owner.uid)]
        if not mine:
            raise NotFound(
                f"There is no backup of {user.name}'s notebooks in {user.kept}.",
                f"`diycloud jupyter backup {user.name}` makes one; another file can be named.",
            )
        return mine[-1]
    path = Path(archive) if "/" in archive else user.kept / archive
    if not path.is_file() or path.is_symlink():
        raise NotFound(f"There is no archive {path}.", f"Name a file of {user.kept}, or give its path.")
    if path.suffix not in (".gz", ".zst"):
        raise InvalidInput(
            f"{path.name} is no archive of `diycloud jupyter backup`.", "They end in .tar.zst or .tar.gz."
        )
    return path


def _user(paths: Paths, name: str, host: System) -> _User:
    need_root()
    agent = Installation(host, InstallOptions(prefix=paths.prefix)).settings.agent
    reader = DryRun(host, lambda _: None)
    registry = Registry(reader, paths.managed, uid_min=agent.uid_min, uid_max=agent.uid_max)
    registry.require_sound()
    entry = registry.get(name)
    live = HostAccounts(host).get(name)
    if entry is None or live is None or live.uid != entry.uid:
        raise NotFound(f"There is no user {name} on this host.", "`diycloud user list` shows them.")
    slices = detect_slices(host, agent.cgroup)
    within: list[str] = []
    if not isinstance(slices, Unsupported):
        slices.ensure(name, entry.uid, entry.limits)
        within = slices.within(name, entry.uid)
    return _User(name, Owner(entry.uid, live.gid), Path(agent.home) / name, within, Path(agent.archive) / "notebooks")
