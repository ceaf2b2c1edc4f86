"""One contract for every System: Local in its own folder, Fake, Recording, and DryRun, which must change nothing."""

from __future__ import annotations

import os
import signal
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

ME = Owner(os.getuid(), os.getgid())
KINDS = ("local", "fake", "recording", "dry-run")
REAL = ("local", "recording")


def _answers() -> dict[str, Result]:
    return {
        "sh -c 'echo out; echo err >&2; exit 3'": Result(3, "out\n", "err\n"),
        "true": Result(0, "", ""),
        "no-such-program-here": Result(127, "", "There is no program no-such-program-here on this host."),
    }


def _make(kind: str, root: Path) -> System:
    if kind == "fake":
        fake = Fake(commands=_answers())
        for folder in reversed((root, *root.parents)):
            fake.files[str(folder)] = File(None, 0o755)
        return fake
    if kind == "dry-run":
        return DryRun(Local(), lambda _: None)
    return Local() if kind == "local" else Recording(Local())


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def system(kind: str, tmp_path: Path) -> Iterator[System]:
    before = _snapshot(tmp_path)
    yield _make(kind, tmp_path)
    if kind == "dry-run":
        assert _snapshot(tmp_path) == before, "a dry run changed the disk"


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest, tmp_path: Path) -> System:
    return _make(request.param, tmp_path)


def _snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    found = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        text = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
        found[str(path)] = (info.st_mode, info.st_ino, text)
    return found


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


def test_the_fake_copies_too(tmp_path: Path) -> None:
    fake = _make("fake", tmp_path)
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
    system = _make(kind, tmp_path)
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
    system = _make(kind, tmp_path)
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
    system = _make(kind, tmp_path)
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


# What only the real host has: modes, owners, processes, hostile links.


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


def test_a_program_gets_a_clean_environment_and_its_input(real: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD_SECRET", "leak")
    assert "leak" not in real.query(["env"]).stdout
    assert real.run(["cat"], input="told").stdout == "told"
    assert real.run(["cat"]).stdout == "", "without input, standard input is empty"
    assert real.query(["sh", "-c", "echo $EXTRA"], env={"EXTRA": "given"}).stdout == "given\n"
    with pytest.raises(HostError, match="did not end"):
        real.run(["sleep", "5"], timeout=0.1)
    with pytest.raises(HostError, match="no program"):
        real.run(["no-such-program-here"])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another")
def test_a_program_runs_as_the_user_with_no_other_group(real: System, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    told = real.run(["sh", "-c", "id -u; id -G"], user=Owner(50998, 50998), cwd="/").stdout.split()
    assert told == ["50998", "50998"]


def test_kill_says_whether_there_was_one(real: System) -> None:
    with subprocess.Popen(["sleep", "30"]) as process:
        assert real.kill(process.pid, signal.SIGTERM) is True
        process.wait()
    assert real.kill(process.pid) is False


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


def test_output_is_stored_as_it_comes(real: System, tmp_path: Path) -> None:
    path, seen = tmp_path / "out", list[int]()
    path.write_text("of a start that was cut off, and longer than what comes")
    path.chmod(0o600)
    told = real.store_output(["sh", "-c", "printf 'a\\0b'; echo 'to people' >&2; sleep 0.7"], path, watch=seen.append)
    assert (path.read_bytes(), told, stat.S_IMODE(path.stat().st_mode)) == (b"a\0b", "to people", 0o600)
    assert len(seen) >= 2 and seen[-1] == 3, "called while nothing comes too"
    real.store_output(["head", "-c", str(5 << 20), "/dev/zero"], path, watch=seen.append)
    assert path.stat().st_size == seen[-1] == 5 << 20


def test_who_watches_ends_the_program(real: System, tmp_path: Path) -> None:
    def stop(size: int) -> None:
        if size > 1 << 20:
            raise HostError("enough")

    with pytest.raises(HostError, match="enough"):
        real.store_output(["sh", "-c", f"echo $$ >{tmp_path}/pid; exec cat /dev/zero"], tmp_path / "out", watch=stop)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_program_that_fails_while_it_is_stored(real: System, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"status 3: no\nluck"):
        real.store_output(["sh", "-c", "echo no >&2; echo luck >&2; exit 3"], tmp_path / "out", watch=lambda _: None)
    with pytest.raises(HostError, match="no program"):
        real.store_output(["no-such-program-here"], tmp_path / "out", watch=lambda _: None)
    (tmp_path / "precious").write_text("old")
    (tmp_path / "link").symlink_to("precious")
    with pytest.raises(HostError):
        real.store_output(["echo", "new"], tmp_path / "link", watch=lambda _: None)
    assert (tmp_path / "precious").read_text() == "old"


def test_the_fake_and_the_dry_run_store_output_too(tmp_path: Path) -> None:
    fake = _make("fake", tmp_path)
    assert fake.store_output(["true"], tmp_path / "out", watch=lambda _: None) == ""
    assert fake.read(tmp_path / "out") == ""
    with pytest.raises(HostError):
        fake.store_output(["sh", "-c", "echo out; echo err >&2; exit 3"], tmp_path / "out", watch=lambda _: None)
    shown: list[str] = []
    plan = DryRun(Local(), shown.append)
    plan.store_output(["rm", "-rf", str(tmp_path)], tmp_path / "out", watch=lambda _: None)
    assert plan.exists(tmp_path / "out") and tmp_path.is_dir() and not (tmp_path / "out").exists()
    assert shown == [f"run        rm -rf {tmp_path} > {tmp_path}/out"]
