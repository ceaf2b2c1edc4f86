"""A purge hands over what its user has in groups' folders, and touches nothing else there, whoever writes there meanwhile."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from diycloud.errors import HostError
from diycloud.system import Local
from tests.conftest import cannot_run
from tests.stack import Stack

pytestmark = pytest.mark.skipif(bool(cannot_run()), reason=cannot_run() or "-")
OLD, NEW, OTHER = 53_901, 53_902, 53_903
PASSWORD = "correct horse battery"


def own(path: Path, uid: int) -> Path:
    os.chown(path, uid, uid, follow_symlinks=False)
    return path


def owners(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_uid for path in folder.rglob("*")}


def test_files_and_folders_change_hands_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    (folder / "mine/deep/er").mkdir(parents=True)
    for name in ("mine", "mine/deep", "mine/deep/er"):
        own(folder / name, OLD)
    for name, uid in (("mine/a", OLD), ("mine/deep/er/b", OLD), ("theirs", OTHER), ("program", OLD)):
        (folder / name).write_text("x")
        own(folder / name, uid)
    (folder / "program").chmod(0o4755)
    (tmp_path / "secret").write_text("x")
    own(tmp_path / "secret", OTHER)
    (folder / "mine/link").symlink_to(tmp_path / "secret")
    os.link(folder / "mine/a", folder / "twice")
    os.mkfifo(folder / "fifo")
    own(folder / "fifo", OLD)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket"))
    own(folder / "socket", OLD)
    own(folder / "mine/link", OLD)
    given, left = Local().give_tree(folder, old=OLD, new=NEW)
    assert owners(folder) == {
        "mine": NEW, "mine/deep": NEW, "mine/deep/er": NEW, "mine/deep/er/b": NEW, "program": NEW,
        "mine/a": OLD, "twice": OLD, "mine/link": OLD, "fifo": OLD, "socket": OLD, "theirs": OTHER,
    }  # fmt: skip
    assert (given, left) == (5, 5), "two names of one file, a link, a fifo and a socket stay"
    assert not (folder / "program").stat().st_mode & 0o4000
    assert (tmp_path / "secret").stat().st_uid == OTHER
    assert Local().give_tree(folder, old=OLD, new=NEW)[0] == 0


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("x")
    own(tmp_path / "real/file", OLD)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(HostError):
        Local().give_tree(tmp_path / "link", old=OLD, new=NEW)
    assert (tmp_path / "real/file").stat().st_uid == OLD


def test_names_swapped_meanwhile_lead_nowhere(tmp_path: Path) -> None:
    """Somebody renames another's file, a link and a folder over the name all the time."""
    folder, store = tmp_path / "shared", tmp_path / "store"
    folder.mkdir()
    store.mkdir()
    (store / "there").mkdir()
    victim, inside = store / "victim", store / "there/inside"
    for path in (victim, inside):
        path.write_text("x")
        own(path, OTHER)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for number in range(20):
                name = folder / f"f{number}"
                name.write_text("x")
                own(name, OLD)
                os.link(victim, folder / "again")
                os.rename(folder / "again", name)
                name.unlink()
                name.symlink_to(victim)
                name.unlink()
                name.symlink_to(store / "there")
                name.unlink()

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(400):
            Local().give_tree(folder, old=OLD, new=NEW)
    finally:
        stop.set()
        swapper.join()
    assert (victim.stat().st_uid, inside.stat().st_uid) == (OTHER, OTHER)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(uid_min=53_600, uid_max=53_699, cgroup="dthand") as running:
        running.cli("group", "create", "dthlab")
        for name in ("dthada", "dthbob", "dthcarl"):
            running.cli("user", "create", name, "--groups", "dthlab", "--password", "-", input=f"{PASSWORD}\n")
        running.cli("domain", "create", "dthfar")
        running.cli("user", "create", "dthfar", "--domain", "dthfar")
        yield running


def sh(name: str, command: str) -> None:
    argv = ["setpriv", f"--reuid={name}", f"--regid={name}", "--init-groups", "--", "sh", "-c", command]
    subprocess.run(argv, check=True, cwd="/")


def test_a_purge_hands_over_to_a_colleague(stack: Stack) -> None:
    folder = stack.prefix / "shared/dthlab"
    sh("dthada", f"mkdir {folder}/paper && echo draft > {folder}/paper/text && umask 077 && echo x > {folder}/private")
    sh("dthcarl", f"echo mine > {folder}/carl")
    stack.cli("user", "delete", "dthada")
    for wrong in ("dthada", "dthfar", "dthnobody"):
        refused = stack.cli("user", "purge", "dthada", "--hand-over-to", wrong, "--yes", ok=2)
        assert "hand_over_to" in refused.stderr
    done = stack.json("user", "purge", "dthada", "--hand-over-to", "dthbob", "--yes")
    bob, carl = pwd.getpwnam("dthbob").pw_uid, pwd.getpwnam("dthcarl").pw_uid
    assert done["handed_over"] == 3
    assert owners(folder) == {"paper": bob, "paper/text": bob, "private": bob, "carl": carl}
    sh("dthbob", f"echo more >> {folder}/private")
    changes = stack.json("audit", "list", "--user", "dthada", "--action", "user.purge")["entries"][0]["changes"]
    assert changes["handed_over"] == [None, "3 to dthbob"]


def test_nobody_is_robbed_while_at_work(stack: Stack) -> None:
    """The agent hands over only what a locked account has, whatever the server says."""
    from diycloud.agent.client import call_blocking
    from diycloud.agent.protocol import Handed, HandOver
    from diycloud.errors import Conflict

    with pytest.raises(Conflict, match="not locked"):
        call_blocking(stack.prefix / "run/diycloud/agent/agent.sock", HandOver("dthcarl", "dthbob"), Handed)
