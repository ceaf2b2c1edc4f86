"""Hashes by the host's own libcrypt, homes on the real file system."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from diycloud.agent.protocol import Shadow
from diycloud.errors import Conflict, InvalidInput, Unsupported
from diycloud.host import homes, shadow
from diycloud.system import Local, Owner
from tests.host.agent_process import UID_MIN

root_only = pytest.mark.skipif(os.getuid() != 0, reason="homes can be given away by root only")
OWNER = Owner(UID_MIN, UID_MIN)


def supported() -> list[str]:
    return [prefix for prefix in shadow.COST if shadow.supports(prefix)]


@pytest.mark.parametrize("prefix", shadow.COST)
def test_a_hash_is_what_the_host_checks(prefix: str) -> None:
    """crypt(3), "RETURN VALUE": hashing again with the hash as setting gives the hash."""
    if not shadow.supports(prefix):
        pytest.skip(f"this libcrypt makes no {prefix}")
    phrase = "pässwörd with spaces"
    hashed = shadow.hash_password(phrase, prefix)
    assert msgspec.convert(hashed, Shadow) == hashed, "the agent takes what it makes"
    assert _crypt(phrase, hashed) == hashed
    assert _crypt("another", hashed) != hashed
    assert shadow.hash_password(phrase, prefix) != hashed, "salted"


@pytest.mark.parametrize("prefix", ["$6$", "$5$", "$2b$"])
def test_settings_made_without_gensalt_are_valid(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on musl, whose libcrypt has no crypt_gensalt."""
    monkeypatch.setattr(shadow, "_setting", lambda library, wanted: shadow._plain_setting(wanted, shadow.COST[wanted]))
    for _ in range(5):
        hashed = shadow.hash_password("phrase", prefix)
        assert _crypt("phrase", hashed) == hashed


def test_unknown_methods_are_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shadow.COST, "$nope$", 1)
    with pytest.raises(Unsupported):
        shadow.hash_password("phrase", "$nope$")


@pytest.mark.parametrize("bad", ["", "a\0b", "a\nb", "a\rb", "x" * 513, "ä" * 257])
def test_phrases_that_would_be_cut_are_refused(bad: str) -> None:
    with pytest.raises(InvalidInput):
        shadow.hash_password(bad, "$6$")


def test_the_interpreter_is_free_while_libcrypt_works() -> None:
    """Another thread counts on while one hash is made; with the lock held it would stand still."""
    counted, done = 0, threading.Event()
    longest = 0.0

    def count() -> None:
        nonlocal counted, longest
        last = time.monotonic()
        while not done.is_set():
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            counted += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=count)
    thread.start()
    start = time.monotonic()
    for _ in range(10):
        shadow.hash_password("phrase", supported()[0])
    took = time.monotonic() - start
    done.set()
    thread.join()
    assert counted > took * 1000 / 10
    assert longest < took


def test_the_hosts_own_program_agrees() -> None:
    """The host's own program agrees: mkpasswd or openssl where there is one."""
    salt = "abcdefgh"
    told = subprocess.run(
        ["openssl", "passwd", "-6", "-salt", salt, "phrase"], capture_output=True, text=True, check=False
    )
    if told.returncode:
        pytest.skip("no openssl here")
    assert _crypt("phrase", told.stdout.strip()) == told.stdout.strip()


def _crypt(phrase: str, setting: str) -> str:
    import ctypes

    crypt = shadow._libcrypt().crypt_r
    crypt.restype = ctypes.c_char_p
    made = crypt(phrase.encode(), setting.encode(), ctypes.create_string_buffer(shadow._SCRATCH))
    return (made or b"").decode()


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    subprocess.run(["rm", "-rf", str(tmp_path)], check=True)


