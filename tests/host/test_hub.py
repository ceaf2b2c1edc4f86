"""The hub with everything real: portal, agent, launcher, Nginx, JupyterHub and users' servers."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from tests import notebooks
from tests.notebooks import HUB_USER, Browser, Kernel, Notebooks
from tests.stack import Stack

pytestmark = [pytest.mark.skipif(bool(why := notebooks.why_not()), reason=why), pytest.mark.slow]
ALICE, BOB, CAROL = "dtnhalice", "dtnhbob", "dtnhcarol"
ROOT = "dtnhroot"
CLASS = [f"dtnhc{number:02}" for number in range(10)]
SETTINGS = """\
  named_servers: 2
  profiles:
    whole: {title: "All you have"}
    small: {title: "Small <b>one</b>", cpu: 0.5, memory: 300M}
    boxed: {kind: docker, image: lab}
"""


@pytest.fixture(scope="module")
def bed() -> Iterator[Notebooks]:
    with Notebooks(Stack(uid_min=58_200, uid_max=58_299, cgroup="dtnoteh"), SETTINGS) as running:
        for name in (ALICE, BOB, CAROL, *CLASS):
            running.user(name)
        running.user(ROOT, "--role", "admin")  # there must always be one
        yield running


@pytest.fixture
def alice(bed: Notebooks) -> Iterator[Browser]:
    with bed.browser() as browser:
        browser.sign_in(ALICE, notebooks.PASSWORD)
        yield browser
    stop(bed, ALICE)


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


def until(holds: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


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


def test_from_the_portal_to_a_cell_without_a_second_sign_in(bed: Notebooks, alice: Browser) -> None:
    form = alice.open("/jupyter/")
    assert form.status_code == 200 and "Small &lt;b&gt;one&lt;/b&gt;" in form.text, form.text
    assert "boxed" not in form.text
    lab = alice.submit(form, {"profile": "whole"})
    lab = alice.open(str(lab.url))
    assert lab.status_code == 200 and lab.url.path == f"/jupyter/user/{ALICE}/lab", (lab.url, lab.text[:500])
    kernel = Kernel(alice, f"/jupyter/user/{ALICE}/")
    assert kernel.run("import os; print(os.getuid(), 6 * 7)").split() == ["58200", "42"]
    assert kernel.run("import os; [k for k in os.environ if 'TOKEN' in k]") == "[]"
    kernel.close()


def test_an_address_asked_for_first_is_where_one_ends(bed: Notebooks) -> None:
    start(bed, BOB)
    with bed.browser() as bob:
        page = bob.open(f"/jupyter/user/{BOB}/tree")
        assert page.url.path == "/sign-in", page.url
        page = bob.submit(page, {"username": BOB, "password": notebooks.PASSWORD})
        assert page.url.path == f"/jupyter/user/{BOB}/tree", page.url
    stop(bed, BOB)


def test_people_stay_at_the_name_they_came_by(bed: Notebooks) -> None:
    """A host has several names, and an address: signing in at one and being sent to another would be signed out there."""
    start(bed, BOB)
    with bed.browser() as bob:
        bob.url = bed.other_url
        bob.sign_in(BOB, notebooks.PASSWORD)
        page = bob.open("/jupyter/")
        assert str(page.url).startswith(f"{bed.other_url}/jupyter/user/{BOB}/lab"), page.url
        hub = [cookie for cookie in bob.client.cookies.jar if cookie.path == "/jupyter/hub/"]
        plain = [cookie.name for cookie in hub if not cookie.secure]
        assert hub and not plain, plain
        away = bob.client.get(f"{bed.url}/jupyter/hub/oauth_login", headers={"Host": "elsewhere.example"})
        assert away.headers["location"].startswith("/oidc/authorize?"), away.headers
        refused = bob.client.get(urljoin(bed.url, away.headers["location"]))
        assert 400 <= refused.status_code < 500 and not refused.is_redirect, "only names of the platform's"
    stop(bed, BOB)


def test_nobody_gets_into_somebody_elses_server(bed: Notebooks, alice: Browser) -> None:
    start(bed, BOB)
    start(bed, ALICE)
    alice.open(f"/jupyter/user/{ALICE}/lab")
    assert alice.open(f"/jupyter/user/{BOB}/lab").status_code in (403, 404)
    assert alice.open(f"/jupyter/hub/user/{BOB}/lab").status_code == 404
    assert alice.open(f"/jupyter/hub/spawn/{BOB}").status_code in (403, 404)
    for path in (f"/users/{BOB}", f"/users/{BOB}/server"):
        method = "DELETE" if path.endswith("server") else "GET"
        assert alice.ask(method, f"/jupyter/hub/api{path}").status_code in (403, 404)
    stop(bed, BOB)


def test_an_administrator_sees_and_stops_servers_and_enters_none(bed: Notebooks) -> None:
    bed.stack.cli("user", "modify", CAROL, "--role", "admin")
    start(bed, BOB)
    with bed.browser() as carol:
        carol.sign_in(CAROL, notebooks.PASSWORD)
        carol.open("/jupyter/hub/token")
        me = carol.ask("GET", "/jupyter/hub/api/user").json()
        assert "portal:administrators" in me["groups"] and not me["admin"], me
        assert not [scope for scope in me["scopes"] if scope.startswith("access:servers") and CAROL not in scope]
        users = carol.ask("GET", "/jupyter/hub/api/users").json()
        assert BOB in [user["name"] for user in users]
        assert carol.open(f"/jupyter/user/{BOB}/lab").status_code == 403
        assert carol.ask("DELETE", f"/jupyter/hub/api/users/{BOB}/server").status_code in (202, 204)
        until(lambda: not processes(BOB))
        bed.stack.cli("user", "modify", CAROL, "--role", "user")
        until(lambda: carol.ask("GET", "/jupyter/hub/api/users").status_code == 403, 5)


def test_who_is_disabled_is_out_within_five_seconds(bed: Notebooks) -> None:
    start(bed, BOB)
    with bed.browser() as bob:
        bob.sign_in(BOB, notebooks.PASSWORD)
        bob.open(f"/jupyter/user/{BOB}/lab")
        token = make_token(bob, BOB)
        assert bed.hub_api("GET", "/user", token=token).status_code == 200
        kernel = Kernel(bob, f"/jupyter/user/{BOB}/")
        bed.stack.cli("user", "disable", BOB)
        began = time.monotonic()
        try:
            until(lambda: bed.hub_api("GET", "/user", token=token).status_code == 403, 5)
            until(lambda: bob.ask("GET", "/jupyter/hub/api/user").status_code == 403, 5)
            until(lambda: bob.ask("GET", f"/jupyter/user/{BOB}/api/status").status_code in (401, 403), 5)
            assert not kernel.is_open(5.0 - (time.monotonic() - began))
            refused = bed.hub_api("POST", f"/users/{BOB}/server")
            assert refused.status_code in (400, 403), refused.text
        finally:
            bed.stack.cli("user", "enable", BOB)
            kernel.close()
    until(lambda: not processes(BOB))
    until(lambda: not shown(bed, BOB))


def test_who_signs_out_or_another_who_signs_in_is_not_taken_for_the_first(bed: Notebooks, alice: Browser) -> None:
    alice.open("/jupyter/hub/token")
    assert alice.ask("GET", "/jupyter/hub/api/user").json()["name"] == ALICE
    kept = [cookie for cookie in alice.client.cookies.jar if cookie.name.startswith("__Host-")]
    for cookie in kept:
        alice.client.cookies.jar.clear(cookie.domain, cookie.path, cookie.name)
    assert alice.open("/jupyter/hub/token").url.path == "/sign-in"
    assert alice.ask("GET", "/jupyter/hub/api/user").status_code == 403
    alice.sign_in(CLASS[0], notebooks.PASSWORD)
    alice.open("/jupyter/hub/token")
    assert alice.ask("GET", "/jupyter/hub/api/user").json()["name"] == CLASS[0]


def test_networks_hold_at_the_hub_and_only_nginx_is_believed(bed: Notebooks) -> None:
    with bed.browser() as bob, httpx.Client(verify=False) as client:
        bob.sign_in(BOB, notebooks.PASSWORD)
        first = make_token(bob, BOB)
        assert by_nginx(bed, client, first) == 200
        bed.stack.cli("user", "modify", BOB, "--allowed-client-ip", "192.0.2.0/24")
        try:
            # Each by its own way, within five seconds in all: the first is revoked, a cookie's browser is asked about by
            # Nginx, and the second token is a new one, while the hub may still keep what it heard a second ago.
            began = time.monotonic()
            second = bed.hub_api("POST", f"/users/{BOB}/tokens", {"note": "made since"}).json()["token"]
            until(lambda: by_nginx(bed, client, first) == 403, 5)
            until(lambda: bob.ask("GET", "/jupyter/hub/api/user").status_code == 403, began + 5 - time.monotonic())
            until(lambda: by_nginx(bed, client, second) == 403, began + 5 - time.monotonic())
            assert by_nginx(bed, client, second, **{"X-Forwarded-For": "192.0.2.1"}) == 403
            # What is on the host already is no browser, wherever it says that it is.
            assert as_user(bed, "nobody", f"Authorization: token {second}", "198.51.100.9") == 200
        finally:
            bed.stack.cli("user", "modify", BOB, "--allowed-client-ip", "")


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


def test_cookies_count_only_by_nginx(bed: Notebooks) -> None:
    with bed.browser() as bob:
        bob.sign_in(BOB, notebooks.PASSWORD)
        until(lambda: bob.open("/jupyter/hub/token").status_code == 200)
        cookie = f"Cookie: jupyterhub-hub-login={bob.cookie('jupyterhub-hub-login', '/jupyter/hub/')}"
        assert as_user(bed, "root", cookie, "127.0.0.1", BOB) == 200  # root speaks as Nginx may
        assert as_user(bed, "nobody", cookie, "127.0.0.1", BOB) == 403


def test_profiles_are_those_of_the_settings(bed: Notebooks) -> None:
    for options in ({"profile": "huge"}, {"profile": "boxed"}, {"image": "evil"}, {"profile": ["whole"]}):
        refused = bed.hub_api("POST", f"/users/{ALICE}/server", options)
        assert refused.status_code == 400 and "There " in refused.json()["message"], refused.text
    assert start(bed, ALICE, profile="small").status_code == 201
    assert shown(bed, ALICE)["user_options"] == {"profile": "small"}
    stop(bed, ALICE)


def test_named_servers_run_beside_the_first(bed: Notebooks, alice: Browser) -> None:
    assert start(bed, ALICE).status_code == 201
    assert start(bed, ALICE, "second").status_code == 201
    assert len(processes(ALICE)) == 2
    base = f"/jupyter/user/{ALICE}/second/"
    assert alice.open(f"{base}lab").url.path == f"{base}lab"
    kernel = Kernel(alice, base)
    assert kernel.run("1 + 1") == "2"
    kernel.close()
    stop(bed, ALICE, "second")
    assert len(processes(ALICE)) == 1
    assert start(bed, ALICE, "third").status_code == 201
    stop(bed, ALICE, "third")
    assert bed.hub_api("POST", f"/users/{ALICE}/servers/fourth", {}).status_code == 400  # two beside the first
    for name in ("second", "third"):
        bed.hub_api("DELETE", f"/users/{ALICE}/servers/{name}", {"remove": True})


def test_a_server_that_somebody_killed_is_told_of(bed: Notebooks, alice: Browser) -> None:
    start(bed, ALICE, profile="small")
    alice.open(f"/jupyter/user/{ALICE}/lab")
    [server] = processes(ALICE)
    os.kill(server, signal.SIGKILL)
    until(lambda: not shown(bed, ALICE), 15)
    page = alice.open(f"/jupyter/user/{ALICE}/lab")
    assert page.status_code == 424 and "ended by signal 9" in page.text, page.text
    assert f"/jupyter/hub/spawn/{ALICE}" in page.text


@contextlib.contextmanager
def at_the_start(name: str, code: str) -> Iterator[None]:
    """Have somebody's servers run some Python as they start."""
    file, account = Path(f"/home/{name}/.jupyter/jupyter_server_config.py"), notebooks.pwd.getpwnam(name)
    file.parent.mkdir(exist_ok=True)
    file.write_text(code)
    for path in (file.parent, file):
        os.chown(path, account.pw_uid, account.pw_gid)
    try:
        yield
    finally:
        file.unlink()


