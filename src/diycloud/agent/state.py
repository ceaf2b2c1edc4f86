"""What the agent's handlers share: the host, its file, and what it remembers between messages."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import structlog

from diycloud.agent.administrators import Administrators, Guesses
from diycloud.agent.group_registry import GroupRegistry
from diycloud.agent.notebooks import Notebooks
from diycloud.agent.passwords import Passwords, Tries
from diycloud.agent.protocol import Limits as WishedLimits
from diycloud.agent.protocol import Outcome, Wish
from diycloud.agent.registry import Entry, Registry
from diycloud.config import AgentSettings
from diycloud.errors import Conflict, DiyCloudError, InvalidInput, PermissionDenied, TooManyRequests, Unavailable
from diycloud.host import accounts, homes
from diycloud.host.accounts import HostAccounts, PosixAccount
from diycloud.host.keys import CODES_GROUP
from diycloud.host.pam_files import PamFiles
from diycloud.host.slices import Limits, Slices
from diycloud.system.contract import System
from diycloud.units import Bytes, Cores, format_size

log = structlog.get_logger("diycloud.agent")

PURGES_AN_HOUR = 20
"""More need UID 0: a stolen server cannot clear the house."""
MAX_LISTS = 4
"""Wish lists of one caller that are applied at a time; a list of 40,000 users takes some 30 MiB."""
MEMORY_OF_CHANGES_S = 120.0
"""A wish list may be this much older than a change it does not know yet."""


class Role(StrEnum):
    """Who is at the other end, by the kernel's word."""

    ROOT = "root"
    SERVER = "server"
    HUB = "hub"


class Caller(NamedTuple):
    """The peer of a connection (SO_PEERCRED)."""

    uid: int
    pid: int
    role: Role

    @property
    def is_root(self) -> bool:
        return self.role is Role.ROOT


@dataclass(slots=True)
class Session:
    """What one connection has said so far. parts: its wish list; gathered: monotonic time of the first part."""

    caller: Caller
    parts: list[Wish] | None = None
    gathered: float = 0.0


