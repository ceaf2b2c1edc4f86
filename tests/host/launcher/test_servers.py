"""Servers that the launcher starts: whose they are, what they see and have, what is kept of the launcher's, what they cost."""

from __future__ import annotations

import errno
import json
import os
import pwd
import socket
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.host.launcher_support import ALICE, BOB, NEEDED, TEAM_GID, UIDS, Answered, Bed, folders, private, status

pytestmark = NEEDED
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
                try:
                    held = memory.read(end - start)
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    continue  # it was given back since
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
