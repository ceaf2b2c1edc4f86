"""Fixtures: a virtual machine with the platform installed by `./install.sh`, as it was right after, for every test.

DIYCLOUD_VM_SUITES names the Debian suites to test on (default: trixie, and bookworm where exhaustive tests run).
DIYCLOUD_VM_KEEP=NAME keeps the installed machine of that name from one run to the next, for work on the tests themselves;
the default starts from nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.bare import tree
from tests.bare.debian import CannotBuild
from tests.vm.machine import Machine, MachineError

REPOSITORY = Path(__file__).resolve().parents[2]
SUITES = os.environ.get("DIYCLOUD_VM_SUITES", "").split() or [
    "trixie",
    pytest.param("bookworm", marks=pytest.mark.exhaustive),
]
KEEP = os.environ.get("DIYCLOUD_VM_KEEP", "")
PASSWORD = "Sup3r-lemon-88"
WITHOUT = ("/opt/diycloud/jupyter",)
"""The image's tens of thousands of files of Jupyter's are not looked through."""
MIB = 1 << 20


class Person(NamedTuple):
    """A user made for the tests. cpu: cores; memory: bytes; tasks: processes."""

    name: str
    uid: int
    cpu: float
    memory: int
    tasks: int

    @property
    def slice(self) -> str:
        """Where the person's cgroup is."""
        return f"/sys/fs/cgroup/user.slice/user-{self.uid}.slice"


class Bed(NamedTuple):
    """A machine with the platform and two people. files: its file system before the installation."""

    machine: Machine
    alice: Person
    bob: Person
    files: dict[str, tree.Entry]

    def login(self, who: Person, command: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Sign in over ssh with the password, run a command, sign out."""
        return self.machine.login(who.name, PASSWORD, command, **options)

    def su(self, who: Person, command: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command in a session that root opens by su."""
        return self.machine.run(["su", "-", who.name, "-c", command], **options)  # type: ignore[arg-type]

    def portal_login(self, name: str, password: str = PASSWORD) -> int:
        """Sign in at the REST API through Nginx, from inside; return the HTTP status."""
        ask = "curl --silent --insecure --output /dev/null --write-out '%{http_code}' --json @- https://localhost/api/v1/auth/login"
        given = json.dumps({"username": name, "password": password})
        return int(self.machine.run(ask, input=given, timeout=120).stdout)

    def value(self, who: Person, file: str) -> str:
        """Read a file of the person's cgroup."""
        return self.machine.run(["cat", f"{who.slice}/{file}"]).stdout.strip()

    def counters(self, who: Person, file: str) -> dict[str, int]:
        """Read a file of the person's cgroup that has a name and a number in each line."""
        return {name: int(number) for name, number in map(str.split, self.value(who, file).splitlines())}

    def cpu_use(self, who: Person, seconds: float) -> float:
        """Return the cores that all the person runs had together over some seconds of the machine's own clock."""
        look = f"cat /proc/uptime; grep usage_usec {who.slice}/cpu.stat"
        words = self.machine.run(f"{look}; sleep {seconds}; {look}").stdout.split()
        began, used_before, ended, used_after = float(words[0]), int(words[3]), float(words[4]), int(words[7])
        return (used_after - used_before) / 1e6 / (ended - began)


def snapshot_of(machine: Machine) -> dict[str, tree.Entry]:
    """Return the machine's file system. Of larger files the size has to do: reading is slow when emulated."""
    look = f"\nimport json, sys; json.dump(snapshot('/', largest=200_000, without={WITHOUT}), sys.stdout)"
    found = machine.run("python3 -", input=Path(tree.__file__).read_text() + look).stdout
    return {path: tree.Entry(*entry) for path, entry in json.loads(found).items()}


def _create(machine: Machine, name: str, cpu: float, memory: int, tasks: int) -> Person:
    limits = ["--cpu", str(cpu), "--memory", f"{memory // MIB}M", "--tasks", str(tasks)]
    words = ["diycloud", "user", "create", "--username", name, *limits, "--password", "-", "--json"]
    made = json.loads(machine.run(words, input=PASSWORD + "\n").stdout)
    uid = int(machine.run(["id", "-u", name]).stdout)
    assert made, "the command printed what it made"
    return Person(name, uid, cpu, memory, tasks)


def _install(machine: Machine, suite: str, cgroup: str) -> Bed:
    machine.up(suite, "ready", cgroup=cgroup, fresh=True, owned=not KEEP)
    machine.push(REPOSITORY, "/src")
    files = snapshot_of(machine)
    began = time.monotonic()
    machine.run("cd /src && ./install.sh", timeout=900)
    print(f"{suite}, cgroup {cgroup}: installed in {time.monotonic() - began:.0f} s")
    bed = Bed(
        machine,
        _create(machine, "alice", 0.5, 256 * MIB, 60),
        _create(machine, "bob", 0.3, 128 * MIB, 100),
        files,
    )
    machine.save("installed")
    kept = [bed.alice, bed.bob, files]
    (machine.folder / "bed.json").write_text(json.dumps(kept))
    return bed


@contextlib.contextmanager
def with_platform(suite: str, cgroup: str = "v2") -> Iterator[Bed]:
    """The platform on a machine of its own, with alice and bob; saved as `installed`. Skips where none can be made."""
    machine = Machine(f"{KEEP or f'test-{os.getpid()}'}-{suite}{'' if cgroup == 'v2' else f'-{cgroup}'}")
    kept = machine.folder / "bed.json"
    try:
        if KEEP and kept.exists():
            alice, bob, files = json.loads(kept.read_text())
            bed = Bed(
                machine, Person(*alice), Person(*bob), {path: tree.Entry(*entry) for path, entry in files.items()}
            )
        else:
            bed = _install(machine, suite, cgroup)
    except CannotBuild as reason:
        pytest.skip(f"no virtual machine: {reason}")
    except BaseException:
        machine.down() if KEEP else machine.remove()
        raise
    try:
        yield bed
    finally:
        machine.down() if KEEP else machine.remove()


@pytest.fixture(scope="session", params=SUITES)
def installed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """The platform on a machine of its own, with alice and bob; saved as `installed`."""
    with with_platform(request.param) as bed:
        yield bed


@pytest.fixture
def bed(installed: Bed) -> Iterator[Bed]:
    """The machine as it was right after the installation."""
    installed.machine.reset("installed")
    yield installed


@pytest.fixture
def background(bed: Bed) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start commands in the machine that run beside the test; their connections end with it."""
    started: list[subprocess.Popen[str]] = []

    def start(command: str | Sequence[str], who: Person | None = None) -> subprocess.Popen[str]:
        """who: signs in over ssh with the password; None is root."""
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        if who is None:
            process = bed.machine.spawn(command, **quiet)
        else:
            process = bed.machine.spawn(command, user=who.name, password=PASSWORD, **quiet)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_until(what: str, true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something is so; MachineError if it is not after some seconds."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise MachineError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.5)
