"""A disposable Debian machine with a real systemd: QEMU's own emulation, no KVM and no privileges of a kernel needed.

cgroup v2 (or v1 and hybrid with bookworm), quotas on /home and /data, one CPU (with more, the emulated kernel now and
then panics). Reached by ssh through ports on 127.0.0.1.

From a test (fixtures in tests/vm/conftest.py):

    machine.push(".", "/src")
    machine.run("cd /src && ./install.sh")                      # as root; raises unless the status is 0
    machine.login("alice", "secret", "cat /proc/self/cgroup")   # through sshd and PAM, with a password
    machine.save("installed") ; … ; machine.reset("installed")  # memory and disks, in seconds

From a shell (names let several live side by side):

    python -m tests.vm.machine build trixie ready
    python -m tests.vm.machine up trixie base          # resumes with what is on its disks; --fresh starts over
    python -m tests.vm.machine ssh -- systemctl --failed
    python -m tests.vm.machine push . /src ; … save clean ; … reset clean ; … info ; … logs ; … down
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bare import debian
from tests.bare.command import complete, kill_and_wait, last_lines
from tests.bare.tree import pack
from tests.vm.image import KEY, ensure_image

INSTANCES = debian.TOP / "machines" / "run"
BOOT_SECONDS = 180
DISKS = ("root", "home", "data")
# Without cmpxchg16b: QEMU 7.2 now and then returns from an interrupt behind it with flags that were never computed,
# and the kernel's allocator, which lives on that instruction, panics. Five-level paging and SVM only cost time, and so do
# string instructions that the guest believes to be fast.
CPU = "max,cx16=off,la57=off,svm=off,erms=off,fsrm=off"
# What was translated is found again by its address: programs that lie elsewhere each time are translated each time. With
# these words a process starts in a quarter of the time.
KERNEL = ("norandmaps", "nokaslr", "init_on_alloc=0", "mitigations=off", "nowatchdog", "quiet", "net.ifnames=0")
GUEST_PORTS = {"ssh": 22, "http": 80, "https": 443}
CGROUPS = {  # words for the guest kernel and its systemd; trixie's kernel has no v1 memory controller
    "v2": [],
    "hybrid": ["systemd.unified_cgroup_hierarchy=0", "systemd.legacy_systemd_cgroup_controller=0"],
    "v1": ["systemd.unified_cgroup_hierarchy=0", "systemd.legacy_systemd_cgroup_controller=1"],
}


class MachineError(AssertionError):
    """The machine did not come up, or a command in it ended with a status that was not asked for."""


class Config(NamedTuple):
    """What an instance is made of. memory: MiB; ports: on 127.0.0.1, by the names of GUEST_PORTS."""

    image: str
    memory: int
    cgroup: str
    ports: dict[str, int]


class Machine:
    """One instance, by its name."""

    def __init__(self, name: str = "vm") -> None:
        self.name = name
        self.folder = INSTANCES / name
        self._file = self.folder / "config.json"
        self._owned = False
        self._process: subprocess.Popen[bytes] | None = None  # QEMU, if this object started it

    # ------------------------------------------------------------ life

    @property
    def config(self) -> Config:
        if not self._file.exists():
            raise MachineError(f"there is no machine {self.name}: bring it up first")
        return Config(**json.loads(self._file.read_text()))

    def up(
        self,
        suite: str = "trixie",
        tag: str = "base",
        *,
        memory: int = 2048,
        cgroup: str = "v2",
        fresh: bool = False,
        owned: bool = False,
    ) -> float:
        """Boot the machine and wait until root can sign in; return the seconds it took.

        An instance that has disks of the same image goes on with them unless fresh. owned: it ends with this process.
        A boot that is not done within BOOT_SECONDS is tried once more with fresh disks.
        Raises CannotBuild (no QEMU, no image), MachineError (two boots failed).
        """
        image = ensure_image(suite, tag)
        self.down()
        self._owned = owned
        self.folder.mkdir(parents=True, exist_ok=True)
        config = Config(str(image), memory, cgroup, {name: _free_port() for name in GUEST_PORTS})
        same = self._file.exists() and self.config[:3] == config[:3]
        self._file.write_text(json.dumps(config._asdict()))
        began = time.monotonic()
        if fresh or not same:
            self._make_disks()
        try:
            self._start()
        except MachineError as first:
            print(f"{self.name}: {first}; once more", file=sys.stderr)
            self.down()
            self._make_disks()
            self._start()
        return time.monotonic() - began

    def _make_disks(self) -> None:
        """Make empty layers over the image's disks."""
        for disk in DISKS:
            layer = ["-b", f"{self.config.image}/{disk}.raw", "-F", "raw", f"{self.folder}/{disk}.qcow2"]
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *layer], check=True)

    def _start(self, snapshot: str | None = None) -> None:
        (self.folder / "console.log").write_text("")
        argv = [*(["setpriv", "--pdeathsig", "KILL"] if self._owned else []), *self._qemu()]
        if snapshot is not None:
            argv += ["-loadvm", snapshot]
        with (self.folder / "qemu.log").open("w") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        (self.folder / "pid").write_text(str(self._process.pid))
        self._wait()

    def _qemu(self) -> list[str]:
        config = self.config
        kernel = ["root=/dev/vda", "rw", "console=ttyS0", *KERNEL]
        forwards = [f"hostfwd=tcp:127.0.0.1:{config.ports[name]}-:{port}" for name, port in GUEST_PORTS.items()]
        argv = [
            *["qemu-system-x86_64", "-name", self.name, "-machine", "q35", "-accel", "tcg,tb-size=1024"],
            *["-cpu", CPU, "-smp", "1", "-m", str(config.memory)],
            *["-nodefaults", "-no-user-config", "-display", "none"],
            *["-kernel", f"{config.image}/vmlinuz", "-initrd", f"{config.image}/initrd.img"],
            *["-append", " ".join(kernel + CGROUPS[config.cgroup] + ["SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"])],
            *["-serial", f"file:{self.folder}/console.log", "-qmp", f"unix:{self.folder}/qmp,server=on,wait=off"],
            *["-netdev", ",".join(["user,id=net,ipv6=off", *forwards])],
            *["-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"],
        ]
        for disk in DISKS:
            argv += ["-drive", f"if=virtio,format=qcow2,cache=unsafe,discard=unmap,file={self.folder}/{disk}.qcow2"]
        return argv

    @property
    def pid(self) -> int | None:
        """QEMU's pid, None if it does not run. Its arguments are checked: pids are reused."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.folder / "pid").read_text())
            if str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return None

    def _ended(self) -> bool:
        return self.pid is None if self._process is None else self._process.poll() is not None

    def _wait(self, seconds: float = BOOT_SECONDS) -> None:
        """Wait until root can sign in and systemd has started all it will start."""
        deadline = time.monotonic() + seconds
        console = self.folder / "console.log"
        while time.monotonic() < deadline:
            if self._ended():
                raise MachineError("QEMU ended: " + (self.folder / "qemu.log").read_text()[-500:])
            if "Kernel panic" in console.read_text(errors="replace"):
                raise MachineError("the guest kernel panicked")
            # QEMU accepts on the forwarded port before anyone listens inside: only a login tells. A resumed machine
            # has the clock of the moment it was saved.
            if self.run(f"date --set=@{time.time():.0f}", ok=None, timeout=30).returncode == 0:
                self.run("systemctl is-system-running --wait", ok=None, timeout=BOOT_SECONDS)
                return
            time.sleep(0.5)
        raise MachineError(f"no sign-in within {seconds:.0f} s: " + console.read_text(errors="replace")[-500:])

    def down(self) -> None:
        """End the machine as a power cut would. Its disks stay. Fine to repeat."""
        self.hang_up()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        pid = self.pid
        if pid is not None:
            kill_and_wait(pid)

    def cut_power(self) -> float:
        """Cut the power and switch it on again; return the seconds until root can sign in.

        What the machine had not yet flushed to its disks is lost, in any order: QEMU keeps parts of its disks' layout to itself
        until then, as a disk keeps what is in its cache.
        """
        self.down()
        began = time.monotonic()
        self._start()
        return time.monotonic() - began

    def remove(self) -> None:
        """End the machine and remove its disks and snapshots."""
        self.down()
        shutil.rmtree(self.folder, ignore_errors=True)

    def reboot(self) -> None:
        """Reboot in the machine's own orderly way, and wait until root can sign in again."""
        before = self.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout
        self.run("systemctl reboot", ok=None)
        self.hang_up()
        deadline = time.monotonic() + 2 * BOOT_SECONDS  # the way down takes its time too
        while time.monotonic() < deadline:
            answer = self.run(["cat", "/proc/sys/kernel/random/boot_id"], ok=None, timeout=20)
            if answer.returncode == 0 and answer.stdout != before:
                return self._wait()
            self.hang_up()
            time.sleep(0.5)
        raise MachineError("did not come back after a reboot")

    # ------------------------------------------------------------ snapshots

    def save(self, name: str) -> None:
        """Keep memory and disks under a name, inside the instance's disk files."""
        self.hang_up()  # no half-open connection in the snapshot
        self._monitor(f"savevm {name}")

    def reset(self, name: str) -> None:
        """Go back to what was saved under a name. The machine may be up or down."""
        self.hang_up()
        if self.pid is not None:
            self._monitor(f"loadvm {name}")
            self._wait()
        else:
            self._start(snapshot=name)

    def _monitor(self, command: str) -> None:
        """Give one command to QEMU's monitor; MachineError with what it answers, if anything (QMP specification)."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(300)
            link.connect(f"{self.folder}/qmp")
            with link.makefile("rw") as lines:
                lines.readline()  # the greeting
                order = {"execute": "human-monitor-command", "arguments": {"command-line": command}}
                for message in ({"execute": "qmp_capabilities"}, order):
                    print(json.dumps(message), file=lines, flush=True)
                    answer = json.loads(lines.readline())
                    while "event" in answer:
                        answer = json.loads(lines.readline())
        if answer.get("return") != "":
            raise MachineError(f"{command}: {answer}")

    # ------------------------------------------------------------ use

    def _ssh(self, user: str, *options: str) -> list[str]:
        fixed = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=20"]
        if user == "root":  # one connection for many commands; a person's sign-in runs through PAM every time
            fixed += ["ControlMaster=auto", f"ControlPath={self.folder}/ssh", "ControlPersist=600"]
        words = [word for option in fixed for word in ("-o", option)]
        return ["ssh", "-p", str(self.config.ports["ssh"]), "-i", str(KEY), *words, *options, f"{user}@127.0.0.1"]

    def hang_up(self) -> None:
        """Close root's connection; the next command signs in anew."""
        if (self.folder / "ssh").exists():
            argv = self._ssh("root", "-O", "exit")
            subprocess.run(argv, capture_output=True, check=False, timeout=30)
            (self.folder / "ssh").unlink(missing_ok=True)

    def spawn(
        self, command: str | Sequence[str], *, user: str = "root", password: str | None = None, **options: object
    ) -> subprocess.Popen[str]:
        """Start a command in the machine through ssh and return the Popen of ssh.

        command: a string goes to the user's shell, a list is quoted for it. password: sign in with it, as a person
        would, instead of the test bed's key.
        """
        words = command if isinstance(command, str) else _quote(command)
        extra: list[str] = []
        env: Mapping[str, str] = dict(os.environ)
        if password is not None:
            # ssh asks a program for the password; this one reads it from the environment (ssh(1), SSH_ASKPASS_REQUIRE).
            extra = ["-o", "PreferredAuthentications=password,keyboard-interactive", "-o", "NumberOfPasswordPrompts=1"]
            env = {**env, "SSH_ASKPASS": str(_askpass()), "SSH_ASKPASS_REQUIRE": "force", "TESTBED_PASSWORD": password}
        argv = [*self._ssh(user, *extra), words]
        return subprocess.Popen(argv, env=env, text=True, start_new_session=True, **options)  # type: ignore[call-overload, no-any-return]

    def run(
        self,
        command: str | Sequence[str],
        *,
        user: str = "root",
        password: str | None = None,
        input: str = "",
        ok: Sequence[int] | None = (0,),
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine and return its status, stdout and stderr.

        ok: the statuses that pass (None: any; MachineError otherwise). 255 is ssh's own.
        """
        done = complete(
            lambda **files: self.spawn(command, user=user, password=password, **files), input=input, timeout=timeout
        )
        if ok is not None and done.returncode not in ok:
            raise MachineError(f"{user}: {command!r} in {self.name} {last_lines(done)}")
        return done

    def login(self, user: str, password: str, command: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Sign in as a person does (sshd, PAM, password), run a command and sign out. Options as for run()."""
        return self.run(command, user=user, password=password, **options)  # type: ignore[arg-type]

    def push(self, source: str | Path, destination: str) -> None:
        """Copy a folder in, owned by root: what Git tracks or would track, or all of it outside Git."""
        argv = [*self._ssh("root"), f"mkdir -p {_quote([destination])} && tar -C {_quote([destination])} -xf -"]
        subprocess.run(argv, input=pack(source), check=True, capture_output=True, timeout=120)


def _quote(words: Sequence[str]) -> str:
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)


