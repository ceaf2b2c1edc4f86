"""The hook's text and PAM lines, and its parsing run in a real shell; tests/host tries it in real sessions."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import pytest

from diycloud.errors import HostError, InvalidInput, Unsupported
from diycloud.host.cgroup import Tree
from diycloud.host.pam import Hook, ensure_pam, read_warnings, remove_pam, render_hook
from diycloud.host.slices import Limits
from diycloud.system import Result
from diycloud.system.fake import Fake
from diycloud.units import Bytes, Cores

HOOK = Hook(
    Path("/opt/diycloud/lib/pam-session"), Path("/var/lib/diycloud/agent/managed"), "user", 20000, 59999,
    Limits(Cores(1.0), Bytes(2 << 30), 512),
)  # fmt: skip
V1 = Tree("", {c: f"/sys/fs/cgroup/{c}" for c in ("cpu", "cpuacct", "memory", "pids")})
V2 = Tree("/sys/fs/cgroup", {})
MOUNTS = "\n".join(f"3{i} 1 0:{i} / {point} rw - cgroup cgroup rw,{c}" for i, (c, point) in enumerate(V1.v1.items()))
PRIMED = "session\trequired\t\t\tpam_permit.so\nsession\trequired\tpam_unix.so \n"
FILES = "/var/lib/diycloud/sign-in"
LINES = (
    "session\t[success=ignore default=1]\tpam_succeed_if.so quiet uid ge 20000 uid le 59999\n"
    "session\trequired\tpam_exec.so quiet stdout seteuid type=open_session /opt/diycloud/lib/pam-session\n"
)


@pytest.mark.parametrize(("tree", "systemd"), [(V1, False), (V2, False), (V1, True), (V2, True)])
def test_script_is_sound_for_every_way(tree, systemd):
    text = render_hook(HOOK, tree, systemd=systemd)
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
    assert "{{" not in text
    assert ("busctl" in text) is systemd
    assert "/var/lib/diycloud/agent/managed" in text


@pytest.mark.parametrize(
    ("cgroup", "limited"),
    [
        ("/user.slice/user-20001.slice/session-3.scope", ["session-3.scope"]),
        ("/user.slice/user-20001.slice/user@20001.service/session-9.scope", []),
        ("/user.slice/user-20001.slice/user@20001.service/app.slice/x/session-9.scope", []),
        ("/user.slice/user-20001.slice/user@20001.service/init.scope", []),
    ],
)
def test_only_a_session_of_logind_is_limited_as_one(tmp_path, cgroup, limited):
    """Users may call cgroups below their own manager what they like."""
    text = render_hook(HOOK, V2, systemd=True)
    place = text[text.index("place() {") :].partition("\n}\n")[0] + "\n}\n"
    stub = f"where() {{ echo '{cgroup}'; }}\ncall() {{ echo \"$3\" >>'{tmp_path}/called'; }}\nrefuse() {{ exit 1; }}\n"
    script = f"set -fu\nuid=20001 quota=50000 mem=1000000 tasks=64 reserved=16\n{stub}{place}place\n"
    assert subprocess.run(["sh", "-c", script], check=False).returncode == 0
    called = (tmp_path / "called").read_text().split() if (tmp_path / "called").exists() else []
    assert [unit for unit in called if unit.startswith("session")] == limited


@pytest.mark.parametrize("path", ["/opt/a b/hook", "/opt/a'b", "/opt/$(id)", "/opt/a\nb", "/opt/a[b]"])
def test_a_path_that_a_pam_line_cannot_carry_is_refused(path):
    with pytest.raises(InvalidInput):
        render_hook(HOOK._replace(script=Path(path)), V1, systemd=False)
    with pytest.raises(InvalidInput):
        render_hook(HOOK._replace(managed=Path(path)), V1, systemd=False)


class TestScript:
    """Runs the script with folders of a temporary place for cgroups; only what comes before the kernel matters here."""

    @pytest.fixture
    def hook(self, tmp_path):
        for controller in V1.v1:
            (tmp_path / controller).mkdir()
        tree = Tree("", {c: str(tmp_path / c) for c in V1.v1})
        me = os.getuid()
        hook = HOOK._replace(managed=tmp_path / "managed", uid_min=me, uid_max=me)
        (tmp_path / "hook").write_text(render_hook(hook, tree, systemd=False))
        return tmp_path

    def call(self, folder: Path, managed: str | None, **env: str) -> subprocess.CompletedProcess[str]:
        if managed is not None:
            (folder / "managed").write_text(managed)
        name = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        given = {"PAM_TYPE": "open_session", "PAM_USER": name, **env}
        return subprocess.run(["sh", folder / "hook"], env=given, capture_output=True, text=True, check=False)

    def line(self, name: str = "alice", state: str = "active", numbers: str = "50000 1000000 64") -> str:
        return f"diycloud-managed 1 60000\n{name} {os.getuid()} 3 {state} {numbers}\n"

    def test_writes_the_numbers_of_the_file(self, hook):
        assert self.call(hook, self.line()).returncode == 0
        read = {p.name: p.read_text().strip() for p in hook.rglob("user/alice/*.*")}
        assert read["cpu.cfs_quota_us"] == "50000"
        assert read["cpu.shares"] == "512"
        assert read["memory.limit_in_bytes"] == "1000000"
        assert read["pids.max"] == "80"
        assert (hook / "pids/user/alice/main/pids.max").read_text() == "64\n"
        assert (hook / "pids/user/alice/main/cgroup.procs").read_text() == f"{os.getpid()}\n"
        assert (hook / "memory/user/alice/cgroup.procs").exists()

    def test_other_phases_and_other_people_pass(self, hook):
        assert self.call(hook, "broken", PAM_TYPE="close_session").returncode == 0
        assert self.call(hook, "diycloud-managed 1 60000\n").returncode == 0
        assert not (hook / "pids/user").exists()

    @pytest.mark.parametrize(
        ("name", "state", "numbers"),
        [
            ("alice", "locked", "50000 1000000 64"),
            ("alice", "ACTIVE", "50000 1000000 64"),
            ("alice", "active", "50000 1000000"),
            ("alice", "active", "50000 -1 64"),
            ("alice", "active", "50000 1000000 $(id)"),
            ("alice", "active", "x x x"),
        ],
    )
    def test_refuses(self, hook, name, state, numbers):
        done = self.call(hook, self.line(name, state, numbers))
        assert done.returncode != 0
        assert not (hook / "pids/user").exists()

    @pytest.mark.parametrize("name", ["../../etc", "al ice", "a*", "Alice", "a/b", "-", "$(id)"])
    def test_odd_names_in_the_file_are_nobody(self, hook, name):
        """A line whose name is not of the agent's pattern matches no account, and makes no folder anywhere."""
        self.call(hook, self.line(name))
        assert not [path for path in hook.rglob("*") if path.is_dir() and path.name in (name, "etc", "b", "ice")]

    @pytest.mark.parametrize(
        "rest",
        [
            "ALICE {uid} 3 active 50000 1000000 64\n",
            "alice {uid}\n",
            "alice\n",
            "bob 1 3 active 50000 1000000 64\ngarbled\n",
            "bob 1 3 active 50000 1000000 64\nalice",
            "\n",
        ],
    )
    def test_a_broken_list_leaves_nobody_without_limits(self, hook, rest):
        """The header is there, a line of somebody's is not: what the agent calls broken has default limits for all."""
        done = self.call(hook, "diycloud-managed 1 60000\n" + rest.format(uid=os.getuid()))
        assert done.returncode != 0 or list(hook.glob("pids/user/*/main/pids.max"))

    def test_who_is_not_in_a_sound_list_is_not_ours(self, hook):
        assert self.call(hook, "diycloud-managed 1 60000\nbob 1 3 active 50000 1000000 64\n").returncode == 0
        assert not (hook / "pids/user").exists()

    def test_unknown_user_is_refused(self, hook):
        assert self.call(hook, self.line(), PAM_USER="no-such-person").returncode != 0
        assert self.call(hook, self.line(), PAM_USER="--help").returncode != 0


