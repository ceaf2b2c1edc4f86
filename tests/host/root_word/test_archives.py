"""A home is packed before it goes, as its owner; archives that fail stop the purge; the trash is listed and emptied."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diycloud.agent import archive, changes
from diycloud.agent.protocol import (
    Account,
    Archived,
    ArchiveHome,
    Limits,
    ListTrash,
    PurgeAccount,
    State,
    Trashed,
    Wish,
)
from diycloud.agent.state import Agent
from diycloud.errors import DiyCloudError, PermissionDenied, Unavailable
from diycloud.system import Local
from tests.host.root_word.support import (
    ARCHIVES,
    CGROUP,
    KILLED,
    NEEDED,
    ROOT,
    as_root,
    as_server,
    fresh_agent,
    names_in,
    only_archive,
    row,
)
from tests.killing import every_step
from tests.stack import Stack

pytestmark = NEEDED


def user_with_a_hostile_home(stack: Stack, name: str) -> Path:
    stack.cli("user", "create", name)
    uid, home = pwd.getpwnam(name).pw_uid, Path(f"/home/{name}")
    (home / "data/numbers").write_bytes(os.urandom(300_000))
    (home / "tool").write_text("#!/bin/sh\n")
    (home / "etc").symlink_to("/etc/shadow")
    os.mkfifo(home / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "socket"))
    with (home / "holes").open("wb") as file:
        file.write(b"start")
        file.seek(1 << 30)
        file.write(b"end")
    os.link(home / "tool", home / "tool-too")
    for path in home.rglob("*"):
        os.chown(path, uid, uid, follow_symlinks=False)
    (home / "tool").chmod(0o6755)
    (home / "not-mine").write_text("root's")
    (home / "not-mine").chmod(0o600)
    return home


def test_a_purge_packs_the_home_first_as_its_owner(stack: Stack) -> None:
    home = user_with_a_hostile_home(stack, "dtroota1")
    uid, numbers = pwd.getpwnam("dtroota1").pw_uid, (home / "data/numbers").read_bytes()
    stack.cli("user", "delete", "dtroota1")
    purged = stack.json("user", "purge", "dtroota1", "--archive", "--yes")
    path = only_archive("dtroota1")
    assert (purged["archive"], "3 entries" in purged["warnings"][0]) == (str(path), True)
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) == (0o600, 0)
    assert (stat.S_IMODE(ARCHIVES.stat().st_mode), path.name.startswith(f"dtroota1-{uid}-")) == (0o700, True)
    assert not home.exists()
    into = ARCHIVES / "out"
    into.mkdir()
    subprocess.run(["tar", "-xpf", str(path), "-C", str(into)], check=True)
    top = into / "dtroota1"
    assert (top / "data/numbers").read_bytes() == numbers
    assert stat.S_IMODE((top / "tool").stat().st_mode) == 0o755, "set-user-ID is gone"
    assert (top / "tool").samefile(top / "tool-too")
    assert os.readlink(top / "etc") == "/etc/shadow"
    assert not any((top / name).exists() for name in ("fifo", "socket", "not-mine"))
    assert (top / "holes").stat().st_size == (1 << 30) + 3 and path.stat().st_size < 2 << 20
    assert {(p.lstat().st_uid, p.lstat().st_gid) for p in top.rglob("*")} == {(uid, uid)}


def test_the_packing_process_is_the_user_in_the_users_slice(stack: Stack) -> None:
    stack.cli("user", "create", "dtroota2")
    uid, home = pwd.getpwnam("dtroota2").pw_uid, Path("/home/dtroota2")
    with (home / "data/big").open("wb") as file:
        for _ in range(400):
            file.write(os.urandom(1 << 20))
    os.chown(home / "data/big", uid, uid)
    stack.cli("user", "delete", "dtroota2")
    waiting = subprocess.Popen(
        [sys.executable, "-m", "diycloud.cli.main", "--prefix", str(stack.prefix), "user", "purge", "dtroota2",
         "--archive", "--yes"], stdout=subprocess.DEVNULL,
    )  # fmt: skip
    seen: set[tuple[int, str]] = set()
    end = time.monotonic() + 60
    while waiting.poll() is None and time.monotonic() < end:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if any(word.endswith(b"packing.py") for word in words) and b"python" in words[0]:
                    groups = (folder / "cgroup").read_text()
                    seen.add((folder.stat().st_uid, str(f"/{CGROUP}/dtroota2" in groups)))
            except OSError:
                continue
        time.sleep(0.02)
    assert waiting.wait(60) == 0
    assert (uid, "True") in seen, seen
    assert not [one for one in seen if one[0] == 0 and one[1] != "True"], "not even its first moment is outside"


def test_a_home_that_cannot_be_packed_stops_the_purge_and_nothing_is_gone(stack: Stack) -> None:
    stack.cli("user", "create", "dtroota3")
    stack.cli("user", "delete", "dtroota3")
    ARCHIVES.mkdir(exist_ok=True)
    mine = Path("/home/dtroota3/data")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mine)], check=True)
    try:
        refused = stack.cli("user", "purge", "dtroota3", "--archive", "--yes", ok=6)
    finally:
        subprocess.run(["umount", str(mine)], check=True)
    assert "mounted" in refused.stderr
    assert (row(stack, "dtroota3")["status"], mine.is_dir()) == ("deleted", True)
    assert not [path for path in ARCHIVES.iterdir() if "dtroota3" in path.name]
    stack.cli("user", "purge", "dtroota3", "--archive", "--yes")
    assert only_archive("dtroota3").exists() and not mine.exists()


def test_a_disk_that_is_full_stops_the_purge(stack: Stack) -> None:
    stack.cli("user", "create", "dtroota4")
    (Path("/home/dtroota4") / "data/some").write_bytes(b"x" * 100_000)
    stack.cli("user", "delete", "dtroota4")
    ARCHIVES.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(ARCHIVES)], check=True)
    try:
        refused = stack.cli("user", "purge", "dtroota4", "--archive", "--yes", ok=8)
    finally:
        subprocess.run(["umount", str(ARCHIVES)], check=True)
    assert "free" in refused.stderr and "agent.archive" in refused.stderr
    assert row(stack, "dtroota4")["status"] == "deleted"
    assert Path("/home/dtroota4/data/some").exists()


def test_an_open_account_is_not_archived(stack: Stack) -> None:
    stack.cli("user", "create", "dtroota5")
    for ask in (as_root, as_server):
        with pytest.raises(DiyCloudError, match="not locked"):
            ask(stack, ArchiveHome("dtroota5"), Archived)


def test_an_archive_is_made_once_for_a_home_as_it_is(stack: Stack) -> None:
    stack.cli("user", "create", "dtroota6")
    stack.cli("user", "delete", "dtroota6")
    first = as_server(stack, ArchiveHome("dtroota6"), Archived)
    assert as_server(stack, ArchiveHome("dtroota6"), Archived) == first
    time.sleep(1.1)  # an archive's name has seconds
    Path("/home/dtroota6/new").touch()
    second = as_server(stack, ArchiveHome("dtroota6"), Archived)
    assert second.path != first.path and "dtroota6/new" in names_in(Path(second.path))


def test_a_purge_with_archive_that_is_killed_is_completed_by_the_same(places: None, tmp_path: Path) -> None:
    """One archive, whole; one home in the trash; no account; whatever was cut off."""

    def prepare() -> None:
        for path in (*ARCHIVES.glob(f"*{KILLED}*"), *Path("/home/.diycloud-trash").glob(f"{KILLED}.*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        agent = fresh_agent(Local(), tmp_path)
        made = Account(Wish(KILLED, 1 << 20, Limits(0.5, 64 << 20, 50), State.LOCKED), create=True)
        (outcome,) = changes.ensure_accounts(agent, ROOT, [made])
        assert outcome.code == "", outcome
        Path(f"/home/{KILLED}/data/thesis").write_text("years of work")

    def purge(agent: Agent) -> None:
        archive.archive_home(agent, ROOT, KILLED)
        changes.purge_account(agent, ROOT, PurgeAccount(KILLED, (1 << 20) + 1))

    prepare()
    steps = 0
    for step in every_step(lambda system: purge(fresh_agent(system, tmp_path))):
        steps += 1
        archived = any(not path.name.startswith(".") for path in ARCHIVES.glob(f"*{KILLED}*"))
        assert archived or Path(f"/home/{KILLED}/data/thesis").exists(), (
            f"{step}: nothing goes before the archive is whole"
        )
        purge(fresh_agent(Local(), tmp_path))
        (packed,) = ARCHIVES.glob(f"*{KILLED}*")
        assert f"{KILLED}/data/thesis" in names_in(packed), step
        (trashed,) = Path("/home/.diycloud-trash").glob(f"{KILLED}.*")
        assert (trashed / "data/thesis").read_text() == "years of work", step
        with pytest.raises(KeyError):
            pwd.getpwnam(KILLED)
        (tmp_path / "managed").unlink()
        (tmp_path / "started").unlink()
        prepare()
    assert steps > 8, "the purge has steps"


def test_an_agent_that_stops_gives_an_archive_up_and_leaves_no_half(stack: Stack) -> None:
    stack.cli("user", "create", "dtroota8")
    uid = pwd.getpwnam("dtroota8").pw_uid
    with Path("/home/dtroota8/data/big").open("wb") as file:
        for _ in range(300):
            file.write(os.urandom(1 << 20))
    os.chown("/home/dtroota8/data/big", uid, uid)
    stack.cli("user", "delete", "dtroota8")
    part = ARCHIVES / f".dtroota8-{uid}.part"
    with ThreadPoolExecutor(1) as thread:
        packing = thread.submit(as_root, stack, ArchiveHome("dtroota8"), Archived)
        while not (part.exists() and part.stat().st_size > 1 << 20):
            assert not packing.done(), packing.exception()
            time.sleep(0.01)
        started = time.monotonic()
        stack.stop_agent()
        assert time.monotonic() - started < 5
        with pytest.raises(Unavailable, match=r"gave up|does not answer"):
            packing.result()
    assert not part.exists() and not list(ARCHIVES.glob("dtroota8-*"))
    assert Path("/home/dtroota8/data/big").exists()
    stack.start_agent()
    assert as_root(stack, ArchiveHome("dtroota8"), Archived).bytes > 300 << 20


# -- trash


def test_the_trash_is_listed_and_emptied_by_root(stack: Stack) -> None:
    from diycloud.agent.protocol import EmptyTrash

    for name in ("dtroott1", "dtroott2"):
        stack.cli("user", "create", name)
        stack.cli("user", "delete", name)
        stack.cli("user", "purge", name, "--yes")
    found = {item.name: item for item in as_root(stack, ListTrash(), list[Trashed])}
    assert {"dtroott1", "dtroott2"} <= found.keys() and found["dtroott1"].bytes > 0
    with pytest.raises(PermissionDenied, match="server may not"):
        as_server(stack, EmptyTrash([found["dtroott1"].folder]), list[str])
    for outside in ("/home/dtroott1.57000.1", "/home/.diycloud-trash/../dtroott1.1.1"):
        with pytest.raises(PermissionDenied, match="not in the trash"):
            as_root(stack, EmptyTrash([outside]), list[str])
    assert "dtroott1" in stack.cli("trash", "list").stdout
    assert "nothing to remove" in stack.cli("trash", "empty", "dtroott1", "--older-than", "1", "--yes").stdout
    stack.cli("trash", "empty", "dtroott1", ok=2)
    stack.cli("trash", "empty", "dtroott1", "--yes")
    assert not Path(found["dtroott1"].folder).exists() and Path(found["dtroott2"].folder).exists()
    stack.cli("trash", "empty", "dtroott1", "--yes", ok=5)