EAT = "b = bytearray(600 << 20); b[::4096] = b'x' * len(b[::4096])"
FOR_MEMORY = (
    "It was killed because your memory was used up. Close what you do not need, or choose more, and start it again."
)


def test_a_server_that_is_killed_for_memory_is_told_of_as_such(bed: Notebooks, alice: Browser) -> None:
    """Killed by the kernel, within its profile's 300 MiB: the hub's page, the portal's page and its list say so."""
    with at_the_start(ALICE, f"import threading\nthreading.Timer(2, lambda: exec({EAT!r})).start()\n"):
        assert start(bed, ALICE, profile="small").status_code == 201
    until(lambda: not shown(bed, ALICE), 30)
    page = alice.open(f"/jupyter/user/{ALICE}/lab")
    assert page.status_code == 424 and FOR_MEMORY in page.text, page.text
    portal = alice.open("/notebooks").text
    assert "It was ended for memory: the limit is 300M." in portal
    assert FOR_MEMORY in portal, "among what was lately"
    found = bed.stack.json("notebook", "list", ALICE)
    [server] = found["servers"]
    assert (server["state"], server["reason"]) == ("failed", "It was ended for memory: the limit is 300M.")
    assert (found["activity"][0]["outcome"], found["activity"][0]["reason"]) == ("failed", FOR_MEMORY)


