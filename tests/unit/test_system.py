"""One contract for every System: Local in its own folder, Fake, Recording, and DryRun, which must change nothing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diycloud.errors import HostError, Unsupported
from diycloud.system import Local, Owner, Result, System
from diycloud.system.dry_run import DryRun
from diycloud.system.fake import Fake, File, UnexpectedCommand
from diycloud.system.recording import Recording
from tests.unit.systems import KINDS, ME, REAL, make, snapshot


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def system(kind: str, tmp_path: Path) -> Iterator[System]:
    before = snapshot(tmp_path)
    yield make(kind, tmp_path)
    if kind == "dry-run":
        assert snapshot(tmp_path) == before, "a dry run changed the disk"


def test_replace_keeps_what_a_file_is(system: System, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    system.write(path, "old", mode=0o640, owner=ME)
    assert system.replace(path, "new")
    assert not system.replace(path, "new")
    assert system.read(path) == "new"
    if kind in REAL:
        assert (path.stat().st_mode & 0o7777, sorted(tmp_path.iterdir())) == (0o640, [path])
    with pytest.raises(HostError, match="missing"):
        system.replace(tmp_path / "missing", "text")


def test_replace_keeps_labels(real: System, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    try:
        os.setxattr(path, "user.label", b"kept")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error}")
    real.replace(path, "new")
    assert (path.read_text(), os.getxattr(path, "user.label")) == ("new", b"kept")


def test_what_is_ones_changes_hands_and_the_rest_stays(system: System, kind: str, tmp_path: Path) -> None:
    """What really changes hands needs root: tests/host/test_handover.py."""
    if kind == "dry-run":
        pytest.skip("a dry run gives nothing")
    folder = tmp_path / "folder"
    system.make_dir(folder, owner=ME)
    system.make_dir(folder / "below", owner=ME)
    system.write(folder / "below/file", "x", owner=ME)
    system.link(folder / "link", "below/file")
    assert system.give_tree(folder, old=ME.uid, new=ME.uid) == (2, 1)
    assert system.give_tree(folder, old=ME.uid + 1, new=ME.uid) == (0, 0)


def test_a_directory_gets_an_attribute(system: System, kind: str, tmp_path: Path) -> None:
    folder, name = tmp_path / "folder", "user.label"
    system.make_dir(folder, owner=ME)
    system.write(tmp_path / "file", "", owner=ME)
    try:
        assert system.set_attribute(folder, name, b"\0one") is True
    except Unsupported as error:
        pytest.skip(f"no extended attributes here: {error}")
    assert system.set_attribute(folder, name, b"\0one") is False
    assert system.set_attribute(folder, name, b"two") is True
    assert system.make_dir(folder, owner=ME) is False
    assert system.set_attribute(folder, name, b"two") is False, "it stays when the directory is looked after"
    for other in ("missing", "file"):
        with pytest.raises(HostError):
            system.set_attribute(tmp_path / other, name, b"")
    if kind in REAL:
        assert os.getxattr(folder, name) == b"two"


def test_a_tree_is_copied_as_it_is(real: System, tmp_path: Path) -> None:
    source, target = tmp_path / "skel", tmp_path / "home"
    (source / "deep").mkdir(parents=True)
    (source / ".profile").write_text("text")
    (source / ".profile").chmod(0o6755)
    (source / "deep/empty").touch(0o600)
    (source / "deep").chmod(0o711)
    (source / "link").symlink_to("/nowhere")
    os.mkfifo(source / "pipe")
    target.mkdir()
    owner = Owner(54_321, 54_322) if os.geteuid() == 0 else ME
    real.copy_tree(source, target, owner=owner)
    found = {str(path.relative_to(target)): path.lstat() for path in target.rglob("*")}
    assert {name: stat.S_IMODE(info.st_mode) for name, info in found.items() if name != "link"} == {
        ".profile": 0o755,
        "deep": 0o711,
        "deep/empty": 0o600,
    }
    assert {(info.st_uid, info.st_gid) for info in found.values()} == {owner}
    assert ((target / "link").readlink(), (target / ".profile").read_text()) == (Path("/nowhere"), "text")
    with pytest.raises(HostError, match="exists"):
        real.copy_tree(source, target, owner=owner)


def test_what_was_copied_outlives_a_power_cut_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the name may be there afterwards and its files be empty: file systems order names, not what is in files."""
    on_disk: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (on_disk.append(os.fstat(fd).st_ino), sync(fd)))
    source, staged, homes = tmp_path / "skel", tmp_path / "new", tmp_path / "homes"
    for folder in (source / "deep", staged, homes):
        folder.mkdir(parents=True)
    (source / ".profile").write_text("text")
    (source / "deep/more").write_text("text")
    Local().copy_tree(source, staged, owner=ME)
    assert {(staged / name).stat().st_ino for name in (".profile", "deep/more")} <= {*on_disk}
    on_disk.clear()
    Local().rename(staged, homes / "alice")
    assert on_disk == [homes.stat().st_ino]


