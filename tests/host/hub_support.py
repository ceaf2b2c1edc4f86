"""The hub with everything real behind it, and what tests do there: start and stop servers, ask as others, look at what runs."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import notebooks
from tests.notebooks import Notebooks
from tests.stack import Stack
from tests.visitor import Browser
from tests.waiting import until

ALICE, BOB, CAROL, BOSS = "dtnhalice", "dtnhbob", "dtnhcarol", "dtnhboss"
CLASS = [f"dtnhc{number:02}" for number in range(10)]
"""People who do the same at the same moment."""
NEEDED = [pytest.mark.skipif(bool(why := notebooks.why_not()), reason=why), pytest.mark.slow]


@contextlib.contextmanager
def running_hub(*people: str, settings: str = "", own_name: bool = False) -> Iterator[Notebooks]:
    """Run everything, with these people and an administrator, for there must always be one.

    settings: lines below `notebooks:`. One at a time: they all have the same accounts and cgroups.
    """
    with Notebooks(Stack(uid_min=58_200, uid_max=58_299, cgroup="dtnoteh"), settings, own_name=own_name) as running:
        running.user(BOSS, "--role", "admin")
        for name in people:
            running.user(name)
        yield running


@contextlib.contextmanager
def signed_in(bed: Notebooks, name: str) -> Iterator[Browser]:
    """A browser in which somebody signed in at the portal."""
    with bed.browser() as browser:
        browser.sign_in(name, notebooks.PASSWORD)
        yield browser


def start(bed: Notebooks, name: str, server: str = "", **options: str) -> httpx.Response:
    """Start a server as the portal does, and wait until it is there."""
    bed.hub_api("POST", f"/users/{name}")
    path = f"/users/{name}/servers/{server}" if server else f"/users/{name}/server"
    done = bed.hub_api("POST", path, options)
    if done.status_code == 202:
        until(lambda: shown(bed, name, server).get("ready"))
    return done


def stop(bed: Notebooks, name: str, server: str = "") -> None:
    path = f"/users/{name}/servers/{server}" if server else f"/users/{name}/server"
    bed.hub_api("DELETE", path)
    until(lambda: not shown(bed, name, server))


def shown(bed: Notebooks, name: str, server: str = "") -> dict:
    """Return what the hub says of a server that is not just stopped."""
    answer = bed.hub_api("GET", f"/users/{name}")
    found = answer.json().get("servers", {}).get(server) if answer.status_code == 200 else None
    return found if found and (found["ready"] or found["pending"]) else {}


def processes(name: str) -> list[int]:
    """Return the pids of a user's servers: processes of the user whose parent is root's."""
    listed = subprocess.run(["ps", "-u", name, "-o", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
    found = []
    for line in listed.splitlines():
        pid, parent = (int(word) for word in line.split())
        try:
            if Path(f"/proc/{parent}").stat().st_uid == 0:
                found.append(pid)
        except FileNotFoundError:
            continue
    return found


def make_token(browser: Browser, name: str) -> str:
    """Make a token as the hub's page does; who was let in again just now may have to wait a moment."""
    made: list[httpx.Response] = []

    def ask() -> bool:
        browser.open("/jupyter/hub/token")
        made.append(browser.ask("POST", f"/jupyter/hub/api/users/{name}/tokens", {"note": "script"}))
        return made[-1].status_code == 201

    until(ask)
    return str(made[-1].json()["token"])


def by_nginx(bed: Notebooks, client: httpx.Client, token: str, **headers: str) -> int:
    """Ask the hub as a script does that has a token of it; returns the status."""
    sent = {"Authorization": f"token {token}", **headers}
    return client.get(f"{bed.url}/jupyter/hub/api/user", headers=sent).status_code


def as_user(bed: Notebooks, account: str, authority: str, address: str, visitor: str = "") -> int:
    """Ask the hub's socket as an account of the host, claiming what only Nginx may say; returns the status."""
    script = (
        "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "s.sendall(sys.stdin.read().encode()); print(s.recv(64).split()[1].decode())"
    )
    request = (
        f"GET /jupyter/hub/api/user HTTP/1.1\r\nHost: x\r\n{authority}\r\nX-Forwarded-For: {address}\r\n"
        f"X-Notebook-User: {visitor}\r\nSec-Fetch-Mode: navigate\r\nConnection: close\r\n\r\n"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-c", script, str(bed.paths.hub_socket)], input=request, text=True, capture_output=True,
        check=True, user=account, cwd="/",
    )  # fmt: skip
    return int(done.stdout)


@contextlib.contextmanager
def at_the_start(name: str, code: str) -> Iterator[None]:
    """Have somebody's servers run some Python as they start."""
    file, account = Path(f"/home/{name}/.jupyter/jupyter_server_config.py"), pwd.getpwnam(name)
    file.parent.mkdir(exist_ok=True)
    file.write_text(code)
    for path in (file.parent, file):
        os.chown(path, account.pw_uid, account.pw_gid)
    try:
        yield
    finally:
        file.unlink()


def own(bed: Notebooks, name: str) -> dict[str, str]:
    """What somebody's program sends who signed in, from elsewhere."""
    return {"Authorization": f"Bearer {bed.stack.token(name, notebooks.PASSWORD)}", "X-Forwarded-For": "192.0.2.7"}


def server_tokens(bed: Notebooks, name: str) -> list[list[str]]:
    """Return the scopes of each token of a user's servers, as the hub's database has them."""
    asked = (
        "SELECT scopes FROM api_tokens t JOIN users u ON u.id = t.user_id WHERE u.name = ? AND note LIKE 'Server at %'"
    )
    with contextlib.closing(sqlite3.connect(bed.paths.hub_state / "jupyterhub.sqlite")) as database:
        return [json.loads(row[0]) for row in database.execute(asked, (name,))]
