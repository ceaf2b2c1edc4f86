"""Account files as text: who is an administrator, who is locked, and that what is right costs no process."""

from __future__ import annotations

import time

import pytest

from diycloud.errors import Conflict, HostError, InvalidInput, PermissionDenied
from diycloud.host import accounts, password_fields, shadow
from diycloud.host.accounts import HostAccounts, PosixAccount, check_ordinary, check_shell
from diycloud.system import Owner, Result
from diycloud.system.fake import Fake, File

PASSWD = """root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
alice:x:20000:20000:Alice A,Room 1:/home/alice:/bin/bash
bob:x:20001:6::/home/bob:/bin/sh
carol:x:20002:20002::/home/carol:/bin/bash
"""
GROUP = "root:x:0:\nsudo:x:27:carol,dave\ndisk:x:6:\nalice:x:20000:\ncarol:x:20002:\nteam:x:900:alice\n"
SHADOW = "root:*:1:0:9:7:::\nalice:!$y$abc:20000:0:99999:7::1:\nbob:!:20000:0:99999:7:::\ncarol:$y$abc:20000:0:99999:7::30000:\n"
FILES = {
    "/etc/passwd": PASSWD,
    "/etc/group": GROUP,
    "/etc/shadow": SHADOW,
    "/etc/shells": "# shells\n/bin/bash\n/bin/sh\n",
}


def host(**files: str) -> HostAccounts:
    return HostAccounts(Fake(FILES | {path.replace("__", "/"): text for path, text in files.items()}))


def account(name: str) -> PosixAccount:
    found = host().get(name)
    assert found is not None
    return found


def test_lines_become_accounts() -> None:
    alice = account("alice")
    assert alice == PosixAccount(
        "alice", 20_000, 20_000, "Alice A,Room 1", "/home/alice", "/bin/bash", "!$y$abc", "1", "20000", "99999"
    )  # fmt: skip
    assert (alice.full_name, alice.locked, alice.open) == ("Alice A", True, False)
    assert (account("bob").locked, account("bob").open) == (False, True), "an account without a password is not locked"
    assert (account("carol").locked, account("carol").open) == (False, True), "an expiry date of others is not a lock"
    assert host().get("nobody-here") is None
    assert host().ids == {0, 1, 6, 27, 900, 20_000, 20_001, 20_002}
    assert [found.name for found in host().in_range(20_000, 20_001)] == ["alice", "bob"]


@pytest.mark.parametrize("line", ["mallory:x:0x0:0::/:/bin/sh", "mallory:x::0::/:/bin/sh", "mallory"])
def test_a_broken_line_is_an_error_of_its_own(line: str) -> None:
    files = FILES | {"/etc/passwd": f"{PASSWD}{line}\n"}
    with pytest.raises(HostError, match="mallory"):
        HostAccounts(Fake(files)).get("mallory")


@pytest.mark.parametrize(
    ("name", "allowed", "reason"),
    [("carol", ["sudo"], "sudo"), ("bob", ["disk"], "disk"), ("alice", [], "team"), ("root", [], "root|administrator")],
)
def test_who_is_an_administrator_is_not_ordinary(name: str, allowed: list[str], reason: str) -> None:
    """Also if a setting allows the group: some groups are as good as root."""
    with pytest.raises(PermissionDenied, match=reason):
        check_ordinary(host(), account(name), allowed_groups=allowed)


def test_a_group_can_be_allowed() -> None:
    check_ordinary(host(), account("alice"), allowed_groups=["team"])


