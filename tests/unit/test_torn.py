"""What the end of a boot left half-written is removed, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diycloud.agent.main import tidy
from diycloud.config import Paths
from diycloud.host import torn
from diycloud.host.torn import ACCOUNT_FILES, booted_at, remove_torn
from diycloud.system.fake import Fake
from diycloud.system.local import Local

BOOT = 1_700_000_000


def make(folder: Path, name: str, mtime: float = BOOT - 5) -> Path:
    path = folder / name
    path.write_text("alice:$y$j9T$half")
    os.utime(path, (mtime, mtime))
    return path


def test_when_the_machine_was_started() -> None:
    assert booted_at(Fake({"/proc/stat": f"cpu 1 2\nbtime {BOOT}\nprocesses 5\n"})) == BOOT
    assert booted_at(Fake()) == 0
    assert 0 < booted_at(Local()) < os.stat("/proc/self").st_mtime


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's files are removed")
def test_only_whats_left_of_writing_before_the_start_goes(tmp_path: Path) -> None:
    gone = [make(tmp_path, ".shadow.0a1b2c3d"), make(tmp_path, ".managed.ffffffff")]
    kept = [
        make(tmp_path, ".managed.0a1b2c3e", BOOT + 1),  # is being written
        make(tmp_path, "managed"),
        make(tmp_path, ".managed"),
        make(tmp_path, ".managed.0a1b2c3"),
        make(tmp_path, ".managed.0a1b2c3d.txt"),
        make(tmp_path, ".managed.0A1B2C3D"),
    ]
    other = make(tmp_path, ".managed.0a1b2c3f")
    os.chown(other, 54_321, -1)
    (tmp_path / ".folder.0a1b2c3d").mkdir()
    (tmp_path / ".link.0a1b2c3d").symlink_to(kept[1])
    assert remove_torn(Local(), tmp_path, before=BOOT, names=ACCOUNT_FILES) == [str(gone[0])]
    assert remove_torn(Local(), tmp_path, before=BOOT) == [str(gone[1])]
    assert all(
        os.path.lexists(path) for path in (*kept, other, tmp_path / ".folder.0a1b2c3d", tmp_path / ".link.0a1b2c3d")
    )
    assert remove_torn(Local(), tmp_path / "none", before=BOOT) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's files are removed")
def test_the_agent_does_so_at_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diycloud.agent.main.booted_at", lambda system: BOOT)
    paths = Paths(str(tmp_path))
    made = []
    for folder in (paths.agent_state, paths.keys, paths.config_dir):
        folder.mkdir(parents=True)
        made.append(make(folder, ".file.0a1b2c3d"))
    tidy(Local(), paths)
    assert not any(path.exists() for path in made)
    monkeypatch.setattr(torn.os, "lstat", lambda path: (_ for _ in ()).throw(PermissionError("no")))
    make(paths.keys, ".file.0a1b2c3d")
    tidy(Local(), paths)  # is no reason not to start
