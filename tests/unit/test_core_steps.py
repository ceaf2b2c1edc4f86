"""What the installation refuses, and what it makes, on hosts in memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from diycloud.config import Paths, Settings
from diycloud.core import install_steps as do
from diycloud.core.installation import Installation
from diycloud.core.nginx import default_servers, parse_version, read_settings
from diycloud.core.options import InstallOptions
from diycloud.core.services import agent_service, nginx_service, renewal_service, server_service
from diycloud.core.uninstall import UninstallOptions, _nginx, _Removal
from diycloud.distro.supervisor import render_program
from diycloud.distro.systemd import render_unit
from diycloud.distro.tables import family
from diycloud.errors import Conflict, Unsupported
from diycloud.system import Result
from diycloud.system.fake import Fake
from tests.waiting import until

DATA = Path(__file__).parent / "data" / "os-release"
LISTENING = "sl local\n   0: 00000000:{port:04X} 00000000:0000 0A 0\n"


def host(*, os_release: str = "debian-12", files: dict[str, str] | None = None, accounts: str = "") -> Fake:
    fake = Fake({"/etc/os-release": (DATA / os_release).read_text(), "/usr/bin/apt-get": "", **(files or {})})

    def answer(argv: Sequence[str], input: str | None) -> Result:
        fake.ran.append(" ".join(argv))
        if argv[0] == "getent" and argv[1] == "passwd":
            line = next((line for line in accounts.splitlines() if line.startswith(f"{argv[2]}:")), "")
            return Result(0 if line else 2, line, "")
        return Result(0, "x86_64" if argv[0] == "uname" else "", "")

    fake._execute = answer  # type: ignore[method-assign]
    return fake


def run_on(fake: Fake, prefix: str, **options) -> Installation:
    return Installation(fake, InstallOptions(prefix=prefix, **{"without_notebooks": True, **options}))


@pytest.fixture
def nowhere(tmp_path) -> str:
    return str(tmp_path)


def test_a_host_is_described(nowhere):
    assert do.look(run_on(host(), nowhere)) == "Debian GNU/Linux 12 (bookworm), x86_64, no init"


def test_too_old_a_distribution_is_refused(nowhere):
    with pytest.raises(Unsupported, match="too old"):
        do.look(run_on(host(os_release="fedora-34"), nowhere))


def test_an_init_that_cannot_be_driven_is_refused(nowhere):
    with pytest.raises(Unsupported, match="openrc"):
        do.look(run_on(host(os_release="alpine-3.22", files={"/run/openrc/softlevel": ""}), nowhere))


def test_missing_controllers_are_told_and_no_obstacle(nowhere):
    run = run_on(host(), nowhere)
    do.look(run)
    assert any("limits do not" in note for note in run.notes)


@pytest.mark.parametrize(("port", "option"), [(443, "--https-port"), (80, "--http-port")])
def test_a_taken_port_is_refused(nowhere, port, option):
    with pytest.raises(Conflict, match=f"Port {port} is taken.*{option}"):
        do.look(run_on(host(files={"/proc/net/tcp6": LISTENING.format(port=port)}), nowhere))


def test_a_port_that_nginx_has_is_fine(nowhere):
    files = {"/proc/net/tcp": LISTENING.format(port=443), "/run/nginx.pid": "7\n", "/proc/7/comm": "nginx\n"}
    do.look(run_on(host(files=files), nowhere))


def test_another_port_may_be_chosen(nowhere):
    do.look(run_on(host(files={"/proc/net/tcp": LISTENING.format(port=443)}), nowhere, https_port=8443))


def test_the_account_is_made_without_shell_and_home(nowhere):
    fake = host()
    assert do.accounts(run_on(fake, nowhere)) == "made diycloud"
    assert fake.ran[-1].startswith("/usr/sbin/useradd --system --user-group")
    assert "--no-create-home --shell /usr/sbin/nologin diycloud" in fake.ran[-1]


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ("diycloud:x:998:998::/nonexistent:/usr/sbin/nologin", True),
        ("diycloud:x:998:998::/nonexistent:/bin/false", True),
        ("diycloud:x:998:998::/home/diycloud:/bin/bash", False),
        ("diycloud:x:20001:20001::/home/diycloud:/usr/sbin/nologin", False),
        ("diycloud:x:0:0::/root:/usr/sbin/nologin", False),
    ],
)
def test_an_account_that_is_no_services_is_not_taken_over(nowhere, line, good):
    fake = host(accounts=line)
    if good:
        assert do.accounts(run_on(fake, nowhere)) == "diycloud is there"
    else:
        with pytest.raises(Conflict, match="an account diycloud already"):
            do.accounts(run_on(fake, nowhere))
    assert not any("useradd" in command for command in fake.ran)


def test_every_service_can_be_written_in_both_ways():
    paths, settings = Paths(), Settings()
    services = [
        agent_service(paths, settings),
        server_service(paths, settings, "www-data"),
        renewal_service(paths),
        nginx_service(family("debian")),
    ]
    for service in services:
        assert f"Description={service.description}" in render_unit(service)
        assert f"[program:{service.name}]" in render_program(service, logs=paths.logs, autostart=True)


def test_the_server_has_no_way_to_privileges():
    service = server_service(Paths(), Settings(), "www-data")
    assert (service.user, service.group, service.hardening) == ("diycloud", "diycloud", "strict")
    assert {folder.path: folder.mode for folder in service.folders}["/run/diycloud/server"] == 0o2750


@pytest.mark.parametrize(
    ("text", "version"),
    [("nginx version: nginx/1.22.1\n", (1, 22, 1)), ("nginx/1.26.3 (Debian)", (1, 26, 3)), ("", (0,))],
)
def test_nginx_version(text, version):
    assert parse_version(text) == version


def test_nginx_settings_are_read_with_what_they_include():
    fake = Fake(
        {
            "/etc/nginx/nginx.conf": "http { include conf.d/*.conf; include '/etc/nginx/sites-enabled/*'; } # include x;",
            "/etc/nginx/conf.d/a.conf": "server { listen 80 default_server; }",
            "/etc/nginx/conf.d/a.conf.off": "server { listen 443 default_server; }",
            "/etc/nginx/sites-enabled/b": "server { # listen 443 default_server;\n listen [::]:8443 ssl default; }",
            "/etc/nginx/sites-enabled/.hidden": "server { listen 443 default_server; }",
            "/etc/nginx/sites-enabled/folder/c": "server { listen 443 default_server; }",
            "/etc/nginx/x": "server { listen 443 default_server; }",
        }
    )
    files = read_settings(fake, Path("/etc/nginx/nginx.conf"))
    assert sorted(files) == ["/etc/nginx/conf.d/a.conf", "/etc/nginx/nginx.conf", "/etc/nginx/sites-enabled/b"]
    assert default_servers(files, [80, 443]) == ["/etc/nginx/conf.d/a.conf"]
    assert default_servers(files, [8443]) == ["/etc/nginx/sites-enabled/b"]


@pytest.mark.parametrize(
    ("listen", "found"),
    [
        ("80 default_server", True),
        ("*:80 default_server", True),
        ("[::]:80 default_server ipv6only=on", True),
        ("192.0.2.1 default_server", True),
        ("default_server", False),
        ("80", False),
        ("8080 default_server", False),
        ("unix:/run/x.sock default_server", False),
    ],
)
def test_default_servers(listen, found):
    assert bool(default_servers({"/x": f"server {{ listen {listen}; }}"}, [80])) is found


def test_settings_that_include_themselves_end():
    fake = Fake({"/etc/nginx/nginx.conf": "include nginx.conf; include /etc/nginx/*;"})
    assert list(read_settings(fake, Path("/etc/nginx/nginx.conf"))) == ["/etc/nginx/nginx.conf"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze on this machine")
def test_systemd_accepts_the_daily_renewal(tmp_path):
    path = tmp_path / "diycloud-renewal.service"
    path.write_text(render_unit(renewal_service(Paths())))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def daily(seconds: str, *command: str) -> subprocess.Popen[bytes]:
    """Start the shell's loop with a day of so many seconds."""
    _, _, loop, name, *_ = renewal_service(Paths()).command
    assert "86400" in loop
    return subprocess.Popen(["/bin/sh", "-c", loop.replace("86400", seconds), name, *command])


