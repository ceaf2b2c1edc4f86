"""Groups through the whole platform: people share a folder, the server dies at every commit, rows are changed by hand."""

from __future__ import annotations

import grp
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import cannot_run
from tests.invariants import query, settled
from tests.killing_process import arm, disarm
from tests.stack import Stack

pytestmark = pytest.mark.skipif(bool(cannot_run()), reason=cannot_run() or "-")
PASSWORD = "correct horse battery"
PEOPLE = ("dtgsada", "dtgsbob", "dtgseve")
MAX_STEPS = 40


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(uid_min=59_000, uid_max=59_499, cgroup="dtgsv") as running:
        for name in PEOPLE:
            running.cli("user", "create", name, "--memory", "64", "--password", "-", input=f"{PASSWORD}\n")
        yield running


def sh(name: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as somebody who has just signed in, with the groups that the host knows then."""
    argv = ["setpriv", f"--reuid={name}", f"--regid={name}", "--init-groups", "--", "sh", "-c", command]
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/")


def members(group: str) -> set[str]:
    try:
        return set(grp.getgrnam(group).gr_mem)
    except KeyError:
        return set()


def soon(holds: Callable[[], bool]) -> bool:
    """Wait for reconcile, which a restart of the server begins."""
    for _ in range(100):
        if holds():
            return True
        time.sleep(0.1)
    return holds()


def start_again(stack: Stack, sig: int = signal.SIGTERM) -> None:
    stack.stop_server(sig)
    stack.start_server()


def forget_removals(stack: Stack) -> None:
    """Have the agent forget the removals of this hour: it lets the server do only twenty."""
    shutil.rmtree(stack.prefix / "shared/.diycloud-trash", ignore_errors=True)
    stack.stop_agent(signal.SIGKILL)
    stack.start_agent()


# -- what people see


def test_people_share_a_folder(stack: Stack) -> None:
    made = stack.json("group", "create", "dtgslab", "--members", "dtgsada,dtgsbob", "--description", "first floor")
    group = made["group"]
    assert (group["members"], made["warnings"]) == (2, []) and stack.gid_min <= group["gid"] <= stack.gid_max
    assert grp.getgrnam("dtgslab").gr_gid == group["gid"] and members("dtgslab") == {"dtgsada", "dtgsbob"}
    folder = Path(group["folder"])
    assert (folder.stat().st_mode & 0o7777, folder.stat().st_gid, folder.stat().st_uid) == (0o2770, group["gid"], 0)
    assert sh("dtgsada", f"umask 022; mkdir {folder}/draft; echo one > {folder}/draft/notes").returncode == 0
    assert sh("dtgsbob", f"echo two >> {folder}/draft/notes && cat {folder}/draft/notes").stdout == "one\ntwo\n"
    assert (folder / "draft/notes").stat().st_gid == group["gid"], "the folder's group goes down"
    for command in (f"ls {folder}", f"cat {folder}/draft/notes", f"echo x > {folder}/x"):
        assert sh("dtgseve", command).returncode != 0
    assert sh("dtgsada", f"rmdir {folder}; mv {folder} {folder}x; chmod 777 {folder}").returncode != 0


def test_members_come_and_go_by_rest(stack: Stack) -> None:
    folder = stack.json("group", "show", "dtgslab")["group"]["folder"]
    status, _, changed = stack.http("POST", "/api/v1/groups/dtgslab/members", {"members": ["dtgseve"]})
    assert (status, changed["group"]["members"]) == (200, 3)
    assert sh("dtgseve", f"cat {folder}/draft/notes").stdout == "one\ntwo\n"
    status, _, changed = stack.http("DELETE", "/api/v1/groups/dtgslab/members", {"members": ["dtgseve"]})
    assert (status, changed["group"]["members"]) == (200, 2)
    assert sh("dtgseve", f"cat {folder}/draft/notes").returncode != 0
    status, _, problem = stack.http("POST", "/api/v1/groups/dtgslab/members", {"members": ["dtgseve", "nobody", "x"]})
    assert (status, [e["field"] for e in problem["errors"]]) == (422, ["members", "members"])
    assert members("dtgslab") == {"dtgsada", "dtgsbob"}


def test_rest_and_command_line_say_the_same(stack: Stack) -> None:
    status, headers, made = stack.http("POST", "/api/v1/groups", {"name": "dtgsrest", "disk": "10G"})
    assert (status, headers["location"], made["group"]["disk"]) == (201, "/api/v1/groups/dtgsrest", "10G")
    assert stack.http("GET", headers["location"])[2] == stack.json("group", "show", "dtgsrest")
    assert stack.json("group", "modify", "dtgsrest", "--disk", "", "--description", "x")["group"]["disk"] is None
    _, _, page = stack.http("GET", "/api/v1/groups?limit=1&search=dtgs")
    assert ([g["name"] for g in page["groups"]], page["next"]) == (["dtgslab"], "dtgslab")
    assert [g["name"] for g in stack.json("group", "list", "--after", "dtgslab")["groups"]] == ["dtgsrest"]
    assert stack.http("GET", "/api/v1/groups/dtgsrest/removal")[2]["folder"].endswith("/shared/dtgsrest")
    assert stack.http("DELETE", "/api/v1/groups/dtgsrest")[0] == 204
    assert stack.cli("group", "show", "dtgsrest", ok=5).stderr and members("dtgsrest") == set()


def test_a_name_that_is_taken_on_the_host(stack: Stack) -> None:
    assert stack.cli("group", "create", "dtgsada", ok=6).stderr
    assert stack.cli("user", "create", "dtgslab", ok=6).stderr
    assert stack.cli("group", "create", "games", ok=None).returncode in (2, 6)
    assert query(stack, "SELECT name FROM groups ORDER BY name") == [("dtgslab",)]


def test_a_group_is_removed_only_when_its_name_is_said(stack: Stack) -> None:
    stack.cli("group", "create", "dtgsgone", "--members", "dtgsada")
    asked = stack.cli("group", "remove", "dtgsgone", ok=2)
    assert "members" in asked.stderr and "--yes" in asked.stderr and members("dtgsgone") == {"dtgsada"}
    assert "is gone" in stack.cli("group", "remove", "dtgsgone", "--yes").stdout
    with pytest.raises(KeyError):
        grp.getgrnam("dtgsgone")
    trash = stack.prefix / "shared/.diycloud-trash"
    assert [entry.name.split(".")[0] for entry in trash.iterdir() if "gone" in entry.name] == ["dtgsgone"]
    assert (trash.stat().st_mode & 0o777, trash.stat().st_uid) == (0o700, 0)


def test_a_move_to_another_domain_leaves_the_folder(stack: Stack) -> None:
    stack.cli("domain", "create", "dtgsdom")
    folder = stack.json("group", "show", "dtgslab")["group"]["folder"]
    moved = stack.json("user", "modify", "dtgsbob", "--domain", "dtgsdom")
    assert "No member of dtgslab any more" in moved["warnings"][0]
    assert sh("dtgsbob", f"ls {folder}").returncode != 0 and members("dtgslab") == {"dtgsada"}
    stack.cli("group", "add-members", "dtgslab", "--members", "dtgsbob", ok=2)
    stack.cli("user", "modify", "dtgsbob", "--domain", "default")
    stack.cli("group", "add-members", "dtgslab", "--members", "dtgsbob")
    assert sh("dtgsbob", f"cat {folder}/draft/notes").stdout == "one\ntwo\n"


# -- by hand


def test_rows_made_and_deleted_by_hand(stack: Stack) -> None:
    query(stack, "INSERT INTO groups (name) VALUES ('dtgshand')")
    query(
        stack,
        "INSERT INTO group_members (group_id, user_id) SELECT g.id, u.id FROM groups g, users u"
        " WHERE g.name = 'dtgshand' AND u.username = 'dtgsada'",
    )
    start_again(stack)
    assert soon(lambda: members("dtgshand") == {"dtgsada"})
    folder = Path(stack.json("group", "show", "dtgshand")["group"]["folder"])
    assert sh("dtgsada", f"echo kept > {folder}/file").returncode == 0
    query(stack, "DELETE FROM groups WHERE name = 'dtgshand'")
    start_again(stack)
    assert soon(lambda: members("dtgshand") == set()), "nobody is in what is not there"
    assert (folder / "file").read_text() == "kept\n", "nothing precious goes"
    assert "belongs to others" in stack.cli("group", "create", "dtgshand", ok=6).stderr
    query(stack, "INSERT INTO groups (name) VALUES ('dtgshand')")
    start_again(stack)
    assert soon(lambda: stack.json("group", "show", "dtgshand")["group"]["gid"] == folder.stat().st_gid)
    stack.cli("group", "remove", "dtgshand", "--yes")


def test_a_group_that_was_removed_from_the_host_by_hand_is_back(stack: Stack) -> None:
    gid = grp.getgrnam("dtgslab").gr_gid
    subprocess.run(["groupdel", "dtgslab"], check=True)
    start_again(stack)
    assert soon(lambda: members("dtgslab") == {"dtgsada", "dtgsbob"})
    assert grp.getgrnam("dtgslab").gr_gid == gid, "its files are its own again"


# -- cut off


@pytest.fixture
def mortal(stack: Stack) -> Iterator[Stack]:
    """A server that kills itself ahead of a commit when it is told to."""
    stack.stop_server(signal.SIGKILL)
    stack.start_server("tests.killing_server")
    yield stack
    stack.stop_server(signal.SIGKILL)
    stack.start_server()


def every_commit(stack: Stack, act: Callable[[int], object], holds: Callable[[int], bool]) -> int:
    """Kill the server with SIGKILL ahead of each commit of some work; returns how many there are.

    holds: what must be true soon after it is back, whether the work was done or not.
    """
    for step in range(MAX_STEPS):
        settled(stack)
        arm(stack.prefix, "server", step)
        act(step)
        survived = disarm(stack.prefix)
        if not survived:
            assert stack.server is not None
            stack.server.wait()
            stack.start_server("tests.killing_server")
        assert soon(lambda: holds(step)), f"killed before commit {step}: {state(stack)}"  # noqa: B023 - called at once
        if survived:
            return step
    raise AssertionError(f"more than {MAX_STEPS} commits")


def state(stack: Stack) -> tuple[object, ...]:
    groups = query(stack, "SELECT name, gid, removing, host_problem FROM groups")
    return groups, [found for found in grp.getgrall() if stack.gid_min <= found.gr_gid <= stack.gid_max]


def agrees(stack: Stack, name: str) -> bool:
    """Tell whether a group is on both sides, with the same number and members, or on neither."""
    wanted = query(
        stack,
        "SELECT u.username FROM users u JOIN group_members m ON m.user_id = u.id JOIN groups g ON g.id = m.group_id"
        " WHERE g.name = ?",
        name,
    )
    rows = query(stack, "SELECT gid, removing FROM groups WHERE name = ?", name)
    folder = stack.prefix / "shared" / name
    unsettled = query(stack, "SELECT count(*) FROM users WHERE generation <> host_generation")[0][0]
    try:
        there = grp.getgrnam(name)
    except KeyError:
        return rows == [] and wanted == [] and not folder.exists() and unsettled == 0
    same = rows == [(there.gr_gid, 0)] and {row[0] for row in wanted} == set(there.gr_mem)
    return same and folder.stat().st_gid == there.gr_gid and unsettled == 0


@pytest.mark.slow
def test_the_server_dies_at_every_commit_of_a_create(mortal: Stack) -> None:
    def create(step: int) -> None:
        mortal.cli("group", "create", f"dtgsk{step}", "--members", "dtgsada,dtgsbob", ok=None)

    commits = every_commit(mortal, create, lambda step: agrees(mortal, f"dtgsk{step}"))
    assert commits >= 3
    both = {"dtgsada", "dtgsbob"}
    assert all(members(f"dtgsk{step}") in (set(), both) for step in range(commits)), "all or nothing"
    assert members(f"dtgsk{commits}") == both
    for step in range(commits + 1):
        mortal.cli("group", "remove", f"dtgsk{step}", "--yes", ok=None)


@pytest.mark.slow
def test_the_server_dies_at_every_commit_of_a_removal(mortal: Stack) -> None:
    forget_removals(mortal)
    for number in range(10):
        mortal.cli("group", "create", f"dtgsr{number}", "--members", "dtgsada,dtgseve")

    def remove(step: int) -> None:
        mortal.cli("group", "remove", f"dtgsr{step}", "--yes", ok=None)

    commits = every_commit(mortal, remove, lambda step: agrees(mortal, f"dtgsr{step}"))
    assert 3 <= commits < 10
    with pytest.raises(KeyError):
        grp.getgrnam(f"dtgsr{commits}")
    for number in range(10):
        mortal.cli("group", "remove", f"dtgsr{number}", "--yes", ok=None)


@pytest.mark.slow
def test_the_server_dies_at_every_commit_of_a_change_of_members(mortal: Stack) -> None:
    def change(step: int) -> None:
        verb = "remove-members" if members("dtgslab") >= {"dtgseve"} else "add-members"
        mortal.cli("group", verb, "dtgslab", "--members", "dtgseve", ok=None)

    assert every_commit(mortal, change, lambda step: agrees(mortal, "dtgslab")) >= 2


def test_the_agent_dies_between_row_and_group(stack: Stack) -> None:
    """The answer is a warning; the group is there soon after the agent is back."""
    forget_removals(stack)
    stack.stop_agent(signal.SIGKILL)
    made = stack.json("group", "create", "dtgsaway", "--members", "dtgsada")
    assert made["group"]["gid"] is None and "agent does not answer" in made["warnings"][0]
    with pytest.raises(KeyError):
        grp.getgrnam("dtgsaway")
    stack.start_agent()
    start_again(stack, signal.SIGKILL)
    assert soon(lambda: agrees(stack, "dtgsaway")) and members("dtgsaway") == {"dtgsada"}
    stack.stop_agent(signal.SIGKILL)
    assert "agent" in stack.cli("group", "remove", "dtgsaway", "--yes", ok=9).stderr
    assert stack.json("group", "show", "dtgsaway")["group"]["removing"]
    assert "being removed" in stack.cli("group", "list").stdout
    stack.start_agent()
    start_again(stack, signal.SIGKILL)
    assert soon(lambda: agrees(stack, "dtgsaway")) and members("dtgsaway") == set()


def test_more_removals_than_the_server_has_in_an_hour_are_roots(stack: Stack) -> None:
    """On the server's word the agent removes twenty an hour; the command line of root asks the agent itself."""
    forget_removals(stack)
    names = [f"dtgsm{number}" for number in range(22)]
    for name in names:
        stack.cli("group", "create", name)
    codes = {stack.http("DELETE", f"/api/v1/groups/{name}")[0] for name in names}
    assert codes <= {204, 429} and 429 in codes
    left = [g["name"] for g in stack.json("group", "list")["groups"] if g["removing"]]
    assert left
    stack.cli("group", "remove", left[0], "--yes")
    with pytest.raises(KeyError):
        grp.getgrnam(left[0])
    forget_removals(stack)
    start_again(stack)
    assert soon(lambda: query(stack, "SELECT name FROM groups WHERE removing = 1") == [])


def test_afterwards_nothing_is_open(stack: Stack) -> None:
    settled(stack)
    assert agrees(stack, "dtgslab")
    assert all(pwd.getpwnam(name) for name in PEOPLE)
