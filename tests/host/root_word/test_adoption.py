"""An account that is there already becomes a user's: nothing of it is touched, and what cannot be adopted is told."""

from __future__ import annotations

import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

from diycloud.agent import adopt, changes
from diycloud.agent.protocol import Account, EnsureAccounts, GrantSudo, Limits, Outcome, Wish
from diycloud.errors import PermissionDenied
from diycloud.host import shadow
from diycloud.system import Local, System
from tests.host.root_word.support import (
    CGROUP,
    KILLED,
    NEEDED,
    OUTSIDE,
    ROOT,
    UID_MAX,
    UID_MIN,
    as_root,
    as_server,
    free_uid,
    fresh_agent,
    host_lines,
    make_account,
    names_in,
    only_archive,
    row,
    tree,
)
from tests.killing import every_step
from tests.stack import Stack

pytestmark = NEEDED


def test_an_adoption_that_is_killed_is_completed_by_the_same(places: None, tmp_path: Path) -> None:
    home = make_account(KILLED, 57_070)
    before, lines = tree(home), host_lines(KILLED)
    wish = Wish(KILLED, 1 << 20, Limits(0.5, 64 << 20, 50))

    def adopted(system: System) -> Outcome:
        return adopt.adopt_accounts(fresh_agent(system, tmp_path), ROOT, [wish])[0]

    fresh_agent(Local(), tmp_path)  # its own file is there
    steps = 0
    for step in every_step(adopted):
        steps += 1
        agent = fresh_agent(Local(), tmp_path)
        outcome = adopt.adopt_accounts(agent, ROOT, [wish])[0]
        assert (outcome.code, outcome.uid, agent.registry.entries[KILLED].uid) == ("", 57_070, 57_070), step
        ensured = changes.ensure_accounts(agent, ROOT, [Account(wish)])[0]  # what the server sends then
        assert ensured.code == "", (step, ensured)
        assert agent.slices is None or agent.slices.read_limits(KILLED, 57_070) is not None, step
        assert (tree(home), host_lines(KILLED)) == (before, lines), step
        if agent.slices is not None:
            agent.slices.remove(KILLED, 57_070)
        agent.registry.forget([KILLED])
    assert steps > 3


