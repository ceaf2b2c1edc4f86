"""A bare Debian machine without an init system, for tests of the installation.

A cached debootstrap tree (minbase: apt, no Python, no certificates) under an overlay of its own, so that a fresh one
costs well under a second. Inside, commands see their own processes, /dev, /run, host name and cgroup roots; the
network is this machine's unless made private (then apt and pip reach nothing): a daemon in it must use high ports.
Packages start no daemon (policy-rc.d says 101). What commands leave running lives on until `down`, and dies with it.

From a test:

    def test_install(bare_root):                       # fixtures: tests/bare/conftest.py
        bare_root.push(".", "/src")
        before = bare_root.snapshot()
        bare_root.run("cd /src && ./install.sh --dry-run")
        assert differences(before, bare_root.snapshot()) == {}

    with BareRoot("trixie") as root:                   # or without pytest
        root.run(["apt-get", "-qq", "update"])
        root.spawn(["sleep", "60"])                    # a Popen; ends with the root at the latest

From a shell (names let several live side by side):

    python -m tests.bare.bareroot up trixie            # prints the name
    python -m tests.bare.bareroot run  -- apt-get -qq update
    python -m tests.bare.bareroot push . /src
    python -m tests.bare.bareroot snapshot before.json ; … ; python -m tests.bare.bareroot compare before.json
    python -m tests.bare.bareroot down
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.bare import debian, holder
from tests.bare.command import complete, kill_and_wait, last_lines
from tests.bare.tree import Entry, differences, pack, snapshot

ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
    "TERM": "dumb",
    "DEBIAN_FRONTEND": "noninteractive",
    "PIP_CERT": debian.BUNDLE,
}
PROGRAMS = {"unshare": "util-linux", "nsenter": "util-linux", "pivot_root": "util-linux", "git": "git", "tar": "tar"}
ALWAYS_IGNORED = ("/tmp", "/var/tmp", "/root/.cache", "/var/cache/ldconfig/aux-cache", "/etc/ld.so.cache")
CGROUPS = Path("/sys/fs/cgroup")


class CommandFailed(AssertionError):
    """A command in the root ended with a status that was not asked for. The message has its last lines."""


class BareRoot:
    """One bare root. suite: one of debian.SUITES. name: the instance; one of that name that is left over is removed.

    private_network: only a loopback of its own. Use as a context manager, or start() and stop().
    """

    def __init__(self, suite: str = "bookworm", name: str | None = None, *, private_network: bool = False) -> None:
        self.suite = suite
        self.name = name or f"{suite}-{os.getpid()}-{time.monotonic_ns() % 1_000_000}"
        self.private_network = private_network
        self.folder = debian.TOP / "bare" / self.name
        self._settings = debian.pip_settings()

    # ------------------------------------------------------------ life

    def start(self, *, keep: bool = False) -> BareRoot:
        """Make a fresh root. keep: let it outlive this process (the command line does). Raises CannotBuild."""
        debian.require(PROGRAMS)
        tree = debian.ensure_tree(self.suite)
        self.stop()
        for part in ("upper", "work", "root"):
            (self.folder / part).mkdir(parents=True)
        (self.folder / "suite").write_text(self.suite)
        self._prepare_upper(tree)
        started = self.folder / "pid"
        started.touch()
        for group in self._cgroups():
            group.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):  # a fresh v1 cpuset is empty and takes no process
                if (group / setting).exists():
                    (group / setting).write_text((group.parent / setting).read_text())
        owner = -1 if keep else os.pidfd_open(os.getpid())
        try:
            self._start_holder(tree, started, owner)
        finally:
            if owner >= 0:
                os.close(owner)
        return self

    def _prepare_upper(self, tree: Path) -> None:
        """Write what every instance needs: names, the resolver, and the rule that packages start no daemon."""
        upper = self.folder / "upper"
        (upper / "etc").mkdir()
        shutil.copystat(tree / "etc", upper / "etc")
        shutil.copy("/etc/resolv.conf", upper / "etc/resolv.conf")
        (upper / "etc/hosts").write_text("127.0.0.1 localhost bare\n")
        (upper / "etc/hostname").write_text("bare\n")
        (upper / "usr/sbin").mkdir(parents=True)
        policy = upper / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)

    def _start_holder(self, tree: Path, started: Path, owner: int) -> None:
        root = self.folder / "root"
        folders = [str(folder) for folder in debian.pip_folders(self._settings)]
        plan = holder.Plan(str(root), str(started), folders, owner, self.private_network)
        overlay = f"lowerdir={tree},upperdir={self.folder}/upper,workdir={self.folder}/work"
        # The overlay is mounted inside the namespace, so that it can never be left behind.
        script = 'mount -t overlay overlay -o "$1" "$2" && shift 2 && exec "$@"'
        namespaces = ["--mount", "--propagation", "private", "--pid", "--uts", "--ipc", "--cgroup"]
        argv = [
            *self._entering(),
            *["unshare", "--fork", "--kill-child", *namespaces, *(["--net"] if self.private_network else [])],
            *["sh", "-c", script, "sh", overlay, str(root)],
            *[sys.executable, holder.__file__, json.dumps(plan._asdict())],
        ]
        with (self.folder / "holder.log").open("w") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[owner] if owner >= 0 else [],
            )
        while not started.read_text():
            if process.poll() is not None:
                raise debian.CannotBuild("bare root: " + (self.folder / "holder.log").read_text()[-500:])
            time.sleep(0.005)
        # The session leader ends by itself when the holder does; nobody waits for it here.
        self._leader = process

    @property
    def pid(self) -> int | None:
        """The holder's pid as this machine counts, None if it is gone. Its arguments are checked: pids are reused."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.folder / "pid").read_text())
            if str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return None

    def stop(self) -> None:
        """End every process of the root and remove it. Fine to repeat."""
        pid = self.pid
        if pid is not None:
            kill_and_wait(pid)
        leader = self.__dict__.pop("_leader", None)
        if leader is not None:
            leader.wait(10)
        self._remove_cgroups(time.monotonic() + 10)
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def __enter__(self) -> BareRoot:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ------------------------------------------------------------ cgroups

    def _cgroups(self) -> list[Path]:
        """Our sub-cgroup in each hierarchy of the host; none where there is one v2 tree (holder.mount_cgroups)."""
        if (CGROUPS / "cgroup.controllers").exists():
            return []
        found = sorted(path for path in CGROUPS.iterdir() if (path / "cgroup.procs").exists() and not path.is_symlink())
        return [path / f"bare-{self.name}" for path in found]

    def _entering(self) -> list[str]:
        """Return the start of a command line that puts the rest into our sub-cgroups."""
        files = [str(group / "cgroup.procs") for group in self._cgroups()]
        script = f'for f in {" ".join(files)}; do echo $$ > $f || exit 125; done; exec "$@"' if files else 'exec "$@"'
        return ["sh", "-c", script, "sh"]

    def _remove_cgroups(self, deadline: float) -> None:
        for group in self._cgroups():
            while group.exists():
                for folder, _, _ in os.walk(group, topdown=False):
                    with contextlib.suppress(OSError):  # busy for a moment after its last process
                        os.rmdir(folder)
                if time.monotonic() > deadline:
                    break
                time.sleep(0.005)

    # ------------------------------------------------------------ use

    def spawn(
        self, command: str | Sequence[str], *, env: Mapping[str, str] | None = None, **options: object
    ) -> subprocess.Popen[str]:
        """Start a command in the root (a string goes to sh), return its Popen. It ends with the root at the latest."""
        pid = self.pid
        if pid is None:
            raise CommandFailed(f"the bare root {self.name} is not up")
        inside = ["sh", "-c", command] if isinstance(command, str) else list(command)
        spaces = ["--mount", "--pid", "--uts", "--ipc", "--cgroup", *(["--net"] if self.private_network else [])]
        argv = [*self._entering(), "nsenter", "--target", str(pid), *spaces, *inside]
        given = {**ENV, **(env or {})}
        return subprocess.Popen(argv, env=given, text=True, start_new_session=True, **options)  # type: ignore[call-overload, no-any-return]

    def run(
        self,
        command: str | Sequence[str],
        *,
        input: str = "",
        env: Mapping[str, str] | None = None,
        ok: Sequence[int] | None = (0,),
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the root as root and return its status, stdout and stderr.

        ok: the statuses that pass (None: any); CommandFailed otherwise, or after timeout (seconds).
        Daemons that it leaves behind may keep its output open: this waits for the command alone.
        """
        done = complete(lambda **files: self.spawn(command, env=env, **files), input=input, timeout=timeout)
        if ok is not None and done.returncode not in ok:
            raise CommandFailed(f"{command!r} in the bare root {last_lines(done)}")
        return done

    def path(self, inside: str) -> Path:
        """Return where this machine finds a path of the root. Beware of absolute links: they lead out of the root."""
        return Path(f"/proc/{self.pid}/root") / inside.lstrip("/")

    def push(self, source: str | Path, destination: str) -> None:
        """Copy a folder into the root, owned by root: what Git tracks or would track, or all of it outside Git."""
        target = self.path(destination)
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "-C", str(target), "-xf", "-"], input=pack(source), check=True)

    def snapshot(self) -> dict[str, Entry]:
        """Return the whole file system of the root (without /proc, /sys, /dev, /run), for differences()."""
        return snapshot(self.path("/"))


# ---------------------------------------------------------------- command line


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bareroot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default="bare", help="the instance (default: bare)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="make a fresh root; one of that name is replaced")
    up.add_argument("suite", nargs="?", default="bookworm", choices=sorted(debian.SUITES))
    up.add_argument("--private-network", action="store_true", help="only a loopback of its own")
    verbs.add_parser("run", help="run a command as root").add_argument("command", nargs=argparse.REMAINDER)
    push = verbs.add_parser("push", help="copy a folder in (a Git checkout: tracked and unignored files)")
    push.add_argument("source")
    push.add_argument("destination")
    for verb, text in (
        ("snapshot", "write what is in the file system"),
        ("compare", "print what changed since; 1 if any"),
    ):
        verbs.add_parser(verb, help=text).add_argument("file", type=Path)
    verbs.add_parser("down", help="end its processes and remove it")
    verbs.add_parser("list", help="print the roots that are up")
    given = parser.parse_args(argv)
    if given.verb == "list":
        for folder in sorted((debian.TOP / "bare").glob("*/pid")):
            print(folder.parent.name, "up" if BareRoot(name=folder.parent.name).pid else "dead")
        return 0
    root = BareRoot(name=given.name)
    if given.verb == "up":
        BareRoot(given.suite, given.name, private_network=given.private_network).start(keep=True)
        print(given.name)
    elif given.verb == "down":
        root.stop()
    elif root.pid is None:
        print(f"bareroot: {given.name} is not up", file=sys.stderr)
        return 1
    elif given.verb == "run":
        command = given.command[1:] if given.command[:1] == ["--"] else given.command
        return root.spawn(command or ["bash"]).wait()
    elif given.verb == "push":
        root.push(given.source, given.destination)
    elif given.verb == "snapshot":
        given.file.write_text(json.dumps(root.snapshot()))
    else:
        before = {path: Entry(*entry) for path, entry in json.loads(given.file.read_text()).items()}
        changed = differences(before, root.snapshot(), ALWAYS_IGNORED)
        print("\n".join(f"{path}: {what}" for path, what in changed.items()))
        return 1 if changed else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
