"""The platform with notebooks, on this machine: a stack (tests/stack.py), launcher, hub and Nginx with the platform's site.

    with Notebooks(Stack(uid_min=58_200, uid_max=58_299, cgroup="dtnoteh")) as notebooks:
        alice = notebooks.user("dtnhalice")
        with notebooks.browser() as browser:
            browser.sign_in("dtnhalice", alice)
            page = browser.open("/jupyter/")

The hub's and the servers' environments are $DIYCLOUD_TEST_HUB and $DIYCLOUD_TEST_LAB, or are made in /var/tmp from
requirements/ once and kept. Everything else is gone afterwards.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import http.client
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from diycloud.config import Paths
from diycloud.config_notebooks import NotebookSettings
from diycloud.core import nginx
from diycloud.distro.os_release import read_distribution
from diycloud.distro.tables import family
from diycloud.system.local import Local
from tests.site_nginx import SiteNginx
from tests.stack import ROOT, SERVER_USER, Stack, ensure_account
from tests.visitor import Browser

HUB_USER = "dthub"
PASSWORD = "violet comet marble otter"
ENVIRONMENTS = {"hub": ("DIYCLOUD_TEST_HUB", ("hub.txt",)), "lab": ("DIYCLOUD_TEST_LAB", ("lab.txt", "lab-data.txt"))}


def why_not() -> str:
    """Return why notebooks cannot be run on this machine, empty if they can."""
    if os.geteuid() != 0:
        return "needs root: accounts, slices and users' servers"
    if shutil.which("nginx") is None:
        return "Nginx is not installed"
    try:
        environment("hub"), environment("lab")
    except RuntimeError as error:
        return str(error)
    return ""


def environment(kind: str) -> Path:
    """Return the `hub` or `lab` environment, with the program in it. Raises RuntimeError if it cannot be made."""
    variable, files = ENVIRONMENTS[kind]
    if given := os.environ.get(variable):
        return _with_program(Path(given))
    wanted = [ROOT / "requirements" / name for name in files]
    if not wanted[0].exists():
        raise RuntimeError(f"there is no requirements/{files[0]}, and {variable} names no environment")
    wanted = [path for path in wanted if path.exists()]
    check = zlib.crc32(b"".join(path.read_bytes() for path in wanted))
    folder = Path(f"/var/tmp/diycloud-test-{kind}-{check:08x}")
    with Path(f"{folder}.lock").open("w") as lock:  # several test processes may want it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            asked = [word for path in wanted for word in ("-r", str(path))]
            done = subprocess.run(
                [str(folder / "bin/pip"), "install", "-q", "--require-hashes", *asked],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"pip cannot make the {kind} environment here: {done.stderr[-300:]}")
            (folder / "made").touch()
        _use_own_packages(folder, kind)
        return _with_program(folder)


def _use_own_packages(folder: Path, kind: str) -> None:
    """Have kernels find what users installed with `pip install --user`, as setup does (core/environments.py)."""
    place = folder / "pyvenv.cfg"
    said, wanted = "include-system-site-packages = false", "include-system-site-packages = true"
    if kind == "lab" and said in (text := place.read_text()):
        place.write_text(text.replace(said, wanted))


def _with_program(folder: Path) -> Path:
    for packages in folder.glob("lib/python3*/site-packages"):
        link = packages / "diycloud"
        if not link.exists():
            link.unlink(missing_ok=True)
            with contextlib.suppress(FileExistsError):
                link.symlink_to(ROOT / "src/diycloud")
        return folder
    raise RuntimeError(f"{folder} is no virtual environment")


class Notebooks:
    """A running stack with what notebooks need. settings: lines below `notebooks:` (two spaces in front).

    own_name: notebooks are at other_url only, as at a host name of their own.
    """

    def __init__(self, stack: Stack, settings: str = "", *, own_name: bool = False) -> None:
        self.stack = stack
        self.paths = Paths(str(stack.prefix))
        self.site = SiteNginx(stack.prefix / "nginx")
        self.port = self.site.port
        self.url, self.other_url = f"https://127.0.0.1:{self.port}", f"https://localhost:{self.port}"
        self.own_name = own_name
        stack._settings += (
            f"server:\n  host_name: 127.0.0.1\n  https_port: {self.port}\n"
            f"notebooks:\n  hub_user: {HUB_USER}\n{settings}" + ("  host: localhost\n" if own_name else "")
        )
        self.hub: subprocess.Popen[bytes] | None = None
        self.launcher: subprocess.Popen[bytes] | None = None
        self.portal_token = secrets.token_hex(32)

    # -- life

    def __enter__(self) -> Notebooks:
        ensure_account(HUB_USER)
        self.hub_environment, self.lab_environment = environment("hub"), environment("lab")
        self.paths.program.joinpath("jupyter").mkdir(parents=True)
        self.paths.hub_environment.symlink_to(self.hub_environment)
        self.paths.lab_environment.symlink_to(self.lab_environment)
        self.stack.__enter__()
        try:
            self._make_places()
            self.start_launcher()
            self.start_hub()
            self._make_site()
            self.start_nginx()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_nginx()
        self.stop_hub()
        self.stop_launcher()
        self.stack.__exit__()

    def _make_places(self) -> None:
        hub, server = pwd.getpwnam(HUB_USER), pwd.getpwnam(SERVER_USER)
        for path, owner, mode in (
            (self.paths.hub_state, hub, 0o700),
            (self.paths.hub_socket.parent, hub, 0o755),
            (self.paths.launcher_socket.parent, None, 0o700),
            (self.paths.notebook_tmp, None, 0o711),
        ):
            path.mkdir(parents=True, exist_ok=True)
            if owner is not None:
                os.chown(path, owner.pw_uid, owner.pw_gid)
            path.chmod(mode)
        self.paths.notebook_tmp.parent.chmod(0o711)
        for path in (self.paths.server_socket.parent, self.paths.server_socket):
            os.chown(path, server.pw_uid, nginx_account()[1])
        self.paths.server_socket.parent.chmod(0o2750)
        names = (self.other_url,) if self.own_name else (self.url, self.other_url)
        made = self.stack.json(
            "app", "create", "notebooks", "--title", "Notebooks", "--trusted", "--scopes", "openid,profile",
            "--redirect-uris", ",".join(f"{url}/jupyter/hub/oauth_callback" for url in names),
        )  # fmt: skip
        client = {"client_id": "notebooks", "client_secret": made["secret"]}
        _write(self.paths.hub_client, json.dumps(client), hub)
        _write(self.paths.hub_token, self.portal_token, hub)
        _write(self.paths.portal_token, self.portal_token, server)

    def start_launcher(self) -> None:
        log = (self.stack.prefix / "launcher.log").open("ab")
        with log:
            self.launcher = subprocess.Popen(
                [str(self.lab_environment / "bin/python"), "-I", "-m", "diycloud.launcher", "--prefix", str(self.stack.prefix)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
            )  # fmt: skip
        self._wait(self.paths.launcher_socket, self.launcher, "launcher")

    def stop_launcher(self, sig: int = signal.SIGTERM) -> None:
        self.launcher = _end(self.launcher, sig)

    def start_hub(self, *program: str) -> None:
        """Start the hub. program: words for its Python in place of the module, for benches that watch it."""
        hub, server = pwd.getpwnam(HUB_USER), pwd.getpwnam(SERVER_USER)
        with (self.stack.prefix / "hub.log").open("ab") as log:
            self.hub = subprocess.Popen(
                [
                    str(self.hub_environment / "bin/python"), "-I", *(program or ("-m", "diycloud.hub.main")),
                    "--prefix", str(self.stack.prefix),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                user=hub.pw_uid, group=hub.pw_gid, extra_groups=[server.pw_gid, nginx_account()[1]],
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(self.paths.hub_state)},
            )  # fmt: skip
        self._wait(self.paths.hub_socket, self.hub, "hub")

    def _wait(self, path: Path, process: subprocess.Popen[bytes], name: str) -> None:
        """Wait until something listens at a socket: what imports Jupyter takes seconds where several tests run."""
        for _ in range(900):
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(str(path))
                return
            if process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"the {name} did not start:\n{self.stack.log(name)}")

    def stop_hub(self, sig: int = signal.SIGTERM) -> None:
        self.hub = _end(self.hub, sig)

    def _make_site(self) -> None:
        user, gid = nginx_account()
        places = nginx.notebook_places(self.paths, NotebookSettings(host="localhost" if self.own_name else ""))
        group = grp.getgrgid(gid).gr_name
        self.site.write(self.paths.server_socket, user, group, names=("localhost",), notebooks=places)

    @property
    def nginx(self) -> subprocess.Popen[bytes] | None:
        return self.site.process

    def start_nginx(self) -> None:
        self.site.start()

    def stop_nginx(self, sig: int = signal.SIGTERM) -> None:
        self.site.stop(sig)

    # -- use

    def user(self, name: str, *more: str) -> str:
        """Make a user and return the password."""
        self.stack.cli("user", "create", name, "--password", "-", *more, input=f"{PASSWORD}\n")
        return PASSWORD

    def hub_api(self, method: str, path: str, body: Any = None, *, token: str = "") -> httpx.Response:
        """Ask the hub over its socket, as the server does. Raises OSError, HTTPException if the hub goes away."""
        line = socket.socket(socket.AF_UNIX)
        with line, contextlib.closing(http.client.HTTPConnection("hub")) as connection:
            line.settimeout(90)
            line.connect(str(self.paths.hub_socket))
            connection.sock = line
            headers = {"Authorization": f"token {token or self.portal_token}", "Content-Type": "application/json"}
            connection.request(method, f"/jupyter/hub/api{path}", None if body is None else json.dumps(body), headers)
            with connection.getresponse() as answer:
                return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())

    @contextlib.contextmanager
    def browser(self) -> Iterator[Browser]:
        with httpx.Client(verify=False, timeout=90) as client:
            yield Browser(self.url, client)


def nginx_account() -> tuple[str, int]:
    """Return the account of the distribution's Nginx and its group's number, which the agent gives users' sockets to."""
    layout = family(read_distribution(Local()).family).nginx
    return layout.user, grp.getgrnam(layout.group).gr_gid


def _write(path: Path, text: str, owner: pwd.struct_passwd) -> None:
    path.write_text(text)
    path.chmod(0o600)
    os.chown(path, owner.pw_uid, owner.pw_gid)


def _end(process: subprocess.Popen[bytes] | None, sig: int) -> None:
    if process is not None:
        if process.poll() is None:
            process.send_signal(sig)
        process.wait(timeout=30)