def test_the_fake_copies_too(tmp_path: Path) -> None:
    fake = make("fake", tmp_path)
    for folder in ("from", "from/deep", "to"):
        fake.make_dir(tmp_path / folder)
    fake.write(tmp_path / "from/deep/file", "text", mode=0o600)
    fake.copy_tree(tmp_path / "from", tmp_path / "to", owner=Owner(5, 6))
    assert isinstance(fake, Fake)
    assert fake.files[str(tmp_path / "to/deep/file")] == File("text", 0o600, Owner(5, 6))


def test_a_lock_is_held_among_processes(real: System, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(HostError, match="holds"), real.locked(path, patience_s=0.1):
            pass
        other.communicate(b"\n")
    with real.locked(path, patience_s=0.1):
        assert subprocess.run([sys.executable, "-c", f"{TRY}", str(path)], check=False).returncode == 1


TRY = "import fcntl, sys\ntry: fcntl.lockf(open(sys.argv[1], 'r+'), 6)\nexcept OSError: sys.exit(1)"


def test_a_file_is_written_once_and_read_back(system: System, tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert system.read(path) is None
    assert not system.exists(path)
    assert system.write(path, "a\n", mode=0o600, owner=ME) is True
    assert system.write(path, "a\n", mode=0o600, owner=ME) is False
    assert system.read(path) == "a\n"
    assert system.exists(path)
    assert system.write(path, "b\n", mode=0o600, owner=ME) is True
    assert system.read(path) == "b\n"


def test_any_bytes_survive(system: System, tmp_path: Path) -> None:
    text = b"latin \xe4, nul \x00, line\r\n".decode("utf-8", "surrogateescape")
    system.write(tmp_path / "bytes", text, owner=ME)
    assert system.read(tmp_path / "bytes") == text


def test_a_directory_is_made_once_and_listed_sorted(system: System, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert system.list_dir(folder) == []
    assert system.make_dir(folder, owner=ME) is True
    assert system.make_dir(folder, owner=ME) is False
    for name in ("b", "a", ".c"):
        system.write(folder / name, "x", owner=ME)
    assert system.list_dir(folder) == [".c", "a", "b"]
    assert system.list_dir(folder / "a") == []


def test_what_has_no_parent_is_refused(kind: str, tmp_path: Path) -> None:
    if kind == "dry-run":
        pytest.skip("a dry run makes the parents in memory: an earlier step would have made them")
    system = make(kind, tmp_path)
    for act in (
        lambda: system.write(tmp_path / "no" / "file", "x"),
        lambda: system.make_dir(tmp_path / "no" / "folder"),
        lambda: system.link(tmp_path / "no" / "link", "x"),
        lambda: system.set_value(tmp_path / "no-value", "1"),
        lambda: system.rename(tmp_path / "no", tmp_path / "new"),
    ):
        with pytest.raises(HostError):
            act()
    assert system.list_dir(tmp_path) == []


def test_a_link_is_a_thing_of_its_own(system: System, tmp_path: Path) -> None:
    link = tmp_path / "link"
    system.link(link, "nowhere")
    assert system.exists(link), "a dangling link counts"
    assert system.link(link, "elsewhere") is True
    assert system.remove(link) is True
    assert not system.exists(link)


def test_rename_moves_all_below(system: System, tmp_path: Path) -> None:
    system.make_dir(tmp_path / "old", owner=ME)
    system.write(tmp_path / "old" / "file", "x", owner=ME)
    system.rename(tmp_path / "old", tmp_path / "new")
    assert not system.exists(tmp_path / "old")
    assert system.list_dir(tmp_path) == ["new"]


def test_rename_never_replaces_a_directory(kind: str, tmp_path: Path) -> None:
    if kind == "dry-run":
        pytest.skip("a dry run does not know what is in the way")
    system = make(kind, tmp_path)
    system.make_dir(tmp_path / "old", owner=ME)
    system.make_dir(tmp_path / "new", owner=ME)
    with pytest.raises(HostError):
        system.rename(tmp_path / "old", tmp_path / "new")


def test_remove_says_whether_there_was_one(system: System, tmp_path: Path) -> None:
    system.write(tmp_path / "file", "x", owner=ME)
    assert system.remove(tmp_path / "file") is True
    assert system.remove(tmp_path / "file") is False
    assert system.remove_tree(tmp_path / "never") is False
    system.make_dir(tmp_path / "tree", owner=ME)
    system.write(tmp_path / "tree" / "file", "x", owner=ME)
    assert system.remove_tree(tmp_path / "tree") is True
    assert system.remove_tree(tmp_path / "tree") is False
    assert not system.exists(tmp_path / "tree" / "file")


def test_a_full_directory_is_not_removed_by_remove(kind: str, tmp_path: Path) -> None:
    if kind == "dry-run":
        pytest.skip("a dry run does not know what is inside")
    system = make(kind, tmp_path)
    system.make_dir(tmp_path / "folder", owner=ME)
    system.write(tmp_path / "folder" / "file", "x", owner=ME)
    with pytest.raises(HostError):
        system.remove(tmp_path / "folder")


def test_set_value_writes_what_is_there(system: System, kind: str, tmp_path: Path) -> None:
    if kind == "dry-run":
        system.set_value(tmp_path / "value", "7")
    else:
        system.write(tmp_path / "value", "1", owner=ME)
        system.set_value(tmp_path / "value", "7")
    assert system.read(tmp_path / "value") == "7"


def test_query_never_raises_and_run_does(system: System, kind: str, tmp_path: Path) -> None:
    argv = ["sh", "-c", "echo out; echo err >&2; exit 3"]
    assert system.query(argv) == Result(3, "out\n", "err\n")
    assert system.query(["no-such-program-here"]).status == 127
    assert system.run(["true"]).ok
    if kind != "dry-run":
        with pytest.raises(HostError, match="err"):
            system.run(argv)
        assert system.run(argv, ok=(0, 3)).status == 3


def test_recording_tells_each_effect_before_it_happens(tmp_path: Path) -> None:
    seen: list[tuple[str, bool]] = []
    path = tmp_path / "file"
    recording = Recording(Local(), before=lambda effect: seen.append((effect, path.exists())))
    recording.write(path, "x", owner=ME)
    recording.remove(path)
    assert seen == [(f"write {path}", False), (f"remove {path}", True)]
    assert [effect for effect, _ in seen] == recording.effects


def test_dry_run_shows_the_plan_without_secrets(tmp_path: Path) -> None:
    shown: list[str] = []
    system = DryRun(Local(), shown.append)
    system.run(["chpasswd", "-e"], input="alice:hash")
    system.write(tmp_path / "conf", "line\n")
    system.make_dir(tmp_path / "dir")
    system.remove(tmp_path)
    plan = "\n".join(shown)
    for part in ("run        chpasswd -e", f"write      {tmp_path}/conf", "+line", f"directory  {tmp_path}/dir"):
        assert part in plan
    assert "hash" not in plan
    assert list(tmp_path.iterdir()) == []


def test_fake_refuses_commands_nobody_scripted() -> None:
    act: Callable[[], Result] = lambda: Fake().run(["useradd", "x"])  # noqa: E731
    with pytest.raises(UnexpectedCommand, match="useradd x"):
        act()