@root_only
def test_a_home_is_made_whole_and_left_alone_afterwards(base: Path) -> None:
    assert homes.ensure_home(Local(), str(base), "ada", OWNER) is True
    home = base / "ada"
    for path in (home, *home.iterdir()):
        info = path.lstat()
        assert (info.st_uid, info.st_gid) == OWNER
        assert stat.S_IMODE(info.st_mode) & 0o007 == 0 or path.is_file()
    assert sorted(path.name for path in home.iterdir()) == sorted([*os.listdir("/etc/skel"), "notebooks", "data"])
    assert stat.S_IMODE((base / homes.STAGING).stat().st_mode) == 0o700
    (home / "notebooks").rmdir()
    home.chmod(0o700)
    assert homes.ensure_home(Local(), str(base), "ada", OWNER) is False
    assert not (home / "notebooks").exists()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@root_only
def test_what_is_in_the_way_is_refused(base: Path) -> None:
    (base / "link").symlink_to("/etc")
    (base / "file").touch()
    (base / "others").mkdir()
    for name in ("link", "file", "others"):
        with pytest.raises(Conflict):
            homes.ensure_home(Local(), str(base), name, OWNER)
        with pytest.raises(Conflict):
            homes.trash_home(Local(), str(base), name, OWNER.uid, 1.0)
    assert os.stat("/etc").st_uid == 0
    assert (base / "file").exists()


@root_only
def test_the_trash_is_emptied_when_its_time_is_over(base: Path) -> None:
    for name, at in (("old", 1000.0), ("new", 5000.0)):
        homes.ensure_home(Local(), str(base), name, OWNER)
        assert homes.trash_home(Local(), str(base), name, OWNER.uid, at) is True
        assert homes.trash_home(Local(), str(base), name, OWNER.uid, at) is False
    (base / homes.TRASH / "not-ours").mkdir()
    due = homes.in_trash(Local(), str(base), older_than=4000.0)
    assert due == [base / homes.TRASH / f"old.{OWNER.uid}.1000"]
    assert [Local().remove_tree(path) for path in due] == [True]
    assert sorted(os.listdir(base / homes.TRASH)) == [f"new.{OWNER.uid}.5000", "not-ours"]


def test_a_size_follows_no_link_and_counts_hard_links_once(base: Path) -> None:
    home = base / "ada"
    (home / "deep").mkdir(parents=True)
    (home / "data").write_bytes(b"x" * 1_000_000)
    os.link(home / "data", home / "deep" / "again")
    (base / "big").write_bytes(b"x" * 5_000_000)
    (home / "link").symlink_to(base)
    (home / "loop").symlink_to(home)
    os.mkfifo(home / "pipe")
    size = homes.measure_home(str(base), "ada")
    assert 1_000_000 <= size.bytes < 1_100_000
    assert size.files == 5
    assert homes.measure_home(str(base), "nobody") == (0, 0, True)


@root_only
def test_what_is_mounted_in_a_home_is_not_the_homes(base: Path) -> None:
    homes.ensure_home(Local(), str(base), "ada", OWNER)
    before = homes.measure_home(str(base), "ada")
    shared, inside = base / "shared", base / "ada" / "data"
    shared.mkdir()
    (shared / "course").write_bytes(b"x" * 1_000_000)
    if subprocess.run(["mount", "--bind", str(shared), str(inside)], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        assert homes.measure_home(str(base), "ada").bytes < before.bytes + 500_000
        with pytest.raises(Conflict, match="mounted"):
            homes.trash_home(Local(), str(base), "ada", OWNER.uid, 1.0)
        assert (shared / "course").exists()
    finally:
        subprocess.run(["umount", str(inside)], check=True)
    assert homes.trash_home(Local(), str(base), "ada", OWNER.uid, 1.0) is True


def test_measuring_ends_in_time_and_says_so(base: Path) -> None:
    (base / "ada" / "deep").mkdir(parents=True)
    assert homes.measure_home(str(base), "ada").whole is True
    assert homes.measure_home(str(base), "ada", patience_s=-1).whole is False


def test_a_home_built_to_exhaust_is_measured_all_the_same(base: Path) -> None:
    home = base / "ada"
    home.mkdir()
    for number in range(600):
        (home / str(number)).mkdir()
    fd = os.open(home, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    size = homes.measure_home(str(base), "ada")
    assert size.files >= 600 + homes.MAX_DEPTH - 1
    assert size.whole is False
    assert len(os.listdir("/proc/self/fd")) == before
