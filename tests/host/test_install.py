"""The installation for real: a bare Debian without init, one command, killed anywhere, and taken away again.

Roots share this machine's network, so Nginx listens on high ports. The package `python3-venv` and `nginx` come from the
distribution's archive and stay after an uninstallation; comparisons are made with a root that has them already.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bare.bareroot import ALWAYS_IGNORED, BareRoot
from tests.bare.debian import CannotBuild
from tests.bare.tree import differences
from tests.waiting import free_port

SOURCE = Path(__file__).resolve().parents[2]
PROGRAM_PACKAGES = (
    "apt-get -q -y install --no-install-recommends"
    " ca-certificates python3 python3-venv nginx libpam-google-authenticator"
)
# What tools of the distribution note for themselves whenever they run.
NOTES = ("/var/log/apt", "/var/log/dpkg.log", "/var/lib/dpkg", "/var/cache", "/var/lib/apt")
LOCK = "/run/diycloud-install.lock"
BACKUPS = ("/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-")

pytestmark = pytest.mark.slow


def started(suite: str) -> Iterator[BareRoot]:
    try:
        root = BareRoot(suite).start()
    except CannotBuild as reason:
        pytest.skip(f"no bare root: {reason}")
    try:
        root.push(SOURCE, "/src")
        yield root
    finally:
        root.stop()


@pytest.fixture
def bookworm() -> Iterator[BareRoot]:
    yield from started("bookworm")


@pytest.fixture(params=["trixie", pytest.param("sid", marks=pytest.mark.exhaustive)])
def later(request: pytest.FixtureRequest) -> Iterator[BareRoot]:
    """A later Debian, each with a later Python."""
    yield from started(request.param)


@pytest.fixture(scope="module")
def prepared() -> Iterator[BareRoot]:
    """A root with the packages, the environment and the program, up to the first step of `diycloud install`.

    Its tests go through the life of one installation, in their order.
    """
    for root in started("bookworm"):
        root.run(f"apt-get -q update && {PROGRAM_PACKAGES}")
        root.run("sed 's/^exec .*COMMAND.*/exit 0/' /src/install.sh > /src/set-up.sh && sh /src/set-up.sh")
        yield root


class Ports:
    """Two ports of this test's own."""

    def __init__(self) -> None:
        self.https, self.http = free_port(), free_port()
        self.options = f"--without-notebooks --https-port {self.https} --http-port {self.http}"


@pytest.fixture
def ports() -> Ports:
    return Ports()


@pytest.fixture(scope="module")
def prepared_ports() -> Ports:
    return Ports()


def install(root: BareRoot, options: str, **more):
    return root.run(f"cd /src && ./install.sh {options}", **more)


def password_in(output: str) -> str:
    found = re.search(r"Password\s+(\S+)\s+\(once", output)
    assert found, output
    return found[1]


