"""Distribution packages, by generic name.

What is installed is not installed again; the index is fetched only when a wanted package is not in it or has moved on;
a held lock is waited for; an interrupted earlier run is finished first. Nothing asks a question.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from diycloud.distro.detect import HostFacts
from diycloud.distro.tables import Family, family
from diycloud.errors import HostError, Unsupported
from diycloud.system import System


class PackageManager(Protocol):
    """What the platform asks of a package manager. Names are generic ones (families.toml) unless said otherwise."""

    kind: str

    def install(self, names: Iterable[str]) -> list[str]:
        """Install what is missing. Returns the family's names of the packages that were. Raises HostError."""

    def remove(self, names: Iterable[str]) -> list[str]:
        """Remove what is there, keeping its settings. Returns the family's names of the packages that were removed."""

    def refresh(self) -> None:
        """Fetch the index of packages. Raises HostError."""

    def owner_of(self, path: str) -> str | None:
        """Return the family's name of the package that a file belongs to."""

    def is_untouched(self, path: str) -> bool:
        """Tell whether a settings file is as its package brought it. False if that cannot be known."""


LOCK_SECONDS = 600
"""How long another package manager's lock is waited for; unattended upgrades take minutes."""
_INSTALL_SECONDS = 3600

_UNATTENDED = {
    "DEBIAN_FRONTEND": "noninteractive",
    "NEEDRESTART_SUSPEND": "1",  # needrestart on Ubuntu would restart people's services
    "APT_LISTCHANGES_FRONTEND": "none",
}
_KEEP_SETTINGS = ("--force-confdef", "--force-confold")
_LOCKED = ("/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock", "Unable to lock directory")
_STALE_INDEX = ("404", "Unable to locate package", "has no installation candidate", "Hash Sum mismatch")
_INTERRUPTED = ("dpkg --configure -a", "Unmet dependencies")

POLICY = "/usr/sbin/policy-rc.d"
_POLICY_MARK = "# Written by diycloud while it installs packages; safe to remove."
_POLICY_TEXT = f"#!/bin/sh\n{_POLICY_MARK}\nexit 101\n"


class Apt:
    """apt-get and dpkg.

    No package starts its daemon while it is installed (policy-rc.d; Debian Policy 9.3.3, invoke-rc.d(8)): a web server
    would show its welcome page to the world before our site is there, and without init nobody would watch it.
    """

    kind = "apt"

    def __init__(
        self,
        system: System,
        table: Family,
        *,
        lock_seconds: float = LOCK_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._system = system
        self._table = table
        self._lock_seconds = lock_seconds
        self._sleep = sleep

    def install(self, names: Iterable[str]) -> list[str]:
        wanted = dict.fromkeys(package for name in names for package in self._table.package_names(name))
        missing = [package for package in wanted if self._version(package) is None]
        if not missing:
            return []
        if not all(self._has_candidate(package) for package in missing):
            self.refresh()
        with_policy = self._forbid_starts()
        try:
            self._install(missing)
        finally:
            if with_policy:
                self._system.remove(POLICY)
        return missing

    def _install(self, packages: list[str]) -> None:
        keep = [part for option in _KEEP_SETTINGS for part in ("-o", f"Dpkg::Options::={option}")]
        argv = ["install", "-y", "-q", "--no-install-recommends", *keep, "--", *packages]
        try:
            self._apt(argv)
        except HostError as error:
            if any(sign in error.message for sign in _INTERRUPTED):
                self._run(["dpkg", *_KEEP_SETTINGS, "--configure", "-a"])
                self._apt(["install", "-y", "-q", "--fix-broken", *keep])
            elif any(sign in error.message for sign in _STALE_INDEX):
                self.refresh()
            else:
                raise
            self._apt(argv)

    def remove(self, names: Iterable[str]) -> list[str]:
        wanted = dict.fromkeys(package for name in names for package in self._table.package_names(name))
        there = [package for package in wanted if self._version(package) is not None]
        if there:
            self._apt(["remove", "-y", "-q", "--", *there])
        return there

    def refresh(self) -> None:
        self._apt(["update", "-q"])

    def owner_of(self, path: str) -> str | None:
        result = self._system.query(["dpkg-query", "-S", path])
        return result.stdout.split(":", 1)[0].split(",")[0].strip() if result.ok else None

    def is_untouched(self, path: str) -> bool:
        owner, text = self.owner_of(path), self._system.read(path)
        if owner is None or text is None:
            return False
        answer = self._system.query(["dpkg-query", "-W", "-f", "${Conffiles}\n", owner]).stdout
        digests = dict(line.split()[:2] for line in answer.splitlines() if line.strip())
        # MD5 is what dpkg keeps; nothing is trusted because of it.
        return (
            digests.get(path) == hashlib.md5(text.encode(errors="surrogateescape"), usedforsecurity=False).hexdigest()
        )

    def _version(self, package: str) -> str | None:
        answer = self._system.query(["dpkg-query", "-W", "-f", "${db:Status-Abbrev}\t${Version}\n", package])
        for line in answer.stdout.splitlines():
            state, _, version = line.partition("\t")
            if state[1:2] == "i":  # wanted (install or hold), and installed
                return version
        return None

    def _has_candidate(self, package: str) -> bool:
        answer = self._system.query(["apt-cache", "policy", package]).stdout
        return "Candidate:" in answer and "Candidate: (none)" not in answer

    def _forbid_starts(self) -> bool:
        """Write the policy unless the host has one of its own. One of ours that a killed run left is taken over."""
        now = self._system.read(POLICY)
        if now is not None and _POLICY_MARK not in now:
            return False
        self._system.write(POLICY, _POLICY_TEXT, mode=0o755)
        return True

    def _apt(self, arguments: Sequence[str]) -> None:
        timeout = f"DPkg::Lock::Timeout={self._lock_seconds:.0f}"
        self._run(["apt-get", "-o", timeout, *arguments])

    def _run(self, argv: list[str]) -> None:
        """Run once the locks are free: apt waits for dpkg's by itself, not for those of its lists and archives."""
        waited = 0.0
        while True:
            try:
                self._system.run(argv, env=_UNATTENDED, timeout=_INSTALL_SECONDS)
            except HostError as error:
                if waited >= self._lock_seconds or not any(sign in error.message for sign in _LOCKED):
                    raise
                self._sleep(2.0)
                waited += 2.0
            else:
                return


def package_manager(facts: HostFacts, system: System) -> PackageManager:
    """Return the host's package manager. Raises Unsupported where there is none that this program can drive."""
    table = family(facts.distribution.family)
    if facts.package_tool == "apt":
        return Apt(system, table)
    what = facts.package_tool or f"none of {', '.join(table.package_tool)}"
    raise Unsupported(
        f"Packages of {facts.distribution.pretty_name} ({what}) cannot be installed by this version.",
        "Install nginx and Python's venv module by hand, then run with --without-packages.",
    )


class NoPackages:
    """For --without-packages: finds everything installed already and changes nothing."""

    kind = "none"

    def install(self, names: Iterable[str]) -> list[str]:
        return []

    def remove(self, names: Iterable[str]) -> list[str]:
        return []

    def refresh(self) -> None:
        """Nothing to fetch."""

    def owner_of(self, path: str) -> str | None:
        return None

    def is_untouched(self, path: str) -> bool:
        return False
