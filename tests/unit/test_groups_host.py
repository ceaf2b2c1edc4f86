"""Groups on the host: names that may not be, who is in which, and the shared folder on a real disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from diycloud.errors import Conflict, HostError, PermissionDenied, Unsupported
from diycloud.host import groups
from diycloud.host.accounts import HostAccounts
from diycloud.host.groups import ACL, check_new_group, ensure_folder, render_acl, set_memberships, trash_folder
from diycloud.system import Local, Owner, Result
from diycloud.system.fake import Fake, File
from diycloud.system.recording import Recording

PASSWD = "root:x:0:0:root:/root:/bin/bash\nalice:x:20000:20000::/home/alice:/bin/bash\nzoe:x:1500:1500::/:/bin/sh\n"
GROUP = "root:x:0:\nsudo:x:27:zoe\nalice:x:20000:\nchem:x:10000:alice,zoe\nbio:x:10001:\nteam:x:900:alice\n"
GSHADOW = "root:*::\nsudo:*::zoe\nalice:!::\nchem:!:zoe:alice,zoe\nbio:!::\nteam:!::alice\n"
SUDOERS = "root ALL=ALL\n%ops ALL=ALL\n%#10007 ALL=ALL\nUser_Alias STAFFERS = %lab, carol\n"
MANAGED = ("chem", "bio")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to a group")


def host(**files: str) -> Fake:
    given = {"/etc/passwd": PASSWD, "/etc/group": GROUP, "/etc/gshadow": GSHADOW, "/etc/sudoers": SUDOERS}
    return Fake(given | {path.replace("__", "/"): text for path, text in files.items()})


@pytest.mark.parametrize("name", ["chem", "team", "sudo", "alice", "zoe"])
def test_what_exists_is_no_new_group(name: str) -> None:
    with pytest.raises((Conflict, PermissionDenied), match=name):
        check_new_group(HostAccounts(host()), name)


@pytest.mark.parametrize(
    "name", ["docker", "wheel", "lxd", "incus-admin", "systemd-x", "postgres", "ops", "lab", "carol"]
)
def test_rights_that_wait_for_a_group_go_to_nobody(name: str) -> None:
    with pytest.raises(PermissionDenied):
        check_new_group(HostAccounts(host()), name)


def test_a_free_name_may_be_a_group() -> None:
    check_new_group(HostAccounts(host()), "physics")


def test_sudoers_names_groups_by_name_and_number() -> None:
    found = HostAccounts(host(__etc__doas="", __etc__sudoers=SUDOERS))
    assert found.is_group_of_sudoer("ops", 5)
    assert found.is_group_of_sudoer("physics", 10_007)
    assert not found.is_group_of_sudoer("physics", 1000)
    assert HostAccounts(Fake({"/etc/doas.conf": "permit nopass :chem\n"})).is_group_of_sudoer("chem", 10_000)


def test_members_of_a_batch_change_by_one_write_of_each_file() -> None:
    recording = Recording(host())
    changed = set_memberships(recording, MANAGED, {"alice": ["bio"], "bob": ["chem", "bio"], "zoe": ["chem"]})
    assert changed == {"alice", "bob"}
    assert recording.effects == ["replace /etc/group", "replace /etc/gshadow"]
    assert recording.read("/etc/group") == GROUP.replace("chem:x:10000:alice,zoe", "chem:x:10000:zoe,bob").replace(
        "bio:x:10001:", "bio:x:10001:alice,bob"
    )
    assert recording.read("/etc/gshadow") == GSHADOW.replace("chem:!:zoe:alice,zoe", "chem:!:zoe:zoe,bob").replace(
        "bio:!::", "bio:!::alice,bob"
    )


def test_nothing_is_written_and_no_lock_taken_if_nothing_changes() -> None:
    class Unlockable(Fake):
        def locked(self, path: str | Path, *, patience_s: float = 30) -> None:  # type: ignore[override]
            raise AssertionError(f"{path} was locked")

    recording = Recording(Unlockable({"/etc/group": GROUP, "/etc/gshadow": GSHADOW}))
    assert set_memberships(recording, MANAGED, {"alice": ["chem"], "zoe": ["chem"], "bob": []}) == set()
    assert set_memberships(recording, (), {"alice": []}) == set()
    assert recording.effects == []


def test_groups_that_are_not_named_are_nobodys_business() -> None:
    fake = host()
    assert set_memberships(fake, MANAGED, {"alice": ["team", "sudo", "root"]}) == {"alice"}
    assert fake.read("/etc/group") == GROUP.replace("10000:alice,zoe", "10000:zoe")


def test_a_crash_between_the_two_files_is_mended() -> None:
    fake = host(__etc__group="")
    fake.write("/etc/group", GROUP.replace("10001:", "10001:alice"))
    assert set_memberships(fake, MANAGED, {"alice": ["bio", "chem"]}) == {"alice"}
    assert fake.read("/etc/gshadow") == GSHADOW.replace("bio:!::", "bio:!::alice")


def test_a_host_without_gshadow_gets_none() -> None:
    fake = Fake({"/etc/group": GROUP})
    assert set_memberships(fake, MANAGED, {"alice": []}) == {"alice"}
    assert not fake.exists("/etc/gshadow")


@pytest.mark.parametrize("line", ["chem", "chem:x", "chem:x:10000", "chem:x:10000:a:b", "", "#chem:x:1:"])
def test_a_broken_line_is_left_to_grpck(line: str) -> None:
    fake = Fake({"/etc/group": f"{line}\nbio:x:10001:,,alice,\n"})
    assert set_memberships(fake, MANAGED, {"alice": ["chem"], "bob": ["bio"]}) == {"alice", "bob"}
    assert fake.read("/etc/group") == f"{line}\nbio:x:10001:bob\n"
    assert groups.read_memberships(fake, MANAGED) == {"bob": {"bio"}}


def test_tools_make_and_remove_the_group() -> None:
    fake = host()
    fake.commands = {
        "groupadd -g 10002 physics": "", "groupadd -g 10000 physics": Result(4, "", ""), "groupdel chem": "",
        "groupdel bio": Result(8, "", "primary group"), "groupadd -g 10003 ldap": Result(9, "", ""),
    }  # fmt: skip
    groups.add_group(fake, "physics", 10_002)
    for name, gid in (("physics", 10_000), ("ldap", 10_003)):
        with pytest.raises(Conflict):
            groups.add_group(fake, name, gid)
    assert groups.remove_group(fake, "chem", 10_000)
    assert not groups.remove_group(fake, "chem", 10_005), "not by this number"
    assert not groups.remove_group(fake, "gone", 10_006)
    with pytest.raises(Conflict, match="first group"):
        groups.remove_group(fake, "bio", 10_001)


def assert_furnished(folder: Path, gid: int) -> None:
    info = folder.lstat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o2770, 0, gid)
    assert os.getxattr(folder, ACL) == render_acl(7, 7, 0)


@as_root
def test_what_is_made_in_the_folder_is_the_groups_whatever_the_umask(tmp_path: Path) -> None:
    base = tmp_path / "srv" / "shared"
    groups.ensure_base(Local(), str(base))
    assert ensure_folder(Local(), str(base), "chem", 56_999) == (True, "")
    assert ensure_folder(Local(), str(base), "chem", 56_999) == (False, "")
    folder = base / "chem"
    assert_furnished(folder, 56_999)
    assert stat.S_IMODE(base.stat().st_mode) == 0o755
    before = os.umask(0o077)
    try:
        (folder / "deep").mkdir()
        (folder / "deep/file").touch()
    finally:
        os.umask(before)
    deep, file = (folder / "deep").stat(), (folder / "deep/file").stat()
    assert (stat.S_IMODE(deep.st_mode), deep.st_gid) == (0o2770, 56_999)
    assert (stat.S_IMODE(file.st_mode), file.st_gid) == (0o660, 56_999)


@as_root
def test_damage_done_by_hand_is_mended_and_content_stays(tmp_path: Path) -> None:
    ensure = lambda: ensure_folder(Local(), str(tmp_path), "chem", 56_999)  # noqa: E731
    ensure()
    folder = tmp_path / "chem"
    (folder / "file").write_text("precious")
    for damage in (
        lambda: folder.chmod(0o777), lambda: os.chown(folder, 1234, 56_999), lambda: os.chown(folder, 0, 5),
        lambda: os.removexattr(folder, ACL), lambda: os.setxattr(folder, ACL, render_acl(7, 0, 7)),
    ):  # fmt: skip
        damage()
        assert ensure() == (True, "")
        assert_furnished(folder, 56_999)
        assert (folder / "file").read_text() == "precious"
    (folder / "file").unlink()
    folder.rmdir()
    assert ensure() == (True, "")
    assert_furnished(folder, 56_999)


@as_root
@pytest.mark.parametrize("kind", ["link", "dangling", "file"])
def test_what_is_in_the_folders_place_is_neither_used_nor_removed(tmp_path: Path, kind: str) -> None:
    base, victim = tmp_path / "shared", tmp_path / "victim"
    base.mkdir()
    victim.mkdir(0o700)
    if kind == "file":
        (base / "chem").write_text("x")
    else:
        (base / "chem").symlink_to(victim if kind == "link" else tmp_path / "nowhere")
    for act in (ensure_folder, lambda *arguments: trash_folder(*arguments, 1.0)):
        with pytest.raises(Conflict, match="is no folder"):
            act(Local(), str(base), "chem", 56_999)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o700
    assert os.listxattr(victim) == []
    assert os.path.lexists(base / "chem")


@as_root
def test_a_link_for_the_base_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "shared").symlink_to("victim")
    with pytest.raises(HostError):
        groups.ensure_base(Local(), str(tmp_path / "shared"))


@as_root
def test_a_removed_folder_waits_in_the_trash(tmp_path: Path) -> None:
    ensure_folder(Local(), str(tmp_path), "chem", 56_999)
    (tmp_path / "chem/file").write_text("precious")
    assert trash_folder(Local(), str(tmp_path), "chem", 56_999, 1_700_000_000.9)
    trash = tmp_path / ".diycloud-trash"
    assert stat.S_IMODE(trash.stat().st_mode) == 0o700
    assert (trash / "chem.56999.1700000000/file").read_text() == "precious"
    assert not trash_folder(Local(), str(tmp_path), "chem", 56_999, 1_700_000_001)


def test_without_access_control_lists_the_group_bit_alone_and_a_word(tmp_path: Path) -> None:
    class Plain(Fake):
        def set_attribute(self, path: str | Path, name: str, value: bytes) -> bool:
            raise Unsupported("none here")

    fake = Plain({f"{tmp_path}/x": ""})
    assert ensure_folder(fake, str(tmp_path), "chem", 10_000) == (True, groups.NO_ACL)
    assert fake.files[f"{tmp_path}/chem"] == File(None, 0o2770, Owner(0, 10_000))


def test_the_list_is_as_the_kernel_prints_it() -> None:
    """Source: linux/posix_acl_xattr.h; the bytes are those `setfacl -d -m u::rwx,g::rwx,o::-` leaves."""
    assert render_acl(7, 7, 0).hex() == "0200000001000700ffffffff04000700ffffffff20000000ffffffff"
