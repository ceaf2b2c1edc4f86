"""What a hostile user, or two at once, may try with notebooks, all of it real: the hub's socket, keys, ends, starts."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import notebooks
from tests.host.hub_support import at_the_start
from tests.host.hub_support import shown as state
from tests.host.test_notebook_attacks import as_user, pids, start, stop
from tests.notebooks import Notebooks
from tests.stack import Stack
from tests.visitor import Browser, Kernel
from tests.waiting import until

pytestmark = [pytest.mark.skipif(bool(why := notebooks.why_not()), reason=why), pytest.mark.slow]
ALICE, BOB, CAROL, ROOT = "dtralice", "dtrbob", "dtrcarol", "dtrroot"
SETTINGS = """\
  named_servers: 3
  at_once: 5
"""
SYS_KEYCTL, SYS_ADD_KEY = {"x86_64": (250, 248), "aarch64": (219, 217)}.get(platform.machine(), (0, 0))
JOIN, SEARCH, READ, SESSION = 1, 10, 11, -3


@pytest.fixture(scope="module")
def bed() -> Iterator[Notebooks]:
    with Notebooks(Stack(uid_min=47_400, uid_max=47_499, cgroup="diycloud-dt-r"), SETTINGS) as running:
        running.user(ROOT, "--role", "admin")
        for name in (ALICE, BOB, CAROL):
            running.user(name)
        yield running


@contextlib.contextmanager
def kernel_of(bed: Notebooks, name: str, server: str = "") -> Iterator[Kernel]:
    """Start a user's server, and a kernel in it as a browser does."""
    start(bed, name, server)
    with bed.browser() as browser:
        browser.sign_in(name, notebooks.PASSWORD)
        kernel = open_kernel(browser, name, server)
        yield kernel
        kernel.close()


def open_kernel(browser: Browser, name: str, server: str = "") -> Kernel:
    base = f"/jupyter/user/{name}/{server + '/' if server else ''}"
    browser.open(f"{base}lab")
    return Kernel(browser, base)


# -- what one account may take of the hub


def test_nobody_fills_the_hubs_memory_by_asking(bed: Notebooks) -> None:
    """The socket is everybody's, and a body is read before anybody asks who sends it."""
    assert bed.hub is not None
    memory = Path(f"/proc/{bed.hub.pid}/status")

    def peak() -> int:
        return int(re.findall(r"VmHWM:\s+(\d+)", memory.read_text())[0]) >> 10

    before = peak()
    tried = as_user(ALICE, f"""
        import socket
        lines = [socket.socket(socket.AF_UNIX) for _ in range(10)]
        sent = 0
        for line in lines:
            line.settimeout(10)
            line.connect({str(bed.paths.hub_socket)!r})
            try:
                line.sendall(b"POST /jupyter/hub/api/users HTTP/1.1\\r\\nHost: hub\\r\\nContent-Length: 90000000\\r\\n\\r\\n")
                for _ in range(80):
                    line.sendall(bytes(1_000_000))
                    sent += 1
            except OSError:
                pass
        print(sent)
    """)  # fmt: skip
    assert int(tried) < 20, tried
    assert peak() - before < 64, f"{peak() - before} MiB"


def test_nobody_takes_all_connections_of_the_hub(bed: Notebooks) -> None:
    script = f"""
        import select, socket, time
        lines = []
        for _ in range(200):
            line = socket.socket(socket.AF_UNIX)
            line.connect({str(bed.paths.hub_socket)!r})
            lines.append(line)
        time.sleep(2)
        print(len(lines) - len(select.select(lines, [], [], 0)[0]))  # what is closed can be read
        for line in lines:
            line.close()
    """
    with ThreadPoolExecutor() as pool:
        held = [pool.submit(as_user, name, script) for name in (ALICE, BOB)]
        time.sleep(1)
        assert bed.hub_api("GET", "/").status_code == 200
        assert [int(one.result()) for one in held] == [32, 32]
    start(bed, ALICE)  # her server, which asks the hub, finds room again
    stop(bed, ALICE)


# -- keys


def keys(code: str) -> str:
    return f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def keyctl(*words): return libc.syscall({SYS_KEYCTL}, *words)
