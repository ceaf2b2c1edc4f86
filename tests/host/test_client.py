"""The client and the command line over real TLS: agent, server, Nginx with the platform's own authority."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from diycloud.client import Cloud, session, trust
from diycloud.errors import Conflict, Unauthenticated
from diycloud.users.actions import CreateUser, DeleteUser, DisableUser, ListUsers, PurgeUser, SetLimits, ShowUser
from tests.browser.front import ADMIN, ADMIN_ONE_TIME, ADMIN_PASSWORD, Front, running_front
from tests.stack import ROOT

SCRIPTING = ROOT / "docs/how-to/scripting.md"


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with running_front(58_000, 58_499, "dtcli") as running:
        yield running


@pytest.fixture(scope="module")
def laptop(front: Front, tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    """Somebody who is not root, signed in as the administrator, who chose a password first."""
    found = Laptop(front, tmp_path_factory.mktemp("laptop"))
    known = trust.fingerprint((front.folder / "ca.crt").read_text())
    words = ["login", front.url, "--username", ADMIN, "--password", "-", "--fingerprint", known]
    done = found.run(*words, stdin=ADMIN_ONE_TIME + "\n")
    assert (done.returncode, "account password" in done.stderr) == (0, True), done.stderr
    refused = found.run("user", "list")
    assert refused.returncode == 4, "nothing but the password, first"
    words = ["account", "password", "--current", "-", "--password", "-"]
    done = found.run(*words, stdin=f"{ADMIN_ONE_TIME}\n{ADMIN_PASSWORD}\n")
    assert done.returncode == 0, done.stderr
    return found


class Laptop:
    """Runs the command line as nobody (uid 65534), with a home of its own."""

    def __init__(self, front: Front, home: Path) -> None:
        self.front, self.config = front, Path("/var/tmp") / f"dtcli-{os.getpid()}"
        self.config.mkdir(mode=0o700, exist_ok=True)
        os.chown(self.config, 65534, 65534)

    def run(self, *words: str, stdin: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}/src", "XDG_CONFIG_HOME": str(self.config), **environ}
        return subprocess.run(
            [sys.executable, "-m", "diycloud.cli.main", *words], input=stdin or "", capture_output=True, text=True,
            check=False, cwd="/", env=env, user=65534, group=65534, extra_groups=[],
        )  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def tidy() -> Iterator[None]:
    yield
    folder = Path("/var/tmp") / f"dtcli-{os.getpid()}"
    for path in folder.glob("diycloud/*"):
        path.unlink()
    for path in (folder / "diycloud", folder):
        if path.exists():
            path.rmdir()


@pytest.fixture
def cloud(front: Front, laptop: Laptop) -> Iterator[Cloud]:
    with Cloud.sign_in(front.url, ADMIN, ADMIN_PASSWORD, ca=front.folder / "ca.crt") as found:
        yield found


def test_a_laptop_makes_a_real_account(front: Front, laptop: Laptop) -> None:
    kept = laptop.config / "diycloud/session.json"
    assert (kept.stat().st_mode & 0o777, kept.stat().st_uid) == (0o600, 65534)
    made = laptop.run("user", "create", "dtcliann", "--cpu", "0.5", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["user"]["status"] == "active"
    assert pwd.getpwnam("dtcliann").pw_uid == json.loads(made.stdout)["user"]["uid"]
    assert front.cgroup("cpu", "dtcliann", "cpu.cfs_quota_us") == "50000"
    assert laptop.run("limits", "set", "dtcliann", "--cpu", "2").returncode == 0
    assert front.cgroup("cpu", "dtcliann", "cpu.cfs_quota_us") == "200000"
    again = laptop.run("user", "create", "dtcliann")
    assert (again.returncode, "dtcliann" in again.stderr) == (6, True)
    entries = front.stack.json("audit", "list", "--action", "user.create")["entries"]
    assert {(entry["actor"], entry["via"], entry["address"]) for entry in entries} >= {(ADMIN, "rest", "127.0.0.1")}


def test_root_on_the_server_asks_the_socket_unless_told_otherwise(front: Front, laptop: Laptop) -> None:
    assert front.stack.json("whoami")["username"] == "root"
    words = [sys.executable, "-m", "diycloud.cli.main", "--prefix", str(front.stack.prefix), "--server", front.url]
    done = subprocess.run([*words, "user", "list"], capture_output=True, text=True, check=False)
    assert (done.returncode, "Nobody is signed in" in done.stderr) == (3, True)


def test_a_stranger_gets_nowhere(front: Front, laptop: Laptop) -> None:
    done = laptop.run("user", "list", XDG_CONFIG_HOME="/nonexistent")
    assert (done.returncode, "diycloud login" in done.stderr) == (4, True)
    unknown = laptop.run(
        "login", front.url, "--username", ADMIN, "--password", "-", stdin="x\n", XDG_CONFIG_HOME="/nonexistent"
    )
    assert (unknown.returncode, "--fingerprint" in unknown.stderr) == (9, True)


def test_python_end_to_end(front: Front, cloud: Cloud) -> None:
    names = [f"dtclib{number}" for number in range(12)]
    report = cloud.bulk([CreateUser(username=name, cpu=0.25) for name in names], connections=4)
    assert [row.result and row.result.user.username for row in report.rows] == names
    assert all(pwd.getpwnam(name) for name in names)
    assert [user.username for user in cloud.users(search="dtclib", limit=5, sort="username")] == sorted(names)
    assert cloud.run(SetLimits(username=names[0], cpu=1)).user.limits.cpu == 1
    assert front.cgroup("cpu", names[0], "cpu.cfs_quota_us") == "100000"
    gone = cloud.bulk([DeleteUser(username=name) for name in names])
    assert gone.failed == []
    cloud.run(PurgeUser(username=names[0]))
    with pytest.raises(KeyError):
        pwd.getpwnam(names[0])
    with pytest.raises(Conflict):
        cloud.run(DisableUser(username=names[1]))


def test_a_restart_of_the_server_is_waited_out(front: Front, cloud: Cloud) -> None:
    cloud.run(ListUsers())
    front.stack.stop_server()
    later = threading.Timer(1.0, front.stack.start_server)
    later.start()
    try:
        assert cloud.run(ListUsers()).total >= 1, "503 with Retry-After is Nginx's word while the server is away"
    finally:
        later.join()


def test_signing_out_is_for_good(front: Front, laptop: Laptop, cloud: Cloud) -> None:
    assert laptop.run("whoami").returncode == 0
    token = json.loads((laptop.config / "diycloud/session.json").read_text())["token"]
    assert laptop.run("logout").returncode == 0
    kept = session.Session(front.url, token=token, authority=(front.folder / "ca.crt").read_text())
    with Cloud.of_session(kept) as gone, pytest.raises(Unauthenticated):
        gone.run(ShowUser(username=ADMIN))
    assert laptop.run("user", "list").returncode == 3
    back = laptop.run("login", "--username", ADMIN, "--password", "-", stdin=ADMIN_PASSWORD + "\n")
    assert back.returncode == 0, "the authority is still known"


def test_the_examples_of_the_page_run(
    front: Front, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIYCLOUD_URL", front.url)
    monkeypatch.setenv("DIYCLOUD_TOKEN", cloud.begin_session(ADMIN, ADMIN_PASSWORD).token)
    monkeypatch.setenv("DIYCLOUD_CA", str(front.folder / "ca.crt"))
    examples = re.findall(r"```python\n(.*?)```", SCRIPTING.read_text(encoding="utf-8"), re.S)
    names: dict[str, object] = {}
    shown = []
    for example in examples:
        # the page's people must not be taken for this machine's
        own = re.sub(r"(?<=\"|n)(ada|ben|cleo|dora|emil)(?=\"|,)", r"dtcli\1", example)
        exec(compile(own, str(SCRIPTING), "exec"), names)
        shown.append(capsys.readouterr().out)
    assert len(examples) == 7
    assert shown[0].startswith("dtcliada 512M ") and shown[0].endswith("\n1.5\n")
    assert "dtcliada active" in shown[1] and "user.create done" in shown[1]
    assert re.fullmatch(r"dtcliben \S+\ndtclicleo \S+\ndtcliada .*dtcliada.*\n", shown[2])
    assert sorted(shown[3].splitlines()) == ["2 0", "dtclidora created", "dtcliemil created"]
    assert "user.import" in (tmp_path / "audit.csv").read_text()
    assert "['username', 'cpu']" in shown[5] and "HTTP 409, request" in shown[5]
    assert cloud.run(ShowUser(username="dtcliada")).full_name == "Augusta Ada King"