def sign_in(root: BareRoot, port: int, password: str) -> int:
    """Sign in by REST as people's programs do, the certificate checked with the authority. Returns the status."""
    context = ssl.create_default_context(cadata=root.path("/etc/diycloud/tls/ca.crt").read_text())
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
    try:
        body = json.dumps({"username": "admin", "password": password})
        connection.request("POST", "/api/v1/auth/login", body, {"Content-Type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()


def served_names(root: BareRoot, port: int) -> list[str]:
    context = ssl.create_default_context(cadata=root.path("/etc/diycloud/tls/ca.crt").read_text())
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        return [str(value) for _, value in tls.getpeercert()["subjectAltName"]]


def test_a_bare_machine_then_again_then_nothing_of_it(bookworm, ports):
    bookworm.run(f"apt-get -q update && {PROGRAM_PACKAGES}")
    before = bookworm.snapshot()

    # A dry run changes nothing, and shows what each step would do.
    plan = install(bookworm, f"--dry-run {ports.options}").stdout
    assert differences(before, bookworm.snapshot(), ALWAYS_IGNORED) == {}
    for part in ("pip install", "useradd", "config.yaml", "ca.key", "pam-auth-update", "supervisord", "first_admin"):
        assert part in plan, part
    assert "PRIVATE KEY" not in plan

    # One command.
    first = install(bookworm, ports.options).stdout
    password = password_in(first)
    assert f":{ports.https}/" in first
    assert sign_in(bookworm, ports.https, "wrong") == 401
    assert sign_in(bookworm, ports.https, password) == 200
    log = bookworm.path("/var/log/diycloud/install.log").read_text()
    assert "useradd" in log and password not in log
    assert bookworm.run("stat -c '%a %U' /var/log/diycloud/install.log").stdout == "600 root\n"

    # Again: nothing is made anew, everything still runs; so does a dry run of it.
    settled = bookworm.snapshot()
    again = install(bookworm, ports.options).stdout
    assert "made" not in again and "written" not in again, again
    assert "admin is there" in again
    assert sign_in(bookworm, ports.https, password) == 200
    program = ("/opt/diycloud/lib", "/opt/diycloud/requirements")
    ours = ("/var/lib/diycloud/server", "/var/log", *program, "/etc/diycloud/supervisor")
    assert differences(settled, bookworm.snapshot(), (*ALWAYS_IGNORED, *ours)) == {}
    plan = bookworm.run("diycloud install --dry-run").stdout
    assert "write " not in plan and "useradd" not in plan, plan

    # Another name: the daily renewal makes certificate and site follow, and Nginx takes them up.
    bookworm.run("diycloud config set server.host_name cloud.example.org")
    renew = "/opt/diycloud/venv/bin/python -I -m diycloud.core.renewal"
    assert bookworm.run(renew).stdout == "renewed: server, site\n"
    assert bookworm.run(renew).stdout == ""
    assert "cloud.example.org" in served_names(bookworm, ports.https)

    # One at a time.
    with bookworm.path(LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for command, status in (("diycloud install", 6), ("diycloud uninstall --yes", 6), ("/src/install.sh", 1)):
            assert "nother installation is running" in bookworm.run(command, ok=(status,)).stderr, command

    # What is down is named.
    assert "fail" not in bookworm.run("diycloud doctor").stdout.lower()
    bookworm.run("diycloud down")
    sick = bookworm.run("diycloud doctor", ok=(9,)).stdout
    assert "diycloud-server is down" in sick and "diycloud up" in sick

    # Everything goes.
    bookworm.run("diycloud uninstall --yes")
    nginx_own = ("/var/log/nginx", "/var/lib/nginx")
    assert differences(before, bookworm.snapshot(), (*ALWAYS_IGNORED, *NOTES, *BACKUPS, *nginx_own)) == {}
    running = bookworm.run("cat /proc/[0-9]*/cmdline").stdout
    assert "/opt/diycloud" not in running and "86400" not in running


def test_a_later_debian_in_one_command(later, ports):
    """Nothing but a base system: no Python, no certificates."""
    assert later.run("command -v python3", ok=None).returncode != 0
    before = later.snapshot()
    plan = install(later, f"--dry-run {ports.options}").stdout
    assert "python3-venv (apt)" in plan
    assert differences(before, later.snapshot(), ALWAYS_IGNORED) == {}
    # Two at once: one of them installs, the other says why it does not.
    both = [later.spawn(f"exec /src/install.sh {ports.options} 2>&1", stdout=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=600)[0] for process in both]
    done = [process.returncode for process in both].index(0)
    assert (both[1 - done].returncode, said[1 - done].count("\n")) == (1, 1)
    assert "another installation is running" in said[1 - done]
    assert sign_in(later, ports.https, password_in(said[done])) == 200
    assert not later.path(LOCK).exists()
    assert "fail" not in later.run("diycloud doctor").stdout.lower()


def test_an_nginx_that_ran_before_serves_others_again(bookworm, ports):
    """Without init ours takes its place and ends with the platform; the sites of others must not end with it."""
    bookworm.run(f"apt-get -q update && {PROGRAM_PACKAGES}")
    other = free_port()
    site = f"server {{ listen 127.0.0.1:{other}; location / {{ return 200 'the other site'; }} }}"
    bookworm.run(f'echo "{site}" > /etc/nginx/sites-enabled/other; rm /etc/nginx/sites-enabled/default; nginx')
    assert served(other) == "the other site"
    install(bookworm, ports.options)
    assert served(other) == "the other site"
    for _ in range(2):  # again, so that a repeat does not forget
        bookworm.run("diycloud install")
    plan = bookworm.run("diycloud uninstall --dry-run").stdout
    assert 'exec "$@" > /dev/null 2>&1\' start /usr/sbin/nginx -c /etc/nginx/nginx.conf' in plan
    said = bookworm.run("diycloud uninstall --yes").stdout
    assert "the Nginx that ran before runs again" in said and "Note: " not in said
    assert served(other) == "the other site"
    assert "daemon off" not in bookworm.run("cat /proc/[0-9]*/cmdline").stdout

    # The platform's own Nginx ends with it, and what it served of others is named.
    bookworm.run("nginx -s quit; while [ -e /run/nginx.pid ]; do sleep 0.1; done")
    install(bookworm, ports.options)
    assert served(other) == "the other site"
    assert "/etc/nginx/sites-enabled/other is not served now" in bookworm.run("diycloud uninstall --yes").stdout
    with pytest.raises(ConnectionRefusedError):
        served(other)


def served(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_setting_up_killed_at_any_time_is_continued(bookworm, ports):
    """The shell's part with apt and pip: its whole process group is killed, ever later, then it is left in peace."""
    said = ""
    for seconds in (2, 4, 7, 10, 14, 19):
        command = f"cd /src && timeout -s KILL {seconds} ./install.sh {ports.options}"
        said += bookworm.run(command, ok=(-9, 0, 124, 137)).stdout  # a quick machine may get to the end
    said += install(bookworm, ports.options).stdout
    assert sign_in(bookworm, ports.https, password_in(said)) == 200


KILLED_AT = """
import os, signal, sys
from diycloud.core import install as module
from diycloud.core.options import options_from
from diycloud.system import Local
from diycloud.system.recording import Recording

count, limit = 0, int(sys.argv[1])
def before(effect):
    global count
    count += 1
    if count == limit:
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
given = {"https_port": int(sys.argv[2]), "http_port": int(sys.argv[3]), "without_notebooks": True}
sys.exit(module.install(Recording(Local(), before=before), options_from(given), lambda line: print(line, flush=True)))
"""


def test_a_taken_port_is_refused_before_anything_is_changed(prepared, prepared_ports):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = prepared.run(f"diycloud install --https-port {port} --http-port {prepared_ports.http}", ok=(1,))
    assert f"Port {port} is taken" in done.stdout
    assert not prepared.path("/etc/diycloud").exists()


def test_installing_killed_before_each_effect_is_continued(prepared, prepared_ports):
    """Every effect on the host in turn is where the program dies; the next run starts from what that left."""
    prepared.path("/killed.py").write_text(KILLED_AT)
    killed = 0
    for number in range(1, 300):
        done = prepared.run(
            f"/opt/diycloud/venv/bin/python -I /killed.py {number} {prepared_ports.https} {prepared_ports.http}",
            ok=(0, 1, -9, 137),
        )
        if done.returncode == 0:
            break
        assert done.returncode != 1, done.stdout
        killed += 1
    else:
        pytest.fail("it never got to its end")
    assert killed > 40, killed
    # It was killed before the one-time password was shown, and shows it now.
    assert sign_in(prepared, prepared_ports.https, password_in(done.stdout)) == 200
    assert "fail" not in prepared.run("diycloud doctor").stdout.lower()


def test_users_stay_with_their_homes_unless_asked(prepared, prepared_ports):
    for name in ("dtkanna", "dtkbert"):
        prepared.run(f"diycloud user create {name} --password - --cpu 0.5 --memory 256M", input="a long pass phrase\n")
    uid = int(prepared.run("id -u dtkanna").stdout)
    prepared.run("su dtkanna -s /bin/sh -c 'echo precious > ~/file; nohup sleep 600 > /dev/null 2>&1 &'")
    slices = [path for path in cgroups(prepared) if path.endswith("/dtkanna")]
    assert slices, "the session was in no slice"

    said = prepared.run("diycloud uninstall --yes").stdout
    assert "2 accounts and their homes stay" in said
    assert "dtkanna has programs running" in said and "dtkbert has programs" not in said
    assert prepared.run("cat /home/dtkanna/file").stdout == "precious\n"
    assert prepared.run("su dtkbert -c id").returncode == 0
    assert not prepared.path("/etc/diycloud").exists() and not prepared.path("/opt/diycloud").exists()
    prepared.run(
        f"pkill -u {uid} || for f in /proc/[0-9]*; do [ $(stat -c %u $f) = {uid} ] && kill ${{f#/proc/}}; done", ok=None
    )

    # Again, and this time they go with it. Accounts that nobody manages any more are nobody's to remove.
    install(prepared, prepared_ports.options)
    prepared.run("diycloud user create dtkcleo --password -", input="a long pass phrase\n")
    prepared.run("su dtkcleo -s /bin/sh -c 'nohup sleep 600 > /dev/null 2>&1 &'")
    assert "1 removed" in prepared.run("diycloud uninstall --yes --remove-homes").stdout
    assert prepared.run("id dtkcleo", ok=None).returncode != 0
    assert not prepared.path("/home/dtkcleo").exists()
    assert not [path for path in cgroups(prepared) if "dtkcleo" in path]
    assert prepared.path("/home/dtkanna/file").exists()


def cgroups(root: BareRoot) -> list[str]:
    return root.run("find /sys/fs/cgroup -mindepth 3 -type d -name 'dtk*'", ok=(0, 1)).stdout.split()


def test_unattended_with_a_step_that_fails_first(bookworm, ports):
    bookworm.run(f"apt-get -q update && {PROGRAM_PACKAGES}")
    environment = {
        "DIYCLOUD_HTTPS_PORT": str(ports.https),
        "DIYCLOUD_HTTP_PORT": str(ports.http),
        "DIYCLOUD_ADMIN_PASSWORD": "a long enough pass phrase",
        "DIYCLOUD_DOMAIN": "cloud.example.org",
    }
    # Somebody's site that Nginx refuses.
    bookworm.run("echo 'server { listen nonsense here; }' > /etc/nginx/sites-enabled/broken")
    done = install(bookworm, "", env=environment, ok=(1,))
    assert "Nginx site" in done.stdout and "FAILED" in done.stdout
    assert "nonsense" in done.stdout and "run the same command again" in done.stdout

    bookworm.run("rm /etc/nginx/sites-enabled/broken")
    output = install(bookworm, "", env=environment).stdout
    assert f"https://cloud.example.org:{ports.https}/" in output
    assert "pass phrase" not in output
    assert sign_in(bookworm, ports.https, "a long enough pass phrase") == 200
    assert 'host_name: "cloud.example.org"' in bookworm.path("/etc/diycloud/config.yaml").read_text()