def find(name): return keyctl({SEARCH}, {SESSION}, b"user", name, 0) >= 0
def keep(name): return libc.syscall({SYS_ADD_KEY}, b"user", name, b"secret", 6, {SESSION}) >= 0
{code}
"""


def test_no_key_of_a_session_is_somebody_elses(bed: Notebooks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service has a session keyring, which its forks would share: whoever is in the session may read what is in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not SYS_KEYCTL or libc.syscall(SYS_KEYCTL, 0, SESSION, 1) < 0:
        pytest.skip("keyctl(2) is forbidden or unknown here")

    def join() -> None:
        libc.syscall(SYS_KEYCTL, JOIN, b"a-service")
        libc.syscall(SYS_ADD_KEY, b"user", b"dtr-roots", b"secret", 6, SESSION)

    real = subprocess.Popen
    bed.stop_launcher()
    with monkeypatch.context() as patch:  # as systemd, or a session of root's, would start it
        patch.setattr(subprocess, "Popen", lambda *words, **more: real(*words, preexec_fn=join, **more))
        bed.start_launcher()
    try:
        with kernel_of(bed, ALICE) as alice, kernel_of(bed, BOB) as bob:
            assert (
                alice.run(keys("print(find(b'dtr-roots'), keep(b'dtr-own'), find(b'dtr-own'))")) == "False True True\n"
            )
            assert bob.run(keys("print(find(b'dtr-own'), find(b'dtr-roots'))")) == "False False\n"
    finally:
        for name in (ALICE, BOB):
            stop(bed, name)
        bed.stop_launcher()
        bed.start_launcher()


# -- what a kernel is


def test_a_kernel_is_a_process_of_its_users_and_no_more(bed: Notebooks) -> None:
    with kernel_of(bed, ALICE) as kernel:
        facts = json.loads(kernel.run("""
import json, os, resource, subprocess
def facts():
    said = dict(line.split(":", 1) for line in open("/proc/self/status"))
    kept = "Umask", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Groups", "SigBlk"
    return {name: said[name].strip() for name in kept} | {"score": open("/proc/self/oom_score_adj").read().strip()}
child = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))"
print(json.dumps(facts() | {
    "nice": os.nice(0), "session": os.getsid(0) == os.getpid(), "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
    "foreign": [t for n in os.listdir(f"/proc/{os.getppid()}/fd") for t in [os.readlink(f"/proc/{os.getppid()}/fd/{n}")]
                if t.startswith("/") and not t.startswith(("/dev/null", os.environ["HOME"]))],
    "inherited": subprocess.run(["/usr/bin/python3", "-c", child], capture_output=True, text=True, close_fds=False).stdout,
    "secrets": [name for name in os.environ if "TOKEN" in name or "SECRET" in name or "PASSWORD" in name],
}))
"""))  # fmt: skip
        assert facts.pop("Groups").split() == [str(pwd.getpwnam(ALICE).pw_gid)]
        assert {facts.pop(name) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert facts.pop("SigBlk") == "0" * 16
        assert facts == {
            "Umask": "0022", "NoNewPrivs": "1", "score": "300", "nice": 0, "session": True, "core": 0, "foreign": [],
            "inherited": "[0, 1, 2, 3]\n", "secrets": [],
        }  # fmt: skip
    stop(bed, ALICE)


def test_who_may_not_sign_in_by_ssh_runs_commands_in_notebooks(bed: Notebooks) -> None:
    subprocess.run(["usermod", "-s", "/usr/sbin/nologin", CAROL], check=True)
    try:
        with kernel_of(bed, CAROL) as kernel:
            assert kernel.run("!echo $((40 + 2))").strip() == "42"
    finally:
        stop(bed, CAROL)
        subprocess.run(["usermod", "-s", "/bin/bash", CAROL], check=True)


def test_a_home_in_disorder_stops_no_server(bed: Notebooks) -> None:
    """What cannot be read, written or followed there is the user's to mend, in a notebook."""
    account, home = pwd.getpwnam(CAROL), Path(f"/home/{CAROL}")
    mark = home / ".local/share/diycloud/starters"
    for folder in (".ipython", ".local"):
        shutil.rmtree(home / folder, ignore_errors=True)
    as_user(CAROL, f"""
        import os
        os.makedirs({str(mark.parent)!r}, exist_ok=True)
        open({str(mark)!r}, "wb").write(bytes([255, 254, 10]))
        for folder in (".ipython", ".local/share/jupyter"):
            os.symlink("/nowhere", os.path.join({str(home)!r}, folder))
    """)  # fmt: skip
    os.chown(home, 0, 0)
    home.chmod(0o755)
    try:
        with kernel_of(bed, CAROL) as kernel:
            assert kernel.run("print(6 * 7)") == "42\n"
    finally:
        os.chown(home, account.pw_uid, account.pw_gid)
        stop(bed, CAROL)
        shutil.rmtree(home / ".local")
        (home / ".ipython").unlink()


# -- ends


def test_who_is_shut_out_is_out_in_time_whatever_their_servers_do(bed: Notebooks) -> None:
    """Four servers that do not heed SIGTERM, each with an open page."""
    deaf = """
import signal
from diycloud.launcher.single_user import ListeningServer
ListeningServer.init_signal = lambda self: signal.signal(signal.SIGTERM, signal.SIG_IGN)
"""
    names = ("", "a", "b", "c")
    with at_the_start(BOB, deaf), contextlib.ExitStack() as held:
        for server in names:
            start(bed, BOB, server)
        browser = held.enter_context(bed.browser())
        browser.sign_in(BOB, notebooks.PASSWORD)
        open_ = [held.enter_context(contextlib.closing(open_kernel(browser, BOB, server))) for server in names]
        began = time.monotonic()
        disabling = held.enter_context(ThreadPoolExecutor()).submit(bed.stack.cli, "user", "disable", BOB)
        try:
            until(lambda: not pids(BOB), 5)
            assert not any(kernel.is_open(max(0.1, began + 5 - time.monotonic())) for kernel in open_)
        finally:
            disabling.result()
            bed.stack.cli("user", "enable", BOB)
    for server in names[1:]:
        bed.hub_api("DELETE", f"/users/{BOB}/servers/{server}", {"remove": True})