@pytest.mark.parametrize(
    "rule",
    [
        "alice ALL=(ALL:ALL) ALL", "bob,alice ALL=ALL", "User_Alias OPS = bob, alice", "#20000 ALL=ALL", "%alice ALL=ALL",
        "%#20000 ALL=ALL", "\talice\tALL = NOPASSWD: ALL", '"alice" ALL=ALL', "permit nopass alice as root",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/etc/sudoers", "/etc/sudoers.d/extra", "/etc/doas.conf"])
def test_who_is_in_sudoers_is_not_ordinary(rule: str, path: str) -> None:
    found = HostAccounts(Fake(FILES | {path: f"# comment\n{rule}\n"}))
    with pytest.raises(PermissionDenied):
        check_ordinary(found, account("alice"), allowed_groups=["team"])


@pytest.mark.parametrize(
    "rule", ["# alice ALL=ALL", "malice ALL=ALL", "alice2 ALL=ALL", "#2000 ALL=ALL", "Defaults env_reset"]
)
def test_others_in_sudoers_are_others(rule: str) -> None:
    found = HostAccounts(Fake(FILES | {"/etc/sudoers": f"{rule}\n"}))
    check_ordinary(found, account("alice"), allowed_groups=["team"])


@pytest.mark.parametrize(
    "line", ["@include sudoers.local", "#include /etc/sudoers.local", '@includedir "/etc/more"', " #includedir more  "]
)
def test_files_that_sudoers_includes_count_too(line: str) -> None:
    files = {"/etc/sudoers": f"{line}\n@include /etc/sudoers\n", "/etc/sudoers.local": "alice ALL=ALL\n"}
    found = HostAccounts(Fake(FILES | files | {"/etc/more/one": "%alice ALL=ALL\n"}))
    with pytest.raises(PermissionDenied):
        check_ordinary(found, account("alice"), allowed_groups=["team"])


def test_shells_are_those_of_the_host() -> None:
    check_shell(host(), "/bin/sh")
    for shell in ("/bin/cat", "# shells", "", "/bin/bash "):
        with pytest.raises(InvalidInput):
            check_shell(host(), shell)


@pytest.mark.parametrize(
    ("name", "change", "command"),
    [
        ("alice", {"locked": True}, ""),
        ("alice", {"locked": False}, "usermod -U -e '' alice"),
        ("bob", {"locked": True}, "usermod -e 1970-01-02 bob"),
        ("bob", {"locked": False}, ""),
        ("carol", {"locked": True}, "usermod -L -e 1970-01-02 carol"),
        ("carol", {"locked": False}, ""),
        ("alice", {"shell": "/bin/bash", "full_name": "Alice A"}, ""),
        ("alice", {"shell": "/bin/sh", "full_name": "Al"}, "usermod -s /bin/sh -c 'Al,Room 1' alice"),
        ("carol", {"full_name": "-rf"}, "usermod -c -rf carol"),
    ],
)
def test_one_process_or_none(name: str, change: dict[str, object], command: str) -> None:
    fake = Fake(commands={command: ""} if command else {})
    assert accounts.change_account(fake, account(name), **change) is bool(command)  # type: ignore[arg-type]
    assert fake.ran == ([command] if command else [])


SHADOW = "root:*:19000:0:99999:7:::\nalice:!:19000:0:90:7::20000:\nbobby:x:1:0:99999:7:::\n"


def test_passwords_of_a_batch_are_one_write() -> None:
    fake = Fake({"/etc/shadow": SHADOW})
    fake.files["/etc/shadow"] = fake.files["/etc/shadow"]._replace(mode=0o640, owner=Owner(0, 42))
    day = int(time.time()) // 86_400
    password_fields.set_passwords(fake, {"bob": "$y$b", "alice": "!$y$a"})
    assert fake.ran == []
    assert fake.files["/etc/shadow"] == File(
        f"root:*:19000:0:99999:7:::\nalice:!$y$a:{day}:0:90:7::20000:\nbobby:x:1:0:99999:7:::\n"
        f"bob:$y$b:{day}:0:99999:7:::\n",
        mode=0o640,
        owner=Owner(0, 42),
    )


def test_without_shadow_passwords_go_by_standard_input() -> None:
    seen: list[str | None] = []

    def chpasswd(argv: object, input: str | None) -> Result:
        seen.append(input)
        return Result(0, "", "")

    fake = Fake(commands={"chpasswd -e": chpasswd})
    password_fields.set_passwords(fake, {"alice": "!$y$a", "bob": "$y$b"})
    assert seen == ["alice:!$y$a\nbob:$y$b\n"]
    assert fake.ran == ["chpasswd -e"]


USERADD = "useradd -M -u 20003 -d /home/dora -s /bin/sh -c Dora -K SUB_UID_COUNT=0 -K SUB_GID_COUNT=0"
WITH_GROUP = f"{USERADD} -U -K GID_MIN=20003 -K GID_MAX=20003 dora"


def add(fake: Fake, *, locked: bool = False) -> None:
    accounts.add_account(
        fake, HostAccounts(fake), "dora", 20_003, full_name="Dora", shell="/bin/sh", home="/home/dora", locked=locked
    )


def test_an_account_is_one_process() -> None:
    fake = Fake(FILES, {WITH_GROUP: ""})
    add(fake)
    assert fake.ran == [WITH_GROUP]
    fake = Fake(FILES, {WITH_GROUP.replace(" -U", " -e 1970-01-02 -U"): ""})
    add(fake, locked=True)


def test_the_group_of_a_start_that_was_cut_off_is_taken_up() -> None:
    fake = Fake(FILES | {"/etc/group": GROUP + "dora:x:20003:\n"}, {f"{USERADD} -N -g 20003 dora": ""})
    add(fake)


def test_among_many_groups_the_slow_way_is_not_taken() -> None:
    many = GROUP + "".join(f"g{number}:x:{30_000 + number}:\n" for number in range(3000))
    fake = Fake(FILES | {"/etc/group": many}, {"groupadd -g 20003 dora": "", f"{USERADD} -N -g 20003 dora": ""})
    add(fake)
    assert len(fake.ran) == 2


@pytest.mark.parametrize("status", [4, 9])
def test_a_name_or_number_that_the_files_do_not_show_is_a_conflict(status: int) -> None:
    with pytest.raises(Conflict):
        add(Fake(FILES, {WITH_GROUP: Result(status, "", "useradd: it exists")}))


def test_a_held_lock_is_waited_for_and_another_fault_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "WAIT_S", 1.0)
    answers = iter([Result(1, "", "useradd: cannot lock /etc/passwd; try again later."), Result(0, "", "")])
    fake = Fake(FILES, {WITH_GROUP: lambda argv, input: next(answers)})
    add(fake)
    assert len(fake.ran) == 2
    fake = Fake(FILES, {WITH_GROUP: Result(1, "", "useradd: cannot lock /etc/passwd; try again later.")})
    with pytest.raises(HostError, match="cannot lock"):
        add(fake)
    assert 3 <= len(fake.ran) <= 10
    fake = Fake(FILES, {WITH_GROUP: Result(12, "", "useradd: no space")})
    with pytest.raises(HostError, match="no space"):
        add(fake)
    assert len(fake.ran) == 1


@pytest.mark.parametrize(
    ("pam", "login_defs", "prefix"),
    [
        ("password [success=1] pam_unix.so obscure yescrypt\n", "ENCRYPT_METHOD SHA512\n", "$y$"),
        ("password sufficient pam_unix.so sha512 shadow\n", "ENCRYPT_METHOD YESCRYPT\n", "$6$"),
        ("password required pam_unix.so shadow\nauth required pam_unix.so sha256\n", "ENCRYPT_METHOD SHA512\n", "$6$"),
        ("# password pam_unix.so sha512\n", "#ENCRYPT_METHOD SHA256\n", "$y$"),
        ("password required pam_unix.so md5\n", "ENCRYPT_METHOD DES\n", "$y$"),
        ("", "", "$y$"),
    ],
)
def test_the_method_is_the_one_passwd_uses(
    pam: str, login_defs: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "supports", lambda wanted: True)
    fake = Fake({"/etc/pam.d/common-password": pam, "/etc/login.defs": login_defs})
    assert shadow.read_method(fake) == prefix


def test_what_libcrypt_cannot_do_becomes_sha512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "supports", lambda wanted: False)
    assert shadow.read_method(Fake()) == "$6$"
