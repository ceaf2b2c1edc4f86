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


def test_try_misc(bed, alice, kernel) -> None:
    print(kernel.run(textwrap.dedent("""
        import os, sys, glob, subprocess
        me = os.getpid(); server = os.getppid()
        def t(label, f):
            try: print(label, '->', repr(f())[:300])
            except BaseException as e: print(label, '!!', type(e).__name__, e)
        shim = int(open(f'/proc/{server}/stat').read().rpartition(')')[2].split()[1])
        print('me', me, 'server', server, 'shim', shim)
        t('oom', lambda: open('/proc/self/oom_score_adj','w').write('-1000'))
        t('oom min', lambda: open('/proc/self/oom_score_adj','w').write('-1'))
        t('oom server', lambda: open(f'/proc/{server}/oom_score_adj','w').write('-1'))
        for what in ('environ','mem','maps','fd','cwd','exe'):
            for who in (shim, server):
                t(f'{what} {"shim" if who==shim else "server"}', lambda: os.listdir(f'/proc/{who}/fd') if what=='fd' else os.readlink(f'/proc/{who}/{what}') if what in ('cwd','exe') else open(f'/proc/{who}/{what}','rb').read(200))
        t('server fds', lambda: [os.readlink(f'/proc/{server}/fd/{n}') for n in os.listdir(f'/proc/{server}/fd')])
        t('own fds', lambda: [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')])
        t('env', lambda: {k:v for k,v in os.environ.items() if 'HUB' in k or 'TOKEN' in k or 'LD' in k or 'PYTHON' in k})
        t('kill shim', lambda: os.kill(shim, 9))
        r = os.environ['JUPYTER_RUNTIME_DIR']
        t('runtime', lambda: (r, os.listdir(r), os.statvfs(r)))
        t('fill', lambda: open(r+'/fill','wb').write(b'x'*64*1024*1024))
        t('fs', lambda: subprocess.run(['df',r,'/run','/dev/shm','/tmp'],capture_output=True,text=True).stdout)
        t('unfill', lambda: os.unlink(r+'/fill'))
        t('cgroups', lambda: open('/proc/self/cgroup').read())
        t('caps', lambda: [l for l in open('/proc/self/status') if l.startswith(('Cap','NoNew','Groups','Seccomp'))])
        t('sudo', lambda: subprocess.run(['su','-c','id'],capture_output=True,text=True,input='x'))
        t('mounts', lambda: [l for l in open('/proc/self/mountinfo') if 'tmp' in l][:9])
    """)))
    run = bed.paths.notebooks
    print(as_user(BOB, f"""
        import os, socket, subprocess
        def t(label, f):
            try: print(label, '->', repr(f())[:300])
            except BaseException as e: print(label, '!!', type(e).__name__, e)
        base = {str(run)!r}
        t('ls sockets', lambda: os.listdir(base + '/sockets'))
        def con(p, say=b''):
            s = socket.socket(socket.AF_UNIX); s.connect(p); s.sendall(say); return s.recv(300) if say else 'open'
        t('connect', lambda: con(base + '/sockets/{ALICE}.sock'))
        t('own connect', lambda: con(base + '/sockets/{BOB}.sock'))
        t('launcher', lambda: con({str(bed.paths.launcher_socket)!r}))
        t('agent', lambda: con({str(bed.paths.agent_socket)!r}))
        t('server', lambda: con({str(bed.paths.server_socket)!r}))
        t('hub', lambda: con({str(bed.paths.hub_socket)!r}, b'GET /jupyter/hub/api/users HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'))
        t('hub spoof', lambda: con({str(bed.paths.hub_socket)!r}, b'GET /jupyter/hub/api/user HTTP/1.1\\r\\nHost: x\\r\\nX-Notebook-User: {ALICE}\\r\\nX-Forwarded-For: 127.0.0.1\\r\\n\\r\\n'))
        t('records', lambda: os.listdir(base + '/records'))
        t('log', lambda: open(base + '/logs/{ALICE}.log').read())
        t('runtime', lambda: os.listdir(base + '/runtime/{ALICE}'))
        t('runtime ls', lambda: os.listdir(base + '/runtime'))
        t('mk', lambda: os.mkdir(base + '/runtime/{BOB}+x'))
        t('link', lambda: os.link(base + '/sockets/{BOB}.sock', base + '/sockets/{ALICE}+x.sock'))
        t('rename', lambda: os.rename(base + '/sockets/{BOB}.sock', base + '/sockets/{ALICE}.sock'))
        t('unlink', lambda: os.unlink(base + '/sockets/{BOB}.sock'))
        t('tmp', lambda: os.listdir({str(bed.paths.notebook_tmp)!r}))
        for pid in {pids(ALICE)!r}:
            for what in ('environ', 'mem', 'maps', 'fd', 'root', 'cwd', 'cmdline', 'net/unix'):
                p = f'/proc/{{pid}}/{{what}}'
                t(p, lambda: os.listdir(p) if what in ('fd','root','cwd') else open(p,'rb').read()[:200])
    """))
