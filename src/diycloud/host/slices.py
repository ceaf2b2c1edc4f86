"""The slice: the cgroup that holds everything a user runs, and carries the limits.

Three ways of the kernel and init, one Protocol: SystemdSlices (user-UID.slice, set through systemd, never by writing
its files), CgroupV1Slices and CgroupV2Slices (`user/NAME`, written directly, where no systemd runs).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from diycloud.errors import Unsupported
from diycloud.system import System
from diycloud.units import Bytes, Cores

if TYPE_CHECKING:
    from diycloud.host.parts import Part


class Limits(NamedTuple):
    """cpu: cores, fractions allowed; memory: bytes; tasks: processes and threads."""

    cpu: Cores
    memory: Bytes
    tasks: int


class Counters(NamedTuple):
    """One reading of a slice. cpu_us and throttled_us grow; memory (bytes) and tasks are now."""

    cpu_us: int
    memory: Bytes
    tasks: int
    oom_kills: int
    throttled_us: int


RESERVED_TASKS = 16
"""Processes kept free above the limit, so that a user at the limit can still sign in and clean up."""


class Slices(Protocol):
    """What the agent asks of a host's cgroups. name and uid together name the user; each uses what it needs."""

    kind: str

    def ensure(self, name: str, uid: int, limits: Limits) -> bool:
        """Make the slice and its limits exist; what already runs is held to them at once. True if anything changed.

        Raises HostError if the kernel refuses: memory below what is in use and cannot be reclaimed.
        """

    def ensure_many(self, users: list[tuple[str, int, Limits]]) -> list[bool]:
        """As ensure for each, at the cost of one where the host allows it (one daemon-reload)."""

    def read(self, name: str, uid: int) -> Counters | None:
        """Read the counters, None if there is no slice. Cheap: called for every watched user every two seconds."""

    def read_limits(self, name: str, uid: int) -> Limits | None:
        """Read the limits that are in force in the kernel or on disk; None if there are none, or not all of them."""

    def processes(self, name: str, uid: int) -> list[int]:
        """Return the pids in the slice and below."""

    def within(self, name: str, uid: int) -> list[str]:
        """Return the words to put ahead of a command, so that root's process runs it inside the slice, which exists."""

    def take_in(self, name: str, uid: int, pids: Iterable[int]) -> int:
        """Move processes that run already into the slice, which exists. Returns how many could be moved."""

    def part(self, name: str, uid: int, part: str) -> Part:
        """Return a part of the slice by its name (`notebook`, `notebook-lab`), whether it is there or not."""

    def stop(self, name: str, uid: int) -> int:
        """End every process in the slice (SIGTERM, a short grace, SIGKILL until none is left). Returns how many.

        Safe beside `ensure` and another `stop`: what it takes from the limits meanwhile, it gives back as they are then.
        """

    def remove(self, name: str, uid: int) -> bool:
        """Remove the slice and its limits. It must be empty. True if there was one."""


def detect_slices(system: System, cgroup: str = "user") -> Slices | Unsupported:
    """Choose the way this host keeps slices: systemd if it runs (sd_booted(3)), else cgroup v2, else v1.

    cgroup: without systemd, the folder under each controller's root that holds the slices.
    Returns, not raises, Unsupported with what is missing: accounts work without limits, and doctor says why.
    """
    from diycloud.host.cgroup import read_tree
    from diycloud.host.cgroup_v1 import CgroupV1Slices
    from diycloud.host.cgroup_v2 import CgroupV2Slices
    from diycloud.host.systemd_slices import SystemdSlices

    tree = read_tree(system)
    if isinstance(tree, Unsupported):
        return tree
    if system.exists("/run/systemd/system"):
        return SystemdSlices(system, tree)
    return CgroupV2Slices(system, tree.v2, cgroup) if tree.v2 else CgroupV1Slices(system, tree.v1, cgroup)
