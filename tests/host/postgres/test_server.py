"""The running platform on PostgreSQL: the move, the server's claim, PostgreSQL going away and coming back, secrets."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.conftest import OWN, cannot_run
from tests.invariants import query, settled
from tests.stack import ROOT, SERVER_USER, Stack

pytestmark = pytest.mark.skipif(bool(cannot_run()), reason=cannot_run() or "-")
PASSWORD = "correct horse battery"


def settings_of(stack: Stack) -> str:
    return (stack.prefix / "etc/diycloud/config.yaml").read_text()


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """A PostgreSQL that may be stopped."""
    with Cluster() as running:
        running.ensure_role(SERVER_USER)
        yield running


def test_the_move_from_beginning_to_end(own_cluster: Cluster) -> None:
    own_cluster.database("cloud", owner=SERVER_USER)
    url = f"postgresql:///cloud?host={own_cluster.folder}"
    with Stack(**OWN) as stack:
        stack.json("user", "create", "dtmada", "--password", "-", input=f"{PASSWORD}\n")
        assert "runs" in stack.cli("db", "move", url, ok=6).stderr, "not while somebody writes"
        stack.stop_server()
        before = settings_of(stack)
        refused = stack.cli("db", "move", "postgresql://u:hunter2@/cloud", ok=2)
        assert "hunter2" not in refused.stdout + refused.stderr and settings_of(stack) == before
        assert "changed" in stack.cli("db", "move", url, "--dry-run").stdout
        assert settings_of(stack) == before and stack.database().exists()
        report = stack.json("db", "move", url)
        assert report["moved"] and report["rows"]["users"] == 1
        assert f'database: "{url}"' in settings_of(stack)
        assert not stack.database().exists() and Path(report["kept"]).stat().st_mode & 0o777 == 0o600
        stack._cluster, stack._database = own_cluster, "cloud"
        stack.start_server()
        assert stack.token("dtmada", PASSWORD)
        stack.json("user", "create", "dtmbob")
        settled(stack, {"dtmada": PASSWORD})
        assert stack.cli("db", "move", url, ok=6).stderr, "once is enough"
        assert stack.json("db", "check")["rows"]["users"] == 2


def test_dirty_rows_are_told_of_and_mended_only_when_asked(own_cluster: Cluster) -> None:
    own_cluster.database("cloud", owner=SERVER_USER)
    url = f"postgresql:///cloud?host={own_cluster.folder}"
    with Stack(**OWN) as stack:
        stack.json("user", "create", "dtmada")
        stack.by_hand("UPDATE resource_allocations SET cpu_limit = 'many'")
        assert "cpu_limit: text" in stack.cli("db", "check", ok=6).stdout
        stack.stop_server()
        assert "cpu_limit: text" in stack.cli("db", "move", url, ok=6).stdout
        assert stack.database().exists() and "postgresql" not in settings_of(stack)
        stack.cli("db", "move", url, "--repair")
        stack.start_server()
        assert stack.json("user", "show", "dtmada")["limits"]["cpu"] == 1.0


def test_a_second_server_of_one_database_is_refused(own_cluster: Cluster) -> None:
    with Stack(**OWN, cluster=own_cluster) as stack:
        account = pwd.getpwnam(SERVER_USER)
        done = subprocess.run(
            [sys.executable, "-m", "diycloud.web.main", "--prefix", str(stack.prefix), "--port", "18999"],
            capture_output=True, text=True, check=False, user=account.pw_uid, group=account.pw_gid, extra_groups=[], cwd="/",
            env={"PATH": "/usr/bin", "PYTHONPATH": f"{ROOT}/src"},
        )  # fmt: skip
        assert done.returncode == 1 and "Another DIY Cloud server" in done.stderr
        stack.stop_server(9)
        stack.start_server()  # the one that was killed holds nothing


def test_postgresql_may_be_started_anew_under_the_server(own_cluster: Cluster) -> None:
    with Stack(**OWN, cluster=own_cluster) as stack:
        stack.json("user", "create", "dtmada")
        own_cluster.stop()
        own_cluster.start()
        stack.json("limits", "set", "dtmada", "--cpu", "0.3")
        assert stack.json("user", "show", "dtmada")["limits"]["cpu"] == 0.3
        own_cluster.stop()
        begun = time.monotonic()
        for words in (("user", "show", "dtmada"), ("limits", "set", "dtmada", "--cpu", "0.4")):
            assert "PostgreSQL does not answer" in stack.cli(*words, ok=9).stderr
        assert time.monotonic() - begun < 20
        own_cluster.start()
        assert stack.json("limits", "set", "dtmada", "--cpu", "0.4")["user"]["limits"]["cpu"] == 0.4
        settled(stack, {})


def test_a_password_is_in_nothing_that_people_see(own_cluster: Cluster) -> None:
    """It is read from its file; a wrong one is refused without being repeated."""
    secret = "hunter2-hunter2"
    own_cluster.sql(f"ALTER ROLE {SERVER_USER} PASSWORD '{secret}'")
    own_cluster.sql(f"CREATE DATABASE cloud OWNER {SERVER_USER}")
    own_cluster.require_password()
    with Stack(**OWN) as stack:
        file = stack.prefix / "etc/diycloud/database-password"
        file.write_text("wrong-wrong\n")
        os.chown(file, 0, pwd.getpwnam(SERVER_USER).pw_gid)
        file.chmod(0o640)
        stack.stop_server()
        words = (
            "db",
            "move",
            f"postgresql://{SERVER_USER}@/cloud?host={own_cluster.folder}",
            "--password-file",
            str(file),
        )
        refused = stack.cli(*words, ok=9)
        assert "password authentication failed" in refused.stderr and "wrong-wrong" not in refused.stderr
        file.write_text(f"{secret}\n")
        stack.cli(*words)
        stack.start_server()
        stack.json("user", "create", "dtmada")
        shown = settings_of(stack) + stack.log("server") + stack.log("agent") + stack.cli("config", "show").stdout
        assert secret not in shown + own_cluster.log()
        assert stack.server is not None
        seen = (
            Path(f"/proc/{stack.server.pid}/cmdline").read_bytes()
            + Path(f"/proc/{stack.server.pid}/environ").read_bytes()
        )
        assert secret.encode() not in seen


def test_rows_changed_by_hand_are_wishes_here_too(own_cluster: Cluster) -> None:
    with Stack(**OWN, cluster=own_cluster) as stack:
        stack.json("user", "create", "dtmada")
        own_cluster.sql("UPDATE users SET is_active = 0 WHERE username = 'dtmada'", "dtstack")
        assert stack.json("user", "show", "dtmada")["status"] == "inactive"
        assert query(stack, "SELECT is_active FROM users WHERE username = 'dtmada'") == [(0,)]
