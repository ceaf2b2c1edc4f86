"""What the tests of limits share: private users, a managed file, a cgroup parent, an sshd and a cron of their own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from diycloud.host.cgroup import Tree, read_tree
from diycloud.host.cgroup_v1 import CgroupV1Slices
from diycloud.host.pam import STACKS, Hook, ensure_pam, remove_pam
from diycloud.host.slices import Limits
from diycloud.system import Local
from diycloud.units import Bytes, Cores
from tests.waiting import free_port

ALICE, BOB, FREE, OUTSIDE = "dtslalice", "dtslbob", "dtslfree", "dtsloutside"
UIDS = {ALICE: 52001, BOB: 52002, FREE: 52003, OUTSIDE: 52901}
UID_MIN, UID_MAX = 52000, 52099
HALF = Limits(Cores(0.5), Bytes(256 << 20), 64)
FALLBACK = Limits(Cores(1.0), Bytes(512 << 20), 128)
SYSTEM = Local()


def why_not() -> str:
    """Return why this machine cannot run the tests of limits on cgroup v1; empty if it can."""
    if os.geteuid() != 0:
        return "needs root"
    if Path("/run/systemd/system").exists():
        return "systemd keeps the cgroups here (tests/vm tries that)"
    tree = read_tree(SYSTEM)
    if not isinstance(tree, Tree):
        return str(tree)
    if tree.v2:
        return "this host has cgroup v2"
    missing = [name for name in ("sshd", "ssh", "su", "cron", "useradd", "pam-auth-update") if not shutil.which(name)]
    return f"needs {', '.join(missing)}" if missing else ""


def v1_slices(parent: str) -> CgroupV1Slices:
    tree = read_tree(SYSTEM)
    assert isinstance(tree, Tree)
    return CgroupV1Slices(SYSTEM, tree.v1, parent)


def controller_folder(controller: str, *parts: str) -> Path:
    tree = read_tree(SYSTEM)
    assert isinstance(tree, Tree)
    return Path(tree.v1[controller], *parts)


def remove_parent(parent: str) -> None:
    """Remove what a test left below a cgroup parent, and the parent."""
    slices = v1_slices(parent)
    for name in SYSTEM.list_dir(controller_folder("pids", parent)):
        if controller_folder("pids", parent, name).is_dir():
            slices.stop(name, 0)
            slices.remove(name, 0)
    for controller in ("cpu", "cpuacct", "memory", "pids"):
        for name in SYSTEM.list_dir(controller_folder(controller, parent)):
            if controller_folder(controller, parent, name).is_dir():
                slices.remove(name, 0)
        SYSTEM.remove(controller_folder(controller, parent))


@dataclass
class World:
    """The test bed. managed: the agent's file, as the agent would write it; no agent runs."""

    folder: Path
    parent: str
    port: int
    hook: Hook
    sshd: subprocess.Popen[bytes] = field(init=False)
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def slices(self) -> CgroupV1Slices:
        return v1_slices(self.parent)

    def manage(self, **limits: Limits) -> None:
        """Write the managed file with these active accounts, or (limits None) locked ones."""
        self.write_managed({name: (value, "active") for name, value in limits.items()})

    def write_managed(self, accounts: dict[str, tuple[Limits, str]]) -> None:
        lines = [
            f"{name} {UIDS[name]} 7 {state} {round(limits.cpu * 100_000)} {limits.memory} {limits.tasks}\n"
            for name, (limits, state) in accounts.items()
        ]
        SYSTEM.write(self.hook.managed, "diycloud-managed 1 52100\n" + "".join(lines), mode=0o600)

    def argv(self, entry: str, user: str, command: str) -> list[str]:
        if entry == "su":
            return ["su", user, "-s", "/bin/sh", "-c", command]
        assert entry == "ssh"
        return ["ssh", "-F", "none", "-i", str(self.folder / "key"), "-p", str(self.port), "-o", "BatchMode=yes",
                "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
                "-o", "ConnectTimeout=30", f"{user}@127.0.0.1", command]  # fmt: skip

    def run(self, entry: str, user: str, command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(entry, user, command), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout
        )

    def start(self, entry: str, user: str, command: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            self.argv(entry, user, command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
        self.children.append(child)
        return child

    def clear(self) -> None:
        """End what a test started and forget its slices."""
        for name in (ALICE, BOB, FREE):
            self.slices.stop(name, 0)
            self.slices.remove(name, 0)
        for child in self.children:
            if child.poll() is None:
                child.terminate()
            child.communicate(timeout=10)
        self.children.clear()

    def cores_used(self, name: str, seconds: float = 10.0, windows: int = 3) -> float:
        """Return the median, over some windows, of the cores that a slice used, by the kernel's counter."""
        usage = controller_folder("cpuacct", self.parent, name, "cpuacct.usage")
        found = []
        for _ in range(windows):
            before, start = int(usage.read_text()), time.monotonic()
            time.sleep(seconds)
            found.append((int(usage.read_text()) - before) / 1e9 / (time.monotonic() - start))
        print(f"cores used by {name}: {', '.join(f'{value:.3f}' for value in found)}")
        return statistics.median(found)

    def install_hook(self) -> None:
        ensure_pam(SYSTEM, "debian", self.hook)


def cgroups_of(text: str) -> dict[str, str]:
    """Return controller → path from the text of /proc/PID/cgroup."""
    found = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def wait_for(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def stacks() -> dict[str, bytes]:
    """Return what pam-auth-update may touch."""
    files = [*(Path("/etc/pam.d") / name for name in (*STACKS, "common-auth", "common-account", "common-password"))]
    return {str(path): path.read_bytes() for path in [*files, *sorted(Path("/var/lib/pam").iterdir())]}


@contextmanager
def world() -> Iterator[World]:
    """Make the bed, and take every part of it away again. The PAM stacks are byte for byte what they were."""
    # Not pytest's own folder: sshd reads keys as the user, and any other pytest that starts makes that one 0700 again.
    folder = Path(tempfile.mkdtemp(prefix="dtsl-"))
    folder.chmod(0o711)
    try:
        with _bed_in(folder) as bed:
            yield bed
    finally:
        shutil.rmtree(folder)


@contextmanager
def _bed_in(folder: Path) -> Iterator[World]:
    before = stacks()
    assert b"diycloud" not in b"".join(before.values()), "a hook is installed on this machine already"
    lib = folder / "opt" / "lib"
    lib.mkdir(parents=True)
    managed = folder / "agent" / "managed"
    managed.parent.mkdir(mode=0o700)
    hook = Hook(lib / "pam-session", managed, f"dtsl{os.getpid()}", UID_MIN, UID_MAX, FALLBACK)
    bed = World(folder, hook.parent, free_port(), hook)
    try:
        for name, uid in UIDS.items():
            subprocess.run(["useradd", "-m", "-u", str(uid), "-s", "/bin/bash", name], check=True, capture_output=True)
        bed.install_hook()
        bed.sshd = _start_sshd(bed)
        bed.manage()
        # The test's users get the CPU time they are due, whatever else this machine is doing.
        for controller in ("cpu", "cpuacct", "memory", "pids"):
            controller_folder(controller, bed.parent).mkdir(exist_ok=True)
        controller_folder("cpu", bed.parent, "cpu.shares").write_text("262144")
        yield bed
    finally:
        bed.clear()
        if hasattr(bed, "sshd"):
            bed.sshd.terminate()
            bed.sshd.wait(10)
        remove_pam(SYSTEM, "debian", hook)
        remove_parent(bed.parent)
        for name in UIDS:
            subprocess.run(["userdel", "-r", name], check=False, capture_output=True)
    assert stacks() == before


def _start_sshd(bed: World) -> subprocess.Popen[bytes]:
    folder = bed.folder
    for name in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    keys = folder / "authorized_keys"
    keys.write_text((folder / "key.pub").read_text())
    keys.chmod(0o644)
    config = folder / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{bed.port}\nHostKey {folder}/host_key\nAuthorizedKeysFile {keys}\nPidFile none\n"
        "UsePAM yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nStrictModes no\nPermitRootLogin yes\n"
        "LogLevel VERBOSE\n"
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    daemon = subprocess.Popen([shutil.which("sshd") or "sshd", "-D", "-f", config, "-E", folder / "sshd.log"])

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", bed.port)) == 0

    assert wait_for(answers), (folder / "sshd.log").read_text()
    return daemon


@contextmanager
def cron(folder: Path, tables: dict[str, str]) -> Iterator[None]:
    """Run cron with only these users' tables, in a mount namespace where nothing else is scheduled."""
    spool = folder / "crontabs"
    shutil.rmtree(spool, ignore_errors=True)
    spool.mkdir()
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "nothing").write_text("")
    group = shutil.which("crontab") and Path("/var/spool/cron/crontabs").stat().st_gid
    os.chown(spool, 0, group or 0)
    spool.chmod(0o1730)
    for user, table in tables.items():
        path = spool / user
        path.write_text(table)
        os.chown(path, UIDS.get(user, 0), group or 0)
        path.chmod(0o600)
    script = (
        f"mount --bind {spool} /var/spool/cron/crontabs; mount --bind {folder}/empty /etc/cron.d;"
        f"mount --bind {folder}/nothing /etc/crontab; mount -t tmpfs none /run; exec cron -f"
    )
    daemon = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(10)
