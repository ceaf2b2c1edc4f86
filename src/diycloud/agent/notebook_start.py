"""What a notebook server is started with: for whom, of which size, and every word that the launcher is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import diycloud
from diycloud.agent.protocol import State
from diycloud.config import Paths
from diycloud.config_notebooks import NotebookSettings, Profile
from diycloud.errors import Conflict, InvalidInput, Unsupported
from diycloud.host.accounts import HostAccounts
from diycloud.host.notebooks import Places, ServerKey
from diycloud.host.parts import Bounds, Part
from diycloud.host.slices import Limits
from diycloud.system.contract import System
from diycloud.units import Bytes, Cores, parse_size

if TYPE_CHECKING:
    from diycloud.agent.state import Agent, Caller

_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
"""Of a login on the host; the launcher puts the environment's programs and the user's own ahead of it."""
_LOCALES = ("/etc/locale.conf", "/etc/default/locale")
_OWN_TEMPLATES = Path(diycloud.__file__).parent / "templates" / "notebooks"
_NO_PROFILE = Profile()
_DAY_S = 86_400


class Person(NamedTuple):
    """Whom a server is started for, as checked a moment ago. groups: every GID the account has, its own first."""

    name: str
    uid: int
    groups: tuple[int, ...]
    home: str
    shell: str
    limits: Limits

    @property
    def gid(self) -> int:
        return self.groups[0]


Check = Callable[[], Person]
"""Returns whom a server may run for as the host is now; raises if it may not run."""


def check_person(agent: Agent, caller: Caller, name: str) -> Person:
    """Return whom a server may be started for.

    Raises PermissionDenied if the account is not managed or an administrator's (unless root asks), Conflict if nobody
    may sign in with it.
    """
    entry = agent.entry(name)
    host = HostAccounts(agent.system)
    account = agent.check_live(caller, entry, host)
    if account is None:
        raise Conflict(
            f"{name} is missing on the host.", "The next reconcile makes the account again; try in a minute."
        )
    expired = account.expires.isdecimal() and int(account.expires) * _DAY_S <= agent.clock()
    if entry.state is State.LOCKED or not account.open or expired:
        raise Conflict(f"The account of {name} is locked or expired.", "An administrator can open it again.")
    gids = (host.group_id(group) for group in host.groups_of(account))
    groups = dict.fromkeys((account.gid, *(gid for gid in gids if gid is not None)))
    return Person(name, account.uid, tuple(groups), account.home, account.shell, entry.limits)


def choose_profile(settings: NotebookSettings, name: str) -> tuple[str, Profile]:
    """Return a profile and its name; for an empty one the first that is offered, or one without bounds if none is.

    Raises InvalidInput for an unknown name, Unsupported for one whose servers are containers.
    """
    name = name or next(iter(settings.offered), "")
    if not name:
        return "", _NO_PROFILE
    profile = settings.profiles.get(name)
    if profile is None:
        raise InvalidInput(f"profile: there is no {name!r}.", f"There are: {', '.join(settings.offered) or 'none'}.")
    if profile.kind == "docker":
        raise Unsupported(
            f"The profile {name} runs in a container, for which this host has no gate.", "Choose another."
        )
    return name, profile


def make_bounds(profile: Profile, limits: Limits) -> Bounds:
    """Return what a server of a profile may have, within a user's limits as they are now and will be."""
    memory = parse_size(profile.memory) if profile.memory else 0
    return Bounds(Cores(profile.cpu), Bytes(memory), limits.tasks)


def make_request(
    system: System,
    paths: Paths,
    places: Places,
    key: ServerKey,
    person: Person,
    environment: Mapping[str, str],
    *,
    profile: str,
    part: Part | None,
    bounds: Bounds,
    templates: str,
) -> dict[str, object]:
    """Return what the launcher is asked. environment: the hub's; everything else in it is decided here."""
    kills = part.kills if part is not None else ("", "")
    return {
        "name": key.name,
        "server": key.server,
        "profile": profile,
        "uid": person.uid,
        "gid": person.gid,
        "groups": person.groups,
        "home": person.home,
        "shell": person.shell,
        "environment": {
            **environment,
            "HOME": person.home,
            "USER": person.name,
            "LOGNAME": person.name,
            "SHELL": person.shell,
            "PATH": _PATH,
            "LANG": _read_language(system),
            "JUPYTER_PATH": str(paths.kernels / "share" / "jupyter"),
        },
        "tmp": str(places.tmp(person.uid)),
        "runtime": str(places.runtime(key)),
        "record": str(places.record(key)),
        "log": str(places.log(key)),
        "socket": str(places.socket(key)),
        "groups_of_processes": part.folders if part is not None else [],
        "kills": {"file": kills[0], "key": kills[1]},
        "slice": _slice_facts(person, part, bounds),
        "templates": [folder for folder in (str(_OWN_TEMPLATES), templates) if system.exists(folder)],
    }


def _slice_facts(person: Person, part: Part | None, bounds: Bounds) -> dict[str, object]:
    """Return where the numbers are that Lab shows, and the limits as they are now, which is what programs are told."""
    limits = person.limits
    facts: dict[str, object] = {
        "memory_limit": int(min(bounds.memory or limits.memory, limits.memory)),
        "cpu_limit": float(min(bounds.cpu or limits.cpu, limits.cpu)),
    }
    if part is not None:
        facts["memory"], facts["cpu"], facts["cpu_quota"] = part.usage_files
    return facts


def _read_language(system: System) -> str:
    """Return the host's LANG (locale.conf(5)), one of UTF-8 in any case."""
    for path in _LOCALES:
        for line in (system.read(path) or "").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "LANG" and value.strip().strip("\"'").upper().endswith(("UTF-8", "UTF8")):
                return value.strip().strip("\"'")
    return "C.UTF-8"
