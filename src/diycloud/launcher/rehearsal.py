"""Which modules a server loads: found by starting one, as nobody, in a process that ends again.

The launcher imports them before its first fork, so that no server spends time on it. Only names come back from the rehearsal: no
socket, no thread and no event loop of a server ever is in the launcher.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from diycloud.launcher import linux
from diycloud.launcher.privileges import close_all_but, drop_to
from diycloud.launcher.request import Request

NOBODY = 65_534
SECONDS = 30.0
_BASE = "/jupyter/user/rehearsal"
_READ = (
    "/api",
    "/lab",
    "/lab/api/settings",
    "/lab/api/translations/en",
    "/api/contents",
    "/api/kernelspecs",
    "/api/sessions",
)
_KERNEL = {"argv": ["/bin/true"], "display_name": "Rehearsal", "language": "none"}


def find_modules() -> list[str]:
    """Return the names of the modules that a server has when it has shown Lab and started a kernel; none if it cannot."""
    # Told to end in the midst of it, the launcher leaves nothing behind.
    before = signal.signal(signal.SIGTERM, _give_up)
    home = Path(tempfile.mkdtemp(prefix="diycloud-rehearsal-"))
    os.chown(home, NOBODY, NOBODY)
    heard, told = os.pipe2(os.O_CLOEXEC)
    launcher, pid = os.getpid(), None
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # not between the fork and knowing whom it made
    try:
        pid = os.fork()
        if pid == 0:
            _rehearse(home, told, launcher)
        os.close(told)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return json.loads(_read_all(heard)) or []
    except ValueError:
        return []
    finally:
        os.close(heard)
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        shutil.rmtree(home, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


def _give_up(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def _read_all(source: int) -> bytes:
    deadline, found = time.monotonic() + SECONDS, b""
    while select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0]:
        data = os.read(source, 65_536)
        if not data:
            return found
        found += data
    return b""


def _rehearse(home: Path, told: int, launcher: int) -> NoReturn:
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        nowhere = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nowhere, number)
        close_all_but((0, 1, 2, told))
        drop_to(NOBODY, NOBODY, ())
        linux.die_with_parent(signal.SIGKILL)
        if os.getppid() != launcher:  # it ended before that
            os._exit(1)
        os.chdir(home)
        os.environ.update(
            HOME=str(home),
            TMPDIR=str(home),
            JUPYTER_RUNTIME_DIR=str(home),
            JUPYTERHUB_SERVICE_URL="http://rehearsal/",
            JUPYTERHUB_SERVICE_PREFIX=f"{_BASE}/",
            JUPYTERHUB_API_TOKEN="rehearsal",  # noqa: S106 - of no hub
            JUPYTERHUB_CLIENT_ID="rehearsal",
            JUPYTERHUB_OAUTH_ACCESS_SCOPES='["access:servers"]',
        )
        specification = home / ".local/share/jupyter/kernels/rehearsal/kernel.json"
        specification.parent.mkdir(parents=True)
        specification.write_text(json.dumps(_KERNEL), encoding="utf-8")
        _run(home, told)
    finally:
        os._exit(1)


def _run(home: Path, told: int) -> None:
    from jupyterhub.singleuser.extension import JupyterHubIdentityProvider, JupyterHubUser

    from diycloud.launcher.single_user import SingleUser, configuration

    async def anybody(*_: Any) -> JupyterHubUser:
        return JupyterHubUser({"name": "rehearsal", "kind": "user", "scopes": ["access:servers"]})

    JupyterHubIdentityProvider.get_user = anybody  # there is no hub to ask
    path = home / "socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.setblocking(False)

    def use() -> None:
        try:
            with suppress(Exception):  # what was loaded until then is worth telling
                for address in _READ:
                    _ask(path, "GET", address)
                _ask(path, "POST", "/api/kernels", json.dumps({"name": "rehearsal"}))
            with os.fdopen(told, "w") as answer:
                answer.write(json.dumps(sorted(sys.modules)))
        finally:
            os._exit(0)

    nothing = Request("", "", "", NOBODY, NOBODY, (), home, "/bin/sh", {}, home, home, home, home, path)
    answers = threading.Thread(target=use).start
    settings = configuration(nothing)
    settings.ServerApp.disable_check_xsrf = True  # a browser's protection, and there is none
    SingleUser.start_on(listener, answers, settings).start()


def _ask(path: Path, method: str, address: str, body: str | None = None) -> None:
    connection = http.client.HTTPConnection("rehearsal", timeout=SECONDS)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request(method, _BASE + address, body, {"Authorization": "token rehearsal"})
    connection.getresponse().read()
    connection.close()
