"""Notebook servers in scopes of systemd, on a machine with cgroup v2: started, bounded, killed for memory, stopped, locked.

In the place of JupyterLab runs a few lines of HTTP (plain_launcher.py); the agent, the shim and systemd are the real ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm.conftest import MIB, Bed, wait_until

pytestmark = pytest.mark.slow

PYTHON = "/opt/diycloud/venv/bin/python"
ASK = """
import json, sys, msgspec
from pathlib import Path
from diycloud.agent import protocol
from diycloud.agent.client import call_blocking
kind, answer, words = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
kinds = {"one": protocol.Notebook, "all": list[protocol.Notebook]}
found = call_blocking(Path("/run/diycloud/agent/agent.sock"), getattr(protocol, kind)(**words), kinds[answer])
print(json.dumps(msgspec.to_builtins(found)))
"""
HOG = "tail /dev/zero; echo $? > ~/hog\n"


@pytest.fixture
def ask(bed: Bed) -> Callable[..., object]:
    """Ask the agent as root; the launcher runs as a service that leaves its children alone, as the platform's own does."""
    bed.machine.run("systemctl disable --now diycloud-launcher", ok=(0, 1, 5))
    bed.machine.run(["tee", "/root/plain_launcher.py"], input=(Path(__file__).parent / "plain_launcher.py").read_text())
    bed.machine.run(["tee", "/root/ask.py"], input=ASK)
    start_launcher(bed)

    def act(kind: str, answer: str = "one", **words: object) -> object:
        return json.loads(
            bed.machine.run([PYTHON, "/root/ask.py", kind, answer, json.dumps(words)], timeout=180).stdout
        )

    return act


def start_launcher(bed: Bed) -> None:
    bed.machine.run(f"systemd-run --quiet --unit=plain-launcher -p KillMode=process {PYTHON} /root/plain_launcher.py")
    there = "test -S /run/diycloud/launcher/launcher.sock"
    wait_until("the launcher listens", lambda: bed.machine.run(there, ok=None).returncode == 0)


def scope(bed: Bed, server: str = "") -> str:
    return f"{bed.alice.slice}/diycloud-notebook-{bed.alice.uid}{f'-{server}' if server else ''}.scope"


def exists(bed: Bed, path: str) -> bool:
    return bed.machine.run(["test", "-e", path], ok=None).returncode == 0


def answers(bed: Bed, notebook: dict) -> str:
    return bed.machine.run(["curl", "--silent", "--unix-socket", notebook["socket"], "http://server/"]).stdout


def test_a_server_lives_in_a_scope_of_its_users_slice_and_outlives_all_of_ours(bed: Bed, ask) -> None:
    machine = bed.machine
    notebook = ask("StartNotebook", name="alice")
    pids = machine.run(["cat", f"{scope(bed)}/cgroup.procs"]).stdout.split()
    assert str(notebook["pid"]) in pids and len(pids) == 2, "the shim and the server"
    assert machine.run(["cat", f"{scope(bed)}/pids.max"]).stdout.strip() == str(bed.alice.tasks)
    assert bed.value(bed.alice, "memory.max") == str(256 * MIB)
    status = machine.run(
        ["grep", "-E", "^(Uid|Groups|NoNewPrivs|CapBnd):", f"/proc/{notebook['pid']}/status"]
    ).stdout.split()
    assert status[1:5] == [str(bed.alice.uid)] * 4
    assert status[status.index("NoNewPrivs:") + 1] == "1"
    bed.login(bed.alice, "true")  # a session that ends does not end it
    machine.run("systemctl stop plain-launcher; systemctl restart diycloud-agent; systemctl daemon-reload")
    assert answers(bed, notebook) == str(notebook["pid"])
    (told,) = ask("ReadNotebooks", "all", name="alice")
    assert (told["state"], told["pid"]) == ("running", notebook["pid"])
    assert told["memory"] > 0 and told["tasks"] >= 2
    machine.run(["diycloud", "limits", "set", "alice", "--tasks", "44"])
    assert machine.run(["cat", f"{scope(bed)}/pids.max"]).stdout.strip() == "44", "new limits hold for what runs"
    assert ask("StopNotebook", name="alice")["state"] == "stopped"
    assert not exists(bed, scope(bed)) and not exists(bed, notebook["socket"])
    start_launcher(bed)
    again = ask("StartNotebook", name="alice")
    third = ask("StartNotebook", name="alice")
    assert answers(bed, third) == str(third["pid"]) != str(again["pid"])
    assert len(machine.run(["cat", f"{scope(bed)}/cgroup.procs"]).stdout.split()) == 2


def test_memory_of_the_slice_and_of_a_profile_hold_and_a_kill_is_told(bed: Bed, ask) -> None:
    machine = bed.machine
    machine.run("echo 'notebooks: {profiles: {all: {}, small: {cpu: 0.2, memory: 64M}}}' >> /etc/diycloud/config.yaml")
    machine.run("systemctl restart diycloud-agent")
    up = [PYTHON, "/root/ask.py", "ReadNotebooks", "all", "{}"]
    wait_until("the agent is back", lambda: machine.run(up, ok=None).returncode == 0)
    machine.run(["su", "-", "alice", "-c", "cat > kernel"], input=HOG)
    notebook = ask("StartNotebook", name="alice", server="x", profile="small")
    at = scope(bed, "x")
    limits = machine.run(["cat", f"{at}/memory.max", f"{at}/cpu.max"]).stdout.split()
    assert limits == [str(64 * MIB), "20000", "100000"]
    wait_until("the hog is killed", lambda: exists(bed, "/home/alice/hog"), 180)
    assert machine.run("cat /home/alice/hog; rm /home/alice/hog").stdout == "137\n"
    (told,) = ask("ReadNotebooks", "all", name="alice")
    assert (told["state"], told["pid"], told["memory_kill"]) == ("running", notebook["pid"], True)
    assert answers(bed, notebook) == str(notebook["pid"])
    whole = ask("StartNotebook", name="alice")
    assert machine.run(["cat", f"{scope(bed)}/memory.max"]).stdout == "max\n"
    wait_until("the hog is killed by the slice's limit", lambda: exists(bed, "/home/alice/hog"), 180)
    assert answers(bed, whole) == str(whole["pid"]), "the server goes on"


def test_who_is_disabled_has_no_server_any_more(bed: Bed, ask) -> None:
    machine = bed.machine
    machine.run(["su", "-", "alice", "-c", "cat > kernel"], input="setsid sleep 800 & setsid sleep 801 &\n")
    for server in ("", "x"):
        ask("StartNotebook", name="alice", server=server)
    machine.run(["diycloud", "user", "disable", "alice"])
    gone = f"! pgrep -u {bed.alice.uid} sleep && ! ls /run/diycloud/notebooks/*/alice*"
    wait_until("nothing is left", lambda: machine.run(gone, ok=None).returncode == 0, 30)
    assert not exists(bed, scope(bed)) and not exists(bed, scope(bed, "x"))
    assert machine.run("systemctl --failed --plain --no-legend").stdout == ""
    refused = machine.run([PYTHON, "/root/ask.py", "StartNotebook", "one", '{"name": "alice"}'], ok=(1,))
    assert "locked" in refused.stderr