def test_a_server_that_is_killed_for_memory_while_it_starts_is_told_of_as_such(bed: Notebooks, alice: Browser) -> None:
    with at_the_start(ALICE, f"print('so much to load', flush=True)\n{EAT}\n"):
        bed.hub_api("POST", f"/users/{ALICE}")
        refused = bed.hub_api("POST", f"/users/{ALICE}/server", {"profile": "small"})
        assert refused.status_code == 503 and FOR_MEMORY in refused.json()["message"], refused.text
        page = alice.open(f"/jupyter/user/{ALICE}/lab")
        assert "did not start" in page.text and FOR_MEMORY in page.text and "so much to load" in page.text, page.text
        status, _, body = bed.stack.http(
            "POST", f"/api/v1/users/{ALICE}/notebooks", {"profile": "small"}, headers=own(bed, ALICE)
        )
        assert status == 503 and FOR_MEMORY in body["detail"], body
    [server] = bed.stack.json("notebook", "list", ALICE)["servers"]
    assert (server["state"], server["reason"]) == ("failed", "It was ended for memory: the limit is 300M.")
    assert "so much to load" in server["log"]
    assert start(bed, ALICE, profile="small").status_code == 201, "what ended it does not keep it from starting"


def test_a_kernel_that_is_killed_for_memory_is_no_servers_end(bed: Notebooks, alice: Browser) -> None:
    """A server that ended by itself, later, is not said to have been killed for memory either."""
    program = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {EAT!r}])\n"
    with at_the_start(ALICE, program + "import os, threading\nthreading.Timer(3, lambda: os._exit(5)).start()\n"):
        assert start(bed, ALICE, profile="small").status_code == 201
    [server] = bed.stack.json("notebook", "list", ALICE)["servers"]
    assert (server["state"], server["reason"]) == (
        "running",
        "A program in it was ended for memory: the limit is 300M.",
    )
    until(lambda: not shown(bed, ALICE), 30)
    page = alice.open(f"/jupyter/user/{ALICE}/lab")
    assert page.status_code == 424 and "It ended by itself with status 5." in page.text, page.text
    [server] = bed.stack.json("notebook", "list", ALICE)["servers"]
    assert (server["state"], server["reason"]) == (
        "failed",
        "It ended by itself with status 5. Its last lines say why.",
    )