STACKS = ("common-session", "common-session-noninteractive", "common-auth", "common-account")


class Debian(Fake):
    """pam-auth-update as far as the stacks are concerned. edited: those edited by hand, so that it leaves them alone."""

    def __init__(self, *, edited: Sequence[str] = ()) -> None:
        stacks = {f"/etc/pam.d/{n}": PRIMED for n in STACKS}
        profiles = "diycloud diycloud-sign-in"
        super().__init__(
            {"/proc/self/mountinfo": MOUNTS, "/opt/x": "", "/usr/share/pam-configs/unix": "", **stacks},
            {
                f"pam-auth-update --package --remove {profiles}": lambda argv, given: self.update(enabled=False),
                f"pam-auth-update --package --enable {profiles}": lambda argv, given: self.update(enabled=True),
            },
        )
        self.edited = edited

    def update(self, *, enabled: bool) -> Result:
        """Put in what the profiles say, as the tool does: a part of a profile for each stack, with its marks replaced."""
        for name in STACKS:
            part = {"common-auth": "Auth:", "common-account": "Account:"}.get(name, "Session:")
            lines = ""
            for profile in ("diycloud", "diycloud-sign-in") if enabled else ():
                text = self.read(f"/usr/share/pam-configs/{profile}") or ""
                taken = text.partition(f"\n{part}\n")[2].splitlines() if f"\n{part}\n" in text else []
                body = takewhile(lambda line: line.startswith("\t"), taken)
                lines += "".join(f"{part[:-1].lower()}{line}\n" for line in body)
            if name not in self.edited:
                self.write(f"/etc/pam.d/{name}", PRIMED + lines)
        return Result(0, "", "")


