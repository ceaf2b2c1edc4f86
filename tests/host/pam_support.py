"""What the tests of PAM share: the platform with its lines in this host's stacks, an sshd, and people who type.

The stacks are byte for byte what they were afterwards.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyotp

from diycloud.host.keys import CODES_GROUP, render_sshd
from diycloud.host.pam import Hook, ensure_pam, remove_pam
from diycloud.host.pam_files import SERVICE
from diycloud.host.slices import Limits
from diycloud.system import Local
from diycloud.units import Bytes, Cores
from tests.host.limits_support import stacks
from tests.stack import Stack

UID_MIN, UID_MAX, OUTSIDER_UID = 59_600, 59_699, 59_990
OUTSIDER = "dtpamoutside"
"""An account of the host's that the platform does not manage."""
PASSWORD = "correct horse battery"
PROGRAMS = ("sshd", "ssh", "ssh-keygen", "su", "login", "passwd", "pamtester", "pam-auth-update", "setpriv", "chage")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def why_not() -> str:
    """Return why this machine cannot run these tests; empty if it can."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        return f"needs {', '.join(missing)}"
    if Path("/run/systemd/system").exists():
        return "tests/vm tries this under systemd"
    return (
        ""
        if any(Path("/usr/lib").glob("*/security/pam_google_authenticator.so"))
        else "needs libpam-google-authenticator"
    )


class Bed:
    """A platform whose users sign in by PAM. folder: of sshd's files and of the key."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        script = stack.prefix / "opt/lib/pam-session"
        self.files = stack.prefix / "var/lib/diycloud/sign-in"
        self.hook = Hook(
            script, stack.prefix / "var/lib/diycloud/agent/managed", "dtpam", UID_MIN, UID_MAX,
            Limits(Cores(1.0), Bytes(1 << 30), 256), self.files,
        )  # fmt: skip
        self.port = 0

    def ssh(
        self, user: str, *answers: str, command: str = "id -un", options: Sequence[str] = (), key: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Sign in with answers to the prompts, in their order (the last one again and again), or with the key."""
        ask = self.folder / "answer"
        ask.write_text(
            f"#!/bin/sh\nn=$(cat {self.folder}/asked 2>/dev/null || echo 0)\necho $((n + 1)) >{self.folder}/asked\n"
            'echo "$1" >>' + f"{self.folder}/prompts\n"
            + "".join(f"[ $n -eq {n} ] && {{ printf '%s\\n' '{text}'; exit; }}\n" for n, text in enumerate(answers))
            + f"printf '%s\\n' '{answers[-1] if answers else ''}'\n"
        )  # fmt: skip
        ask.chmod(0o755)
        for name in ("asked", "prompts"):
            (self.folder / name).unlink(missing_ok=True)
        argv = [
            "ssh", "-F", "none", "-p", str(self.port), "-o", "StrictHostKeyChecking=no", "-o", "IdentitiesOnly=yes",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "NumberOfPasswordPrompts=1",
        ]  # fmt: skip
        argv += ["-i", str(self.folder / "key"), "-o", "BatchMode=yes"] if key else ["-o", "PubkeyAuthentication=no"]
        for option in options:
            argv += ["-o", option]
        given = {**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":"}
        return subprocess.run(
            [*argv, f"{user}@127.0.0.1", command], env=given, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip

    def gets_in(self, user: str, *answers: str, key: bool = False, options: Sequence[str] = ()) -> bool:
        """Tell whether SSH opens a session."""
        return self.ssh(user, *answers, key=key, options=options).stdout == f"{user}\n"

    @property
    def prompts(self) -> str:
        """What the last SSH client was asked."""
        path = self.folder / "prompts"
        return path.read_text() if path.exists() else ""

    def log(self) -> str:
        return (self.folder / "log").read_text()


def su(user: str, *typed: str, by: int | None = OUTSIDER_UID) -> bool:
    """Tell whether su opens a session. by: a UID; None for root, of whom nothing is asked."""
    argv = ["su", user, "-s", "/bin/sh", "-c", "id -un"]
    if by is not None:
        argv = ["setpriv", f"--reuid={by}", f"--regid={by}", "--clear-groups", *argv]
    done = subprocess.run(
        argv, input="".join(f"{line}\n" for line in typed), capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout.endswith(f"{user}\n")


def pamtester(service: str, user: str, *typed: str, what: str = "authenticate acct_mgmt", **items: str) -> bool:
    """Tell whether a PAM service says yes to everything that is asked."""
    argv = [
        "pamtester",
        *(word for item in items.items() for word in ("-I", "=".join(item))),
        service,
        user,
        *what.split(),
    ]
    done = subprocess.run(
        argv, input="".join(f"{line}\n" for line in typed), capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode == 0


def code_of(secret: str, *, ahead: int = 0) -> str:
    return pyotp.TOTP(secret).generate_otp(int(time.time()) // 30 + ahead)


def another_code(secret: str, *used: str) -> str:
    """Return a code that is good now and was not used, waiting for the next one if need be."""
    for _ in range(90):
        for ahead in (0, 1, -1):  # the next one holds the longest
            if (code := code_of(secret, ahead=ahead)) not in used:
                return code
        time.sleep(1)
    raise AssertionError("no other code in 90 s")


class Typist:
    """A person at a terminal of their own: types an answer when a prompt appears."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="dumb", LC_ALL="C", SSH_ASKPASS_REQUIRE="never")
            os.execvp(argv[0], list(argv))
        self.seen = ""
        self._read_to = 0

    def expect(self, pattern: str, answer: str | None = None, seconds: float = 30.0) -> str:
        """Wait for a pattern in what is new on the screen, then type a line. Raises AssertionError with the screen."""
        end = time.monotonic() + seconds
        while not (match := re.compile(pattern).search(self.seen, self._read_to)):
            if not self._look(end - time.monotonic()):
                raise AssertionError(f"no {pattern!r} on the screen:\n{self.seen}")
        self._read_to = match.end()
        if answer is not None:
            time.sleep(0.2)  # the prompt comes before the echo is off and what was typed too early is thrown away
            os.write(self._terminal, f"{answer}\n".encode())
        return match[0]

    def end(self) -> str:
        """Wait for the end, hanging up if it does not come; returns the whole screen."""
        end = time.monotonic() + 20
        while self._look(end - time.monotonic()):
            pass
        os.close(self._terminal)
        try:
            os.kill(self.pid, signal.SIGHUP)
        except ProcessLookupError:
            pass
        os.waitpid(self.pid, 0)
        return self.seen

    def _look(self, seconds: float) -> bool:
        if seconds <= 0 or not select.select([self._terminal], [], [], seconds)[0]:
            return False
        try:
            found = os.read(self._terminal, 4096)
        except OSError:  # nobody has it open: the program has ended, or is login, which hangs up and opens it again
            time.sleep(0.05)
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        self.seen += _ANSI.sub("", found.decode("utf-8", "replace")).replace("\r", "")
        return bool(found)


@contextmanager
def bed() -> Iterator[Bed]:
    """Make the bed, and take every part of it away again."""
    before = stacks()
    assert b"diycloud" not in b"".join(before.values()), "a hook is installed on this machine already"
    assert not Path(SERVICE).exists()
    with Stack(uid_min=UID_MIN, uid_max=UID_MAX, cgroup="dtpam") as stack:
        folder = stack.prefix / "sshd"
        folder.mkdir()
        made = Bed(stack, folder)
        (stack.prefix / "opt/lib").mkdir(parents=True)
        daemon = None
        try:
            subprocess.run(
                ["useradd", "-m", "-u", str(OUTSIDER_UID), "-s", "/bin/sh", OUTSIDER], check=True, capture_output=True
            )
            subprocess.run(["groupadd", "--system", CODES_GROUP], check=True, capture_output=True)
            subprocess.run(["chpasswd"], input=f"{OUTSIDER}:{PASSWORD}\n", text=True, check=True)
            ensure_pam(Local(), "debian", made.hook)
            daemon = _start_sshd(made)
            yield made
        finally:
            if daemon is not None:
                daemon.terminate()
                daemon.wait(10)
            remove_pam(Local(), "debian", made.hook)
            subprocess.run(["userdel", "-r", OUTSIDER], check=False, capture_output=True)
            subprocess.run(["groupdel", CODES_GROUP], check=False, capture_output=True)
    assert stacks() == before
    assert not Path(SERVICE).exists()


def _start_sshd(made: Bed) -> subprocess.Popen[bytes]:
    folder = made.folder
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        made.port = int(free.getsockname()[1])
    keys = made.stack.prefix / "var/lib/diycloud/keys"
    # As ensure_sshd has it: what is included comes first, and the distribution's own word after it.
    (folder / "ours.conf").write_text(render_sshd(keys, "passwordauthentication yes\n"))
    (folder / "config").write_text(
        f"Include {folder}/ours.conf\nListenAddress 127.0.0.1:{made.port}\n"
        f"HostKey {folder}/host\nPidFile none\nUsePAM yes\nStrictModes no\n"
        "PasswordAuthentication yes\nKbdInteractiveAuthentication no\nLogLevel VERBOSE\nMaxStartups 100\n"
        "AuthorizedKeysFile none\n"
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    daemon = subprocess.Popen([shutil.which("sshd") or "sshd", "-D", "-f", folder / "config", "-E", folder / "log"])
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", made.port)) == 0:
                break
        time.sleep(0.05)
    return daemon