def own(bed: Notebooks, name: str) -> dict[str, str]:
    """What somebody's program sends who signed in, from elsewhere."""
    return {"Authorization": f"Bearer {bed.stack.token(name, notebooks.PASSWORD)}", "X-Forwarded-For": "192.0.2.7"}


def test_a_servers_token_can_little_and_ends_with_it(bed: Notebooks) -> None:
    """It tells that the server is used, and lets its own user in; a hub that was killed in between leaves none behind."""
    start(bed, ALICE)
    [scopes] = server_tokens(bed, ALICE)
    assert sorted(scopes) == [f"access:servers!server={ALICE}/", "users:activity!user"], scopes
    bed.stop_hub(signal.SIGKILL)
    bed.start_hub()
    assert len(server_tokens(bed, ALICE)) == 1
    stop(bed, ALICE)
    assert server_tokens(bed, ALICE) == []


def server_tokens(bed: Notebooks, name: str) -> list[list[str]]:
    """Return the scopes of each token of a user's servers, as the hub's database has them."""
    asked = (
        "SELECT scopes FROM api_tokens t JOIN users u ON u.id = t.user_id WHERE u.name = ? AND note LIKE 'Server at %'"
    )
    with contextlib.closing(sqlite3.connect(bed.paths.hub_state / "jupyterhub.sqlite")) as database:
        return [json.loads(row[0]) for row in database.execute(asked, (name,))]


def test_a_killed_hub_loses_and_doubles_nothing(bed: Notebooks, alice: Browser) -> None:
    start(bed, ALICE)
    alice.open(f"/jupyter/user/{ALICE}/lab")
    kernel = Kernel(alice, f"/jupyter/user/{ALICE}/")
    kernel.run("x = 41")
    before = processes(ALICE)
    bed.stop_hub(signal.SIGKILL)
    assert kernel.run("x + 1") == "42"
    time.sleep(3)  # longer than the hub's word counts while it answers
    saved = alice.ask(
        "PUT", f"/jupyter/user/{ALICE}/api/contents/saved.txt", {"type": "file", "format": "text", "content": ""}
    )
    assert saved.status_code in (200, 201), saved.text
    unknown = alice.ask("GET", f"/jupyter/user/{ALICE}/api/contents", Authorization="token of-nobody")
    assert unknown.status_code == 500, "nobody has vouched for it"
    bed.start_hub()
    assert kernel.run("x + 2") == "43"
    assert shown(bed, ALICE)["ready"] and processes(ALICE) == before
    assert alice.open("/jupyter/").url.path == f"/jupyter/user/{ALICE}/lab"
    kernel.close()


