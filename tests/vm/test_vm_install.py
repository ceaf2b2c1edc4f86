"""The installation on a machine with systemd: what runs, how it is confined, and that uninstalling leaves nothing."""

from __future__ import annotations

import json
import re

import pytest

from tests.bare.tree import differences
from tests.vm.conftest import Bed, snapshot_of

pytestmark = pytest.mark.slow

# What goes on by itself on any running machine, and what using accounts leaves in the host's own files.
MOVING = (
    *("/var/log", "/var/lib/systemd", "/var/cache", "/var/tmp", "/tmp", "/root/.cache", "/src"),
    *("/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-"),
    *("/etc/.pwd.lock", "/var/lib/pam/seen", "/home/lost+found", "/var/lib/lastlog"),
)
# The image brings the program's environment along, and uninstalling takes it away.
BROUGHT = ("/opt/diycloud",)


def test_everything_runs_and_starts_at_boot(bed: Bed) -> None:
    for unit in ("diycloud-agent", "diycloud-server", "nginx"):
        assert bed.machine.run(["systemctl", "is-active", unit]).stdout == "active\n"
        assert bed.machine.run(["systemctl", "is-enabled", unit]).stdout == "enabled\n"
    assert bed.machine.run("systemctl --failed --no-legend").stdout == ""
    bed.machine.run(["diycloud", "doctor"])


def test_only_nginx_and_ssh_listen_on_the_network(bed: Bed) -> None:
    listening = bed.machine.run("ss --listening --tcp --udp --numeric --processes --no-header").stdout.splitlines()
    assert {re.search(r'\("([^"]+)"', line)[1] for line in listening} <= {"nginx", "sshd"}  # type: ignore[index]


def test_the_servers_unit_is_confined(bed: Bed) -> None:
    """`systemd-analyze security` of the running unit, after somebody signed in at the portal."""
    assert bed.portal_login("alice") == 200
    verdict = bed.machine.run("systemd-analyze security --no-pager diycloud-server.service").stdout
    exposure = float(verdict.rsplit("diycloud-server.service:", 1)[1].split()[0])
    print(f"exposure of the server's unit: {exposure}")
    assert exposure <= 1.5
    status = bed.machine.run("cat /proc/$(systemctl show -P MainPID diycloud-server)/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    assert "0" not in fields["Uid"].split()


def test_installing_again_changes_nothing(bed: Bed) -> None:
    before = snapshot_of(bed.machine)
    bed.machine.run("cd /src && ./install.sh", timeout=600)
    changed = differences(before, snapshot_of(bed.machine), (*MOVING, "/var/lib/diycloud", "/opt/diycloud/lib"))
    assert changed == {}
    listed = json.loads(bed.machine.run(["diycloud", "user", "list", "--json"]).stdout)
    assert "alice" in json.dumps(listed)


def test_uninstalling_leaves_nothing(bed: Bed) -> None:
    bed.login(bed.alice, "touch file; mkdir -p .config && echo x > .config/x")
    bed.machine.run(["diycloud", "uninstall", "--yes", "--remove-homes"], timeout=300)
    left = differences(bed.files, snapshot_of(bed.machine), (*MOVING, *BROUGHT))
    assert left == {}
    for place in ("/opt/diycloud", "/etc/diycloud", "/var/lib/diycloud", "/var/log/diycloud", "/run/diycloud"):
        assert bed.machine.run(["ls", "-d", place], ok=None).returncode == 2
    assert bed.machine.run("getent passwd alice bob diycloud", ok=None).stdout == ""
    assert bed.machine.run("ps -eo user:20,args | grep '[d]iycloud'", ok=None).stdout == ""
    assert bed.machine.run("systemctl list-units --all --no-legend 'diycloud*' 'user-200*'").stdout == ""
    assert bed.machine.run("systemctl --failed --no-legend").stdout == ""


def test_uninstalling_keeps_people_and_homes_unless_asked(bed: Bed) -> None:
    bed.login(bed.alice, "echo mine > file")
    bed.machine.run(["diycloud", "uninstall", "--yes"], timeout=300)
    assert (
        bed.login(bed.alice, "cat file; cat /sys/fs/cgroup/user.slice/user-$(id -u).slice/cpu.max").stdout
        == "mine\nmax 100000\n"
    )
