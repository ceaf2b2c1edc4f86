"""Notebook servers in scopes of systemd, on a machine with cgroup v2: started, bounded, killed for memory, stopped, locked.

Two tests take the whole way, from the portal's page to a cell. In the others a few lines of HTTP run in the place of
JupyterLab (plain_launcher.py), which an emulated machine takes minutes to load; agent, shim and systemd are the real ones.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.visitor import Browser, Kernel
from tests.vm.conftest import MIB, PASSWORD, Bed, wait_until

pytestmark = pytest.mark.slow

LAB = "/jupyter/user/alice/"
UNITS = [f"diycloud-{name}" for name in ("agent", "server", "launcher", "hub")]
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


def told(bed: Bed) -> dict:
    """What the portal's page of alice's servers shows."""
    return json.loads(bed.machine.run("diycloud notebook list alice --json").stdout)


def exposure(bed: Bed, unit: str) -> float:
    told = bed.machine.run(["systemd-analyze", "security", "--no-pager", f"{unit}.service"]).stdout
    return float(told.rsplit(f"{unit}.service:", 1)[1].split()[0])


class AtWork(NamedTuple):
    """Alice with Lab open and a cell run in it. cookies: her browser's; kernel: its id; said: what the cell printed."""

    bed: Bed
    cookies: httpx.Cookies
    kernel: str
    said: str


@pytest.fixture(scope="module")
def opened(installed: Bed) -> AtWork:
    """From the portal's page to a cell, once for the module: an emulated machine takes minutes for it. Saved as `at-work`."""
    installed.machine.reset("installed")
    with browsing(installed) as alice:
        assert alice.sign_in("alice", PASSWORD).status_code == 200
        began = time.monotonic()
        open_lab(alice)
        print(f"Lab's page after {time.monotonic() - began:.0f} s")
        with contextlib.closing(Kernel(alice, LAB)) as kernel:
            said = kernel.run("import os; print(os.getuid(), open('/proc/self/cgroup').read())", 300)
        print(f"the first cell after {time.monotonic() - began:.0f} s")
    installed.machine.save("at-work")
    return AtWork(installed, alice.client.cookies, kernel.id, said)


@pytest.fixture
def at_work(opened: AtWork) -> AtWork:
    opened.bed.machine.reset("at-work")
    return opened


@contextlib.contextmanager
def browsing(bed: Bed, cookies: httpx.Cookies | None = None) -> Iterator[Browser]:
    """A browser on this host that has the machine's address, and these cookies."""
    port = bed.machine.config.ports["https"]
    with httpx.Client(transport=Forwarded(port), timeout=300, cookies=cookies) as client:
        yield Browser("https://127.0.0.1", client, port=port, patience=300)


def open_lab(browser: Browser) -> None:
    page = browser.open("/jupyter/", seconds=300)
    assert (page.status_code, page.url.path) == (200, f"{LAB}lab"), page.text[:2000]


def test_from_the_portal_to_a_cell_with_all_units_as_they_are_installed(at_work: AtWork) -> None:
    bed, machine = at_work.bed, at_work.bed.machine
    assert at_work.said.split() == [str(bed.alice.uid), f"0::{scope(bed).removeprefix('/sys/fs/cgroup')}"]
    assert machine.run(["systemctl", "is-active", *UNITS, "nginx"]).stdout == "active\n" * 5
    with browsing(bed, at_work.cookies) as alice:
        with contextlib.closing(Kernel(alice, LAB, at_work.kernel)) as kernel:
            pids = machine.run(["cat", f"{scope(bed)}/cgroup.procs"]).stdout.split()
            for unit in UNITS:
                machine.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=main", unit])
                back = ["systemctl", "is-active", unit]
                wait_until(f"{unit} is back", lambda b=back: machine.run(b, ok=None).returncode == 0)
            assert kernel.run("6 * 7", 300) == "42"
            assert machine.run(["cat", f"{scope(bed)}/cgroup.procs"]).stdout.split() == pids
            said = kernel.run(
                "x = bytearray(10**9); x[::4096] = x[::4096].replace(b'\\0', b'x'); print('all of it')", 300
            )
        assert "killed because all of your memory (0.25 GiB) was in use" in said and "all of it" not in said
        for unit in ("diycloud-server", "diycloud-hub"):
            print(f"exposure of {unit}: {exposure(bed, unit)}")
            assert exposure(bed, unit) <= 1.5
        machine.run(["diycloud", "user", "disable", "alice"])
        wait_until("the server is gone", lambda: not exists(bed, scope(bed)), 30)
        assert alice.ask("GET", f"{LAB}api/status").status_code in (401, 403)
        assert machine.run("systemctl --failed --plain --no-legend").stdout == ""


@pytest.mark.parametrize("way", ["reboot", pytest.param("cut_power", marks=pytest.mark.exhaustive)])
def test_after_a_reboot_nothing_is_half_dead_and_the_owner_opens_lab_again(at_work: AtWork, way: str) -> None:
    bed, machine = at_work.bed, at_work.bed.machine
    assert told(bed)["servers"][0]["state"] == "running"
    began = time.monotonic()
    getattr(machine, way)()
    print(f"{way}: up again in {time.monotonic() - began:.0f} s")
    if way == "reboot":
        killed = "journalctl --boot=-1 --quiet --grep 'timed out. Killing' --output cat"
        assert machine.run(killed, ok=(0, 1)).stdout == "", "all of it ends by itself on the way down"
    with browsing(bed, at_work.cookies) as alice:
        up = lambda: alice.ask("GET", "/jupyter/hub/health").status_code == 200  # noqa: E731
        wait_until("the hub answers", up, 300)
        print(f"the hub answers after {time.monotonic() - began:.0f} s")
        for unit in UNITS:
            state = machine.run(["systemctl", "show", "--property=ActiveState,NRestarts", unit]).stdout
            assert set(state.split()) == {"ActiveState=active", "NRestarts=0"}, unit
        left = f"find /run/diycloud/notebooks -mindepth 2; ls -d {bed.alice.slice}/diycloud-notebook*"
        assert machine.run(left, ok=(2,)).stdout == ""
        (server,) = told(bed)["servers"]
        assert (server["state"], server["reason"], server["log"]) == ("stopped", "", [])
        began = time.monotonic()
        open_lab(alice)
        print(f"Lab's page after {time.monotonic() - began:.0f} s")
        with contextlib.closing(Kernel(alice, LAB)) as kernel:
            assert kernel.run("6 * 7", 300) == "42"
    now = told(bed)
    assert [(one["state"], one["reason"]) for one in now["servers"]] == [("running", "")]
    assert "failed" not in {one["outcome"] for one in now["activity"]}
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
