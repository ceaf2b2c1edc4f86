"""What the agent answers (agent/protocol.py: what it is asked)."""

from __future__ import annotations

import msgspec


class Pong(msgspec.Struct, frozen=True):
    """problem: why no account or no group can be changed (the agent's file is broken), empty when all is well."""

    version: str
    uptime_s: float
    problem: str = ""


class HostCapacity(msgspec.Struct, frozen=True):
    """cores: usable CPUs; memory: bytes; slices: `systemd`, `cgroup v1`, `cgroup v2` or `` with why it cannot."""

    cores: int
    memory: int
    slices: str
    unsupported: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """How one account fared. code: an error's code (errors.py), empty for success.

    uid: None if there is no account, or a create was refused because the one that there is belongs to someone else.
    made: there was no account before; it has no password but one that was sent.
    """

    name: str
    uid: int | None = None
    changed: bool = False
    code: str = ""
    message: str = ""
    warning: str = ""
    made: bool = False


class Remains(msgspec.Struct, frozen=True):
    """What is on the host of a user. home_bytes: disk space; processes: running now.

    more: the home was too large to measure in time, and has more than is said here.
    """

    name: str
    uid: int | None
    home: str
    home_bytes: int
    home_files: int
    processes: int
    more: bool = False


class GroupRemains(msgspec.Struct, frozen=True):
    """What is on the host of a group. bytes: disk space of its folder; members: accounts in the host's list of it.

    gid: None if the host has no such group. more: the folder was too large to measure in time.
    """

    name: str
    gid: int | None
    folder: str
    bytes: int
    files: int
    members: int
    more: bool = False


class Verified(msgspec.Struct, frozen=True):
    """fingerprint: of the password field that was compared with, empty if the password is another."""

    fingerprint: str = ""


class Archived(msgspec.Struct, frozen=True):
    """path, bytes: of the file, both empty if there was no home; left_out: entries of the home that are not in it."""

    path: str = ""
    bytes: int = 0
    left_out: int = 0


class Handed(msgspec.Struct, frozen=True):
    """given: files and directories; left: entries that cannot change hands (links, sockets), which stay as they are."""

    given: int = 0
    left: int = 0


class Adoptable(msgspec.Struct, frozen=True):
    """An account that could be adopted, or why not. shell, full_name: as it has them, and keeps them."""

    name: str
    uid: int
    shell: str
    full_name: str
    problem: str = ""


class Trashed(msgspec.Struct, frozen=True):
    """What a purge put in the trash. number: UID, or GID of a group; at: seconds since 1970; bytes: disk space.

    more: it was too large to measure in time.
    """

    folder: str
    name: str
    number: int
    at: int
    bytes: int
    more: bool = False


class Usage(msgspec.Struct, frozen=True):
    """One reading. memory (bytes) and tasks: now; cpu_us, oom_kills, throttled_us: since the slice exists."""

    name: str
    at: float
    cpu_us: int
    memory: int
    tasks: int
    oom_kills: int = 0
    throttled_us: int = 0


class SyncReport(msgspec.Struct, frozen=True):
    """created, mended: names; orphans: managed accounts without a wish, now locked; stopped: why nothing was locked.

    remade: accounts that were missing on the host, known or new: they have no password until one is set.
    overtaken: names whose wish is older than the agent's, with the agent's generation, and was therefore not applied. A
    wish may also have been overtaken on its way, so compare with the generation that it has by now.
    foreign: accounts whose password somebody else than the server set (passwd, chpasswd).
    """

    created: list[str] = []
    mended: list[str] = []
    orphans: list[str] = []
    failed: list[Outcome] = []
    stopped: str = ""
    remade: list[str] = []
    overtaken: list[tuple[str, int]] = []
    foreign: list[str] = []


class Notebook(msgspec.Struct, frozen=True):
    """One notebook server. state: `running`, `stopped` or `failed` (it ended by itself, with an error or killed).

    server: its name, empty for the first one; pid: of the server itself; started, ended: seconds since 1970, 0 for not;
    exit_code: of a server that ended, negative for a signal; memory_kill: it was killed for memory, or while it runs something
    in it was; memory_kills: how many of its processes were; memory: bytes now; cpu_us: since it was started; socket: where it
    answers; log: its last lines, in an answer about one server.
    """

    name: str
    server: str
    state: str
    profile: str = ""
    pid: int = 0
    started: float = 0.0
    ended: float = 0.0
    exit_code: int | None = None
    memory_kill: bool = False
    memory_kills: int = 0
    memory: int = 0
    cpu_us: int = 0
    tasks: int = 0
    socket: str = ""
    log: tuple[str, ...] = ()
