"""Notebook servers in scopes of systemd, on a machine with cgroup v2: started, bounded, killed for memory, stopped, locked.

One test takes the whole way, from the portal's page to a cell. In the others a few lines of HTTP run in the place of
JupyterLab (plain_launcher.py), which an emulated machine takes minutes to load; agent, shim and systemd are the real ones.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.notebooks import Browser, Kernel
from tests.vm.conftest import MIB, PASSWORD, Bed, wait_until

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
HOG = "tail /dev/zero; echo $? > /home/alice/hog\n"


@pytest.fixture
def ask(bed: Bed) -> Callable[..., object]:
    """Ask the agent as root; the launcher runs as a service that leaves its children alone, as the platform's own does."""
    bed.machine.run(
        "systemctl disable --now diycloud-launcher diycloud-hub"
    )  # the hub ends servers that it does not know
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


class Forwarded(httpx.HTTPTransport):
    """Reaches the machine's port 443 by the one on this host that QEMU forwards to it; addresses stay as people type them."""

    def __init__(self, port: int) -> None:
        super().__init__(verify=False)
        self._port = port

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        typed = request.url
        request.url = typed.copy_with(port=self._port)
        try:
            return super().handle_request(request)
        finally:
            request.url = typed


def exposure(bed: Bed, unit: str) -> float:
    told = bed.machine.run(["systemd-analyze", "security", "--no-pager", f"{unit}.service"]).stdout
    return float(told.rsplit(f"{unit}.service:", 1)[1].split()[0])


def test_from_the_portal_to_a_cell_with_all_units_as_they_are_installed(bed: Bed) -> None:
    machine, port = bed.machine, bed.machine.config.ports["https"]
    units = [f"diycloud-{name}" for name in ("agent", "server", "launcher", "hub")]
    assert machine.run(["systemctl", "is-active", *units, "nginx"]).stdout == "active\n" * 5
    with contextlib.ExitStack() as opened:
        client = opened.enter_context(httpx.Client(transport=Forwarded(port), timeout=300))
        alice = Browser("https://127.0.0.1", client, port=port, patience=300)
        assert alice.sign_in("alice", PASSWORD).status_code == 200
        began = time.monotonic()
        lab = alice.open("/jupyter/", seconds=300)
        assert (lab.status_code, lab.url.path) == (200, "/jupyter/user/alice/lab"), lab.text[:2000]
        print(f"Lab's page after {time.monotonic() - began:.0f} s")
        kernel = opened.enter_context(contextlib.closing(Kernel(alice, "/jupyter/user/alice/")))
        where = kernel.run("import os; print(os.getuid(), open('/proc/self/cgroup').read())", 300).split()
        assert where == [str(bed.alice.uid), f"0::{scope(bed).removeprefix('/sys/fs/cgroup')}"]
        print(f"the first cell after {time.monotonic() - began:.0f} s")
        pids = machine.run(["cat", f"{scope(bed)}/cgroup.procs"]).stdout.split()
        for unit in units:
            machine.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=main", unit])
            wait_until(
                f"{unit} is back", lambda u=unit: machine.run(["systemctl", "is-active", u], ok=None).returncode == 0
            )
        assert kernel.run("6 * 7", 300) == "42"
        assert machine.run(["cat", f"{scope(bed)}/cgroup.procs"]).stdout.split() == pids
        said = kernel.run("x = bytearray(10**9); x[::4096] = x[::4096].replace(b'\\0', b'x'); print('all of it')", 300)
        assert "killed because all of your memory (0.25 GiB) was in use" in said and "all of it" not in said
        for unit in ("diycloud-server", "diycloud-hub"):
            print(f"exposure of {unit}: {exposure(bed, unit)}")
            assert exposure(bed, unit) <= 1.5
        machine.run(["diycloud", "user", "disable", "alice"])
        wait_until("the server is gone", lambda: not exists(bed, scope(bed)), 30)
        assert alice.ask("GET", "/jupyter/user/alice/api/status").status_code in (401, 403)
        assert machine.run("systemctl --failed --plain --no-legend").stdout == ""


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
