"""POSIX accounts: read from the files' own text, changed by the host's own tools (shadow-utils).

The tools bring what each host hangs on them: audit records, nscd and sssd caches, SELinux users. One process adds an
account; what is right already costs none. Only passwords are written without them (password_fields.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from diycloud.errors import Conflict, HostError, InvalidInput, PermissionDenied
from diycloud.host.names import is_reserved
from diycloud.system.contract import System

LOCK_DATE = "1970-01-02"
"""The expiry date of a locked account: day 1. sshd's keys and cron obey it through pam_unix, where `!` alone is not."""
LOCK_DAY = "1"
NO_PASSWORD = "!"  # noqa: S105  # it is the absence of one
"""What useradd puts where no password is given: none fits, and nothing is locked."""
NEVER_GROUPS = frozenset(
    (
        "root",
        "sudo",
        "wheel",
        "admin",
        "adm",
        "docker",
        "disk",
        "shadow",
        "lxd",
        "incus",
        "incus-admin",
        "kvm",
        "libvirt",
        "google-sudoers",
    )
)
"""Groups that are as good as root. No setting of the agent can allow them."""
SHADOW = "/etc/shadow"
LOCK = "/etc/.pwd.lock"
"""The lock of all programs that change account files: lckpwdf(3)."""
WAIT_S = 30.0
"""How long a held lock of /etc/passwd is waited for, on top of the tools' own patience."""
_LOCKED = re.compile(r"cannot lock|try again later|unable to lock", re.IGNORECASE)
_SUDO_FILES = ("/etc/sudoers", "/etc/doas.conf")
_SUDO_DIR = "/etc/sudoers.d"
_SUDO_INCLUDE = re.compile(r"\s*[#@]include(?P<dir>dir)?\s+\"?(?P<path>[^\"\n]*[^\"\s])")


class PosixAccount(NamedTuple):
    """A line of /etc/passwd with what /etc/shadow has of it.

    expires, changed: days since 1970, max_days: the password's greatest age; as text, empty for none.
    """

    name: str
    uid: int
    gid: int
    gecos: str
    home: str
    shell: str
    password: str
    expires: str
    changed: str = ""
    max_days: str = ""

    @property
    def full_name(self) -> str:
        return self.gecos.partition(",")[0]

    @property
    def locked(self) -> bool:
        """No password, key or cron job gets in."""
        return self.password.startswith("!") and self.expires == LOCK_DAY

    @property
    def hash_locked(self) -> bool:
        """A password is there behind `!`; usermod -U would refuse the bare `!` of an account that never had one."""
        return self.password.startswith("!") and self.password.strip("!") != ""

    @property
    def open(self) -> bool:
        """Nothing of what locking does is in force."""
        return self.expires != LOCK_DAY and not self.hash_locked


