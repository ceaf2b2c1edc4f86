"""SSH, su and console obey status, networks and codes where systemd and logind keep the sessions.

What is tried runs inside the machine, by its clock and with tests/host/pam_support.py: the machine's own ssh, su and login.
"""

from __future__ import annotations

import json

import pytest

from tests.vm.conftest import PASSWORD, Bed, wait_until

pytestmark = pytest.mark.slow

BEGIN = """
import json, os, ssl, subprocess, sys, time, urllib.error, urllib.request
sys.path.insert(0, "/src")
from pathlib import Path
from tests.host.pam_support import Bed, Typist, another_code, code_of, su

class Here(Bed):
    def __init__(self):
        self.folder, self.port = Path("/root/dtpam"), 22
        self.folder.mkdir(exist_ok=True)

def ask(method, path, body=None, token=""):
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    data = json.dumps(body or {}).encode() if method != "GET" else None
    request = urllib.request.Request("https://localhost/api/v1" + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, context=ssl._create_unverified_context()) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, {}

def login(name, password):
    return ask("POST", "/auth/login", {"username": name, "password": password})

def console(name, *typed):
    typist = Typist(["login"])
    try:
        typist.expect(r"login: ", name, 60)
        for text in typed:
            typist.expect(r"(Password|code): ", text, 60)
        if typist.expect(r"[$#] |incorrect", None, 60) == "incorrect":
            os.kill(typist.pid, 9)  # it asks for the next name, and would be waited for
            return False
        os.write(typist._terminal, b"echo it-is-$(id -un)\\n")
        typist.expect(f"it-is-{name}", "exit", 60)
    except AssertionError:
        return False
    finally:
        typist.end()
    return True

here = Here()
"""


def inside(bed: Bed, script: str) -> dict[str, object]:
    """Run a script after BEGIN in the machine; it prints what it found as JSON in its last line."""
    done = bed.machine.run(
        ["/opt/diycloud/venv/bin/python", "-"], input=f"PASSWORD = {PASSWORD!r}\n{BEGIN}{script}", timeout=600
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_codes_are_asked_for_by_ssh_su_and_console(bed: Bed) -> None:
    found = inside(
        bed,
        """
_, signed_in = login("alice", PASSWORD)
token = signed_in["token"]
_, begun = ask("POST", "/account/totp", token=token)
secret, shown = begun["secret"], code_of(begun["secret"])
status, _ = ask("PUT", "/account/totp", {"code": shown}, token)
found = {
    "activated": status,
    "without": here.gets_in("alice", PASSWORD, "000000"),
    "password only": here.gets_in("alice", PASSWORD, options=["PreferredAuthentications=password"]),
    "with": here.gets_in("alice", PASSWORD, first := another_code(secret, shown)),
    "again": here.gets_in("alice", PASSWORD, first),
    "su without": su("alice", PASSWORD, by=65534),
    "bob": here.gets_in("bob", PASSWORD),
    "root": su("alice", by=None),
}
time.sleep(31)
second = another_code(secret, shown, first)
found["su"] = su("alice", PASSWORD, second, by=65534)
time.sleep(31)
found["console"] = console("alice", PASSWORD, another_code(secret, shown, first, second))
print(json.dumps(found))
""",
    )
    assert found == {
        "activated": 200, "without": False, "password only": False, "with": True, "again": False, "su without": False,
        "bob": True, "root": True, "su": True, "console": True,
    }  # fmt: skip


def test_status_and_networks_hold_and_the_users_manager_starts(bed: Bed) -> None:
    bed.machine.run(["diycloud", "user", "modify", "alice", "--allowed-client-ip", "127.0.0.0/8,::1"])
    bed.machine.run(["diycloud", "user", "modify", "bob", "--allowed-client-ip", "192.0.2.0/24"])
    look = """
def ways(name):
    return [here.gets_in(name, PASSWORD), su(name, PASSWORD, by=65534), console(name, PASSWORD), su(name, by=None)]
print(json.dumps([ways("alice"), ways("bob")]))
"""
    assert inside(bed, look) == [[True, True, True, True], [False, False, False, True]]  # type: ignore[comparison-overlap]
    bed.machine.run(["loginctl", "enable-linger", "bob"])
    unit = f"user@{bed.bob.uid}.service"
    wait_until("the manager runs", lambda: bed.machine.run(["systemctl", "is-active", unit], ok=None).returncode == 0)
    bed.machine.run(["loginctl", "disable-linger", "bob"])
    bed.machine.run(["diycloud", "user", "disable", "alice"])
    bed.machine.run(["diycloud", "user", "delete", "bob"])
    assert inside(bed, look) == [[False] * 4, [False] * 4]  # type: ignore[comparison-overlap]


def test_passwd_changes_the_portals_password_too(bed: Bed) -> None:
    found = inside(
        bed,
        """
typist = Typist(["setpriv", "--reuid=alice", "--regid=alice", "--init-groups", "passwd"])
typist.expect(r"Current password: ", PASSWORD, 60)
typist.expect(r"New password: ", "another good phrase", 60)
typist.expect(r"Retype new password: ", "another good phrase", 60)
typist.expect(r"updated successfully", None, 60)
typist.end()
print(json.dumps([login("alice", PASSWORD)[0], login("alice", "another good phrase")[0]]))
""",
    )
    assert found == [401, 200]  # type: ignore[comparison-overlap]
