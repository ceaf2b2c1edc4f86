"""Removing folders on overlayfs, as containers have it: a folder of a lower layer cannot be moved (overlayfs.rst)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from diycloud.errors import HostError
from diycloud.system.local import Local

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts an overlay")


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    for name in ("lower/image/a/b/c", "upper", "work", "merged"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a", "a/b", "a/b/c"):
        (tmp_path / "lower/image" / name / "file").write_text("x")
    layers = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work,redirect_dir=off"
    mounted = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", layers, tmp_path / "merged"],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no overlay can be mounted here: {mounted.stderr.strip()}")
    yield tmp_path / "merged"
    subprocess.run(["umount", tmp_path / "merged"], check=True)


def test_folders_of_an_images_layer_are_removed(overlay: Path) -> None:
    (overlay / "image/a/new/below").mkdir(parents=True)
    (overlay / "image/a/b/new").mkdir()
    assert Local().remove_tree(overlay / "image")
    assert list(overlay.iterdir()) == []


def test_what_is_mounted_inside_stays(overlay: Path) -> None:
    inside = overlay / "image/a/b"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", inside], check=True)
    try:
        (inside / "kept").write_text("x")
        with pytest.raises(HostError):
            Local().remove_tree(overlay / "image")
        assert (inside / "kept").read_text() == "x"
    finally:
        subprocess.run(["umount", inside], check=True)
