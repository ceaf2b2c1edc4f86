"""`diycloud login` where there is a second factor, and setting one up by command line: on a terminal, and in scripts."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diycloud.auth import totp
from diycloud.client import Cloud
from diycloud.errors import SecondFactorNeeded, Unauthenticated
from tests.served import ADMIN, PASSWORD, Served

PROGRAM = [sys.executable, "-m", "diycloud.cli.main"]


@pytest.fixture
def served(empty_database: Path, tmp_path: Path) -> Iterator[Served]:
    with Served(empty_database, tmp_path / "server") as found:
        yield found


class Laptop:
    """A command line somewhere else, signed in or not."""

    def __init__(self, served: Served, folder: Path) -> None:
        self.url = served.url
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DIYCLOUD_")}
        self._environment = {**kept, "XDG_CONFIG_HOME": str(folder), "NO_COLOR": "1"}

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        asked = ["--server", self.url] if words[0] != "login" else []
        return subprocess.run(
            [*PROGRAM, *asked, *words], input=stdin, text=True, capture_output=True, env=self._environment, check=False
        )

    def login(self, *words: str, stdin: str = f"{PASSWORD}\n") -> subprocess.CompletedProcess[str]:
        return self.run("login", self.url, "--username", ADMIN, "--password", "-", *words, stdin=stdin)

    def on_a_terminal(self, *words: str, answers: list[tuple[str, str]]) -> tuple[int, str]:
        """Run it on a terminal, answering each question when it comes; returns the exit status and all that was said."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(sys.executable, [*PROGRAM, *words], self._environment)
        said, waiting, deadline = "", list(answers), time.monotonic() + 30
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 0.2)[0]:
                continue
            try:
                part = os.read(terminal, 4096).decode(errors="replace")
            except OSError:  # the other end is closed: it has ended
                break
            if not part:
                break
            said += part
            if waiting and waiting[0][0] in said.rpartition("\x00")[2]:
                os.write(terminal, waiting.pop(0)[1].encode() + b"\n")
                said += "\x00"
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
        assert not waiting, said
        return os.waitstatus_to_exitcode(status), said


@pytest.fixture
def laptop(served: Served, tmp_path: Path) -> Laptop:
    return Laptop(served, tmp_path / "config")


def set_up(laptop: Laptop) -> tuple[str, list[str]]:
    """Set up an app by command line; returns its secret and the recovery codes."""
    assert laptop.login().returncode == 0
    shown = laptop.run("factor", "begin-totp")
    assert "▀" in shown.stdout and "factor activate-totp" in shown.stdout, "a QR code for the phone"
    secret = json.loads(laptop.run("factor", "begin-totp", "--json").stdout)["secret"]
    assert re.search(r"key +(.+)\n", shown.stdout)[1].replace(" ", "") == secret  # type: ignore[index]
    code = totp.code_at(secret, int(time.time()) // totp.STEP_S)
    done = laptop.run("factor", "activate-totp", "--code", "-", stdin=f"{code}\n")
    codes = re.findall(r"(?:[a-z2-9]{6}-){3}[a-z2-9]{6}", done.stdout)
    assert done.returncode == 0 and len(codes) == 10, done.stderr
    assert "recovery codes left  10" in laptop.run("factor", "show", ADMIN).stdout
    return secret, codes


def test_a_terminal_is_asked_and_scripts_say_it(laptop: Laptop, served: Served) -> None:
    secret, codes = set_up(laptop)
    refused = laptop.login()
    assert refused.returncode == 3 and "second factor" in refused.stderr
    assert laptop.login("--code", "-", stdin=f"{PASSWORD}\n{codes[0]}\n").returncode == 0
    assert laptop.login("--code", "-", stdin=f"{PASSWORD}\n{codes[0]}\n").returncode == 3
    code = totp.code_at(secret, int(time.time()) // totp.STEP_S + 1)
    status, said = laptop.on_a_terminal(
        "login", served.url, "--username", ADMIN,
        answers=[("Password: ", PASSWORD), ("Code of the second factor: ", "000000"), ("Code of the second factor: ", code)],
    )  # fmt: skip
    assert status == 0 and "wrong, or was used before" in said and "Signed in" in said
    assert code not in said and PASSWORD not in said, "nothing is echoed"
    renewed = laptop.run("factor", "renew-codes")
    assert renewed.returncode == 0 and codes[1] not in renewed.stdout
    assert laptop.run("factor", "remove-totp").returncode == 0
    assert laptop.login().returncode == 0


def test_the_client_in_python(laptop: Laptop, served: Served) -> None:
    _, codes = set_up(laptop)
    with pytest.raises(SecondFactorNeeded) as needed:
        Cloud.sign_in(served.url, ADMIN, PASSWORD)
    assert needed.value.ways == ("totp", "recovery") and len(needed.value.ticket) >= 43
    with Cloud(served.url, token="") as nobody:
        with pytest.raises(SecondFactorNeeded):
            nobody.finish_session(needed.value.ticket, "000000")
        assert nobody.finish_session(needed.value.ticket, codes[0]).username == ADMIN
    with Cloud.sign_in(served.url, ADMIN, PASSWORD, code=codes[1]) as cloud:
        assert [user.username for user in cloud.users()] == [ADMIN]
    with pytest.raises(Unauthenticated):
        Cloud.sign_in(served.url, ADMIN, "wrong wrong wrong", code=codes[2])


def test_who_must_enrol_is_told_how(laptop: Laptop, served: Served) -> None:
    assert laptop.login().returncode == 0
    assert laptop.run("policy", "modify", "default", "--second-factor").returncode == 0
    assert "needed" in laptop.run("factor", "show", ADMIN).stdout
    again = laptop.login()
    assert again.returncode == 0 and "diycloud factor begin-totp" in again.stderr
    refused = laptop.run("user", "list")
    assert refused.returncode == 4 and "second factor must be set up first" in refused.stderr
    set_up(laptop)
    assert laptop.run("user", "list").returncode == 0
    last = laptop.run("factor", "remove-totp")
    assert last.returncode == 6 and "only second factor" in last.stderr
