"""What people do on the host, for tests: sign in on a terminal, run programs in their slice."""

from __future__ import annotations

import os
import pty
import pwd
import re
import subprocess
import sys
from typing import Any

from diycloud.core.routes import PREFIX, ROUTES
from tests.cluster import Cluster
from tests.conftest import OWN
from tests.invariants import CGROUPS
from tests.stack import Stack


class Recorded(Stack):
    """A stack that remembers which verbs and which routes were used."""

    def __init__(self, cluster: Cluster | None) -> None:
        super().__init__(**OWN, cluster=cluster)
        self.used: set[str] = set()

    def cli(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        self.used.add(" ".join(words[:2]))
        return super().cli(*words, **options)

    def http(self, method: str, path: str, *rest: Any, **options: Any) -> tuple[int, dict, dict]:
        for route in ROUTES:
            if method == route.method and re.fullmatch(
                re.sub(r"{\w+}", "[a-z0-9]+", PREFIX + route.path), path.split("?", maxsplit=1)[0]
            ):
                self.used.add(route.action.action_name)
        return super().http(method, path, *rest, **options)


def signs_in(name: str, password: str) -> bool:
    """Sign in on the host with a password, by `su` from an account that has no rights, on a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        os.chdir("/")
        os.execv("/usr/bin/su", ["su", name, "-c", "echo in-$((40 + 2))"])
    said, sent = b"", False
    while True:
        try:
            part = os.read(terminal, 1024)
        except OSError:
            break
        if not part:
            break
        said += part
        if not sent and b"assword" in said:
            os.write(terminal, password.encode() + b"\n")
            sent = True
    os.close(terminal)
    os.waitpid(pid, 0)
    return b"in-42" in said


def account_is_open(name: str) -> bool:
    """Ask PAM's account check, which keys, cron and root's su go through."""
    done = subprocess.run(["su", name, "-s", "/bin/sh", "-c", "true"], capture_output=True, check=False)
    return done.returncode == 0


def run_as(stack: Stack, name: str, code: str = "import time; time.sleep(600)") -> subprocess.Popen[bytes]:
    """Start a program as a user, in the user's slice."""
    account = pwd.getpwnam(name)
    parts = {"cpu": "main/", "pids": "main/", "cpuacct": "", "memory": ""}
    files = [f"{CGROUPS}/{controller}/{stack.cgroup}/{name}/{part}cgroup.procs" for controller, part in parts.items()]
    enter = "".join(f"echo $$ > {file} && " for file in files)
    become = f"exec setpriv --reuid={account.pw_uid} --regid={account.pw_gid} --clear-groups -- "
    argv = ["sh", "-c", f'{enter}{become} {sys.executable} -S -c "$1"', "sh", f"print('ready', flush=True)\n{code}"]
    process = subprocess.Popen(argv, cwd="/", stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    return process


def end(process: subprocess.Popen[bytes]) -> int:
    """Wait for a program that was ended, or end it; returns how it ended."""
    assert process.stdout is not None
    process.stdout.close()
    if process.poll() is None:
        process.kill()
    return process.wait(10)
