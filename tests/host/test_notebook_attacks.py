"""Attacks on notebooks, with everything real: by users with a shell and a notebook, and by their tokens at the hub."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import notebooks
from tests.host.hub_support import ALICE, BOB, CAROL, NEEDED, running_hub, shown, signed_in
from tests.notebooks import Notebooks
from tests.visitor import Browser, Kernel
from tests.waiting import until

pytestmark = NEEDED
SETTINGS = """\
  named_servers: 3
  at_once: 5
"""


@pytest.fixture(scope="module")
def bed() -> Iterator[Notebooks]:
    with running_hub(ALICE, BOB, CAROL, settings=SETTINGS) as running:
        for name in (ALICE, BOB):
            start(running, name)
        yield running


@pytest.fixture(scope="module")
def alice(bed: Notebooks) -> Iterator[Browser]:
    with signed_in(bed, ALICE) as browser:
        browser.open(f"/jupyter/user/{ALICE}/lab")
        yield browser


@pytest.fixture
def kernel(alice: Browser) -> Iterator[Kernel]:
    running = Kernel(alice, f"/jupyter/user/{ALICE}/")
    yield running
    running.close()


def start(bed: Notebooks, name: str, server: str = "") -> None:
    """Start a server, or find it running. Fails with what the hub answered, and what agent and server had to say."""
    bed.hub_api("POST", f"/users/{name}")
    answer = bed.hub_api("POST", f"/users/{name}/servers/{server}", {})
    told = f"the hub answered {answer.status_code}: {answer.text}"
    assert answer.status_code in (201, 202) or "already running" in answer.text, told + logs(bed, name)
    until(lambda: shown(bed, name, server).get("ready"), 40, lambda: told + logs(bed, name))


def stop(bed: Notebooks, name: str, server: str = "") -> None:
    """End a server; a named one is forgotten, for there may be few."""
    answer = bed.hub_api("DELETE", f"/users/{name}/servers/{server}", {"remove": True} if server else None)
    told = f"the hub answered {answer.status_code}: {answer.text}"
    until(lambda: not shown(bed, name, server), 40, lambda: told + logs(bed, name))


def logs(bed: Notebooks, name: str) -> str:
    """Return the last lines of everybody who had to do with a user's servers, and what of them runs."""
    listed = subprocess.run(
        ["ps", "-u", name, "-o", "pid,ppid,stat,etimes,cmd"], capture_output=True, text=True, check=False
    )
    known = bed.hub_api("GET", f"/users/{name}").text
    servers = {path.name: path.read_text(errors="replace") for path in (bed.paths.notebooks / "logs").glob(f"{name}*")}
    of_parts = {which: bed.stack.log(which) for which in ("hub", "agent", "launcher")}
    parts = [f"-- {which}\n{text[-3000:]}" for which, text in {**servers, **of_parts, "hub's word": known}.items()]
    return "\n".join(["", listed.stdout[-3000:], *parts])


