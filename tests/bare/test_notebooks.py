"""Notebooks as part of an installation on a bare machine: set up, looked after, and taken away without a trace."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.bare.bareroot import ALWAYS_IGNORED, BareRoot
from tests.bare.tree import differences
from tests.host.test_install import BACKUPS, NOTES, PROGRAM_PACKAGES, Ports, password_in, started
from tests.visitor import Browser, Kernel

pytestmark = pytest.mark.slow
SETTINGS = "notebooks:\n  data_science: false\n  packages: [jupyterlab-execute-time]\n"
LAB = "/opt/diycloud/jupyter/lab"


class Machine:
    """A bare machine with the distribution's packages. options: of its installation; before: what it was like."""

    def __init__(self, root: BareRoot) -> None:
        self.root = root
        self.ports = Ports()
        self.options = self.ports.options.replace("--without-notebooks", "").strip()
        root.run(f"apt-get -q update && {PROGRAM_PACKAGES}")
        root.run("rm /etc/nginx/sites-enabled/default")  # port 80, of which this machine has one for all roots
        self.before = root.snapshot()

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.root.path("/etc/diycloud/tls/ca.crt").read_text())

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPSConnection("localhost", self.ports.https, context=self.trust(), timeout=30)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return (
                answer.status,
                {k.lower(): v for k, v in answer.getheaders()},
                answer.read().decode("utf-8", "replace"),
            )
        finally:
            connection.close()

    def processes(self) -> str:
        return self.root.run("for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f; echo; done", ok=(0, 1)).stdout