def test_a_hub_killed_while_ten_are_starting(bed: Notebooks) -> None:
    for name in CLASS:
        bed.hub_api("POST", f"/users/{name}")
    with ThreadPoolExecutor(len(CLASS)) as pool:
        asked = [pool.submit(ask_quietly, bed, name) for name in CLASS]
        time.sleep(0.6)
        bed.stop_hub(signal.SIGKILL)
        for one in asked:
            one.result()
    bed.start_hub()
    with ThreadPoolExecutor(len(CLASS)) as pool:
        list(pool.map(lambda name: ask_quietly(bed, name), CLASS))
    for name in CLASS:
        until(lambda name=name: shown(bed, name).get("ready"), 60)
        assert len(processes(name)) == 1, name
    for name in CLASS:
        stop(bed, name)
        until(lambda name=name: not processes(name))


def ask_quietly(bed: Notebooks, name: str) -> None:
    try:
        bed.hub_api("POST", f"/users/{name}/server", {})
    except (OSError, http.client.HTTPException):
        pass  # the hub was killed meanwhile


def test_servers_that_the_hub_does_not_know_are_stopped(bed: Notebooks) -> None:
    start(bed, ALICE)
    bed.stop_hub()
    assert processes(ALICE)  # a hub that is stopped in order leaves them, too
    for file in bed.paths.hub_state.glob("jupyterhub.sqlite*"):
        file.unlink()
    bed.start_hub()
    until(lambda: not processes(ALICE), 90)


def lately(bed: Notebooks, name: str) -> list[dict[str, str]]:
    """Return what the portal tells of a user's servers, the newest first."""
    return bed.stack.json("notebook", "list", name)["activity"]


def test_what_died_while_the_hub_was_down_is_gone_from_its_list(bed: Notebooks) -> None:
    start(bed, ALICE)
    bed.stop_hub(signal.SIGKILL)
    for server in processes(ALICE):
        os.kill(server, signal.SIGKILL)
    until(lambda: not processes(ALICE))
    bed.start_hub()
    until(lambda: not shown(bed, ALICE))
    until(lambda: [one["outcome"] for one in lately(bed, ALICE)[:2]] == ["failed", "started"])
    assert start(bed, ALICE).status_code == 201
    stop(bed, ALICE)


def test_a_hub_that_starts_while_the_agent_is_away_keeps_servers(bed: Notebooks, alice: Browser) -> None:
    start(bed, ALICE)
    before = processes(ALICE)
    bed.stop_hub(signal.SIGKILL)
    bed.stack.stop_agent(signal.SIGKILL)
    bed.start_hub()
    assert shown(bed, ALICE)["ready"]
    bed.stack.start_agent()
    until(lambda: alice.open(f"/jupyter/user/{ALICE}/lab").status_code == 200)
    assert processes(ALICE) == before


def test_a_server_of_the_portals_that_is_away_for_a_moment_throws_nobody_out(bed: Notebooks) -> None:
    start(bed, BOB)
    with bed.browser() as bob:
        bob.sign_in(BOB, notebooks.PASSWORD)
        token = make_token(bob, BOB)
        assert bed.hub_api("GET", "/user", token=token).status_code == 200
        bed.stack.stop_server(signal.SIGKILL)
        try:
            time.sleep(2)
            assert bed.hub_api("GET", "/user", token=token).status_code == 200
        finally:
            bed.stack.start_server()
    stop(bed, BOB)


def test_the_hub_has_no_privileges_and_no_port(bed: Notebooks) -> None:
    assert bed.hub is not None
    status = Path(f"/proc/{bed.hub.pid}/status").read_text()
    assert f"Uid:\t{notebooks.pwd.getpwnam(HUB_USER).pw_uid}" in status and "CapEff:\t0000000000000000" in status
    inodes = {os.readlink(entry) for entry in Path(f"/proc/{bed.hub.pid}/fd").iterdir()}
    listening = [
        line.split()[9] for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    ]  # fmt: skip
    assert not [inode for inode in listening if f"socket:[{inode}]" in inodes]
    assert bed.paths.hub_state.joinpath("jupyterhub.sqlite").stat().st_mode & 0o077 == 0
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(bed.paths.hub_socket))
