"""The launcher with the real lab environment: whose the servers are, what they see, how they end, what it costs."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.launcher_support import (
    TEAM_GID,
    UIDS,
    Answered,
    Bed,
    alive,
    folders,
    private,
    status,
    users,
    why_not,
)

reason = why_not()
pytestmark = [pytest.mark.skipif(bool(reason), reason=reason), pytest.mark.slow]
ALICE, BOB = "dtlnalice", "dtlnbob"


KEPT_PLACES = {
    "jupyterlab.labapp.LabApp._static_immutable_initial_values",  # these three are set for each server
    "jupyterlab.labapp.LabApp.user_settings_dir",
    "jupyterlab.labapp.LabApp.workspaces_dir",
    "send2trash.plat_other.HOMETRASH",  # JupyterHub's servers have no trash
    "send2trash.plat_other.HOMETRASH_B",
    "send2trash.plat_other.XDG_DATA_HOME",
    "sysconfig._CONFIG_VARS",  # the scheme `user`: servers install nothing
    "wsgiref.handlers.BaseHandler.os_environ",
}
"""Where a part of the launcher's home is in what is imported."""
KEPT_VARIABLES = {
    "JUPYTERHUB_ALLOW_TOKEN_IN_URL",  # these four are set for each server
    "JUPYTERHUB_ALLOW_WEBSOCKET_COOKIE_AUTH",
    "JUPYTERHUB_SERVICE_PREFIX",
    "USER",
    "JUPYTERHUB_API_URL",  # asked for again when it is used
    "JUPYTERLAB_DIR",
    "JUPYTERLAB_SETTINGS_DIR",
    "JUPYTERLAB_WORKSPACES_DIR",
    "JUPYTER_ALLOW_INSECURE_WRITES",
    "JUPYTER_CONFIG_DIR",
    "JUPYTER_NO_CONFIG",
    "JUPYTER_PLATFORM_DIRS",
    "JUPYTER_USE_PROGRAMDATA",
    "JUPYTERHUB_METRICS_PREFIX",  # what no hub of ours sets
    "JUPYTERHUB_SERVER_SPAWN_DURATION_SECONDS_BUCKETS",
    "JUPYTERHUB_SERVER_STOP_DURATION_SECONDS_BUCKETS",
    "JUPYTERHUB_SINGLEUSER_APP",
    "JUPYTERHUB_SINGLEUSER_EXTENSION",
    "JUPYTERHUB_SINGLEUSER_LOAD_OTHER_EXTENSIONS",
    "JUPYTERHUB_SSL_CERTFILE",
    "JUPYTERHUB_SSL_CLIENT_CA",
    "JUPYTERHUB_SSL_KEYFILE",
    "JUPYTERHUB_XSRF_ANONYMOUS_ID_HEADERS",
    "JUPYTERHUB_XSRF_ANONYMOUS_IP_CIDRS",
    "JUPYTER_GATEWAY_MAX_REQUEST_RETRIES",
    "JUPYTER_LSP_BUILDING_DOCS",
}
"""Variables that are asked for when modules are imported."""


@pytest.fixture(scope="module")
def module_bed() -> Iterator[Bed]:
    with users():
        bed = Bed()
        try:
            yield bed
        finally:
            bed.close()


@pytest.fixture
def bed(module_bed: Bed) -> Iterator[Bed]:
    """The launcher. Servers of a test end with it."""
    yield module_bed
    for server in module_bed.servers:
        if server.shim and alive(server.shim):
            server.stop()
    module_bed.servers.clear()


@pytest.fixture(scope="module")
def both(module_bed: Bed) -> Iterator[tuple[Answered, Answered]]:
    """A server of each user's, for tests that only look."""
    servers = (module_bed.start(ALICE, "look"), module_bed.start(BOB, "look"))
    module_bed.servers.clear()
    yield servers
    for server in servers:
        server.stop()


