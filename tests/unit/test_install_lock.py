"""Only one installs or uninstalls at a time, the shell's part and the program's alike."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from diycloud.config import Paths
from diycloud.core.install import install
from diycloud.core.lock import only_one
from diycloud.core.options import InstallOptions
from diycloud.core.uninstall import UninstallOptions, uninstall
from diycloud.errors import Conflict, HostError
from diycloud.system import Local
from diycloud.system.fake import Fake

SOURCE = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from diycloud.config import Paths
from diycloud.core.lock import only_one
from diycloud.system import Local

with only_one(Local(), Paths(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "run").mkdir()
    return Paths(str(tmp_path))


def holder(paths: Paths) -> subprocess.Popen[str]:
    """Return another process that has the lock until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, paths.prefix], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str], *, killed: bool = False) -> None:
    if killed:
        process.kill()
    process.communicate(timeout=20)
    assert process.returncode == (-signal.SIGKILL if killed else 0)


@pytest.mark.parametrize("killed", [False, True])
def test_the_next_one_may_when_the_first_has_ended(paths: Paths, killed: bool) -> None:
    first = holder(paths)
    try:
        with pytest.raises(Conflict, match="Another installation is running"), only_one(Local(), paths):
            pass
        assert paths.install_lock.exists(), "who was refused takes nothing away"
    finally:
        end(first, killed=killed)
    with only_one(Local(), paths):
        assert paths.install_lock.stat().st_mode & 0o777 == 0o600
    assert not paths.install_lock.exists()


def test_it_is_given_back_when_the_work_fails(paths: Paths) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), only_one(Local(), paths):
            raise ZeroDivisionError


def test_a_link_in_its_place_is_not_followed(paths: Paths) -> None:
    target = Path(paths.prefix, "precious")
    paths.install_lock.symlink_to(target)
    with pytest.raises(HostError, match="Cannot lock"), only_one(Local(), paths):
        pass
    assert not target.exists()


@pytest.mark.slow
def test_nobody_gets_the_lock_of_a_file_that_was_taken_away(paths: Paths) -> None:
    """A crowd that takes the lock again and again: whoever has it is alone, though the file goes each time."""
    inside, turns = Path(paths.prefix, "inside"), Path(paths.prefix, "turns")
    begun = time.monotonic()

    def wanted() -> bool:
        """A second and a half, or until there were turns enough where the machine is busy."""
        seconds = time.monotonic() - begun
        return seconds < 1.5 or (seconds < 60 and (not turns.exists() or turns.stat().st_size <= 50))

    def crowd() -> None:
        while wanted():
            try:
                with only_one(Local(), paths):
                    inside.mkdir()  # fails if there is one
                    with turns.open("a") as file:
                        file.write("x")
                    inside.rmdir()
            except Conflict:
                pass

    children = [os.fork() for _ in range(4)]
    if 0 in children:
        try:
            crowd()
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert turns.stat().st_size > 50


@pytest.mark.parametrize(
    "begin",
    [
        lambda paths, out: install(Fake(), InstallOptions(prefix=paths.prefix), out),
        lambda paths, out: uninstall(Fake(), UninstallOptions(prefix=paths.prefix), out),
    ],
    ids=["install", "uninstall"],
)
def test_both_want_it_before_they_change_anything(
    paths: Paths, begin: Callable[[Paths, Callable[[str], None]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    said: list[str] = []
    first = holder(paths)
    try:
        with pytest.raises(Conflict, match="Another installation is running"):
            begin(paths, said.append)
    finally:
        end(first)
    assert said == [] and os.listdir(paths.prefix) == ["run"]


# --- install.sh


@pytest.fixture(params=[True, False], ids=["with-flock", "without-flock"])
def script(paths: Paths, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, dict[str, str]]:
    """install.sh up to its lock, then only so much: it says that it is alone, waits for its input, and hands over."""
    if request.param and not shutil.which("flock"):
        pytest.skip("there is no flock(1) on this machine")
    text = (SOURCE / "install.sh").read_text()
    head, mark, _ = text.partition("\ntake_lock\n")
    assert mark and text.count("\nLOCK=/run/diycloud-install.lock\n") == 1
    head = head.replace("\nLOCK=/run/diycloud-install.lock\n", f"\nLOCK={paths.install_lock}\n")
    head = head.replace("SOURCE=$(CDPATH", f"SOURCE={SOURCE} # $(CDPATH").replace(
        '[ "$(id -u)" = 0 ] || fail', "true || fail"
    )
    path = tmp_path / "install.sh"
    path.write_text(f'{head}{mark}echo alone\nread -r _\nexec "{sys.executable}" -c \'{HOLD}\' "{paths.prefix}"\n')
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("dirname", "readlink", "id", "setpriv", "python3", *(["flock"] if request.param else [])):
        found = shutil.which(name, path="/usr/local/bin:/usr/bin:/bin")
        if found is None:
            pytest.skip(f"there is no {name} in this machine's own folders")
        (programs / name).symlink_to(found)
    return path, {"PATH": str(programs)}


def start(script: tuple[Path, dict[str, str]]) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(["/bin/sh", script[0]], env=script[1], text=True, **pipes)  # type: ignore[call-overload]


def test_the_shells_part_has_it_and_hands_it_over(paths: Paths, script: tuple[Path, dict[str, str]]) -> None:
    first = start(script)
    try:
        assert first.stdout is not None and first.stdin is not None
        for said in ("alone\n", "held\n"):
            assert first.stdout.readline() == said
            with pytest.raises(Conflict), only_one(Local(), paths):
                pass
            second = start(script)
            assert "another installation is running" in second.communicate(timeout=20)[1]
            assert second.returncode == 1
            if said == "alone\n":
                first.stdin.write("\n")
                first.stdin.flush()
    finally:
        first.communicate(timeout=20)
    assert first.returncode == 0
    assert not paths.install_lock.exists()


def test_the_shells_part_waits_for_nobody(paths: Paths, script: tuple[Path, dict[str, str]]) -> None:
    first = holder(paths)
    try:
        assert "another installation is running" in start(script).communicate(timeout=20)[1]
    finally:
        end(first)
    with paths.install_lock.open("w") as left:  # by one that was killed
        fcntl.flock(left, fcntl.LOCK_EX)
        fcntl.flock(left, fcntl.LOCK_UN)
        assert start(script).communicate("\n", timeout=20)[0] == "alone\nheld\n"