def _askpass() -> Path:
    """Return the small program that tells ssh the password."""
    path = KEY.with_name("askpass")
    if not path.exists():
        path.write_text('#!/bin/sh\nprintf "%s\\n" "$TESTBED_PASSWORD"\n')
        path.chmod(0o755)
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---------------------------------------------------------------- command line


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="machine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default="vm", help="the instance (default: vm)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (("build", "make an image"), ("up", "boot, or go on with the instance's disks")):
        part = verbs.add_parser(verb, help=text)
        part.add_argument("suite", nargs="?", default="trixie", choices=sorted(debian.SUITES))
        part.add_argument("tag", nargs="?", default="base", choices=("base", "ready"))
    part.add_argument("--memory", type=int, default=2048, metavar="MIB")
    part.add_argument("--cgroup", default="v2", choices=CGROUPS)
    part.add_argument("--fresh", action="store_true", help="start over with fresh disks")
    part = verbs.add_parser("ssh", help="run a command (a shell without one)")
    part.add_argument("--user", default="root")
    part.add_argument("command", nargs=argparse.REMAINDER)
    part = verbs.add_parser("push", help="copy a folder in (a Git checkout: tracked and unignored files)")
    part.add_argument("source")
    part.add_argument("destination")
    for verb, text in (("save", "keep memory and disks"), ("reset", "go back to what was saved")):
        verbs.add_parser(verb, help=text).add_argument("snapshot", nargs="?", default="ready")
    verbs.add_parser("down", help="end it; its disks stay")
    verbs.add_parser("remove", help="end it and remove its disks")
    verbs.add_parser("info", help="print its configuration and ports")
    verbs.add_parser("logs", help="print its console")
    return _do(parser.parse_args(argv))


def _do(given: argparse.Namespace) -> int:
    machine = Machine(given.name)
    match given.verb:
        case "build":
            print(ensure_image(given.suite, given.tag))
        case "up":
            seconds = machine.up(given.suite, given.tag, memory=given.memory, cgroup=given.cgroup, fresh=given.fresh)
            print(f"up in {seconds:.1f} s")
        case "ssh":
            command = given.command[1:] if given.command[:1] == ["--"] else given.command
            argv = machine._ssh(given.user)
            return subprocess.run([*argv, *command], check=False).returncode
        case "push":
            machine.push(given.source, given.destination)
        case "save" | "reset":
            getattr(machine, given.verb)(given.snapshot)
        case "down":
            machine.down()
        case "remove":
            machine.remove()
        case "info":
            print(json.dumps({**machine.config._asdict(), "pid": machine.pid}))
        case "logs":
            print((machine.folder / "console.log").read_text(errors="replace"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