def test_the_daily_renewal_runs_once_a_day(tmp_path):
    process = daily("0.2", "touch", str(tmp_path / "mark"))
    try:
        until((tmp_path / "mark").exists)
    finally:
        process.kill()
        process.wait()


def test_the_daily_renewal_ends_at_once_and_leaves_no_sleep_behind():
    seconds = f"86400.{os.getpid()}"
    process = daily(seconds, "true")

    def sleeps() -> bool:
        return any(read_bytes(path) == f"sleep\0{seconds}\0".encode() for path in Path("/proc").glob("[0-9]*/cmdline"))

    until(sleeps)
    process.terminate()
    assert process.wait(10) == 0
    until(lambda: not sleeps())


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


# --- an Nginx that ran before, on a host without init

MASTER = "nginx: master process "
NGINX = "/usr/sbin/nginx -c /etc/nginx/nginx.conf"
NGINX_FILES = {
    "/run/nginx.pid": "7\n",
    "/proc/7/comm": "nginx\n",
    "/etc/nginx/nginx.conf": "http { include /etc/nginx/sites-enabled/*; }",
    "/etc/nginx/sites-enabled/default": "server { listen 80 default_server; }",
}


def with_nginx(prefix: str, title: str, **more: str) -> tuple[Fake, Installation]:
    """A host where an Nginx with this title runs, until it is told to quit."""
    fake = host(files={**NGINX_FILES, "/proc/7/cmdline": title, f"{prefix}/etc/diycloud/x": "", **more})
    answer = fake._execute

    def ending(argv: Sequence[str], input: str | None) -> Result:
        if argv[-2:] == ["-s", "quit"]:
            fake.remove("/run/nginx.pid")
        return answer(argv, input)

    fake._execute = ending  # type: ignore[method-assign]
    return fake, run_on(fake, prefix)