@pytest.fixture(scope="module", params=["bookworm", pytest.param("sid", marks=pytest.mark.exhaustive)])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Its tests go through the life of one installation, in their order."""
    for root in started(request.param):
        yield Machine(root)


KILL_WHILE_PIP_WORKS = """
for turn in $(seq 6000); do
    for f in /proc/[0-9]*/cmdline; do
        if tr '\\0' ' ' < $f 2> /dev/null | grep -q '^/opt/diycloud/jupyter/lab/.*pip install.*requirements/lab'; then
            sleep 3
            pid=${f#/proc/}; pid=${pid%/cmdline}
            kill -KILL $(cut -d ' ' -f 4 /proc/$pid/stat) $pid && exit 0
        fi
    done
    sleep 0.1
done
exit 1
"""


def test_an_installation_that_is_killed_while_pip_works_is_continued(machine):
    root = machine.root
    root.run("mkdir -p /etc/diycloud && cat > /etc/diycloud/config.yaml", input=SETTINGS)
    running = root.spawn(f"cd /src && exec ./install.sh {machine.options}")
    root.run(KILL_WHILE_PIP_WORKS, timeout=900)
    assert running.wait(60) not in (0, 1), "killed, not failed"
    assert root.run(f"test -e {LAB}/.precompressed", ok=None).returncode != 0
    said = root.run(f"cd /src && ./install.sh {machine.options}", timeout=1200).stdout
    assert re.search(r"Notebooks: environments +[0-9.]+ s  made lab\n", said), said
    assert password_in(said)


def test_the_hub_answers_at_the_portals_own_address(machine):
    status, headers, _ = machine.get("/jupyter/hub/health")
    assert status == 200
    assert headers["strict-transport-security"] == "max-age=31536000"
    status, headers, _ = machine.get("/jupyter/user/admin/lab", Sec_Fetch_Mode="navigate")
    assert (status, headers["location"].split("/", 3)[3]) == (303, "sign-in?next=/jupyter/user/admin/lab")
    assert machine.get("/internal/hub/users/admin")[0] == 404


def test_nothing_but_nginx_listens_on_the_network(machine):
    listening = machine.root.run("cat /proc/net/tcp /proc/net/tcp6").stdout
    inodes = {line.split()[9] for line in listening.splitlines() if len(line.split()) > 9 and line.split()[3] == "0A"}
    held = machine.root.run(
        'for p in /proc/[0-9]*; do ls -l $p/fd 2>/dev/null | sed "s#^#$(cat $p/comm) #"; done', ok=None
    )
    names = {line.split()[0] for line in held.stdout.splitlines() if any(f"socket:[{i}]" in line for i in inodes)}
    assert names == {"nginx"}


def test_the_hub_is_nobody_and_its_secrets_are_its_own(machine):
    root = machine.root
    owner = root.run("stat -c '%a %U' /var/lib/diycloud/hub /var/lib/diycloud/hub/client.json").stdout
    assert owner == "700 diycloud-hub\n600 diycloud-hub\n"
    groups = set(root.run("id -Gn diycloud-hub").stdout.split())
    assert groups == {"diycloud-hub", "diycloud", "www-data"}
    same = "cmp /var/lib/diycloud/hub/portal.token /var/lib/diycloud/server/hub.token"
    assert root.run(same).returncode == 0
    hub = next(line for line in machine.processes().splitlines() if "diycloud.hub.main" in line)
    assert "/opt/diycloud/jupyter/hub/bin/python" in hub


def test_what_administrators_wish_for_is_in_the_environment(machine):
    listed = json.loads(machine.root.run(f"{LAB}/bin/python -I -m pip list --format json").stdout)
    packages = {package["name"].replace("_", "-") for package in listed}
    assert "jupyterlab-execute-time" in packages and "numpy" not in packages
    packed = machine.root.run(f"find {LAB}/share/jupyter/lab/static -name '*.js.gz' | wc -l").stdout
    assert int(packed) > 50


CELL = """
import multiprocessing, os, subprocess, sys
left = subprocess.Popen(["setsid", "sleep", "4711"])
with multiprocessing.Pool(2) as pool:
    print(*sys.version_info[:2], pool.map(abs, [-1, -2]), os.getuid())
"""
"""What Python's versions do in ways of their own: how processes are started, and from where."""


def test_the_first_cell_runs_and_a_stop_leaves_nothing_of_it(machine):
    root = machine.root
    root.run("diycloud user create dtncada --password -", input="a long pass phrase\n")
    uid = root.run("id -u dtncada").stdout.strip()
    with httpx.Client(verify=machine.trust(), timeout=90) as client:
        browser = Browser(f"https://localhost:{machine.ports.https}", client)
        browser.sign_in("dtncada", "a long pass phrase")
        assert browser.open("/jupyter/", seconds=300).url.path == "/jupyter/user/dtncada/lab"
        kernel = Kernel(browser, "/jupyter/user/dtncada/")
        said = kernel.run(CELL)
        kernel.close()
    version = root.run(f"{LAB}/bin/python -I -c 'import sys; print(*sys.version_info[:2])'").stdout.strip()
    assert said == f"{version} [1, 2] {uid}\n"
    theirs = "find /proc -maxdepth 1 -user dtncada -name '[0-9]*'"
    assert root.run(theirs, ok=(0, 1)).stdout.count("\n") >= 3, "server, kernel and what the cell left"
    root.run("diycloud notebook stop dtncada")
    assert root.run(theirs, ok=(0, 1)).stdout == ""


def test_again_nothing_is_made_anew_and_doctor_is_content(machine):
    said = machine.root.run("diycloud install").stdout
    assert re.search(r"Notebooks: environments +[0-9.]+ s  up to date\n", said), said
    assert re.search(r"Notebooks: sign-in +[0-9.]+ s  as it should be\n", said), said
    assert "written" not in said
    assert "fail" not in machine.root.run("diycloud doctor").stdout.lower()
    plan = machine.root.run("diycloud jupyter setup --dry-run").stdout
    assert "pip" not in plan and "write " not in plan, plan
    found = json.loads(machine.root.run("diycloud jupyter status --json").stdout)
    assert found["ok"] and [service["active"] for service in found["services"]] == [True, True]
    assert {e["name"]: e["current"] for e in found["environments"]} == {"hub": True, "lab": True}


def test_shared_environments_come_and_go(machine):
    root = machine.root
    root.run("diycloud jupyter env create small six", timeout=600)
    (kernel,) = json.loads(root.run("diycloud jupyter env list --json").stdout)["environments"]
    assert kernel["problem"] == "" and any(package.startswith("six ") for package in kernel["packages"])
    specs = json.loads(
        root.run(
            f"{LAB}/bin/python -I -m jupyter kernelspec list --json",
            env={"HOME": "/tmp", "JUPYTER_PATH": "/opt/diycloud/jupyter/shared/share/jupyter"},
        ).stdout
    )["kernelspecs"]
    assert specs["small"]["spec"]["display_name"] == "small (shared)" and "python3" in specs
    assert root.run(f"{kernel['folder']}/bin/python -I -c 'import ipykernel, six'").returncode == 0
    assert "cannot be the name" in root.run("diycloud jupyter env create ../x", ok=(2,)).stderr
    assert "is no package" in root.run("diycloud jupyter env install small -- -r/etc/shadow", ok=(2,)).stderr
    root.run("diycloud jupyter env remove small")
    left = root.run("find /opt/diycloud/jupyter/shared").stdout
    assert "small" not in left


def test_a_users_notebooks_are_packed_by_the_user(machine):
    root = machine.root
    root.run("diycloud user create dtnceve --password -", input="a long pass phrase\n")
    assert "There is no user" in root.run("diycloud jupyter backup dtncnone", ok=(5,)).stderr
    root.run("su dtnceve -s /bin/sh -c 'echo mine > ~/notebooks/a.ipynb && ln -s /etc/shadow ~/notebooks/s'")
    made = json.loads(root.run("diycloud jupyter backup dtnceve --json").stdout)
    assert made["path"].startswith("/var/backups/diycloud/notebooks/dtnceve-")
    assert root.run(f"stat -c '%a %U' {made['path']}").stdout == "600 root\n"
    names = root.run(f"tar -tvf {made['path']}").stdout
    assert "notebooks/a.ipynb" in names and "notebooks/s -> /etc/shadow" in names
    root.run("rm -r /home/dtnceve/notebooks && ln -s /root /home/dtnceve/notebooks")
    assert "has no folder" in root.run("diycloud jupyter backup dtnceve", ok=(5,)).stderr


PORTAL, OWN = "cloud.test", "notebooks.test"


@pytest.fixture
def found_here(machine, monkeypatch) -> Iterator[None]:
    """Both names lead to this host, as the root and this process see it."""
    real = socket.getaddrinfo
    here = lambda host, *more, **named: real("127.0.0.1" if host in (PORTAL, OWN) else host, *more, **named)  # noqa: E731
    monkeypatch.setattr(socket, "getaddrinfo", here)
    machine.root.run(f"echo 127.0.0.1 {PORTAL} {OWN} >> /etc/hosts")
    yield
    machine.root.run("sed '$d' /etc/hosts > /tmp/hosts && cat /tmp/hosts > /etc/hosts")


def lab_at(machine: Machine, client: httpx.Client, url: str, known: str = "") -> tuple[str, Kernel]:
    """Sign in at the portal, go to notebooks, and return where they are, with a new kernel or the one that is known."""
    browser = Browser(url, client)
    browser.sign_in("dtnchal", "a long pass phrase")
    page = browser.open("/jupyter/", seconds=300)
    assert page.url.path == "/jupyter/user/dtnchal/lab", page.text[:2000]
    there = Browser(f"https://{page.url.host}:{machine.ports.https}", client)
    return there.url, Kernel(there, "/jupyter/user/dtnchal/", known)


def test_they_move_to_a_host_name_of_their_own_and_back(machine, found_here):
    """By docs/how-to/notebooks.md; what runs goes on both times. Certificates are checked for the names they are asked by."""
    if not machine.root.path("/opt/diycloud").exists():
        pytest.skip("Debian 12 is installed by tests that are not exhaustive: there this runs on sid alone")
    root, portal, own = machine.root, f"https://{PORTAL}:{machine.ports.https}", f"https://{OWN}:{machine.ports.https}"
    root.run("diycloud user create dtnchal --password -", input="a long pass phrase\n")
    with httpx.Client(verify=machine.trust(), timeout=90) as client:
        at, kernel = lab_at(machine, client, f"https://localhost:{machine.ports.https}")
        assert at == f"https://localhost:{machine.ports.https}"
        assert kernel.run("x = 41") == ""
        kernel.close()
    root.run(f"diycloud config set server.host_name {PORTAL}")
    assert "portal's own name" in root.run(f"diycloud config set notebooks.host {PORTAL}", ok=(2,)).stderr
    assert "`diycloud jupyter setup`" in root.run(f"diycloud config set notebooks.host {OWN}").stdout
    said = root.run("diycloud doctor", ok=None).stdout
    assert f"does not name {PORTAL}.\n      If the settings were changed" in said
    assert (
        "not sign people in to the hub at the address that the settings say\n      Run `diycloud jupyter setup`" in said
    )
    plan = root.run("diycloud jupyter setup --dry-run").stdout
    assert "server.crt" in plan and f"server_name {OWN};" in plan and "first_party" in plan
    assert f"it answers at {portal}/, notebooks at {own}/jupyter/\n" in root.run("diycloud jupyter setup").stdout
    assert "fail" not in root.run("diycloud doctor").stdout.lower()
    assert json.loads(root.run("diycloud jupyter status --json").stdout)["address"] == f"{own}/jupyter/"

    with httpx.Client(verify=machine.trust(), timeout=90) as client:
        at, kernel = lab_at(machine, client, portal, kernel.id)
        assert (at, kernel.run("print(x)")) == (own, "41\n")
        kernel.close()
        account = Browser(portal, client).open("/account").text
        csrf = re.search(r'name="csrf" value="([^"]+)"', account)
        assert csrf and client.post(f"{portal}/sign-out", data={"csrf": csrf[1]}).status_code == 303
        deadline = time.monotonic() + 60
        while (out := Browser(own, client).open("/jupyter/user/dtnchal/lab")).url.host != PORTAL:
            assert time.monotonic() < deadline, "the guard's word holds for two seconds"
            time.sleep(0.5)
        assert out.url.path == "/sign-in"

    root.run("diycloud config set notebooks.host '\"\"' && diycloud config set server.host_name '\"\"'")
    assert "notebooks at" not in root.run("diycloud jupyter setup").stdout
    with httpx.Client(verify=machine.trust(), timeout=90) as client:
        portal = f"https://localhost:{machine.ports.https}"
        at, kernel = lab_at(machine, client, portal, kernel.id)
        assert (at, kernel.run("print(x)")) == (portal, "41\n")
        kernel.close()
    assert OWN not in root.run("diycloud app show notebooks").stdout
    assert root.run(f"grep -rl {OWN} /etc").stdout == "/etc/hosts\n"
    with (
        socket.create_connection(("127.0.0.1", machine.ports.https), 10) as plain,
        pytest.raises(ssl.SSLCertVerificationError, match="not valid for"),
    ):
        machine.trust().wrap_socket(plain, server_hostname=OWN)
    root.run("diycloud notebook stop dtnchal")


def test_switched_off_they_are_gone_and_switched_on_again_they_are_there(machine):
    root = machine.root
    root.run("diycloud install --without-notebooks")
    assert "diycloud.hub" not in machine.processes() and "diycloud.launcher" not in machine.processes()
    assert machine.get("/jupyter/hub/health")[0] == 404
    assert "fail" not in root.run("diycloud doctor").stdout.lower()
    assert "not set up" in root.run("diycloud jupyter status", ok=(9,)).stdout
    root.run("diycloud jupyter setup")
    assert machine.get("/jupyter/hub/health")[0] == 200


def test_a_supervisor_that_was_killed_leaves_no_second_hub(machine):
    root = machine.root
    root.run("kill -KILL $(cat /run/diycloud/supervisor/supervisord.pid); sleep 1; diycloud up")
    assert machine.processes().count("diycloud.hub.main") == 1
    deadline = time.monotonic() + 90
    # The launcher has a fork of itself beside it for as long as it finds out what servers import.
    while machine.get("/jupyter/hub/health")[0] != 200 or machine.processes().count("-m diycloud.launcher") != 1:
        assert time.monotonic() < deadline, "it takes its time to import"
        time.sleep(0.5)


def test_what_a_killed_supervisor_left_behind_goes_with_the_rest(machine):
    """Killed again: the next test takes everything away while nobody looks after what runs."""
    root = machine.root
    root.run("kill -KILL $(cat /run/diycloud/supervisor/supervisord.pid)")
    running = machine.processes()
    assert "diycloud.launcher" in running and "diycloud.hub.main" in running and "diycloud.web.main" in running


def test_everything_goes(machine):
    root = machine.root
    root.run("diycloud uninstall --yes --remove-homes")
    nginx_own = ("/var/log/nginx", "/var/lib/nginx")
    left = differences(
        machine.before, root.snapshot(), (*ALWAYS_IGNORED, *NOTES, *BACKUPS, *nginx_own, "/var/backups/diycloud")
    )
    assert left == {}
    assert "/opt/diycloud" not in machine.processes()
    assert root.run("getent passwd diycloud-hub; getent group diycloud", ok=None).stdout == ""
