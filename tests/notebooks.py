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

import base64
import contextlib
import fcntl
import grp
import http.client
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from diycloud.config import Paths
from diycloud.config_notebooks import NotebookSettings
from diycloud.core import certificates, nginx
from diycloud.distro.os_release import read_distribution
from diycloud.distro.tables import family
from diycloud.system.local import Local
from diycloud.web.templating import STATIC
from tests.stack import ROOT, SERVER_USER, Stack, ensure_account

HUB_USER = "dthub"
PASSWORD = "violet comet marble otter"
MAIN = """daemon off; user {user} {group}; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    include /etc/nginx/mime.types; access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    include {folder}/site.conf;
}}
"""
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
        self.port, self._plain_port = free_port(), free_port()
        self.url, self.other_url = f"https://127.0.0.1:{self.port}", f"https://localhost:{self.port}"
        self.own_name = own_name
        stack._settings += (
            f"server:\n  host_name: 127.0.0.1\n  https_port: {self.port}\n"
            f"notebooks:\n  hub_user: {HUB_USER}\n{settings}" + ("  host: localhost\n" if own_name else "")
        )
        self.hub: subprocess.Popen[bytes] | None = None
        self.launcher: subprocess.Popen[bytes] | None = None
        self.nginx: subprocess.Popen[bytes] | None = None
        self.portal_token = secrets.token_hex(32)
        self._folder = stack.prefix / "nginx"

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
        self._folder.mkdir()
        self._folder.chmod(0o755)
        certificates.ensure_certificates(Local(), self._folder, ["127.0.0.1", "localhost"], datetime.now(UTC))
        places = nginx.notebook_places(self.paths, NotebookSettings(host="localhost" if self.own_name else ""))
        site = nginx.Site(
            names=("127.0.0.1",), https_port=self.port, http_port=self._plain_port, certificates=self._folder,
            static=STATIC, socket=self.paths.server_socket, folder=self._folder, notebooks=places,
        )  # fmt: skip
        text = nginx.render_site(site, default=True, ipv6=False, http2_directive=False)
        (self._folder / "site.conf").write_text(re.sub(r"listen (\d+)", r"listen 127.0.0.1:\1", text))
        site.away_page.write_text(nginx.render_away_page())
        user, gid = nginx_account()
        group = grp.getgrgid(gid).gr_name
        (self._folder / "main.conf").write_text(MAIN.format(user=user, group=group, folder=self._folder))

    def start_nginx(self) -> None:
        main = str(self._folder / "main.conf")
        with (self.stack.prefix / "nginx.log").open("ab") as log:
            self.nginx = subprocess.Popen(
                ["nginx", "-p", str(self._folder), "-c", main, "-e", str(self._folder / "error.log")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.nginx.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(self.stack.log("nginx") + (self._folder / "error.log").read_text())

    def stop_nginx(self, sig: int = signal.SIGTERM) -> None:
        self.nginx = _end(self.nginx, sig)

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


class Browser:
    """Follows redirects, keeps cookies and says what kind of request it makes, as browsers do.

    port: where a WebSocket of the address is reached from here, if that is not the address's own; patience: seconds that
    it may say nothing.
    """

    def __init__(self, url: str, client: httpx.Client, *, port: int = 0, patience: float = 60.0) -> None:
        self.url, self.client, self.patience = url, client, patience
        self.port = port or urlsplit(url).port or 443
        self.hops = 0

    def sign_in(self, name: str, password: str) -> httpx.Response:
        """Sign in at the portal's page; returns the page after it."""
        page = self.open("/sign-in")
        return self.submit(page, {"username": name, "password": password})

    def open(self, path: str, *, seconds: float = 60.0) -> httpx.Response:
        """Go to an address, by every redirect and every page that loads itself again, and return where that ends."""
        answer, self.hops = self._follow(self._send("GET", urljoin(self.url, path))), 0
        deadline = time.monotonic() + seconds
        while again := re.search(r'http-equiv="refresh" content="(\d+)(?:; ?url=([^"]*))?"', answer.text):
            if time.monotonic() > deadline:
                raise AssertionError(f"{answer.url} still loads itself again after {seconds} s:\n{answer.text[:2000]}")
            time.sleep(int(again[1]))
            target = urljoin(str(answer.url), (again[2] or "").replace("&amp;", "&"))
            answer = self._follow(self._send("GET", target))
        return answer

    def submit(self, page: httpx.Response, values: dict[str, str]) -> httpx.Response:
        """Send the first form of a page that posts, with its hidden values."""
        form = re.search(r'<form[^>]*method="post"[^>]*>.*?</form>', page.text, re.S)
        assert form is not None, page.text[:2000]
        hidden = dict(re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', form[0]))
        action = re.search(r'action="([^"]*)"', form[0])
        target = urljoin(str(page.url), action[1].replace("&amp;", "&") if action else "")
        return self._follow(self._send("POST", target, data={**hidden, **values}))

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """Send a request as a page's script does, with the XSRF token of the cookies for that address; no redirects."""
        address = urljoin(self.url, path)
        token = self.cookie("_xsrf", path)
        fetch = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "empty"}
        return self.client.request(
            method, address, json=body, headers={**fetch, **({"X-XSRFToken": token} if token else {}), **headers}
        )

    def cookie(self, name: str, path: str) -> str:
        """Return the cookie of that name with the longest path that fits."""
        fit = [c for c in self.client.cookies.jar if c.name == name and path.startswith(c.path)]
        return max(fit, key=lambda c: len(c.path)).value or "" if fit else ""

    def _send(self, method: str, address: str, **more: Any) -> httpx.Response:
        fetch = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "document"}
        return self.client.request(method, address, headers={"Accept": "text/html,*/*;q=0.8", **fetch}, **more)

    def _follow(self, answer: httpx.Response) -> httpx.Response:
        for _ in range(20):
            if not answer.is_redirect:
                return answer
            self.hops += 1
            target = urljoin(str(answer.url), answer.headers["location"])
            method = answer.request.method if answer.status_code in (307, 308) else "GET"
            answer = self._send(method, target)
        raise AssertionError(f"redirected in a circle at {answer.url}")


class Kernel:
    """A kernel of somebody's server, over its REST API and WebSocket (RFC 6455), as Lab's page uses it."""

    def __init__(self, browser: Browser, base: str, known: str = "") -> None:
        """known: the id of a kernel that runs, to go on with; else one is started."""
        self._browser, self._base = browser, base
        if not known:
            made = browser.ask("POST", f"{base}api/kernels", {"name": "python3"})
            assert made.status_code == 201, made.text
        self.id = known or made.json()["id"]
        self._socket = self._connect()
        self._left = b""

    def run(self, code: str, seconds: float = 60.0) -> str:
        """Run a cell and return what it printed, with its result or error after it; also if the kernel ends by it."""
        asked = secrets.token_hex(8)
        header = {"msg_id": asked, "msg_type": "execute_request", "username": "", "session": asked, "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        self._send(
            json.dumps(
                {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}
            ).encode()
        )
        said, deadline = "", time.monotonic() + seconds
        while time.monotonic() < deadline:
            told = json.loads(self._receive())
            kind, content = told["header"]["msg_type"], told["content"]
            if kind == "status" and content["execution_state"] in ("restarting", "dead"):
                return said
            if told["parent_header"].get("msg_id") != asked:
                continue
            if kind == "stream":
                said += content["text"]
            elif kind == "execute_result":
                said += content["data"]["text/plain"]
            elif kind == "error":
                said += f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle":
                return said
        raise AssertionError(f"the cell still runs after {seconds} s; it printed {said!r}")

    def close(self) -> None:
        self._socket.close()

    def is_open(self, seconds: float) -> bool:
        """Tell whether the WebSocket is still open after so long."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError):
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(65536):
                    return False
        self._socket.settimeout(60)
        return True

    def _connect(self) -> ssl.SSLSocket:
        address = f"{self._base}api/kernels/{self.id}/channels"
        cookie = self._browser.client.build_request("GET", urljoin(self._browser.url, address)).headers.get(
            "cookie", ""
        )
        parts = urlsplit(self._browser.url)
        plain = socket.create_connection((parts.hostname or "", self._browser.port), self._browser.patience)
        context = ssl._create_unverified_context()
        line = context.wrap_socket(plain)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        line.sendall(
            f"GET {address} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Origin: {self._browser.url}\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-Fetch-Mode: websocket\r\nSec-Fetch-Site: same-origin\r\nCookie: {cookie}\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head and (part := line.recv(1)):
            head += part
        if b" 101 " not in head.split(b"\r\n")[0]:
            line.close()
            raise AssertionError(head.decode())
        return line

    def _send(self, data: bytes, code: int = 1) -> None:
        length = len(data)
        size = (
            bytes([0x80 | length])
            if length < 126
            else b"\xfe" + length.to_bytes(2)
            if length < 65536
            else b"\xff" + length.to_bytes(8)
        )
        mask = secrets.token_bytes(4)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        self._socket.sendall(bytes([0x80 | code]) + size + mask + masked)

    def _receive(self) -> bytes:
        """Return the next message; answers pings."""
        message = b""
        while True:
            first, second = self._exactly(2)
            length = second & 0x7F
            if length > 125:
                length = int.from_bytes(self._exactly(2 if length == 126 else 8))
            data, code = self._exactly(length), first & 0x0F
            if code == 9:
                self._send(data, 10)
            elif code == 8:
                raise AssertionError(f"the server closed the WebSocket: {data!r}")
            elif code in (0, 1, 2):
                message += data
                if first & 0x80:
                    return message

    def _exactly(self, length: int) -> bytes:
        while len(self._left) < length:
            part = self._socket.recv(65536)
            if not part:
                raise AssertionError("the WebSocket ended")
            self._left += part
        taken, self._left = self._left[:length], self._left[length:]
        return taken


def signed_value(cookie: str) -> str:
    """Return what is in a signed cookie of Tornado's, which anybody can read who has it."""
    fields = cookie.strip('"').split("|")[1:]  # the version; then each with its length in front
    return base64.b64decode(fields[3].partition(":")[2]).decode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
