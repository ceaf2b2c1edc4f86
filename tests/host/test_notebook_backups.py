"""`diycloud jupyter backup` and `restore` with real users: what comes back, what is never overwritten, what does harm."""

from __future__ import annotations

import os
import pwd
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import cannot_run
from tests.stack import Stack

REASON = cannot_run()
pytestmark = [pytest.mark.skipif(bool(REASON), reason=REASON or "-"), pytest.mark.slow]
ADA, EVE = "dtbakada", "dtbakeve"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    made = Stack(uid_min=58_700, uid_max=58_799, cgroup="dtbak")
    made._settings = f"  archive: {made.prefix}/archive\n"
    with made as running:
        for name in (ADA, EVE):
            running.json("user", "create", name, "--memory", "256M", "--tasks", "64")
        yield running


@pytest.fixture
def notebooks(stack: Stack) -> Path:
    """Ada's folder, with something of each kind in it; her home has nothing else of it."""
    home = Path("/home", ADA)
    for old in home.glob("*notebooks*"):
        as_user(ADA, f"rm -rf {old}")
    as_user(
        ADA,
        "mkdir -p ~/notebooks/week-1 && cd ~/notebooks && echo one > a.ipynb && echo two > 'week-1/zwei ü.ipynb' && "
        "ln -s /etc/passwd out && ln a.ipynb same && truncate -s 64M hole && echo end >> hole && chmod 600 a.ipynb",
    )
    return home / "notebooks"


def as_user(name: str, script: str) -> None:
    account = pwd.getpwnam(name)
    subprocess.run(
        ["sh", "-c", script], check=True, cwd="/", user=account.pw_uid, group=account.pw_gid, extra_groups=[],
        env={"HOME": account.pw_dir, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def picture(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return what is below a folder: kind, mode, owner, length and text or target of each."""
    found = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        inside = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (oct(about.st_mode), about.st_uid, about.st_gid, inside)
    return found


def test_what_was_lost_comes_back_as_it_was(stack: Stack, notebooks: Path) -> None:
    before = picture(notebooks)
    assert len(before) == 6
    stack.cli("jupyter", "backup", ADA)
    as_user(ADA, "rm -rf ~/notebooks")
    assert f"are in {notebooks}." in stack.cli("jupyter", "restore", ADA).stdout
    assert picture(notebooks) == before
    assert (notebooks / "hole").stat().st_blocks * 512 < 1 << 20, "a hole stays one"
    assert (notebooks / "same").samefile(notebooks / "a.ipynb")
    assert notebooks.owner() == ADA


def test_nothing_is_overwritten(stack: Stack, notebooks: Path) -> None:
    stack.cli("jupyter", "backup", ADA)
    as_user(ADA, "echo newer > ~/notebooks/a.ipynb")
    folder = Path(stack.json("jupyter", "restore", ADA)["folder"])
    assert folder.parent == notebooks.parent and folder.name.startswith("notebooks-restored-20")
    assert (folder / "a.ipynb").read_text() == "one\n"
    assert (notebooks / "a.ipynb").read_text() == "newer\n"
    as_user(ADA, "rm -rf ~/notebooks && mkdir ~/notebooks")
    assert stack.json("jupyter", "restore", ADA)["folder"] == str(notebooks), "an empty folder is in nobody's way"


def test_an_earlier_one_and_somebody_elses_by_name(stack: Stack, notebooks: Path) -> None:
    first = stack.json("jupyter", "backup", ADA)["path"]
    kept = Path(first).with_name("of-the-first-day.tar" + Path(first).suffix)
    Path(first).rename(kept)
    as_user(ADA, "echo newer > ~/notebooks/a.ipynb")
    stack.cli("jupyter", "backup", ADA)
    as_user(ADA, "rm -rf ~/notebooks")
    stack.cli("jupyter", "restore", ADA, kept.name)
    assert (notebooks / "a.ipynb").read_text() == "one\n"
    as_user(EVE, "rm -rf ~/notebooks")
    folder = Path(stack.json("jupyter", "restore", EVE, str(kept))["folder"])
    assert {path.lstat().st_uid for path in folder.rglob("*")} == {pwd.getpwnam(EVE).pw_uid}, "it is theirs then"


def test_what_cannot_be_restored_is_told_and_leaves_nothing(stack: Stack, notebooks: Path) -> None:
    assert "There is no user dtbaknone" in stack.cli("jupyter", "restore", "dtbaknone", ok=5).stderr
    assert f"`diycloud jupyter backup {EVE}` makes one" in stack.cli("jupyter", "restore", EVE, ok=5).stderr
    assert "There is no archive" in stack.cli("jupyter", "restore", ADA, "none.tar.gz", ok=5).stderr
    assert "is no archive" in stack.cli("jupyter", "restore", ADA, "/etc/hostname", ok=2).stderr
    made = Path(stack.json("jupyter", "backup", ADA)["path"])
    torn = made.with_name("torn.tar" + made.suffix)
    torn.write_bytes(made.read_bytes()[:-200])
    before = {path.name for path in notebooks.parent.iterdir()}
    told = stack.cli("jupyter", "restore", ADA, torn.name, ok=None)
    assert told.returncode and "could not be unpacked" in told.stderr and "Nothing of it stays" in told.stderr
    assert {path.name for path in notebooks.parent.iterdir()} == before


def test_what_is_planted_in_the_way_meets_its_owner(stack: Stack, notebooks: Path, tmp_path: Path) -> None:
    """Links where the folder, or what it is unpacked in, would be; an archive that leads out of its folder."""
    stack.cli("jupyter", "backup", ADA)
    victim = stack.prefix / "victim"
    victim.mkdir()
    as_user(ADA, f"rm -rf ~/notebooks; ln -s {victim} ~/notebooks; ln -s {victim} ~/.notebooks.part")
    stack.cli("jupyter", "restore", ADA, ok=None)
    assert list(victim.iterdir()) == []
    as_user(ADA, "rm -rf ~/notebooks ~/.notebooks.part")
    evil = Path(f"{stack.prefix}/archive/notebooks/evil.tar.gz")
    with tarfile.open(evil, "w:gz") as tar:
        for name in ("notebooks/../../../../tmp/dtbak-out", "/tmp/dtbak-out", "notebooks/fine"):
            tar.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("notebooks/way")
        link.type, link.linkname = tarfile.SYMTYPE, str(victim)
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("notebooks/way/in"))
    stack.cli("jupyter", "restore", ADA, evil.name, ok=None)
    assert not Path("/tmp/dtbak-out").exists() and list(victim.iterdir()) == []


def test_it_is_unpacked_within_the_users_own_limits(stack: Stack, notebooks: Path) -> None:
    """In a slice whose processes are used up nothing can be started."""
    stack.cli("jupyter", "backup", ADA)
    limit = next(path for path in Path("/sys/fs/cgroup/pids/dtbak").rglob("pids.max") if ADA in str(path))
    sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(int(limit.read_text()))]
    try:
        for sleeper in sleepers:
            limit.with_name("cgroup.procs").write_text(str(sleeper.pid))
        told = stack.cli("jupyter", "restore", ADA, ok=None)
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
    assert told.returncode, told.stdout
    assert stack.json("jupyter", "restore", ADA)["folder"]
