"""What only a real host has: modes, owners, links that others put in the way, trees and mounts below them."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from diycloud.errors import HostError, Unsupported
from diycloud.system import Local, System
from tests.unit.systems import ME


def test_an_attribute_follows_no_link_and_says_what_cannot_be(real: System, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "link").symlink_to("precious")
    with pytest.raises(HostError, match="link"):
        real.set_attribute(tmp_path / "link", "user.label", b"x")
    assert os.listxattr(tmp_path / "precious") == []
    with pytest.raises(Unsupported, match="posix_acl_default"):
        real.set_attribute("/proc", "system.posix_acl_default", b"x")


def test_replace_follows_no_link(real: System, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("old")
    (tmp_path / "link").symlink_to("precious")
    with pytest.raises(HostError, match="link"):
        real.replace(tmp_path / "link", "new")
    assert (tmp_path / "precious").read_text() == "old"


def test_mode_and_owner_are_mended(real: System, tmp_path: Path) -> None:
    path, folder = tmp_path / "file", tmp_path / "folder"
    real.write(path, "secret", mode=0o600, owner=ME)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert real.write(path, "secret", mode=0o600, owner=ME) is True
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    real.make_dir(folder, mode=0o750, owner=ME)
    folder.chmod(0o777)
    assert real.make_dir(folder, mode=0o750, owner=ME) is True
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_a_write_replaces_a_link_and_never_goes_through_it(real: System, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "trap").symlink_to(victim)
    assert real.write(tmp_path / "trap", "new", owner=ME) is True
    assert victim.read_text() == "precious"
    assert not (tmp_path / "trap").is_symlink()


@pytest.mark.parametrize("act", ["make_dir", "set_value"])
def test_a_link_in_the_way_is_refused(real: System, tmp_path: Path, act: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir() if act == "make_dir" else victim.write_text("0")
    before = victim.lstat().st_mode
    (tmp_path / "trap").symlink_to(victim)
    with pytest.raises(HostError):
        real.make_dir(tmp_path / "trap", mode=0o777) if act == "make_dir" else real.set_value(tmp_path / "trap", "9")
    assert victim.lstat().st_mode == before
    assert act == "make_dir" or victim.read_text() == "0"


def test_a_write_that_fails_leaves_the_old_text_and_no_litter(real: System, tmp_path: Path) -> None:
    path = tmp_path / "file"
    real.write(path, "old", owner=ME)
    os.link(path, tmp_path / "other")
    real.write(path, "new", owner=ME)
    assert (tmp_path / "other").read_text() == "old", "readers of the old file keep it whole"
    (tmp_path / "folder").mkdir()
    with pytest.raises(HostError):
        real.write(tmp_path / "folder", "x", owner=ME)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "other"]


def test_a_writer_killed_in_the_middle_leaves_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "file"
    Local().write(path, "old" * 1000, owner=ME)
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            while True:
                Local().write(path, "new" * 100_000, owner=ME)
                Local().write(path, "old" * 1000, owner=ME)
        os.kill(pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert path.read_text() in ("old" * 1000, "new" * 100_000)


def test_remove_tree_follows_no_link(real: System, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("x")
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "to-folder").symlink_to(victim)
    (tree / "deep" / "to-file").symlink_to(victim / "precious")
    os.link(victim / "precious", tree / "hard")
    os.mkfifo(tree / "pipe")
    real.remove_tree(tree)
    assert not tree.exists()
    assert (victim / "precious").read_text() == "x"
    (tmp_path / "root-link").symlink_to(victim)
    real.remove_tree(tmp_path / "root-link")
    assert (victim / "precious").exists(), "the link itself is removed, not what it points to"


def test_remove_tree_wins_against_a_user_who_swaps_folders_for_links(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("x")
    tree = tmp_path / "tree"
    tree.mkdir()
    pid = os.fork()
    if pid == 0:
        while True:
            try:
                (tree / "d").mkdir()
                (tree / "d" / "f").touch()
                (tree / "d").rename(tree / "e")
                (tree / "d").symlink_to(victim)
                (tree / "d").unlink()
            except OSError:
                pass
    try:
        for _ in range(200):
            try:
                Local().remove_tree(tree)
            except HostError:
                pass
            tree.mkdir(exist_ok=True)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert (victim / "precious").read_text() == "x"


def test_remove_tree_is_not_exhausted_by_depth(real: System, tmp_path: Path) -> None:
    depth = 3000
    (tmp_path / "tree").mkdir()
    fd = os.open(tmp_path / "tree", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    try:
        assert real.remove_tree(tmp_path / "tree") is True
        assert not (tmp_path / "tree").exists()
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "tree")], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
def test_remove_tree_crosses_no_mount(real: System, tmp_path: Path) -> None:
    inside = tmp_path / "tree" / "mounted"
    inside.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(inside)], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (inside / "precious").write_text("x")
        with pytest.raises(HostError):
            real.remove_tree(tmp_path / "tree")
        assert (inside / "precious").read_text() == "x"
    finally:
        subprocess.run(["umount", str(inside)], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("at", ["tree/deep/mounted", "tree"])
def test_remove_tree_crosses_no_bind_mount_of_the_same_file_system(real: System, tmp_path: Path, at: str) -> None:
    shared, inside = tmp_path / "shared", tmp_path / at
    shared.mkdir()
    (shared / "precious").write_text("x")
    inside.mkdir(parents=True)
    if subprocess.run(["mount", "--bind", str(shared), str(inside)], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        assert (tmp_path / "tree").stat().st_dev == inside.stat().st_dev
        with pytest.raises(HostError):
            real.remove_tree(tmp_path / "tree")
        assert (shared / "precious").read_text() == "x"
    finally:
        subprocess.run(["umount", str(inside)], check=True)
    assert real.remove_tree(tmp_path / "tree") is True