def environment_of(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text()


def test_server_answers_on_the_descriptor_it_was_given(both: tuple[Answered, Answered]) -> None:
    code, headers, body = both[0].get("api")
    assert code == 200
    assert headers["X-Jupyterhub-Version"].startswith("6.")
    assert "version" in json.loads(body)
    assert both[0].get("api/contents")[0] == 403  # nobody said who asks
    code, _, page = both[0].get("lab", both[0].request["environment"]["JUPYTERHUB_API_TOKEN"])
    assert code == 200
    assert b"jupyter-config-data" in page
    both[0].bed.hub.tokens["another-token-of-bob"] = BOB
    assert both[0].get("api/contents", "another-token-of-bob")[0] == 403


def test_what_is_a_users_own_is_theirs(both: tuple[Answered, Answered]) -> None:
    """Jupyter fixes some of it when it is imported, in the launcher."""
    for server in both:
        name = server.request["name"]
        code, headers, _ = server.get("lab")
        assert code == 302
        assert "/jupyter/hub/api/oauth2/authorize" in headers["Location"]
        assert f"Path=/jupyter/user/{name}/look/" in headers["Set-Cookie"]
        token = server.request["environment"]["JUPYTERHUB_API_TOKEN"]
        assert server.get("lab/api/workspaces", token)[0] == 200
        assert server.get("lab/api/settings", token)[0] == 200


def test_nothing_of_the_launchers_home_or_environment_is_kept(bed: Bed) -> None:
    script = Path(__file__).with_name("launcher_imports.py")
    command = [str(bed.lab / "bin/python"), "-I", str(script)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert set(found["places"]) <= KEPT_PLACES
    asked = {name for name in found["variables"] if name.startswith(("JUPYTER", "JPY", "USER"))}
    assert asked <= KEPT_VARIABLES


def test_the_launcher_keeps_the_words_it_was_started_with(bed: Bed) -> None:
    """It executes itself anew; a supervisor finds one that was left behind by them (distro/supervisor.py)."""
    words = Path(f"/proc/{bed.launcher.pid}/cmdline").read_text().split("\0")[:-1]
    assert words == list(map(str, bed.launcher.args))


def test_server_is_the_users_and_can_be_nobody_elses(both: tuple[Answered, Answered]) -> None:
    for server in both:
        facts, account = status(server.pid), pwd.getpwnam(server.request["name"])
        assert facts["Uid"].split() == [str(account.pw_uid)] * 4
        assert facts["Gid"].split() == [str(account.pw_gid)] * 4
        assert {int(gid) for gid in facts["Groups"].split()} == {account.pw_gid, TEAM_GID}
        assert {facts[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert facts["NoNewPrivs"] == "1"
        assert facts["Threads"] == "1" or int(facts["Threads"]) < 8
        assert Path(f"/proc/{server.pid}/oom_score_adj").read_text().strip() == "0"


def test_kernel_cannot_gain_rights_by_a_setuid_program(bed: Bed) -> None:
    said = bed.start(ALICE).run(
        "import subprocess; print(subprocess.run(['su', '-c', 'id'], stdin=-3, capture_output=True).returncode)",
        "print(open('/proc/self/status').read())",
    )
    assert said[0].strip() != "0"
    assert "NoNewPrivs:\t1" in said[1]
    assert "CapBnd:\t0000000000000000" in said[1]


def test_first_instruction_is_in_the_sub_cgroup(bed: Bed) -> None:
    """The shim waits for `go`; what it charges to memory before its server exists is in the sub-cgroup already."""
    server = bed.start(ALICE)
    for folder in folders(ALICE, "notebook"):
        inside = {int(pid) for pid in (folder / "cgroup.procs").read_text().split()}
        assert {server.shim, server.pid} <= inside
    assert status(server.pid)["PPid"] == str(server.shim)  # born there: nobody moved it
    assert int((folders(ALICE, "notebook")[1] / "memory.usage_in_bytes").read_text()) > 10 << 20


def test_tmp_is_the_users_own(bed: Bed) -> None:
    on_host = Path("/var/tmp/dtln-on-the-host")
    on_host.write_text("the host's")
    look = "import os; print(sorted(os.listdir('/tmp')), sorted(os.listdir('/var/tmp')))"
    try:
        alice, bob = bed.start(ALICE), bed.start(BOB)
        assert alice.run("open('/tmp/dtln-hers', 'w').write('x'); open('/var/tmp/dtln-too', 'w').write('x')", look)[1]
        seen_by_bob = bob.run(look)[0]
        seen_by_alice = alice.run(look)[0]
    finally:
        on_host.unlink()
    assert "dtln-hers" in seen_by_alice
    assert "dtln-too" in seen_by_alice
    assert "dtln-hers" not in seen_by_bob
    assert "dtln-on-the-host" not in seen_by_alice + seen_by_bob
    assert (bed.tmp / str(UIDS[ALICE]) / "dtln-hers").exists()
    assert not Path("/tmp/dtln-hers").exists()


def test_link_in_a_users_tmp_leads_root_nowhere(bed: Bed) -> None:
    """The prefix lies in /var/tmp here, so root makes folders in the user's own: never through a link."""
    folder = bed.tmp / str(UIDS[ALICE])
    place = folder / bed.prefix.name
    if place.exists():
        place.rmdir()
    place.symlink_to("/etc")
    try:
        server = bed.start(ALICE)
        assert server.failed
    finally:
        place.unlink()


def test_no_descriptor_but_its_own(both: tuple[Answered, Answered]) -> None:
    for server in both:
        shim = [
            os.readlink(f"/proc/{server.shim}/fd/{n}") for n in sorted(os.listdir(f"/proc/{server.shim}/fd"), key=int)
        ]
        assert shim[:3] == ["/dev/null"] * 3
        assert all(target.startswith("pipe:") for target in shim[3:])  # what it prints, whether a child ended
        assert len(shim) <= 7
        targets = [os.readlink(f"/proc/{server.pid}/fd/{n}") for n in os.listdir(f"/proc/{server.pid}/fd")]
        files = [target for target in targets if target.startswith("/")]
        assert all(Path(f).is_relative_to(f"/home/{server.request['name']}") for f in files if f != "/dev/null"), files
        inherited = subprocess.run(["ss", "-xlpH"], capture_output=True, text=True, check=False).stdout
        mine = [line for line in inherited.splitlines() if f"pid={server.pid}," in line]
        assert not mine or all(server.request["socket"] in line for line in mine)


def test_nobodys_secrets_are_anywhere_else(bed: Bed, both: tuple[Answered, Answered]) -> None:
    alice, bob = (server.request["environment"]["JUPYTERHUB_API_TOKEN"] for server in both)
    for pid in (bed.launcher.pid, *(pid for server in both for pid in (server.pid, server.shim))):
        assert environment_of(pid) == (
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\0LANG=C.UTF-8\0"
        )
    assert not memory_has(bed.launcher.pid, alice.encode(), bob.encode(), b"of-the-launchers-environment")
    assert not memory_has(both[1].pid, alice.encode())
    assert not memory_has(both[0].pid, bob.encode())
    assert memory_has(both[0].pid, alice.encode())  # the search finds what is there


def memory_has(pid: int, *secrets: bytes) -> bool:
    """Return whether a process's writable memory has one of some texts."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            if rights.startswith("rw"):
                start, end = (int(part, 16) for part in span.split("-"))
                memory.seek(start)
                held = memory.read(end - start)
                if any(secret in held for secret in secrets):
                    return True
    return False


def test_kernel_runs_code_over_ipc_and_has_no_token(bed: Bed) -> None:
    server = bed.start(ALICE)
    said = server.run(
        "print(6 * 7)",
        "import json, os; print(json.dumps(dict(os.environ)))",
        "import os; print(os.getcwd(), os.getuid(), oct(os.umask(0o22)))",
        "import ipykernel, sys; print(sys.executable)",
        "import glob, os, stat; f = os.environ['JUPYTER_RUNTIME_DIR'];"
        "print(oct(os.stat(f).st_mode), [stat.S_ISSOCK(os.stat(p).st_mode) for p in glob.glob(f + '/*-[0-9]')])",
        "print(open('/proc/net/tcp').read().count('\\n'))",
    )
    assert said[0] == "42\n"
    variables = json.loads(said[1])
    assert server.request["environment"]["JUPYTERHUB_API_TOKEN"] not in said[1]
    assert variables["HOME"] == "/home/dtlnalice"
    assert variables["USER"] == ALICE
    assert variables["SHELL"] == "/bin/bash"
    assert variables["PATH"].startswith(f"{bed.lab}/bin:/home/dtlnalice/.local/bin:/usr/local/bin")
    assert "DTLN_SECRET" not in variables
    assert said[2] == f"/home/dtlnalice {UIDS[ALICE]} 0o22\n"
    assert said[3] == f"{bed.lab}/bin/python\n"
    assert said[4].strip() == "0o41700 [True, True, True, True, True]"
    runtime = Path(f"/proc/{server.pid}/root{server.request['runtime']}")
    assert (
        server.request["environment"]["JUPYTERHUB_API_TOKEN"] not in next(runtime.glob("jpserver-*.json")).read_text()
    )


def test_own_packages_of_a_user_are_found(bed: Bed) -> None:
    if "include-system-site-packages = true" not in (bed.lab / "pyvenv.cfg").read_text():
        pytest.skip(f"{bed.lab} leaves users' own packages out (pyvenv.cfg)")
    as_alice = {"user": UIDS[ALICE], "group": UIDS[ALICE], "check": True}
    version = subprocess.run(
        [bed.lab / "bin/python", "-c", "import sys; print('python%d.%d' % sys.version_info[:2])"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    folder = f"/home/dtlnalice/.local/lib/{version}/site-packages"
    subprocess.run(["mkdir", "-p", folder], **as_alice)
    subprocess.run(["sh", "-c", f"echo 'ANSWER = 42' > {folder}/dtlnpackage.py"], **as_alice)
    assert bed.start(ALICE).run("import dtlnpackage; print(dtlnpackage.ANSWER)")[0] == "42\n"


def test_starters_come_once_and_overwrite_nothing(bed: Bed) -> None:
    source, home = bed.prefix / "starters", Path("/home/dtlnbob")
    source.mkdir()
    for name in ("welcome.ipynb", "theirs.ipynb", "link.ipynb"):
        (source / name).write_text(f"original {name}")
    target, victim = home / "notebooks", Path("/etc/dtln-victim")
    as_bob: dict[str, Any] = {"user": UIDS[BOB], "group": UIDS[BOB], "check": True}
    subprocess.run(["mkdir", str(target)], **as_bob)
    subprocess.run(["sh", "-c", f"echo mine > {target}/theirs.ipynb; ln -s {victim} {target}/link.ipynb"], **as_bob)
    bed.start(BOB, templates=[str(source)]).stop()
    assert (target / "welcome.ipynb").read_text() == "original welcome.ipynb"
    assert (target / "welcome.ipynb").stat().st_uid == UIDS[BOB]
    assert (target / "theirs.ipynb").read_text() == "mine\n"
    assert os.readlink(target / "link.ipynb") == str(victim)
    assert not victim.exists()
    (target / "welcome.ipynb").unlink()  # who removes one does not get it again
    (source / "later.ipynb").write_text("original later.ipynb")
    bed.start(BOB, templates=[str(source)]).stop()
    assert not (target / "welcome.ipynb").exists()
    assert (target / "later.ipynb").read_text() == "original later.ipynb"


def test_servers_outlive_the_launcher(bed: Bed) -> None:
    server = bed.start(ALICE)
    bed.launcher.kill()
    bed.launcher.wait()
    assert server.get("api")[0] == 200
    assert server.run("print('still here')")[0] == "still here\n"
    (bed.prefix / "launcher.log").write_text("")
    bed.start_launcher()
    assert bed.start(BOB).get("api")[0] == 200
    ended = server.stop()
    assert ended["exit_code"] == 0
    assert ended["pid"] == server.pid


def test_record_says_who_and_when(bed: Bed) -> None:
    server = bed.start(ALICE, "two")
    start = int(Path(f"/proc/{server.shim}/stat").read_text().rpartition(")")[2].split()[19])
    running = server.record
    assert running == {
        "name": ALICE, "server": "two", "profile": "small", "shim": server.shim, "shim_start": start, "pid": server.pid,
        "started": running["started"], "kills": 0,
    }  # fmt: skip
    assert abs(running["started"] - time.time()) < 60
    assert Path(server.request["record"]).stat().st_mode & 0o777 == 0o600
    ended = server.stop()
    assert ended == {**running, "ended": ended["ended"], "exit_code": 0}
    assert ended["ended"] > ended["started"]


DETACH = """import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open('/home/dtlnalice/detached', 'w').write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
os.wait()
while not os.path.exists('/home/dtlnalice/detached') or not open('/home/dtlnalice/detached').read(): time.sleep(0.01)
print(open('/home/dtlnalice/detached').read())"""


@pytest.mark.parametrize("where", ["a sub-cgroup", "a scope of systemd's"])
def test_sigterm_ends_kernels_and_leaves_nothing(bed: Bed, where: str) -> None:
    Path("/home/dtlnalice/detached").unlink(missing_ok=True)
    server = bed.start(ALICE, **({} if where == "a sub-cgroup" else {"groups_of_processes": []}))
    kernel, detached = (int(said) for said in server.run("import os; print(os.getpid())", DETACH))
    assert alive(kernel)
    assert alive(detached)
    assert server.stop()["exit_code"] == 0
    assert not alive(kernel)
    assert not alive(detached)
    for folder in folders(ALICE, "notebook"):
        assert (folder / "cgroup.procs").read_text() == ""
    assert not Path(server.request["socket"]).exists()
    assert not Path(server.request["runtime"]).exists()


def test_sigterm_to_the_shim_ends_the_server(bed: Bed) -> None:
    server = bed.start(ALICE)
    os.kill(server.shim, signal.SIGTERM)
    assert server.wait_for_end()["exit_code"] == 0


def test_server_ends_with_its_shim(bed: Bed) -> None:
    server = bed.start(ALICE)
    os.kill(server.shim, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while alive(server.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    Path(server.request["socket"]).unlink()
    assert bed.start(ALICE).get("api")[0] == 200  # what the first left in its runtime folder is in nobody's way


def test_memory_hog_is_counted(bed: Bed) -> None:
    server = bed.start(ALICE)
    said = server.run("x = []\nwhile True: x.append(bytearray(b'x' * (1 << 20)))")
    assert "[restarting]" in said[0] or "[dead]" in said[0]
    assert server.get("api")[0] == 200  # the kernel was killed, not the server
    assert server.stop()["kills"] == 1


def test_killed_server_is_told(bed: Bed) -> None:
    server = bed.start(ALICE)
    os.kill(server.pid, signal.SIGKILL)
    assert server.wait_for_end()["exit_code"] == -signal.SIGKILL
    for folder in folders(ALICE, "notebook"):
        assert (folder / "cgroup.procs").read_text() == ""


def test_broken_configuration_is_told_with_its_last_lines(bed: Bed) -> None:
    folder = Path("/home/dtlnalice/.jupyter")
    folder.mkdir(exist_ok=True)
    (folder / "jupyter_server_config.py").write_text("c.ServerApp.max_body_size = 'the bell of dtln'\n")
    os.chown(folder, UIDS[ALICE], UIDS[ALICE])
    try:
        server = bed.start(ALICE)
    finally:
        (folder / "jupyter_server_config.py").unlink()
    assert server.failed["failed"].startswith("The server ended with status 1")
    assert any("the bell of dtln" in line for line in server.failed["log"])
    assert server.wait_for_end()["exit_code"] == 1
    assert not Path(server.request["socket"]).exists()


def test_no_home_is_told(bed: Bed) -> None:
    server = bed.start(ALICE, home="/home/dtln-is-not-there")
    assert any("dtln-is-not-there" in line for line in server.failed["log"])
    server.wait_for_end()


def test_no_process_more_is_told(bed: Bed) -> None:
    limit = folders(ALICE)[2] / "pids.max"
    limit.write_text("1")  # the shim itself
    try:
        server = bed.start(ALICE)
        assert "Resource temporarily unavailable" in server.failed["failed"]
    finally:
        limit.write_text("max")
    assert bed.start(ALICE).get("api")[0] == 200


def test_flood_of_output_is_bounded(bed: Bed) -> None:
    server = bed.start(ALICE)
    assert not server.run(f"f = open('/proc/{server.pid}/fd/1', 'w')\nfor _ in range(20000): print('y' * 999, file=f)")[
        0
    ]
    time.sleep(1.2)
    log = Path(server.request["log"])
    assert 60_000 < log.stat().st_size <= 65_536
    assert log.stat().st_mode & 0o777 == 0o600
    assert private(server.shim) < 8 << 20
    server.stop()
    assert log.stat().st_size <= 65_536


def shims() -> set[int]:
    return {
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and (entry / "comm").exists() and (entry / "comm").read_text() == "notebook-shim\n"
    }


def wait_until_gone(before: set[int], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while shims() - before:
        assert time.monotonic() < deadline, shims() - before
        time.sleep(0.05)


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\n",
        b"[]\n",
        b"{}\n",
        b"x" * 200_000,
        b'{"name": "a", "uid": 0}\n',
        b'{"name": "a", "uid": true, "gid": 1}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
    ],
)
def test_hostile_lines_leave_nothing(bed: Bed, line: bytes) -> None:
    before = shims()
    with bed.connect() as connection:
        try:
            connection.sendall(line)
            answer = connection.makefile("r").readline()
        except OSError:
            answer = ""
    assert "pid" not in answer
    wait_until_gone(before)
    assert bed.launcher.poll() is None


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"uid": 0}, "uid"),
        ({"gid": 0}, "gid"),
        ({"groups": [0]}, "groups"),
        ({"home": "relative"}, "home"),
        ({"environment": {"A=B": "c"}}, "environment"),
        ({"environment": {"A": "b\0c"}}, "environment"),
        ({"shell": "a\0b"}, "shell"),
        ({"groups_of_processes": "no"}, "groups_of_processes"),
        ({"tmp": 7}, "tmp"),
    ],
)
def test_request_that_must_not_be_is_refused(bed: Bed, changes: dict[str, Any], word: str) -> None:
    server = bed.start(ALICE, **changes)
    assert f"`{word}`" in server.failed["failed"]
    assert not server.shim
    bed.servers.clear()


def test_descriptor_must_be_one_socket_that_listens(bed: Bed) -> None:
    before = shims()
    line = json.dumps(bed.request(ALICE)).encode() + b"\n"
    with open("/etc/passwd") as file, socket.socket(socket.AF_UNIX) as deaf, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        for descriptors in ([], [file.fileno()], [deaf.fileno()], [other.fileno()], [deaf.fileno()] * 3):
            with bed.connect() as connection:
                socket.send_fds(connection, [line], descriptors)
                assert "descriptor" in json.loads(connection.makefile("r").readline())["failed"]
    wait_until_gone(before)


def test_connection_that_breaks_before_go_leaves_nothing(bed: Bed) -> None:
    before, request = shims(), bed.request(ALICE)
    Path(request["socket"]).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener, bed.connect() as connection:
        listener.bind(request["socket"])
        listener.listen()
        socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], [listener.fileno()])
        assert json.loads(connection.makefile("r").readline())["pid"]
    wait_until_gone(before)
    assert not Path(request["record"] + ".new").exists()
    assert not Path(request["runtime"]).exists()
    Path(request["socket"]).unlink()


def test_connection_that_breaks_after_go_changes_nothing(bed: Bed) -> None:
    request = bed.request(ALICE)
    Path(request["socket"]).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener, bed.connect() as connection:
        listener.bind(request["socket"])
        listener.listen()
        socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], [listener.fileno()])
        shim = json.loads(connection.makefile("r").readline())["pid"]
        connection.sendall(b'{"go": true}\n')
    server = Answered(bed, request)
    server.shim = shim
    bed.servers.append(server)
    assert server.get("api")[0] == 200
    server.pid = server.record["pid"]
    server.stop()


def test_others_are_not_heard(bed: Bed) -> None:
    ask = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(9))"
    command = ["/usr/bin/python3", "-c", ask, str(bed.socket)]
    refused = subprocess.run(command, user=UIDS[ALICE], group=UIDS[ALICE], capture_output=True, text=True, check=False)
    assert "PermissionError" in refused.stderr
    bed.socket.parent.chmod(0o755)
    bed.socket.chmod(0o666)
    try:  # even if the folder were open
        heard = subprocess.run(
            command, user=UIDS[ALICE], group=UIDS[ALICE], capture_output=True, text=True, check=False
        )
    finally:
        bed.socket.parent.chmod(0o700)
        bed.socket.chmod(0o600)
    assert heard.stdout in ("b''\n", "")
    assert "refused a connection" in bed.said()


def test_second_launcher_does_not_take_the_socket(bed: Bed) -> None:
    command = [str(bed.lab / "bin/python"), "-I", "-m", "diycloud.launcher", "--prefix", str(bed.prefix)]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert second.returncode != 0
    assert "answers on" in second.stderr
    assert bed.start(ALICE).get("api")[0] == 200


def test_launcher_itself_holds_nothing_of_a_servers(bed: Bed) -> None:
    bed.start(ALICE).stop()
    threads = os.listdir(f"/proc/{bed.launcher.pid}/task")
    targets = [os.readlink(f"/proc/{bed.launcher.pid}/fd/{n}") for n in os.listdir(f"/proc/{bed.launcher.pid}/fd")]
    assert len(threads) == 1
    assert len([target for target in targets if target.startswith("socket:")]) == 1  # its own
    assert not [target for target in targets if "anon_inode" in target]  # no event loop
    assert len(targets) <= 5, targets
    children = Path(f"/proc/{bed.launcher.pid}/task/{bed.launcher.pid}/children").read_text().split()
    assert all((Path("/proc") / pid / "comm").read_text() == "notebook-shim\n" for pid in children)


def test_warm_start_is_quick_and_shares_memory(bed: Bed) -> None:
    bed.start(ALICE).stop()
    taken, sizes = [], []
    for _ in range(5):
        server = bed.start(ALICE)
        taken.append(server.seconds)
        server.get("api")
        sizes.append(private(server.pid) + private(server.shim))
        server.stop()
    alone = plain_server(bed)
    print(
        f"ready after {statistics.median(taken):.3f} s ({min(taken):.3f} to {max(taken):.3f}); its own memory, with the shim's, "
        f"{statistics.median(sizes) / 2**20:.0f} MiB, one started by exec {alone[0]:.2f} s, {alone[1] / 2**20:.0f} MiB"
    )
    assert min(taken) < max(0.35, alone[0] / 10)  # the second for machines that do much else
    assert statistics.median(sizes) < alone[1] / 2


def plain_server(bed: Bed) -> tuple[float, int]:
    """Return seconds and bytes of JupyterLab's single-user server as JupyterHub starts it: by exec."""
    request = bed.request(BOB)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        **request["environment"],
        "HOME": "/home/dtlnbob",
        "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}/",
    }
    began = time.monotonic()
    process = subprocess.Popen(
        [str(bed.lab / "bin/python"), "-m", "jupyterhub.singleuser"], user=UIDS[BOB], group=UIDS[BOB], extra_groups=[],
        cwd="/home/dtlnbob", env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while True:
            assert time.monotonic() - began < 60
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.01)
        seconds = time.monotonic() - began
        time.sleep(0.5)
        return seconds, private(process.pid)
    finally:
        process.kill()
        process.wait()
