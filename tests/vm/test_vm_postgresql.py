"""The database in Debian's own PostgreSQL, by the recipe of docs/how-to/postgresql.md, on a machine with systemd."""

from __future__ import annotations

import json
import time

import pytest

from tests.vm.conftest import MIB, PASSWORD, Bed, Person, wait_until

pytestmark = pytest.mark.slow

AWAY = "PostgreSQL does not answer"


@pytest.fixture(scope="module")
def moved(installed: Bed) -> Bed:
    """The machine with its data moved to PostgreSQL; saved as `moved`."""
    machine = installed.machine
    machine.reset("installed")
    machine.run("systemctl enable --quiet --now postgresql")
    machine.run("cd / && runuser -u postgres -- createuser diycloud")
    create = "createdb --owner diycloud --encoding UTF8 --template template0 diycloud"
    machine.run(f"cd / && runuser -u postgres -- {create}")
    assert "Stop it first" in machine.run("diycloud db move postgresql:///diycloud", ok=(6,)).stderr
    machine.run("diycloud down")
    machine.run("diycloud db move postgresql:///diycloud")
    machine.run("diycloud install", timeout=300)
    machine.save("moved")
    return installed


@pytest.fixture
def bed(moved: Bed) -> Bed:
    moved.machine.reset("moved")
    return moved


def test_the_server_stays_confined_and_limits_hold(bed: Bed) -> None:
    machine = bed.machine
    assert "ok    database: PostgreSQL" in machine.run("diycloud doctor").stdout
    limits = ["--cpu", "0.4", "--memory", "128M", "--tasks", "50"]
    words = ["diycloud", "user", "create", "--username", "carol", *limits, "--password", "-"]
    machine.run(words, input=f"{PASSWORD}\n")
    names = machine.run("cd / && runuser -u postgres -- psql -d diycloud -Atc 'SELECT username FROM users'").stdout
    assert set(names.split()) == {"admin", "alice", "bob", "carol"}
    carol = Person("carol", int(machine.run("id -u carol").stdout), 0.4, 128 * MIB, 50)
    look = f"cat /proc/self/cgroup {carol.slice}/cpu.max {carol.slice}/memory.max"
    group, *values = bed.login(carol, look).stdout.split()
    assert group.startswith(f"0::/user.slice/user-{carol.uid}.slice/session-")
    assert values == ["40000", "100000", str(carol.memory)]
    assert bed.portal_login("alice") == 200
    verdict = machine.run("systemd-analyze security --no-pager diycloud-server.service").stdout
    assert float(verdict.rsplit("diycloud-server.service:", 1)[1].split()[0]) <= 1.5
    unit = machine.run("systemctl show -p RestrictAddressFamilies -p PrivateNetwork -p After diycloud-server").stdout
    assert {"RestrictAddressFamilies=AF_UNIX", "PrivateNetwork=yes"} <= set(unit.splitlines())
    assert "postgresql.service" in unit


def test_while_postgresql_is_away_all_say_so_and_it_is_taken_up_by_itself(bed: Bed) -> None:
    machine = bed.machine
    machine.run("systemctl restart postgresql")
    machine.run("diycloud limits set alice --cpu 0.4")

    machine.run("systemctl stop postgresql")
    assert AWAY in machine.run("diycloud user show alice", ok=(9,)).stderr
    assert bed.portal_login("alice") == 503
    machine.run("systemctl restart diycloud-server")  # it waits, and is not given up
    wait_until("the server says what it waits for", lambda: _logged(bed, "waiting for the database") == 1)
    assert AWAY in machine.run("diycloud status", ok=(9,)).stdout
    assert f"FAIL  database: {AWAY}" in machine.run("diycloud doctor", ok=(9,)).stdout
    for change in ("user show alice", "limits set alice --cpu 0.3"):
        refused = machine.run(f"diycloud {change}", ok=(9,)).stderr
        assert AWAY in refused and "Traceback" not in refused
    assert bed.portal_login("alice") == 503
    # Who is signed in, and who signs in over ssh, does not depend on it.
    assert bed.login(bed.alice, f"cat {bed.alice.slice}/cpu.max").stdout == "40000 100000\n"

    assert _logged(bed, "waiting for the database") == 1  # said once, not at every try

    machine.run("systemctl start postgresql")
    began = time.monotonic()
    wait_until("the portal is back", lambda: bed.portal_login("alice") == 200)
    print(f"back after {time.monotonic() - began:.0f} s")
    shown = json.loads(machine.run("diycloud user show alice --json").stdout)
    assert shown["limits"]["cpu"] == 0.4
    assert machine.run("systemctl show -P NRestarts diycloud-server").stdout == "0\n"


def _logged(bed: Bed, what: str) -> int:
    return bed.machine.run("journalctl --unit diycloud-server --boot --quiet --output cat").stdout.count(what)
