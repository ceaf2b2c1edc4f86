"""What the platform may ask of the operating system: the Protocol and its small types."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CLEAN_ENV = {"PATH": PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "HOME": "/root"}


class Owner(NamedTuple):
    """Numeric user and group of a file or process."""

    uid: int
    gid: int


ROOT = Owner(0, 0)
Watch = Callable[[int], None]


class Result(NamedTuple):
    """What a program printed and its exit status."""

    status: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.status == 0


class System(Protocol):
    """What the platform may ask of the operating system."""

    def run(
        self,
        argv: Sequence[str],
        *,
        input: str | None = None,
        ok: Sequence[int] = (0,),
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
        user: Owner | None = None,
        cwd: str | None = None,
    ) -> Result:
        """Run a program that changes the host.

        input: given on standard input, never logged (the place for secrets). ok: the exit statuses that are success.
        env: added to a clean environment. user: run as this user with no supplementary groups.
        Raises HostError with the program's last lines for any other status, a missing program or a timeout (seconds).
        """

    def query(
        self,
        argv: Sequence[str],
        *,
        input: str | None = None,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run a program that only reads. Any exit status is an answer; a missing program has status 127."""

    def store_output(self, argv: Sequence[str], path: str | Path, *, watch: Watch) -> str:
        """Run a program and put what it prints into a new file, 0600, as long as it may be; synced at the end.

        A file that is there is replaced. watch: called with the bytes so far, at least twice a second; what it raises
        ends the program. Returns what the program wrote to standard error, its end if that is long.
        Raises HostError as `run`; what was written by then stays.
        """

    def read(self, path: str | Path) -> str | None:
        """Return a file's text, None if there is none."""

    def write(self, path: str | Path, text: str, *, mode: int = 0o644, owner: Owner = ROOT) -> bool:
        """Make a file have this text, mode and owner, atomically (temporary file, fsync, rename). True if it changed."""

    def replace(self, path: str | Path, text: str) -> bool:
        """Give a file that is there another text, atomically. Mode, owner and labels stay. True if it changed."""

    def set_value(self, path: str | Path, value: str) -> None:
        """Write to a file of the kernel's (cgroup, sysctl) that exists already. Raises HostError with the kernel's word."""

    def make_dir(self, path: str | Path, *, mode: int = 0o755, owner: Owner = ROOT) -> bool:
        """Make one directory (its parent exists) have this mode and owner. True if it changed."""

    def set_attribute(self, path: str | Path, name: str, value: bytes) -> bool:
        """Make a directory have an extended attribute (xattr(7)). True if it changed.

        Raises Unsupported where the file system keeps none of that kind.
        """

    def copy_tree(self, source: str | Path, target: str | Path, *, owner: Owner) -> None:
        """Copy what a directory holds into one that is there, as the owner's: files, directories, links as they are.

        Both must be nobody's to change meanwhile. Permissions are kept, but not set-user-ID and its like.
        """

    def link(self, path: str | Path, target: str) -> bool:
        """Make a symbolic link at path to target. True if it changed."""

    def rename(self, old: str | Path, new: str | Path) -> None:
        """Rename within one file system; what is at new then survives a power cut. An existing directory there is refused."""

    def remove(self, path: str | Path) -> bool:
        """Remove a file, link or empty directory. True if there was one."""

    def remove_tree(self, path: str | Path) -> bool:
        """Remove a directory and all below, following no link and crossing no mount. True if there was one."""

    def give_tree(self, path: str | Path, *, old: int, new: int) -> tuple[int, int]:
        """Give what is UID old's below a directory to UID new, though others write there meanwhile.

        Returns how many files and directories were given, and how many entries of old's were left (links, sockets).
        """

    def exists(self, path: str | Path) -> bool:
        """Tell whether there is anything at path (a dangling link counts)."""

    def list_dir(self, path: str | Path) -> list[str]:
        """Return the sorted names in a directory, none if there is no such directory."""

    def locked(self, path: str | Path, *, patience_s: float = 30) -> AbstractContextManager[None]:
        """Hold a lock file that other programs take too (fcntl(2)), made 0600 if it is missing.

        Raises HostError if another process holds it for longer than patience_s.
        """

    def kill(self, pid: int, sig: int = signal.SIGKILL) -> bool:
        """Send a signal. False if there was no such process."""


def command_line(argv: Sequence[str]) -> str:
    """Return a command as a person would paste it into a shell."""
    return shlex.join(argv)