def test_a_shim_that_is_told_to_end_again_and_again_tells_how_the_server_ended(bed: Notebooks) -> None:
    """A scope of systemd's that is stopped sends SIGTERM to all in it, and much may be left for the shim to end."""
    with at_the_start(
        ALICE, "import subprocess\nfor _ in range(150): subprocess.Popen(['/bin/sleep', '900'], start_new_session=True)"
    ):
        start(bed, ALICE)
    file = bed.paths.notebooks / f"records/{ALICE}.json"
    record = json.loads(file.read_text())
    assert bed.stack.agent is not None
    bed.stack.agent.send_signal(signal.SIGSTOP)  # it would tidy the record away
    try:
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(record["shim"], signal.SIGTERM)
        record = json.loads(file.read_text())
        assert record["ended"] and record["exit_code"] in (0, -signal.SIGTERM), record
    finally:
        bed.stack.agent.send_signal(signal.SIGCONT)
    until(lambda: not state(bed, ALICE))


def test_why_a_server_did_not_start_is_not_told_of_the_next(bed: Notebooks) -> None:
    with bed.browser() as browser:
        browser.sign_in(ALICE, notebooks.PASSWORD)
        with at_the_start(ALICE, "raise SystemExit(7)"):
            bed.hub_api("POST", f"/users/{ALICE}")
            assert bed.hub_api("POST", f"/users/{ALICE}/server", {}).status_code == 503
            assert "ended with status 7" in browser.open(f"/jupyter/hub/user/{ALICE}/").text
        start(bed, ALICE)
        stop(bed, ALICE)
        page = browser.open(f"/jupyter/hub/user/{ALICE}/").text
        assert "is not running" in page and "ended with status" not in page


# -- starts


def test_a_start_that_waits_for_its_turn_can_be_stopped(bed: Notebooks) -> None:
    with at_the_start(CAROL, "import time; time.sleep(100)"), ThreadPoolExecutor() as pool:
        bed.hub_api("POST", f"/users/{CAROL}")
        for server in ("a", "b", "c"):  # the third waits for the others of the same user
            pool.submit(bed.hub_api, "POST", f"/users/{CAROL}/servers/{server}", {})
            until(lambda server=server: state(bed, CAROL, server).get("pending") == "spawn")
        for server in ("c", "a", "b"):
            stop(bed, CAROL, server)
    time.sleep(3)  # none of them comes about after all
    assert bed.hub_api("GET", f"/users/{CAROL}").json()["servers"] == {}
    until(lambda: not pids(CAROL))


def test_whoever_starts_and_stops_at_once_there_is_one_server_or_none(bed: Notebooks) -> None:
    """Two browsers, a script and the portal: what the hub believes is what there is."""

    def ask(number: int) -> int:
        return bed.hub_api(
            *(("POST", f"/users/{ALICE}/server", {}) if number % 3 else ("DELETE", f"/users/{ALICE}/server"))
        ).status_code

    bed.hub_api("POST", f"/users/{ALICE}")
    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(ask, range(36)))
    assert answers <= {201, 202, 204, 400, 409}, answers
    until(lambda: not state(bed, ALICE).get("pending"))
    folders = [path for path in Path("/proc").iterdir() if path.name.isdecimal() and is_server_of(path, ALICE)]
    assert len(folders) == bool(state(bed, ALICE).get("ready")), folders
    start(bed, ALICE)
    stop(bed, ALICE)
    until(lambda: not pids(ALICE))


def is_server_of(process: Path, name: str) -> bool:
    with contextlib.suppress(OSError):
        return process.stat().st_uid == pwd.getpwnam(name).pw_uid and (process / "comm").read_text() == "notebook\n"
    return False


def test_a_user_who_is_deleted_while_servers_start_leaves_nothing_running(bed: Notebooks) -> None:
    with at_the_start(CAROL, "import time; time.sleep(100)"), ThreadPoolExecutor() as pool:
        bed.hub_api("POST", f"/users/{CAROL}")
        asked = [pool.submit(bed.hub_api, "POST", f"/users/{CAROL}/servers/{name}", {}) for name in ("", "a")]
        until(lambda: len(pids(CAROL)) == 2)
        began = time.monotonic()
        bed.stack.cli("user", "delete", CAROL)
        until(lambda: not pids(CAROL), 5)
        assert time.monotonic() - began < 10
        assert all(one.result().status_code in (202, 403, 503) for one in asked)
        until(lambda: not state(bed, CAROL) and not state(bed, CAROL, "a"))
    bed.stack.cli("user", "restore", CAROL)
    assert not pids(CAROL)