def test_installed_once_and_removed_without_a_trace():
    debian = Debian()
    before = dict(debian.files)
    assert ensure_pam(debian, "debian", HOOK) is True
    assert debian.files["/opt/diycloud/lib/pam-session"].mode == 0o755
    assert debian.files["/usr/share/pam-configs/diycloud"].text.endswith(LINES.split("session\t", 2)[2])
    ran = len(debian.ran)
    assert ensure_pam(debian, "debian", HOOK) is False
    assert len(debian.ran) == ran
    assert remove_pam(debian, "debian", HOOK) is True
    assert remove_pam(debian, "debian", HOOK) is False
    ours = ("/opt/diycloud", "/var")  # the folders above ours go with the platform's
    assert {k: v for k, v in debian.files.items() if not k.startswith(ours)} == before
    assert not [path for path in debian.files if path.startswith(FILES)]


@pytest.mark.parametrize("stack", STACKS)
def test_stacks_edited_by_hand_are_an_error_not_a_pretence(stack):
    with pytest.raises(HostError, match=f"pam-auth-update did not add our lines to {stack}"):
        ensure_pam(Debian(edited=[stack]), "debian", HOOK)


def test_no_line_reaches_whoever_is_outside_the_range():
    """The first line of each part jumps over all the others, whatever becomes of the modules and files behind them."""
    debian = Debian()
    ensure_pam(debian, "debian", HOOK)
    for name in STACKS:
        ours = [line for line in (debian.read(f"/etc/pam.d/{name}") or "").removeprefix(PRIMED).splitlines() if line]
        assert "pam_succeed_if.so quiet uid ge 20000 uid le 59999" in ours[0]
        assert f"default={len(ours) - 1}]" in ours[0], name


def test_without_the_files_the_users_would_be_refused_so_they_are_there_first():
    debian = Debian()
    ensure_pam(debian, "debian", HOOK)
    assert [debian.read(f"{FILES}/{name}") for name in ("access", "coded", "uncoded")] == ["", "", ""]
    assert debian.files[FILES].mode == 0o700
    assert "@include common-auth" in (debian.read("/etc/pam.d/diycloud") or "")


def test_the_account_phase_tells_who_is_of_the_platform(tmp_path):
    script = TestScript()
    hook = script.hook.__wrapped__(script, tmp_path)
    assert script.call(hook, script.line(), PAM_TYPE="account").returncode == 0
    assert not (tmp_path / "pids/user").exists(), "and nothing else"
    assert script.call(hook, "diycloud-managed 1 60000\n", PAM_TYPE="account").returncode == 1
    assert script.call(hook, script.line(state="locked"), PAM_TYPE="account").returncode == 1


def test_other_families_and_hosts_without_cgroups_are_unsupported():
    with pytest.raises(Unsupported, match="redhat"):
        ensure_pam(Fake(), "redhat", HOOK)
    with pytest.raises(Unsupported, match="No cgroup"):
        ensure_pam(Fake({"/proc/self/mountinfo": ""}), "debian", HOOK)


def test_warnings_of_doctor():
    sshd = "sshd -T -C user=root,host=localhost,addr=127.0.0.1"
    before = "session required pam_env.so user_readenv=1\n@include common-session\n"
    after = "# pam_env.so user_readenv=1\n@include common-session\nsession required pam_env.so user_readenv=1\n"
    fake = Fake({"/etc/pam.d/odd": before, "/etc/pam.d/sshd": after}, {sshd: "port 22\nusepam no\n"})
    fake.write("/etc/pam.d/diycloud", "")
    assert "pam_google_authenticator" in read_warnings(fake)[1]
    fake.remove("/etc/pam.d/diycloud")
    found = read_warnings(fake)
    assert len(found) == 2
    assert "UsePAM" in found[0]
    assert "/etc/pam.d/odd" in found[1]
    fake.commands[sshd] = "port 22\nusepam yes\n"
    assert len(read_warnings(fake)) == 1