def as_user(name: str, code: str) -> str:
    """Run Python as a user with a shell on the host; returns what it prints."""
    account = pwd.getpwnam(name)
    done = subprocess.run(
        ["/usr/bin/python3", "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=60,
        user=account.pw_uid, group=account.pw_gid, extra_groups=[], cwd="/", env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    return done.stdout + done.stderr


def pids(name: str) -> list[int]:
    """Return a user's processes; what has ended, and waits for its parent to take note, is none."""
    listed = subprocess.run(["ps", "-u", name, "-o", "pid=,stat="], capture_output=True, text=True, check=False).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "Z" not in line]


def ports(name: str) -> set[int]:
    """Return the TCP ports that a user's processes listen on."""
    uid, found = str(pwd.getpwnam(name).pw_uid), set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[7] == uid:
                found.add(int(words[1].rpartition(":")[2], 16))
    return found


def debug(kernel: Kernel) -> None:
    """Ask a kernel for its debugger, as Lab's page does, and give it time to listen."""
    asked = "d" * 16
    header = {"msg_id": asked, "msg_type": "debug_request", "username": "", "session": asked, "version": "5.3"}
    content = {"seq": 1, "type": "request", "command": "initialize", "arguments": {"adapterID": "python"}}
    message = {"channel": "control", "header": header, "parent_header": {}, "metadata": {}, "content": content}
    kernel._send(json.dumps(message).encode())
    time.sleep(3)


# -- by the host's network


def test_no_kernel_listens_where_others_connect(bed: Notebooks, alice: Browser, kernel: Kernel) -> None:
    """Found: the debugger of a kernel ran whatever anybody on the host sent to its port; another port took memory."""
    specs = alice.ask("GET", f"/jupyter/user/{ALICE}/api/kernelspecs").json()["kernelspecs"]
    assert [spec["spec"]["metadata"]["debugger"] for spec in specs.values()] == [False] * len(specs)
    assert kernel.run("import os; print(os.getuid())").strip() == str(pwd.getpwnam(ALICE).pw_uid)
    debug(kernel)
    assert ports(ALICE) == set()
    assert kernel.run("6 * 7") == "42", "and it goes on"


def test_what_forks_print_is_shown_all_the_same(kernel: Kernel) -> None:
    said = kernel.run(
        "import multiprocessing, time; child = multiprocessing.get_context('fork').Process(target=print, args=('child',));"
        "child.start(); child.join(); time.sleep(1)"
    )
    assert said.strip() == "child"


def test_run_cannot_be_filled(kernel: Kernel) -> None:
    """Found: a server's runtime folder was /run itself, as large as that is."""
    filled = kernel.run("""
import os
folder = os.environ["JUPYTER_RUNTIME_DIR"]
try:
    with open(folder + "/fill", "wb") as file:
        for _ in range(64): file.write(bytes(1 << 20)); file.flush()
except OSError as error: print(error.errno)
os.unlink(folder + "/fill")
made = 0
try:
    for made in range(20_000): open(f"{folder}/{made}", "w").close()
except OSError as error: print(error.errno)
for one in range(made): os.unlink(f"{folder}/{one}")
print(os.stat(folder).st_dev == os.stat(folder + "/..").st_dev, oct(os.stat(folder).st_mode))
""")
    assert filled.split() == ["28", "28", "False", "0o41700"]


# -- by files, sockets and /proc


def tried(printed: str) -> dict[str, str]:
    return dict(line.split(" = ", 1) for line in printed.splitlines() if " = " in line)


TRY = """
import os, socket, ctypes, errno
def attempt(label, action):
    try: print(label, "=", repr(action())[:150])
    except OSError as error: print(label, "=", errno.errorcode.get(error.errno, error))
def write(path, text):
    descriptor = os.open(path, os.O_WRONLY)
    try: os.write(descriptor, text.encode())
    finally: os.close(descriptor)
def connect(path):
    with socket.socket(socket.AF_UNIX) as line: line.connect(path)
def attach(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, None, None): raise OSError(ctypes.get_errno(), "ptrace")
"""


def test_somebody_else_on_the_host_gets_at_nothing(bed: Notebooks) -> None:
    run, own = bed.paths.notebooks, f"{bed.paths.notebooks}/sockets/{BOB}.sock"
    found = tried(as_user(BOB, TRY + f"""
run, own, alices = {str(run)!r}, {own!r}, {f"{run}/sockets/{ALICE}.sock"!r}
attempt("own connect", lambda: connect(own))
attempt("own chmod", lambda: os.chmod(own, 0o660))
attempt("list sockets", lambda: os.listdir(run + "/sockets"))
attempt("list runtime", lambda: os.listdir(run + "/runtime"))
attempt("connect", lambda: connect(alices))
attempt("chmod", lambda: os.chmod(alices, 0o666))
attempt("rename over", lambda: os.rename(own, alices))
attempt("rename away", lambda: os.rename(own, run + "/sockets/x.sock"))
attempt("link", lambda: os.link(own, run + "/sockets/{ALICE}+x.sock"))
attempt("symlink", lambda: os.symlink(alices, run + "/sockets/{BOB}+x.sock"))
attempt("unlink", lambda: os.unlink(own))
attempt("named server", lambda: os.mkdir(run + "/runtime/{BOB}+x"))
attempt("own runtime", lambda: os.listdir(run + "/runtime/{BOB}"))
attempt("runtime", lambda: os.listdir(run + "/runtime/{ALICE}"))
attempt("record", lambda: open(run + "/records/{ALICE}.json"))
attempt("log", lambda: open(run + "/logs/{ALICE}.log"))
attempt("tmp", lambda: os.listdir({str(bed.paths.notebook_tmp / str(pwd.getpwnam(ALICE).pw_uid))!r}))
attempt("launcher", lambda: connect({str(bed.paths.launcher_socket)!r}))
attempt("agent", lambda: connect({str(bed.paths.agent_socket)!r}))
attempt("server", lambda: connect({str(bed.paths.server_socket)!r}))
for pid in {pids(ALICE)!r}:
    for what in ("environ", "mem", "maps", "auxv", "io"):
        attempt(f"{{pid}} {{what}}", lambda: open(f"/proc/{{pid}}/{{what}}").read(9))
    for what in ("fd", "root", "map_files"): attempt(f"{{pid}} {{what}}", lambda: os.listdir(f"/proc/{{pid}}/{{what}}"))
    attempt(f"{{pid}} ptrace", lambda: attach(pid))
    attempt(f"{{pid}} kill", lambda: os.kill(pid, 9))
"""))  # fmt: skip
    allowed = {label: answer for label, answer in found.items() if answer not in ("EACCES", "EPERM", "ESRCH", "''")}
    assert allowed == {"own connect": "None", "own chmod": "None"}, allowed
    assert len(found) > 36


def test_a_notebook_gets_at_nothing_of_roots(bed: Notebooks, kernel: Kernel) -> None:
    shim = json.loads((bed.paths.notebooks / f"records/{ALICE}.json").read_text())["shim"]
    assert bed.launcher is not None
    found = tried(kernel.run(TRY + f"""
attempt("never", lambda: write("/proc/self/oom_score_adj", "-1"))
attempt("never, server", lambda: write(f"/proc/{{os.getppid()}}/oom_score_adj", "-1"))
attempt("signal", lambda: os.kill({shim}, 15))
for pid in ({shim}, {bed.launcher.pid}):
    for what in ("environ", "mem", "maps"): attempt(f"{{pid}} {{what}}", lambda: open(f"/proc/{{pid}}/{{what}}").read(9))
    attempt(f"{{pid}} fd", lambda: os.listdir(f"/proc/{{pid}}/fd"))
    attempt(f"{{pid}} ptrace", lambda: attach(pid))
    attempt(f"{{pid}} oom", lambda: write(f"/proc/{{pid}}/oom_score_adj", "1000"))
attempt("root", lambda: os.setuid(0))
attempt("groups", lambda: os.setgroups([0]))
attempt("mount", lambda: os.listdir("/proc/1/root"))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
for name in ("sockets", "records", "logs", "runtime"): attempt(name, lambda: open(f"{bed.paths.notebooks}/{{name}}/x", "w"))
for line in open("/proc/self/cgroup"):
    _, controller, folder = line.strip().split(":", 2)
    if "/" in folder[1:]:
        base = "/sys/fs/cgroup/" + controller
        attempt(f"{{controller}} out", lambda: write(base + "/cgroup.procs", "0"))
        attempt(f"{{controller}} new", lambda: os.mkdir(base + folder + "/x"))
attempt("memory", lambda: write("/sys/fs/cgroup/memory" + folder + "/memory.limit_in_bytes", "-1"))
"""))  # fmt: skip
    allowed = {label: answer for label, answer in found.items() if answer not in ("EACCES", "EPERM", "ENOENT", "EROFS")}
    assert allowed == {}, allowed
    assert len(found) > 18


def test_a_server_holds_no_descriptor_of_roots(bed: Notebooks, kernel: Kernel) -> None:
    kernel.run("1")
    for pid in pids(ALICE):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(entry)
            if target.startswith("/") and not target.startswith(("/dev/", "/proc/")):
                assert os.stat(target).st_uid != 0 or not os.access(entry, os.W_OK), (pid, target)


# -- by the hub


def test_a_users_own_token_at_the_hub_can_what_the_user_may(bed: Notebooks) -> None:
    made = bed.hub_api("POST", f"/users/{ALICE}/tokens", {"note": "mine"})
    assert made.status_code == 201, made.text
    token = made.json()["token"]
    refused = {}
    for method, path, body in (
        ("GET", "/users", None), ("GET", f"/users/{BOB}", None), ("GET", "/groups", None), ("GET", "/services", None),
        ("POST", f"/users/{BOB}/server", {}), ("DELETE", f"/users/{BOB}/server", None),
        ("POST", f"/users/{BOB}/servers/x", {}), ("POST", f"/users/{BOB}/tokens", {}), ("GET", f"/users/{BOB}/tokens", None),
        ("POST", f"/users/{BOB}/activity", {"last_activity": "2030-01-01T00:00:00Z"}),
        ("POST", "/users/dtnrnew", {}), ("POST", "/users", {"usernames": ["dtnrnew"], "admin": True}),
        ("PATCH", f"/users/{ALICE}", {"admin": True}), ("DELETE", f"/users/{ALICE}", None),
        ("POST", f"/users/{ALICE}/tokens", {"roles": ["admin"]}), ("POST", f"/users/{ALICE}/tokens", {"scopes": ["admin:users"]}),
        ("POST", f"/users/{ALICE}/tokens", {"scopes": [f"access:servers!user={BOB}"]}),
        ("POST", f"/shares/{ALICE}/", {"user": BOB}), ("POST", f"/share-codes/{ALICE}/", {}),
        ("POST", "/groups/x", {}), ("POST", "/groups/portal:administrators/users", {"users": [ALICE]}),
        ("PUT", "/groups/portal:administrators/properties", {}), ("POST", "/shutdown", {}), ("GET", "/proxy", None),
        ("POST", "/proxy", {}), ("PATCH", "/proxy", {"api_url": "http://127.0.0.1:1"}), ("GET", "/metrics", None),
    ):  # fmt: skip
        answer = bed.hub_api(method, path, body, token=token)
        if answer.status_code not in (400, 403, 404, 405):
            refused[method, path, str(body)] = (answer.status_code, answer.text[:300])
    assert refused == {}
    assert bed.hub_api("GET", "/user", token=token).json()["admin"] is False


@pytest.mark.parametrize(
    "server", ["..", "%2e%2e%2f" + BOB, "x%2f..%2f" + BOB, "+x", "A", "x%0a", "x" * 31, "%00", "..%2f..%2fhub", "a+b"]
)
def test_odd_names_of_servers_are_nobodys(bed: Notebooks, server: str) -> None:
    before = sorted(os.listdir(bed.paths.notebooks / "sockets")), sorted(pids(BOB))
    answer = bed.hub_api("POST", f"/users/{ALICE}/servers/{server}", {})
    assert answer.status_code >= 400, answer.text
    assert (sorted(os.listdir(bed.paths.notebooks / "sockets")), sorted(pids(BOB))) == before
    bed.hub_api("DELETE", f"/users/{ALICE}/servers/{server}", {"remove": True})


# -- by what does not want to end

STUBBORN = """
import os, signal, subprocess, sys, time
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}: signal.signal(number, signal.SIG_IGN)
"""
DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(256):
            try: os.close(number)
            except OSError: pass
        time.sleep(600)
    os._exit(0)
"""
BOMB = """
def bomb():
    while True:
        try:
            if os.fork() == 0: os.setsid()
        except OSError: pass
if os.fork() == 0: bomb()
"""


STOPPED = """
time.sleep(1)
os.kill(int(os.environ["JPY_PARENT_PID"]), signal.SIGSTOP)
time.sleep(600)
"""


@pytest.mark.parametrize("code", [DAEMON, STOPPED, BOMB], ids=["daemon", "stopped", "bomb"])
def test_a_stop_ends_whatever_it_is(bed: Notebooks, code: str) -> None:
    start(bed, BOB)
    with bed.browser() as browser:
        browser.sign_in(BOB, notebooks.PASSWORD)
        browser.open(f"/jupyter/user/{BOB}/lab")
        kernel = Kernel(browser, f"/jupyter/user/{BOB}/")
        code = STUBBORN + code
        kernel.run(f"import subprocess, sys, os; c = subprocess.Popen([sys.executable, '-c', {code!r}]); 1")
        time.sleep(2)
        assert len(pids(BOB)) > 2
        began = time.monotonic()
        bed.stack.cli("notebook", "stop", BOB)
        assert not pids(BOB), "it says that it has ended"
        assert time.monotonic() - began < 60, "six seconds; the bomb and other tests want the same cores"
        kernel.close()
    stop(bed, BOB)
    start(bed, BOB)


def servers_of(bed: Notebooks, name: str) -> set[str]:
    """Return a user's servers that run or are being started, as their sockets tell."""
    stems = [path.stem for path in (bed.paths.notebooks / "sockets").glob(f"{name}*.sock")]
    return {stem.partition("+")[2] for stem in stems}


def test_starts_of_a_few_users_leave_room_for_others(bed: Notebooks, alice: Browser) -> None:
    """A server that its owner keeps from answering holds a turn until its time is up: so nobody gets more than two."""
    config = "~/.jupyter/jupyter_server_config.py"
    for name in (ALICE, BOB):
        as_user(
            name,
            f"""
            import os
            path = os.path.expanduser({config!r})
            os.makedirs(os.path.dirname(path), exist_ok=True)
            open(path, "w").write("import time; time.sleep(300)")
        """,
        )
    stop(bed, BOB)
    asked = [(ALICE, "a"), (ALICE, "b"), (ALICE, "c"), (BOB, ""), (BOB, "a"), (BOB, "b")]
    with ThreadPoolExecutor(len(asked)) as pool:  # each is answered when it runs, or after ten seconds
        answers = [pool.submit(bed.hub_api, "POST", f"/users/{name}/servers/{server}", {}) for name, server in asked]
        try:
            until(lambda: len(servers_of(bed, ALICE)) == 3 and len(servers_of(bed, BOB)) == 2)  # Alice's first one runs
            began = time.monotonic()
            start(bed, CAROL)
            assert time.monotonic() - began < 10
            assert [answer.result().status_code for answer in answers] == [202] * len(asked), (
                "they wait, and are not refused"
            )
            assert len(servers_of(bed, ALICE)) == 3 and len(servers_of(bed, BOB)) == 2
            (late,) = {"a", "b", "c"} - servers_of(bed, ALICE)
            page = alice.ask("GET", f"/jupyter/hub/spawn-pending/{ALICE}/{late}")
            assert "Waiting for your other servers" in page.text, page.text
            early = min({"a", "b", "c"} - {late})
            stop(bed, ALICE, early)
            until(lambda: servers_of(bed, ALICE) == {"", "a", "b", "c"} - {early})
            assert len(servers_of(bed, BOB)) == 2
        finally:
            for name in (ALICE, BOB):
                as_user(name, f"import os; os.unlink(os.path.expanduser({config!r}))")
            for name, server in asked:
                stop(bed, name, server)
            stop(bed, CAROL)
    start(bed, BOB)


CONFIG = """
import os, threading
from diycloud.launcher.single_user import ListeningServer
def listen(self):
    def flood(line):
        try:
            line.recv(9999)
            line.sendall(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")
            block = b"100000\\r\\n" + bytes(1 << 20) + b"\\r\\n"
            for _ in range(1500): line.sendall(block)
        except OSError: pass
    def serve():
        self.listener.setblocking(True)
        while True:
            line, _ = self.listener.accept()
            threading.Thread(target=flood, args=(line,), daemon=True).start()
    threading.Thread(target=serve, daemon=True).start()
    self.io_loop.add_callback(self.answers)
ListeningServer._listen = listen
"""


def test_what_a_users_server_answers_fills_no_memory_of_the_hub(bed: Notebooks, kernel: Kernel) -> None:
    """It looks whether a new server answers, and reads no more than the head of what that says."""
    kernel.run(
        f"import os; p = os.path.expanduser('~/.jupyter'); os.makedirs(p, exist_ok=True);"
        f"open(p + '/jupyter_server_config.py', 'w').write({CONFIG!r})"
    )
    assert bed.hub is not None
    status = Path(f"/proc/{bed.hub.pid}/status")

    def peak() -> int:
        """Return the most memory the hub has had, MiB."""
        return next(int(line.split()[1]) >> 10 for line in status.read_text().splitlines() if line.startswith("VmHWM"))

    before = peak()
    asked = bed.hub_api("POST", f"/users/{ALICE}/servers/flood", {})
    assert asked.status_code not in (400, 403), asked.text
    time.sleep(3)
    kernel.run("os.unlink(p + '/jupyter_server_config.py')")
    stop(bed, ALICE, "flood")
    assert peak() - before < 50
