"""The real apt and dpkg, in a bare Debian root: missing index, held locks, interrupted installation."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from diycloud.distro.detect import detect
from diycloud.distro.packages import POLICY, Apt, package_manager
from diycloud.errors import HostError
from diycloud.system import Local, Result
from tests.bare.bareroot import BareRoot
from tests.bare.debian import CannotBuild

pytestmark = pytest.mark.slow


class InRoot(Local):
    """The real host, with a bare root in the place of this machine. For absolute paths without links on the way."""

    def __init__(self, root: BareRoot) -> None:
        self._root = root

    def _inside(self, path: str | Path) -> Path:
        return self._root.path(str(path))

    def query(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **_: object) -> Result:
        done = self._root.run(list(argv), env=env, ok=None)
        return Result(done.returncode, done.stdout, done.stderr)

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **options: object) -> Result:
        result = self.query(argv, env=env)
        if result.status != 0:
            raise HostError(f"{argv[0]} failed with status {result.status}: {result.stderr.strip() or result.stdout}")
        return result

    def read(self, path: str | Path) -> str | None:
        return super().read(self._inside(path))

    def write(self, path: str | Path, text: str, **options: object) -> bool:
        return super().write(self._inside(path), text, **options)  # type: ignore[arg-type]

    def remove(self, path: str | Path) -> bool:
        return super().remove(self._inside(path))

    def exists(self, path: str | Path) -> bool:
        return super().exists(self._inside(path))

    def list_dir(self, path: str | Path) -> list[str]:
        return super().list_dir(self._inside(path))


@pytest.fixture(scope="module")
def root() -> Iterator[BareRoot]:
    try:
        found = BareRoot("bookworm").start()
    except CannotBuild as reason:
        pytest.skip(f"no bare root: {reason}")
    yield found
    found.stop()


@pytest.fixture
def apt(root) -> Apt:
    found = package_manager(detect(InRoot(root)), InRoot(root))
    assert isinstance(found, Apt)
    return found


def is_installed(root: BareRoot, package: str) -> bool:
    told = root.run(f"dpkg-query -W -f='${{db:Status-Status}}' {package}", ok=None)
    return told.stdout == "installed"


def test_a_package_comes_without_its_daemon_and_goes(root, apt):
    root.run(f"rm -rf {POLICY} /var/lib/apt/lists/*")  # as on a machine that was just installed
    assert not is_installed(root, "cron")
    assert apt.install(["cron"]) == ["cron"]
    assert apt.install(["cron"]) == []
    assert is_installed(root, "cron")
    assert apt.owner_of("/usr/sbin/cron") == "cron"
    assert not root.path(POLICY).exists()
    assert "/usr/sbin/cron" not in root.run("cat /proc/[0-9]*/cmdline").stdout
    assert apt.is_untouched("/etc/default/cron")
    root.run("echo '# mine' >> /etc/default/cron")
    assert not apt.is_untouched("/etc/default/cron")
    assert not apt.is_untouched("/etc/hostname")
    assert apt.remove(["cron"]) == ["cron"]
    assert not is_installed(root, "cron")


@pytest.mark.parametrize(
    "lock", ["/var/lib/dpkg/lock-frontend", "/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock"]
)
def test_a_lock_of_another_package_manager_is_waited_for(root, apt, lock):
    apt.remove(["sqlite3"])
    if "lists" in lock:
        root.run("find /var/lib/apt/lists -maxdepth 1 -type f ! -name lock -delete")
    fd = os.open(root.path(lock), os.O_RDWR | os.O_CREAT, 0o640)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    # A lock of fcntl's kind belongs to the process: closing in a timer's thread gives it back.
    threading.Timer(4.0, os.close, [fd]).start()
    begun = time.monotonic()
    assert apt.install(["sqlite3"]) == ["sqlite3"]
    assert time.monotonic() - begun > 3.5


def test_waiting_ends_with_apts_own_words(root):
    impatient = Apt(InRoot(root), package_manager(detect(InRoot(root)), InRoot(root))._table, lock_seconds=1)
    impatient.remove(["sqlite3"])
    with root.path("/var/lib/dpkg/lock-frontend").open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        with pytest.raises(HostError, match=r"dpkg frontend lock .* is another process using it"):
            impatient.install(["sqlite3"])


def test_what_was_killed_in_the_middle_is_finished(root, apt):
    apt.remove(["sqlite3"])
    # dpkg is stopped for good while it unpacks: the package stays half done, and apt demands `dpkg --configure -a`.
    root.run("apt-get -q -y -d install sqlite3")
    for delay in (0.15, 0.3, 0.6):
        process = root.spawn("exec apt-get -q -y install sqlite3")
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        root.run(
            "for f in /proc/[0-9]*/comm; do read c < $f; case $c in dpkg*) p=${f#/proc/}; kill -9 ${p%/comm};; esac; done",
            ok=None,
        )
    apt.install(["sqlite3"])
    assert is_installed(root, "sqlite3")
    assert root.run("sqlite3 :memory: 'select 6*7'").stdout == "42\n"


def test_a_package_that_is_nowhere_is_an_error_with_apts_words(root, apt):
    table = apt._table
    wrong = type(table)(
        **{f: getattr(table, f) for f in table.__struct_fields__} | {"packages": {"x": ("no-such-thing",)}}
    )
    with pytest.raises(HostError, match="Unable to locate package no-such-thing"):
        Apt(InRoot(root), wrong).install(["x"])
