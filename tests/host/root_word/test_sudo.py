"""Administrators of the host: sudo is granted and revoked on root's word, and what a stolen server can do to them."""

from __future__ import annotations

import pwd
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from diycloud.agent import changes
from diycloud.agent import sudo as root_words
from diycloud.agent.protocol import (
    Account,
    Archived,
    ArchiveHome,
    ChangeOwnPassword,
    EnsureAccounts,
    GrantSudo,
    Limits,
    Outcome,
    PurgeAccount,
    State,
    StopWorkloads,
    Wish,
)
from diycloud.errors import PermissionDenied, TooManyRequests, Unauthenticated
from diycloud.host import shadow, sudo
from diycloud.system import Local, System
from tests.host.root_word.support import CGROUP, KILLED, NEEDED, ROOT, as_root, as_server, fresh_agent, host_lines, row
from tests.killing import every_step
from tests.stack import Stack

pytestmark = NEEDED


@pytest.mark.skipif(shutil.which("visudo") is None, reason="sudo is not installed")
@pytest.mark.parametrize("granted", [True, False])
def test_a_grant_and_a_revoke_that_are_killed_are_completed_by_the_same(
    places: None, tmp_path: Path, granted: bool
) -> None:
    """And whoever has rights by a line of ours is in the agent's file, at every moment."""
    make = Account(Wish(KILLED, 1 << 20, Limits(0.5, 64 << 20, 50)), create=True)
    assert changes.ensure_accounts(fresh_agent(Local(), tmp_path), ROOT, [make])[0].code == ""

    def word(system: System, wanted: bool) -> None:
        root_words.grant_sudo(fresh_agent(system, tmp_path), ROOT, GrantSudo(KILLED, wanted))

    word(Local(), not granted)
    steps = 0
    for step in every_step(lambda system: word(system, granted)):
        steps += 1
        listed = (tmp_path / "administrators").exists() and KILLED in (tmp_path / "administrators").read_text()
        assert listed or not may_do_all(KILLED), step
        word(Local(), granted)
        assert may_do_all(KILLED) is granted, step
        assert (KILLED in (tmp_path / "administrators").read_text(), sudo.STAGED.exists()) == (granted, False), step
        word(Local(), not granted)
    assert steps >= 2


needs_sudo = pytest.mark.skipif(shutil.which("visudo") is None, reason="sudo is not installed")
PASSWORD = "correct horse battery"


def may_do_all(name: str) -> bool:
    done = subprocess.run(["sudo", "-n", "-l", "-U", name], capture_output=True, text=True, check=False)
    return "(ALL : ALL) ALL" in done.stdout


@needs_sudo
def test_sudo_is_granted_and_revoked_on_roots_word(stack: Stack) -> None:
    stack.cli("user", "create", "dtroots1", "--password", "-", input=PASSWORD + "\n")
    assert not may_do_all("dtroots1")
    stack.cli("user", "sudo", "dtroots1", "--grant")
    assert may_do_all("dtroots1") and row(stack, "dtroots1")["sudo"]
    assert sudo.DROP_IN.read_text().endswith("\ndtroots1 ALL=(ALL:ALL) ALL\n")
    assert (stat.S_IMODE(sudo.DROP_IN.stat().st_mode), sudo.DROP_IN.stat().st_uid) == (0o440, 0)
    assert not sudo.STAGED.exists()
    assert not as_root(stack, GrantSudo("dtroots1", True), Outcome).changed, "again changes nothing"
    stack.cli("user", "sudo", "dtroots1", "--revoke")
    assert not may_do_all("dtroots1") and not row(stack, "dtroots1")["sudo"] and not sudo.DROP_IN.exists()


@needs_sudo
def test_what_a_stolen_server_can_do_to_an_administrator(stack: Stack) -> None:
    """Lock, end programs, set limits; nothing that opens a way in."""
    stack.cli("user", "create", "dtroots2", "--password", "-", input=PASSWORD + "\n")
    stack.cli("user", "sudo", "dtroots2", "--grant")
    version, lines = row(stack, "dtroots2")["version"], host_lines("dtroots2")
    evil = shadow.hash_password("evil", "$6$")

    def ask(shadow_hash: str | None = None, **others) -> Outcome:
        fields = {"generation": version, "limits": Limits(0.5, 64 << 20, 50)} | others
        return as_server(
            stack, EnsureAccounts([Account(Wish("dtroots2", **fields), shadow=shadow_hash)]), list[Outcome]
        )[0]

    for outcome in (ask(evil), ask(shell="/bin/sh"), ask(full_name="Someone Else")):
        assert outcome.code == "permission-denied" and "--revoke" in outcome.message, outcome
    with pytest.raises(PermissionDenied):
        as_server(stack, ArchiveHome("dtroots2"), Archived)
    with pytest.raises(PermissionDenied):
        as_server(stack, PurgeAccount("dtroots2", version), Outcome)
    assert host_lines("dtroots2") == lines and may_do_all("dtroots2")
    assert ask().code == "", "limits"
    limit = Path(f"/sys/fs/cgroup/memory/{CGROUP}/dtroots2/memory.limit_in_bytes").read_text()
    assert int(limit) == 64 << 20
    assert as_server(stack, StopWorkloads("dtroots2"), int) == 0
    assert ask(state=State.LOCKED).code == "", "locking"
    assert pwd.getpwnam("dtroots2") and ":!$" in "\n".join(host_lines("dtroots2"))
    assert ask().code == "permission-denied", "and opening again is root's"
    stack.cli("user", "sudo", "dtroots2", "--revoke")
    assert ask().code == ""


@needs_sudo
def test_an_administrator_changes_the_password_with_the_old_one_only(stack: Stack) -> None:
    stack.cli("user", "create", "dtroots3", "--password", "-", input=PASSWORD + "\n")
    stack.cli("user", "sudo", "dtroots3", "--grant")
    token = stack.token("dtroots3", PASSWORD)
    assert stack.cli("user", "set-password", "dtroots3", ok=6).stderr.count("only they themselves")
    status, _, body = stack.http(
        "PUT", "/api/v1/account/password", {"current": PASSWORD, "password": "another long phrase"},
        headers={"Authorization": f"Bearer {token}", "X-Forwarded-For": "192.0.2.7"},
    )  # fmt: skip
    assert status == 200, body
    field = next(line for line in Path("/etc/shadow").read_text().splitlines() if line.startswith("dtroots3:")).split(
        ":"
    )[1]
    assert shadow.verify_password("another long phrase", field)
    assert stack.token("dtroots3", "another long phrase")
    stolen = ChangeOwnPassword("dtroots3", "a guess", shadow.hash_password("evil", "$6$"))
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            as_server(stack, stolen, Outcome)
    with pytest.raises(TooManyRequests):
        as_server(stack, stolen, Outcome)
    assert field in Path("/etc/shadow").read_text()


@needs_sudo
def test_a_purge_takes_the_line_for_sudo_out(stack: Stack) -> None:
    stack.cli("user", "create", "dtroots4")
    stack.cli("user", "sudo", "dtroots4", "--grant")
    stack.cli("user", "delete", "dtroots4")
    stack.cli("user", "purge", "dtroots4", "--yes", ok=4)
    assert as_root(stack, PurgeAccount("dtroots4", row(stack, "dtroots4")["version"]), Outcome).code == ""
    left = sudo.DROP_IN.read_text() if sudo.DROP_IN.exists() else ""
    assert "dtroots4" not in left and "dtroots4" not in Path("/etc/passwd").read_text()
    stack.cli("user", "purge", "dtroots4", "--yes")
