"""Who gets in by PAM, tried with real sshd, su, login, passwd and pamtester: status, networks, codes, one password."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import cannot_run
from tests.host.pam_support import (
    OUTSIDER,
    PASSWORD,
    Bed,
    Typist,
    another_code,
    bed,
    code_of,
    pamtester,
    su,
    why_not,
)

REASON = cannot_run() or why_not()
pytestmark = [pytest.mark.skipif(bool(REASON), reason=REASON or "-"), pytest.mark.slow]
OTHER = "another good phrase"
HERE, ELSEWHERE = "127.0.0.0/8", "192.0.2.0/24"
_names = (f"dtpam{letter}{number}" for number in range(100) for letter in "abcdefgh")
_addresses = (f"198.51.{a}.{b}" for a, b in itertools.product(range(100, 120), range(1, 250)))


@pytest.fixture(scope="module")
def the_bed() -> Iterator[Bed]:
    with bed() as made:
        yield made


@pytest.fixture
def pam(the_bed: Bed) -> Bed:
    return the_bed


def person(pam: Bed, *options: str, password: str = PASSWORD) -> str:
    """Make a user with a password of their own and the key; returns the name."""
    name = next(_names)
    made = pam.stack.json("user", "create", name, "--password", password, *options)
    assert made["user"]["status"] == "active", made["warnings"]
    pam.stack.cli("key", "add", name, "--key", (pam.folder / "key.pub").read_text().strip())
    return name


def login(pam: Bed, name: str, password: str, **more: str) -> tuple[int, dict]:
    status, _, body = pam.stack.http(
        "POST", "/api/v1/auth/login", {"username": name, "password": password, **more},
        headers={"X-Forwarded-For": next(_addresses)},
    )  # fmt: skip
    return status, body


def as_user(pam: Bed, token: str, method: str, path: str, body: object = None) -> tuple[int, dict]:
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": "192.0.2.7"}
    status, _, answer = pam.stack.http(method, f"/api/v1{path}", body, headers=headers)
    return status, answer


def with_codes(pam: Bed, name: str) -> tuple[str, str]:
    """Have a user set up an app by REST; returns its secret and the code that was shown."""
    _, signed_in = login(pam, name, PASSWORD)
    status, begun = as_user(pam, signed_in["token"], "POST", "/account/totp")
    assert status in (200, 201), begun
    code = code_of(begun["secret"])
    status, answer = as_user(pam, signed_in["token"], "PUT", "/account/totp", {"code": code})
    assert status == 200, answer
    return begun["secret"], code


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def reconciled(pam: Bed) -> None:
    """Have the server compare the whole list with the host now."""
    pam.stack.stop_server()
    pam.stack.start_server()
    time.sleep(1.0)


def console(name: str, *typed: str) -> bool:
    """Tell whether login on a terminal opens a session."""
    typist = Typist(["login"])
    try:
        typist.expect(r"login: ", name)
        for text in typed:
            typist.expect(r"(Password|code): ", text)
        typist.expect(r"(\$|#) ", "echo it-is-$(id -un)", seconds=15)
        typist.expect(rf"it-is-{name}", "exit")
    except AssertionError:
        return False
    finally:
        typist.end()
    return True


def test_an_active_user_gets_in_everywhere(pam: Bed) -> None:
    name = person(pam)
    assert pam.gets_in(name, PASSWORD), pam.log()
    assert pam.gets_in(name, PASSWORD, options=["PreferredAuthentications=password"])
    assert pam.gets_in(name, key=True)
    assert not pam.gets_in(name, "wrong password")
    assert su(name, PASSWORD) and su(name, by=None) and not su(name, "wrong password")
    assert console(name, PASSWORD)
    assert pamtester("diycloud", name, PASSWORD) and not pamtester("diycloud", name, "wrong password")


def test_the_service_is_for_the_platforms_users_only(pam: Bed) -> None:
    assert not pamtester("diycloud", OUTSIDER, PASSWORD)
    assert not pamtester("diycloud", "root", PASSWORD, what="acct_mgmt")
    name = next(_names)
    subprocess.run(["useradd", "-M", "-u", "59689", name], check=True)
    subprocess.run(["chpasswd"], input=f"{name}:{PASSWORD}\n", text=True, check=True)
    assert not pamtester("diycloud", name, PASSWORD), "a number of the range alone makes nobody a user"
    assert pamtester("su", name, PASSWORD)


@pytest.mark.parametrize("how", ["disable", "delete"])
def test_whoever_is_disabled_or_deleted_gets_in_nowhere(pam: Bed, how: str) -> None:
    name = person(pam)
    pam.stack.cli("user", how, name)
    assert not pam.gets_in(name, PASSWORD) and not pam.gets_in(name, key=True)
    assert not su(name, PASSWORD) and not su(name, by=None)
    assert not console(name, PASSWORD)
    assert not pamtester("diycloud", name, PASSWORD)
    assert not pamtester("cron", name, what="acct_mgmt"), "no cron job runs"
    pam.stack.cli("user", "enable" if how == "disable" else "restore", name)
    assert pam.gets_in(name, PASSWORD) and pam.gets_in(name, key=True)


def test_who_comes_from_elsewhere_is_refused(pam: Bed) -> None:
    name = person(pam, "--allowed-client-ip", ELSEWHERE)
    assert not pam.gets_in(name, PASSWORD) and not pam.gets_in(name, key=True)
    own_key = Path(f"/home/{name}/.ssh")
    own_key.mkdir()
    (own_key / "authorized_keys").write_text((pam.folder / "key.pub").read_text())
    assert not pam.gets_in(name, key=True), "nor with a key that they put there themselves"
    assert not su(name, PASSWORD) and not console(name, PASSWORD)
    assert su(name, by=None), "root may become anybody"
    assert not pamtester("diycloud", name, PASSWORD, rhost="127.0.0.1")
    assert pamtester("diycloud", name, PASSWORD, rhost="192.0.2.8")
    for inside in ("cron", "sudo"):
        assert pamtester(inside, name, what="acct_mgmt"), f"{inside} is not a way in"
    pam.stack.cli("user", "modify", name, "--allowed-client-ip", f"{ELSEWHERE},{HERE}")
    assert pam.gets_in(name, PASSWORD) and pam.gets_in(name, key=True)
    assert su(name, PASSWORD) and console(name, PASSWORD)
    pam.stack.cli("user", "modify", name, "--allowed-client-ip", "2001:db8::/32")
    assert not pam.gets_in(name, PASSWORD) and pamtester("diycloud", name, PASSWORD, rhost="2001:db8::7")
    pam.stack.cli("user", "modify", name, "--allowed-client-ip", "")
    assert pam.gets_in(name, PASSWORD) and name not in (pam.files / "access").read_text()


def test_networks_written_by_hand_hold_after_the_next_look(pam: Bed) -> None:
    """What was lost on the host, and what people wrote into the database, is in force again."""
    name = person(pam, "--allowed-client-ip", ELSEWHERE)
    (pam.files / "access").write_text("")
    assert pam.gets_in(name, PASSWORD)
    reconciled(pam)
    assert eventually(lambda: not pam.gets_in(name, PASSWORD))
    pam.stack.by_hand("UPDATE users SET allowed_client_ip = 'the office' WHERE username = ?", name)
    reconciled(pam)
    assert eventually(lambda: "0.0.0.0/32" in (pam.files / "access").read_text())
    assert not pam.gets_in(name, PASSWORD), "networks that nobody can read let nobody in"


def test_a_second_factor_is_asked_for_and_taken_once(pam: Bed) -> None:
    name = person(pam)
    secret, shown = with_codes(pam, name)
    assert not pam.gets_in(name, PASSWORD, shown), "the portal has seen this one"
    first = another_code(secret, shown)
    assert pam.gets_in(name, PASSWORD, first), pam.log()
    assert "Verification code" in pam.prompts
    assert not pam.gets_in(name, PASSWORD, first), "a code is good once"
    status, answer = login(pam, name, PASSWORD, code=first)
    assert status == 401, f"nor does the portal take it: {answer}"
    assert not pam.gets_in(name, PASSWORD, options=["PreferredAuthentications=password"])
    assert pam.gets_in(name, key=True), "a key stands for itself"
    assert su(name, by=None)


def test_su_console_and_other_programs_ask_for_the_code_too(pam: Bed) -> None:
    name = person(pam)
    secret, shown = with_codes(pam, name)
    assert not su(name, PASSWORD)
    code = another_code(secret, shown)
    assert su(name, PASSWORD, code)
    assert not pamtester("diycloud", name, PASSWORD)
    time.sleep(31)  # the tries of half a minute are few
    code = another_code(secret, shown, code)
    assert pamtester("diycloud", name, PASSWORD, code)
    time.sleep(31)
    assert console(name, PASSWORD, another_code(secret, shown, code))


def test_a_code_of_the_portal_opens_no_session(pam: Bed) -> None:
    name = person(pam)
    secret, shown = with_codes(pam, name)
    code = another_code(secret, shown)
    status, answer = login(pam, name, PASSWORD, code=code)
    if status == 401:  # an older step than the one that was shown
        code = another_code(secret, shown, code)
        status, answer = login(pam, name, PASSWORD, code=code)
    assert status == 200, answer
    assert not pam.gets_in(name, PASSWORD, code)


def test_without_its_second_factor_again_a_password_does(pam: Bed) -> None:
    name = person(pam)
    with_codes(pam, name)
    assert not pam.gets_in(name, PASSWORD, "000000")
    pam.stack.cli("factor", "reset", name)
    assert pam.gets_in(name, PASSWORD)
    assert not (pam.files / "codes" / name).exists()


def test_who_must_set_one_up_first_is_told_so(pam: Bed) -> None:
    name = person(pam)
    pam.stack.by_hand("UPDATE policies SET second_factor = 1 WHERE name = 'default'")
    try:
        reconciled(pam)
        assert eventually(lambda: name in (pam.files / "uncoded").read_text())
        assert not pam.gets_in(name, PASSWORD) and not su(name, PASSWORD)
        told = subprocess.run(
            ["pamtester", "diycloud", name, "authenticate"], input=f"{PASSWORD}\n", capture_output=True, text=True
        )
        assert "portal" in told.stdout
        assert pam.gets_in(name, key=True)
    finally:
        pam.stack.by_hand("UPDATE policies SET second_factor = 0 WHERE name = 'default'")
        reconciled(pam)
    assert eventually(lambda: pam.gets_in(name, PASSWORD))


def change_by_passwd(name: str, old: str, new: str) -> None:
    """Have a user change their password with passwd, at a terminal."""
    typist = Typist(["setpriv", f"--reuid={name}", f"--regid={name}", "--init-groups", "passwd"])
    typist.expect(r"Current password: ", old)
    typist.expect(r"New password: ", new)
    typist.expect(r"Retype new password: ", new)
    typist.expect(r"updated successfully")
    typist.end()


def test_a_password_of_passwd_is_the_portals_too(pam: Bed) -> None:
    name = person(pam)
    _, before = login(pam, name, PASSWORD)
    change_by_passwd(name, PASSWORD, OTHER)
    assert login(pam, name, PASSWORD)[0] == 401, "the old one is dead at once"
    assert login(pam, name, "wrong password")[0] == 401
    status, after = login(pam, name, OTHER)
    assert status == 200, after
    assert as_user(pam, before["token"], "GET", f"/users/{name}")[0] == 401, "what was open has ended"
    assert as_user(pam, after["token"], "GET", f"/users/{name}")[0] == 200
    assert login(pam, name, OTHER)[0] == 200
    pam.stack.stop_agent()
    try:
        assert login(pam, name, OTHER)[0] == 200, "the portal knows it by itself now"
    finally:
        pam.stack.start_agent()
    pam.stack.cli("user", "set-password", name, "--password", PASSWORD)
    assert login(pam, name, PASSWORD)[0] == 200 and pam.gets_in(name, PASSWORD), "and the later change wins"
    assert login(pam, name, OTHER)[0] == 401


def test_an_account_that_was_adopted_brings_its_password(pam: Bed) -> None:
    name = next(_names)
    subprocess.run(["useradd", "-m", "-u", "59640", "-s", "/bin/bash", name], check=True)
    subprocess.run(["chpasswd"], input=f"{name}:{OTHER}\n", text=True, check=True)
    pam.stack.cli("user", "adopt", name)
    assert login(pam, name, PASSWORD)[0] == 401
    assert login(pam, name, OTHER)[0] == 200 and login(pam, name, OTHER)[0] == 200
    assert pam.gets_in(name, OTHER)


@pytest.mark.parametrize("tool", ["chpasswd", "usermod"])
def test_sessions_end_when_the_password_changes_on_the_host(pam: Bed, tool: str) -> None:
    name = person(pam)
    _, before = login(pam, name, PASSWORD)
    if tool == "chpasswd":
        subprocess.run(["chpasswd"], input=f"{name}:{OTHER}\n", text=True, check=True)
    else:
        made = subprocess.run(["openssl", "passwd", "-6", OTHER], capture_output=True, text=True, check=True)
        subprocess.run(["usermod", "-p", made.stdout.strip(), name], check=True)
    reconciled(pam)
    assert eventually(lambda: as_user(pam, before["token"], "GET", f"/users/{name}")[0] == 401)
    pam.stack.stop_agent()
    try:
        assert login(pam, name, PASSWORD)[0] == 401, "void, whether the agent is there or not"
    finally:
        pam.stack.start_agent()
    assert login(pam, name, OTHER)[0] == 200


def test_a_password_for_one_time_is_changed_at_the_first_sign_in(pam: Bed) -> None:
    name = next(_names)
    first = pam.stack.json("user", "create", name)["password"]
    pam.stack.cli("key", "add", name, "--key", (pam.folder / "key.pub").read_text().strip())
    assert pam.gets_in(name, key=True) and su(name, by=None), "who did not use the password need not change it"
    assert not pam.gets_in(name, first), "without a terminal there is no way to change it"
    argv = ["ssh", "-F", "none", "-tt", "-p", str(pam.port), "-o", "StrictHostKeyChecking=no"]
    argv += ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "PubkeyAuthentication=no"]
    typist = Typist([*argv, f"{name}@127.0.0.1"])
    typist.expect(r"[Pp]assword: ", first)
    typist.expect(r"Current password: ", first)
    typist.expect(r"New password: ", OTHER)
    typist.expect(r"Retype new password: ", OTHER)
    typist.end()
    assert pam.gets_in(name, OTHER), pam.log()
    reconciled(pam)
    time.sleep(2)
    assert pam.gets_in(name, OTHER), "it is their own now, whatever the portal has not heard yet"
    assert login(pam, name, first)[0] == 401
    status, body = login(pam, name, OTHER)
    assert status == 200 and body["must_change_password"] is False


def test_an_expired_password_asks_for_another(pam: Bed) -> None:
    name = person(pam)
    subprocess.run(["chage", "-M", "10", "-d", "2020-01-01", name], check=True)
    assert not pam.gets_in(name, PASSWORD) and not su(name, PASSWORD)
    assert pam.gets_in(name, key=True) and su(name, by=None)


def spoil(path: Path, how: str) -> None:
    path.unlink()
    if how == "garbage":
        path.write_bytes(bytes(range(256)) * 8)
    elif how == "empty":
        path.write_text("")
    elif how == "a folder":
        path.mkdir()


@pytest.mark.parametrize("how", ["missing", "garbage", "empty", "a folder"])
def test_broken_files_keep_out_neither_root_nor_the_hosts_own_people(pam: Bed, how: str) -> None:
    name = person(pam)
    secret, shown = with_codes(pam, name)
    pam.stack.cli("user", "modify", name, "--allowed-client-ip", HERE)
    files = [pam.files / part for part in ("access", "coded", "uncoded", f"codes/{name}")]
    kept = {path: path.read_bytes() for path in files}
    pam.stack.stop_agent()
    try:
        for path in files:
            spoil(path, how)
        assert pamtester("su", "root", what="acct_mgmt open_session")
        assert pam.gets_in(OUTSIDER, PASSWORD), pam.log()
        assert su(OUTSIDER, PASSWORD, by=59_991) and su(OUTSIDER, by=None) and su(name, by=None)
        assert console(OUTSIDER, PASSWORD)
    finally:
        for path in files:
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        pam.stack.start_agent()
    reconciled(pam)
    assert eventually(lambda: all(path.exists() for path in kept)), "the next look brings them back"
    time.sleep(2)
    assert pam.gets_in(name, PASSWORD, another_code(secret, shown))


def test_a_missing_module_refuses_only_those_who_need_it(pam: Bed) -> None:
    name, plain = person(pam), person(pam)
    secret, shown = with_codes(pam, name)
    (module,) = Path("/usr/lib").glob("*/security/pam_google_authenticator.so")
    away = module.with_suffix(".away")
    module.rename(away)
    try:
        assert not pam.gets_in(name, PASSWORD, another_code(secret, shown))
        assert pam.gets_in(name, key=True)
        assert pam.gets_in(plain, PASSWORD) and pam.gets_in(OUTSIDER, PASSWORD)
        assert su(name, by=None)
    finally:
        away.rename(module)


def test_a_platform_that_does_not_run_keeps_nobody_out(pam: Bed) -> None:
    name = person(pam, "--allowed-client-ip", HERE)
    other = person(pam, "--allowed-client-ip", ELSEWHERE)
    pam.stack.stop_agent()
    try:
        assert pam.gets_in(name, PASSWORD), pam.log()[-3000:]
        assert pam.gets_in(OUTSIDER, PASSWORD)
        assert not pam.gets_in(other, PASSWORD), "what was decided still holds"
    finally:
        pam.stack.start_agent()


def test_nothing_is_left_of_a_purged_user(pam: Bed) -> None:
    name = person(pam)
    with_codes(pam, name)
    pam.stack.cli("user", "modify", name, "--allowed-client-ip", HERE)
    pam.stack.cli("user", "delete", name)
    pam.stack.cli("user", "purge", name, "--yes")
    left = [p for p in (pam.stack.prefix / "var/lib/diycloud").rglob("*") if p.is_file() and "server" not in p.parts]
    assert not [str(path) for path in left if name in path.read_text(errors="replace") or path.name == name]