class HostAccounts:
    """The account files as they were when this was made. A line is split only when it is asked for."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._passwd = _by_name(system.read("/etc/passwd") or "")
        self._group_text = system.read("/etc/group") or ""
        self._group = _by_name(self._group_text)

    @cached_property
    def _shadow(self) -> Mapping[str, str]:
        return _by_name(self._system.read(SHADOW) or "")

    def get(self, name: str) -> PosixAccount | None:
        """Return an account, None if the host has none of that name. Raises HostError for a line that is broken."""
        line = self._passwd.get(name)
        if line is None:
            return None
        fields = line.split(":")
        shadow = self._shadow.get(name, "").split(":")
        try:
            uid, gid = int(fields[2]), int(fields[3])
            return PosixAccount(
                name, uid, gid, fields[4], fields[5], fields[6],
                password=shadow[1] if len(shadow) > 1 else fields[1],
                expires=shadow[7] if len(shadow) > 7 else "",
                changed=shadow[2] if len(shadow) > 2 else "",
                max_days=shadow[4] if len(shadow) > 4 else "",
            )  # fmt: skip
        except (ValueError, IndexError) as error:
            raise HostError(f"The line of {name} in /etc/passwd is broken.", "Run pwck.") from error

    @property
    def are_many(self) -> bool:
        """Tell whether `useradd -U` would be slow: its search for a group number costs 240 ms of CPU at 10,000 groups,
        where groupadd and `useradd -g` cost 45; among a few hundred one process is quicker than two."""
        return len(self._group) > 2000

    def has_group(self, name: str) -> bool:
        return name in self._group

    def group_id(self, name: str) -> int | None:
        fields = self._group.get(name, "").split(":")
        return int(fields[2]) if len(fields) > 2 and fields[2].isdecimal() else None

    @cached_property
    def ids(self) -> frozenset[int]:
        """Every UID and GID in use or named in sudoers: a new account gets a number that is none of them."""
        thirds = (line.split(":", 3)[2:3] for lines in (self._passwd, self._group) for line in lines.values())
        used = (third[0] for third in thirds if third)
        numbers = (word.lstrip("%").removeprefix("#") for word in self._sudoers if "#" in word)
        return frozenset(int(number) for number in (*used, *numbers) if number.isdecimal())

    def groups_of(self, account: PosixAccount) -> list[str]:
        """Return the groups an account is in beside its own of the same name."""
        found = self.groups_naming(account.name)
        if account.gid != self.group_id(account.name):
            found.append(self._group_of(account.gid))
        return found

    def groups_naming(self, name: str) -> list[str]:
        """Return the groups that list a name as a member, whether there is such an account or not."""
        return [group for group, members in _shared_groups(self._group_text) if name in members]

    def _group_of(self, gid: int) -> str:
        return next((name for name in self._group if self.group_id(name) == gid), f"number {gid}")

    def in_range(self, uid_min: int, uid_max: int) -> list[PosixAccount]:
        """Return every account whose UID is in a range."""
        found = (self.get(name) for name in self._passwd)
        return [account for account in found if account is not None and uid_min <= account.uid <= uid_max]

    @cached_property
    def _sudoers(self) -> frozenset[str]:
        words, seen, todo = set[str](), set[str](), [*_SUDO_FILES, *self._files_in(_SUDO_DIR)]
        while todo:
            path = todo.pop()
            if path in seen:
                continue
            seen.add(path)
            for line in (self._system.read(path) or "").splitlines():
                if include := _SUDO_INCLUDE.match(line):
                    place = str(Path("/etc") / include["path"])
                    todo += self._files_in(place) if include["dir"] else [place]
                # In sudoers(5) `#` starts a comment unless a UID follows.
                words.update(re.split(r"[\s,=:!()\"]+", re.sub(r"#(?![0-9]).*", "", line)))
        return frozenset(words)

    def _files_in(self, folder: str) -> list[str]:
        return [f"{folder}/{name}" for name in self._system.list_dir(folder)]

    def is_sudoer(self, account: PosixAccount) -> bool:
        """Tell whether sudoers or doas.conf speaks of the account by name, number or private group."""
        numbers = {f"#{account.uid}", f"%#{account.gid}"}
        return self.is_name_of_sudoer(account.name) or not numbers.isdisjoint(self._sudoers)

    def is_name_of_sudoer(self, name: str) -> bool:
        """Tell whether sudoers or doas.conf speaks of a user or group of this name, which need not exist."""
        return not {name, f"%{name}"}.isdisjoint(self._sudoers)

    def is_group_of_sudoer(self, name: str, gid: int) -> bool:
        """Tell whether sudoers or doas.conf speaks of a group, by name or number."""
        return self.is_name_of_sudoer(name) or f"%#{gid}" in self._sudoers

    @cached_property
    def shells(self) -> frozenset[str]:
        """The login shells of shells(5)."""
        lines = (self._system.read("/etc/shells") or "").splitlines()
        return frozenset(line.strip() for line in lines if line.startswith("/"))


# By content, not by time stamp: between two changes of one account the files of ten thousand are mostly the same text.
@lru_cache(maxsize=8)
def _by_name(text: str) -> Mapping[str, str]:
    return {line.partition(":")[0]: line for line in text.splitlines()}


def read_password_field(system: System, name: str) -> str:
    """Return the password field of an account, `!` if there is none; asked at each sign-in, in the same time for any name."""
    return (_by_name(system.read(SHADOW) or "").get(name, "") + ":!").split(":")[1]


@lru_cache(maxsize=2)
def _shared_groups(text: str) -> Sequence[tuple[str, frozenset[str]]]:
    """Return the groups with members by list; private ones, nearly all of the file, end in `:`."""
    found = (line.split(":") for line in text.splitlines() if not line.endswith(":"))
    return [(fields[0], frozenset(fields[3].split(","))) for fields in found if len(fields) > 3]


def check_ordinary(host: HostAccounts, account: PosixAccount, *, allowed_groups: Collection[str]) -> None:
    """Refuse an account that is an administrator of the host in any way, as the host is now.

    Raises PermissionDenied with the reason. allowed_groups: the root-owned list of the agent's settings.
    """
    for group in host.groups_of(account):
        if group in NEVER_GROUPS or group not in allowed_groups:
            raise PermissionDenied(
                f"{account.name} is in the group {group}, so only root may change the account.",
                f"As root: gpasswd -d {account.name} {group}, or allow the group in the agent's settings.",
            )
    if account.uid == 0 or host.is_sudoer(account):
        raise PermissionDenied(f"{account.name} is an administrator of the host, so only root may change the account.")


def check_new_name(host: HostAccounts, name: str, *, allowed_groups: Collection[str]) -> None:
    """Refuse a name that would bring a new account of it rights that are waiting on the host. Holds for root too.

    They wait in sudoers (`%NAME` where no such group is yet), in a group's list of members, or for the package whose
    group it is. Raises PermissionDenied with the reason.
    """
    if is_reserved(name) or name in NEVER_GROUPS:
        raise PermissionDenied(f"The name {name} is reserved for the system.", "Choose another name.")
    if host.is_name_of_sudoer(name):
        raise PermissionDenied(
            f"sudoers or doas.conf gives rights to the name {name}.", "Take it out there, or choose another name."
        )
    for group in host.groups_naming(name):
        if group in NEVER_GROUPS or group not in allowed_groups:
            raise PermissionDenied(
                f"The group {group} has {name} in its list already.", f"As root: gpasswd -d {name} {group}."
            )


def check_shell(host: HostAccounts, shell: str) -> None:
    """Raises InvalidInput for a shell that is not in /etc/shells."""
    if shell not in host.shells:
        raise InvalidInput(f"{shell} is no login shell of this host.", f"There are: {', '.join(sorted(host.shells))}.")


def add_account(
    system: System,
    host: HostAccounts,
    name: str,
    uid: int,
    *,
    full_name: str,
    shell: str,
    home: str,
    locked: bool = False,
) -> None:
    """Add an account and its private group of the same number, without home and password (nobody can sign in yet).

    Subordinate ids are not given: the host's default range has room for 9,155 accounts, then useradd fails.
    Raises Conflict if the name or number is taken, also in a directory (LDAP) that the files do not show.
    """
    argv = ["useradd", "-M", "-u", str(uid), "-d", home, "-s", shell, "-c", full_name]
    argv += ["-K", "SUB_UID_COUNT=0", "-K", "SUB_GID_COUNT=0"]
    argv += ["-e", LOCK_DATE] if locked else []
    has_own = host.group_id(name) == uid  # of a start that was cut off
    if host.are_many and not has_own:
        refuse_taken(run_patiently(system, ["groupadd", "-g", str(uid), name], ok=(0, 4, 9)), name, uid)
        has_own = True
    argv += ["-N", "-g", str(uid)] if has_own else ["-U", "-K", f"GID_MIN={uid}", "-K", f"GID_MAX={uid}"]
    refuse_taken(run_patiently(system, [*argv, name], ok=(0, 4, 9)), name, uid)


def refuse_taken(status: int, name: str, uid: int) -> None:
    """Raise Conflict for a name or number that is there: exit values 9 and 4 of useradd(8) and groupadd(8)."""
    if status == 9:
        raise Conflict(f"{name} exists on the host.", "Choose another name.")
    if status == 4:
        raise Conflict(f"The number {uid} is in use on the host.", "Try again: another will be chosen.")


def change_account(
    system: System,
    account: PosixAccount,
    *,
    locked: bool | None = None,
    shell: str | None = None,
    full_name: str | None = None,
) -> bool:
    """Make an account have a state, shell and name by at most one process; None leaves one as it is. True if changed.

    locked: no password, no key and no cron job gets in. Unlocking takes back only what locking did: another expiry date
    stays. The rest of the GECOS field (room, telephone), which is the person's own, stays too.
    """
    flags: list[str] = []
    if locked is True:
        flags += [] if account.password.startswith("!") else ["-L"]
        flags += [] if account.expires == LOCK_DAY else ["-e", LOCK_DATE]
    elif locked is False:
        flags += ["-U"] if account.hash_locked else []
        flags += ["-e", ""] if account.expires == LOCK_DAY else []
    if shell is not None and shell != account.shell:
        flags += ["-s", shell]
    if full_name is not None and full_name != account.full_name:
        flags += ["-c", ",".join([full_name, *account.gecos.split(",")[1:]])]
    if flags:
        run_patiently(system, ["usermod", *flags, account.name])
    return bool(flags)


def remove_account(system: System, name: str, uid: int) -> bool:
    """Remove an account, its private group, crontab and mailbox; the home stays. True if there was an account.

    Only if the number is the given one. The group stays if it has members or is another account's.
    """
    account = HostAccounts(system).get(name)
    if account is not None and account.uid != uid:
        raise Conflict(f"{name} on the host has the number {account.uid}, not {uid}.", "Someone changed it by hand.")
    for folder in ("/var/spool/cron/crontabs", "/var/spool/cron", "/var/mail"):
        if system.exists(f"{folder}/{name}"):
            system.remove(f"{folder}/{name}")
    if account is not None:
        # 6: it is gone already (someone else was quicker).
        run_patiently(system, ["userdel", name], ok=(0, 6))
    if HostAccounts(system).group_id(name) == uid:
        run_patiently(system, ["groupdel", name], ok=(0, 6))
    return account is not None


def processes_of(uid: int) -> list[int]:
    """Return the pids whose effective UID is the given one, wherever they run."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):  # it ended meanwhile
                if folder.stat().st_uid == uid:
                    found.append(int(folder.name))
    return found


def stop_processes(system: System, uid: int, *, patience_s: float = 5.0) -> int:
    """End every process of a UID, also outside its slice. Returns how many. Raises HostError if some do not end."""
    ended: set[int] = set()
    end = time.monotonic() + patience_s
    while pids := [pid for pid in processes_of(uid) if not _is_zombie(pid)]:
        if time.monotonic() > end:
            raise HostError(f"{len(pids)} processes of uid {uid} do not end.", "See ps -o pid,stat,wchan.")
        ended.update(pid for pid in pids if system.kill(pid))
        time.sleep(0.01)
    return len(ended)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def run_patiently(system: System, argv: Sequence[str], *, input: str | None = None, ok: Sequence[int] = (0,)) -> int:
    """Run a tool that locks /etc/passwd, again while another holds the lock. Returns its status."""
    end, pause = time.monotonic() + WAIT_S, 0.05
    while True:
        try:
            return system.run(argv, input=input, ok=ok).status
        except HostError as error:
            if not _LOCKED.search(error.message) or time.monotonic() + pause > end:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 1.0)
