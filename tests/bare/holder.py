"""The first process of a bare root: makes its mounts, then reaps what its daemons leave until it is told to end.

Started by bareroot.py with this machine's own Python inside fresh namespaces (mount, pid, uts, ipc, cgroup). When it
ends, the kernel ends every process of its pid namespace, and the mounts go with the last of them (pid_namespaces(7)).

Its one argument is a Plan as JSON. When all is mounted it writes its pid, as this machine counts, to the plan's file.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
# Words of a cgroup mount that name no hierarchy.
PLAIN_OPTIONS = {"rw", "ro", "relatime", "xattr", "noprefix", "clone_children"}


class Plan(NamedTuple):
    """root: the folder to live in. started: the file that gets the pid. folders: those of this machine to show inside.

    owner: a descriptor that becomes readable when the owner dies (pidfd_open(2)), -1 for none.
    """

    root: str
    started: str
    folders: list[str]
    owner: int
    private_network: bool


def mount(kind: str, target: Path, options: str = "", source: str = "none") -> None:
    """Mount a file system; the folder is made if need be."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["mount", "-t", kind, source, str(target), *(["-o", options] if options else [])],
        check=True,
        stdin=subprocess.DEVNULL,
    )


def bind(source: str, target: Path) -> None:
    """Show a folder of this machine in the root."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--rbind", source, str(target)], check=True, stdin=subprocess.DEVNULL)


def mount_devices(dev: Path) -> None:
    """Make a /dev of the root's own: a daemon's socket or a new terminal there is not seen outside."""
    mount("tmpfs", dev, "mode=755,nosuid")
    for name, (major, minor) in DEVICES.items():
        os.mknod(dev / name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        (dev / name).chmod(0o666)
    for name, target in LINKS.items():
        (dev / name).symlink_to(target)
    mount("devpts", dev / "pts", "newinstance,ptmxmode=0666,mode=620,gid=5")
    mount("tmpfs", dev / "shm", "mode=1777,nosuid,nodev")


def mount_cgroups(root: Path) -> None:
    """Mount the host's cgroup hierarchies at the same places.

    With v1 each is mounted anew in our cgroup namespace, so that the root of it is the sub-cgroup made for this bare
    root. With v2 alone a cgroup below the top may not hold processes and hand out controllers at once, so the host's
    own tree is shown.
    """
    rows = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    base = root / "sys/fs/cgroup"
    found = [
        (row[4], row[row.index("-") + 1], row[-1].split(",")) for row in rows if row[4].startswith("/sys/fs/cgroup")
    ]
    if any(kind == "cgroup2" and place == "/sys/fs/cgroup" for place, kind, _ in found):
        bind("/sys/fs/cgroup", base)
        return
    mount("tmpfs", base, "mode=755,nosuid,nodev,noexec")
    for place, kind, options in found:
        target = root / place.lstrip("/")
        if kind == "cgroup2":
            mount("cgroup2", target)
        elif kind == "cgroup":
            names = [word for word in options if word not in PLAIN_OPTIONS and not word.startswith("release_agent=")]
            mount("cgroup", target, ",".join(["none", *names] if names[0].startswith("name=") else names))


def reap_until_owner_dies(owner: int) -> None:
    """Collect orphans that end, as an init does; return when the owner's descriptor says it is gone."""
    alarm, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    watched = [alarm] if owner < 0 else [alarm, owner]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if owner in ready:
            return
        os.read(alarm, 4096)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    root = Path(plan.root)
    pid = Path("/proc/self").readlink().name  # this machine's /proc is still mounted: its count, not the namespace's
    started = os.open(plan.started, os.O_WRONLY)
    mount("proc", root / "proc")
    mount("sysfs", root / "sys", "ro")
    mount_devices(root / "dev")
    mount_cgroups(root)
    mount("tmpfs", root / "run", "mode=755,nosuid,nodev")
    (root / "run/lock").mkdir()
    (root / "run/lock").chmod(0o1777)
    for folder in plan.folders:
        bind(folder, root / folder.lstrip("/"))
    subprocess.run(["hostname", "bare"], check=True)
    if plan.private_network:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.chdir(root)
    subprocess.run(["pivot_root", ".", "."], check=True)
    # The old root now lies over the new one; below it is ours alone.
    subprocess.run(["umount", "--lazy", "."], check=True)
    os.chdir("/")
    os.write(started, pid.encode())
    os.close(started)
    reap_until_owner_dies(plan.owner)


if __name__ == "__main__":
    main()