def started(fake: Fake) -> list[str]:
    return [line for line in fake.ran if line.endswith(f"start {NGINX}")]


@pytest.mark.parametrize("title", ["/usr/sbin/nginx", "nginx -g daemon on; master_process on;", NGINX])
def test_an_nginx_that_ran_before_runs_again_afterwards(nowhere, title):
    fake, run = with_nginx(nowhere, f"{MASTER}{title}\0")
    run.platform.up()
    assert f"{NGINX} -s quit" in fake.ran and not started(fake)
    assert run.platform.give_back_nginx() is True
    assert fake.ran.index(f"{NGINX} -t -q") < fake.ran.index(started(fake)[0])
    assert run.platform.give_back_nginx() is False and len(started(fake)) == 1, "once"


def test_an_nginx_that_was_the_platforms_own_is_nobodys_to_give_back(nowhere):
    fake, run = with_nginx(nowhere, f"{MASTER}{' '.join(nginx_service(family('debian')).command)}\0")
    run.platform.up()
    assert f"{NGINX} -s quit" in fake.ran
    assert run.platform.give_back_nginx() is False and not started(fake)


def test_an_nginx_that_somebody_started_meanwhile_is_left_alone(nowhere):
    fake, run = with_nginx(nowhere, f"{MASTER}nginx\0")
    run.platform.up()
    fake.write("/run/nginx.pid", "7\n")
    assert run.platform.give_back_nginx() is True and not started(fake)


def test_uninstalling_what_never_got_to_its_end_begins_by_making_nothing(nowhere):
    fake = host()
    before = dict(fake.files)
    removal = _Removal(fake, UninstallOptions(prefix=nowhere))
    assert (removal.registry.problem, removal.registry.entries, fake.files) == ("", {}, before)


SITE = {"/etc/nginx/sites-enabled/other": "server { listen 8000; }"}


@pytest.mark.parametrize(
    ("before", "broken", "said", "note"),
    [
        (True, False, "runs again", ""),
        (True, True, "there was none", "could not be started again: .*exploded.* `nginx -c /etc/nginx/nginx.conf`"),
        (False, False, "there was none", "sites-enabled/other is not served now: `nginx -c /etc/nginx/nginx.conf`"),
    ],
)
def test_uninstalling_says_what_became_of_others_sites(nowhere, before, broken, said, note):
    fake, run = with_nginx(nowhere, f"{MASTER}nginx\0", **SITE)
    if before:
        run.platform.up()
    else:
        fake.remove("/run/nginx.pid")
    removal = _Removal(fake, UninstallOptions(prefix=nowhere))
    if broken:
        fake._execute = lambda argv, _: Result("-t" in argv, "", "exploded")  # type: ignore[method-assign]
    assert said in _nginx(removal)
    assert len(removal.notes) == bool(note) and re.search(note, "".join(removal.notes))