class Agent:
    """The hands on one host. Changes of accounts run one at a time; reads beside them."""

    def __init__(
        self,
        system: System,
        settings: AgentSettings,
        registry: Registry,
        slices: Slices | None,
        *,
        unsupported: str = "",
        notebooks: Notebooks | None = None,
        password_days: int = 0,
        clock: Callable[[], float] = time.time,
        grace_s: float = MEMORY_OF_CHANGES_S,
    ) -> None:
        self.system = system
        self.settings = settings
        self.registry = registry
        self.groups = GroupRegistry(
            system, registry.path.with_name("groups"), gid_min=settings.gid_min, gid_max=settings.gid_max,
            never=range(settings.uid_min, settings.uid_max + 1),
        )  # fmt: skip
        self.administrators = Administrators(system, registry.path.with_name("administrators"))
        self.guesses = Guesses()
        self.passwords = Passwords(system, registry.path.with_name("passwords"))
        self.tries = Tries()
        self.next_foreign = 0
        """Where the next report of foreign passwords begins (agent/sign_in.py)."""
        self.password_days = password_days
        """The greatest age of passwords, 0 for the host's own."""
        self.pam_files = PamFiles(system, registry.path.parent.with_name("sign-in"))
        """What PAM asks of users (config.Paths.sign_in)."""
        self.keys = registry.path.parent.with_name("keys")
        """The folder of users' SSH keys (config.Paths.keys)."""
        self.slices = slices
        self.unsupported = unsupported
        self.notebooks = notebooks
        self.clock = clock
        self.grace_s = grace_s
        self.started = clock()
        self.cores = len(os.sched_getaffinity(0))
        self.memory = _total_memory(system)
        self.orphans: set[str] = set()
        """Managed accounts that the last wish list did not have: no new user may get one of them."""
        self.gathering: dict[int, Session] = {}
        """UID of a caller → the connection on which its wish list comes in."""
        self.reconciling: Counter[int] = Counter()
        """UID of a caller → how many of its wish lists are being applied."""
        self.stopping = threading.Event()
        """Set when the agent is about to end: work that takes long gives up."""
        self._packing: set[str] = set()
        self._packing_lock = threading.Lock()
        self._changed_at: dict[str, float] = {}
        self._purged: OrderedDict[str, int] = OrderedDict()
        self._purges = [at for base in (settings.home, settings.shared) for _, at in homes.trashed(system, base)]

    def home(self, name: str) -> str:
        return f"{self.settings.home}/{name}"

    def entry(self, name: str) -> Entry:
        """Return a managed account's line. Raises PermissionDenied for every other name."""
        entry = self.registry.get(name)
        if entry is None:
            raise PermissionDenied(f"{name} is not an account of the platform.", "It is left alone.")
        return entry

    def open_groups(self, host: HostAccounts) -> set[str]:
        """Return the managed groups that are the host's too, as they were made: the server says who is in them.

        One that got another number, or rights in sudoers, is root's affair since.
        """
        return {
            name
            for name, gid in self.groups.gids.items()
            if host.group_id(name) == gid and not host.is_group_of_sudoer(name, gid)
        }

    def allowed_groups(self, host: HostAccounts) -> set[str]:
        """Return the groups that make nobody an administrator."""
        return {*self.settings.allowed_groups, *self.open_groups(host), *self.codes_group(host)}

    def codes_group(self, host: HostAccounts) -> frozenset[str]:
        """Return the group of those whom PAM asks for a code, as the installation made it; empty if it is not there."""
        gid = host.group_id(CODES_GROUP)
        is_ours = gid is not None and gid < 1000 and not host.is_group_of_sudoer(CODES_GROUP, gid)
        return frozenset({CODES_GROUP}) if is_ours else frozenset()

    def check_live(
        self, caller: Caller, entry: Entry, host: HostAccounts, *, harmless: bool = False
    ) -> PosixAccount | None:
        """Return a managed account as the host has it now, None if it is missing there.

        harmless: what is to be done gives nobody a way in (locking, ending programs, limits); that may be done to
        whom root made an administrator through the platform, too. Raises Conflict if its number is not ours any more,
        PermissionDenied if it is an administrator of the host (unless root asks).
        """
        account = host.get(entry.name)
        if account is None:
            return None
        if account.uid != entry.uid:
            raise Conflict(
                f"{entry.name} is number {account.uid} on the host, not {entry.uid}.", "Someone changed it by hand."
            )
        if account.uid == 0 or account.uid < 1000:
            raise PermissionDenied(f"{entry.name} is an account of the system.")
        if not caller.is_root and not (harmless and entry.name in self.administrators.names):
            accounts.check_ordinary(host, account, allowed_groups=self.allowed_groups(host))
        return account

    def check_limits(self, limits: WishedLimits) -> Limits:
        """Return limits that this host can give. Raises InvalidInput for more than it has."""
        if limits.cpu > self.cores:
            raise InvalidInput(f"cpu: {limits.cpu:g} cores are more than the host's {self.cores}.")
        if limits.memory > self.memory:
            raise InvalidInput(f"memory: {format_size(limits.memory)} is more than the host's {self.memory >> 20}M.")
        return Limits(Cores(limits.cpu), Bytes(limits.memory), limits.tasks)

    @contextlib.contextmanager
    def packing(self, name: str) -> Iterator[None]:
        """Be the only one that packs an account's home. Raises Unavailable if another does."""
        with self._packing_lock:
            if name in self._packing:
                raise Unavailable(f"The home of {name} is being packed.", "Ask again in a while: it goes on.")
            self._packing.add(name)
        try:
            yield
        finally:
            self._packing.discard(name)

    def note_change(self, name: str) -> None:
        """Remember that a wish list gathered a moment ago may not know of this change."""
        now = time.monotonic()
        if len(self._changed_at) > 1000:
            self._changed_at = {n: at for n, at in self._changed_at.items() if now - at < self.grace_s}
        self._changed_at[name] = now

    def changed_lately(self, name: str, *, before: float) -> bool:
        """Tell whether an account was changed since `before` (monotonic seconds) less the grace."""
        return self._changed_at.get(name, float("-inf")) > before - self.grace_s

    def count_purge(self) -> None:
        """Count one more among the hour's purges, of an account or a group."""
        self._purges.append(self.clock())

    def note_purge(self, name: str, generation: int, *, removed: bool = True) -> None:
        """Remember a purge, so that no wish from before it brings the account back. removed: there was an account."""
        if removed:
            self.count_purge()
        self._purged[name] = max(generation, self._purged.get(name, 0))
        while len(self._purged) > 10_000:
            self._purged.popitem(last=False)

    def was_purged(self, name: str, generation: int) -> bool:
        """Tell whether a wish of this generation comes from before the account's purge."""
        return generation <= self._purged.get(name, -1)

    def check_purge_rate(self, caller: Caller) -> None:
        """Raises TooManyRequests if an hour's purges are used up and the caller is not root."""
        now = self.clock()
        self._purges = [at for at in self._purges if now - at < 3600]
        if not caller.is_root and len(self._purges) >= PURGES_AN_HOUR:
            raise TooManyRequests(
                f"{PURGES_AN_HOUR} accounts and groups were removed within the hour.",
                "As root the same command goes on at once; or wait.",
                retry_after=max(1, int(3600 - (now - min(self._purges)))),
            )


def failure(name: str, error: DiyCloudError, uid: int | None = None) -> Outcome:
    """Return how an account fared that could not be changed."""
    return Outcome(name, uid, code=error.code, message=str(error))


def _total_memory(system: System) -> int:
    for line in (system.read("/proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0