def test_an_account_is_adopted_and_nothing_of_it_is_touched(stack: Stack) -> None:
    uid = free_uid(stack)
    home = make_account("dtroot-ada", uid, "-c", "Ada Lovelace,room 1")
    runs = subprocess.Popen(["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "sleep", "300"])
    before, lines = tree(home), host_lines("dtroot-ada")
    shown = stack.cli("user", "adopt", "--dry-run").stdout
    assert "dtroot-ada" in shown
    done = stack.json("user", "adopt", "dtroot-ada", "--memory", "256M")
    assert done["accounts"] == [{"username": "dtroot-ada", "outcome": "adopted", "uid": uid, "note": ""}]
    user = row(stack, "dtroot-ada")
    assert (user["uid"], user["status"], user["settled"], user["full_name"]) == (uid, "active", True, "Ada Lovelace")
    assert (tree(home), host_lines("dtroot-ada")) == (before, lines)
    for controller in ("memory", "pids", "cpu", "cpuacct"):
        assert f"/{CGROUP}/dtroot-ada" in Path(f"/proc/{runs.pid}/cgroup").read_text(), controller
    limit = Path(f"/sys/fs/cgroup/memory/{CGROUP}/dtroot-ada/memory.limit_in_bytes").read_text()
    assert int(limit) == 256 << 20
    runs.kill()
    runs.wait()
    again = stack.json("user", "adopt", "dtroot-ada")
    assert again["accounts"][0]["outcome"] == "adopted"
    stack.cli("limits", "set", "dtroot-ada", "--memory", "128M")
    assert tree(home) == before
    assert "dtroot-ada" not in stack.cli("user", "adopt", "--dry-run").stdout


def test_an_account_that_the_sign_in_hook_passes_by_is_adopted_with_a_warning(stack: Stack) -> None:
    make_account("dtroot-old", 1907)
    (done,) = stack.json("user", "adopt", "dtroot-old")["accounts"]
    assert done["outcome"] == "adopted" and "agent.uid_min to 1907 or lower" in done["note"]
    assert row(stack, "dtroot-old")["uid"] == 1907
    stack.cli("user", "create", "dtroot-new")
    assert UID_MIN <= row(stack, "dtroot-new")["uid"] <= UID_MAX, "the range is as it was"


def test_what_cannot_be_adopted_is_told_why(stack: Stack) -> None:
    make_account("dtroot-adm", free_uid(stack), "-G", "sudo")
    make_account("dtroot-far", OUTSIDE)
    home = make_account("dtroot-link", free_uid(stack))
    home.rename("/home/dtroot-moved")
    home.symlink_to("/home/dtroot-moved")
    make_account("dtroot-nosh", free_uid(stack), "-s", "/usr/sbin/nologin")
    number = str(pwd.getpwnam("dtroot-link").pw_uid)
    subprocess.run(["useradd", "-M", "-o", "-u", number, "dtroot-twin"], check=True)
    make_account("dtroot-lock", free_uid(stack))
    subprocess.run(["usermod", "-p", shadow.hash_password("x y z", "$6$"), "dtroot-lock"], check=True)
    subprocess.run(["usermod", "-L", "dtroot-lock"], check=True)
    try:
        found = {one["name"]: one["problem"] for one in _json_list(stack, "user", "adopt", "--dry-run")}
        words = {
            "dtroot-adm": "sudo", "dtroot-link": "another name", "dtroot-twin": "another name", "dtroot-nosh": "shell",
            "dtroot-lock": "locked",
        }  # fmt: skip
        for name, word in words.items():
            assert word in found[name], (name, found[name])
            refused = stack.json("user", "adopt", name, ok=2)["accounts"][0]
            assert (refused["outcome"], word in refused["note"]) == ("refused", True)
            stack.cli("user", "show", name, ok=5)
        assert "dtroot-far" not in found
        subprocess.run(["userdel", "-f", "dtroot-twin"], check=True)
        assert "is no directory" in stack.json("user", "adopt", "dtroot-link", ok=2)["accounts"][0]["note"]
    finally:
        home.unlink()
        shutil.rmtree("/home/dtroot-moved")


def _json_list(stack: Stack, *words: str) -> list[dict]:
    return stack.json(*words)  # type: ignore[return-value]


def test_the_server_alone_adopts_nobody(stack: Stack) -> None:
    from diycloud.agent.protocol import Adoptable, AdoptAccounts, FindAdoptable

    uid = free_uid(stack)
    make_account("dtroot-bob", uid)
    wish = Wish("dtroot-bob", 1 << 25, Limits(0.5, 64 << 20, 50), shell="/bin/bash")
    for message, answer in (
        (AdoptAccounts([wish]), list[Outcome]),
        (FindAdoptable(), list[Adoptable]),
        (GrantSudo("dtroot-bob", True), Outcome),
    ):
        with pytest.raises(PermissionDenied, match="server may not"):
            as_server(stack, message, answer)
    status, _, body = stack.http(
        "POST", "/api/v1/users/dtroot-bob/adopt", {"uid": uid, "shell": "/bin/bash"}
    )  # uid 0 at the socket: the row waits
    assert (status, body["user"]["settled"]) == (200, False)
    outcome = as_server(stack, EnsureAccounts([Account(wish, shadow.hash_password("abc", "$6$"))]), list[Outcome])[0]
    assert outcome.code == "conflict", "a row of the server's makes nobody managed"
    # A row whose account was never adopted is seen, and can be removed.
    assert row(stack, "dtroot-bob")["status"] == "pending"
    stack.cli("user", "delete", "dtroot-bob")
    stack.cli("user", "purge", "dtroot-bob", "--yes")
    stack.cli("user", "show", "dtroot-bob", ok=5)
    assert pwd.getpwnam("dtroot-bob").pw_uid == uid and Path("/home/dtroot-bob/thesis.txt").exists()


def test_an_adoption_that_was_cut_off_is_completed_by_the_same_command(stack: Stack) -> None:
    from diycloud.agent.protocol import AdoptAccounts

    uid = free_uid(stack)
    make_account("dtroot-eve", uid)
    asked = {"uid": uid, "shell": "/bin/bash"}
    stack.http("POST", "/api/v1/users/dtroot-eve/adopt", asked)  # the wish was stored, then came the kill
    assert stack.json("user", "adopt", "dtroot-eve")["accounts"][0]["outcome"] == "adopted"
    uid = free_uid(stack)
    make_account("dtroot-fay", uid)
    _, _, body = stack.http("POST", "/api/v1/users/dtroot-fay/adopt", asked | {"uid": uid})
    wish = Wish("dtroot-fay", body["user"]["version"], Limits(1.0, 64 << 20, 50), shell="/bin/bash")
    assert as_root(stack, AdoptAccounts([wish]), list[Outcome])[0].code == ""  # root's word was given, then the kill
    assert not row(stack, "dtroot-fay")["settled"]
    assert stack.json("user", "adopt", "dtroot-fay")["accounts"][0]["outcome"] == "adopted"
    assert row(stack, "dtroot-fay")["settled"]


def test_an_adopted_user_is_purged_like_any_other(stack: Stack) -> None:
    make_account("dtroot-gil", free_uid(stack))
    stack.cli("user", "adopt", "dtroot-gil")
    stack.cli("user", "delete", "dtroot-gil")
    stack.cli("user", "purge", "dtroot-gil", "--archive", "--yes")
    with pytest.raises(KeyError):
        pwd.getpwnam("dtroot-gil")
    assert "dtroot-gil/thesis.txt" in names_in(only_archive("dtroot-gil"))
