"""See that what a bench made is real, and take it away again."""

from __future__ import annotations

import pwd
import re
import subprocess
import time
from pathlib import Path

_OURS = re.compile(r"dtb[a-z]*[0-9]*\Z")
_CONTROLLERS = ("cpu", "cpuacct", "memory", "pids")


def check_account(cgroup: str, name: str, *, cores: float, memory_mb: int) -> None:
    """Raise RuntimeError unless the account has its home and its limits are in force in the kernel."""
    account = pwd.getpwnam(name)
    if not Path(account.pw_dir).is_dir():
        raise RuntimeError(f"{name} has no home")
    found = (
        int(_read("cpu", cgroup, name, "cpu.cfs_quota_us")) / int(_read("cpu", cgroup, name, "cpu.cfs_period_us")),
        int(_read("memory", cgroup, name, "memory.limit_in_bytes")) >> 20,
    )
    if found != (cores, memory_mb):
        raise RuntimeError(f"{name} has {found} (cores, MB), not {(cores, memory_mb)}")


def _read(controller: str, cgroup: str, name: str, file: str) -> str:
    return Path(f"/sys/fs/cgroup/{controller}/{cgroup}/{name}/{file}").read_text()


def remove_all(cgroup: str, homes: Path) -> None:
    """Remove the accounts that a bench made (named dtb…, home under `homes`) and the bench's cgroups."""
    for account in pwd.getpwall():
        if _OURS.match(account.pw_name) and Path(account.pw_dir).is_relative_to(homes):
            subprocess.run(
                ["userdel", "-f", account.pw_name], check=False, stderr=subprocess.DEVNULL
            )  # 6: gone already
    for controller in _CONTROLLERS:
        top = Path("/sys/fs/cgroup") / controller / cgroup
        folders = [*sorted(top.rglob("*/"), reverse=True), top] if top.is_dir() else []
        for folder in folders:
            if folder.is_dir():
                _remove_folder(folder)


def _remove_folder(folder: Path) -> None:
    for _ in range(50):  # a group is busy for a moment after its last process
        try:
            return folder.rmdir()
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"{folder} cannot be removed: {(folder / 'cgroup.procs').read_text().split()}")
