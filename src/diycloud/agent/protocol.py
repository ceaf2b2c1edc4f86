"""What may be said to the agent, and how it is framed.

A frame is four bytes of length (big-endian), then msgpack: `Request` one way, `Reply` the other. A frame is at most
64 KiB and must be whole within 5 s (docs/explanation/rules.md). The agent checks every value
again, whoever sends it; patterns end in \\Z because `$` lets a newline through.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import Annotated

import msgspec

from diycloud.errors import BY_CODE, DiyCloudError, TooManyRequests, Unavailable

VERSION = 1
MAX_FRAME = 64 * 1024
FRAME_SECONDS = 5.0
MAX_BATCH = 50
"""Accounts or passwords in one message."""
MAX_READ = 400
"""Users in one ReadUsage: their answers fit a frame."""

Name = Annotated[str, msgspec.Meta(pattern=r"\A[a-z_][a-z0-9_-]{0,31}\Z")]
Uid = Annotated[int, msgspec.Meta(ge=1, le=4_294_967_293)]
Cores = Annotated[float, msgspec.Meta(ge=0.01, le=4096)]
MemoryBytes = Annotated[int, msgspec.Meta(ge=4 << 20, le=1 << 60)]
Tasks = Annotated[int, msgspec.Meta(ge=8, le=4_000_000)]
Generation = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
LIFE = 1 << 20
"""Generations of one user: a new one starts at a higher multiple, so that a name's next user is told from its last."""
_SHADOW = (
    r"\$g?y\$j[789AB][5T]\$[./0-9A-Za-z]{1,86}\$[./0-9A-Za-z]{43}",
    r"\$2b\$(0[4-9]|1[0-2])\$[./0-9A-Za-z]{53}",
    r"\$6\$(rounds=[1-9][0-9]{3,4}\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{86}",
    r"\$5\$(rounds=[1-9][0-9]{3,4}\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{43}",
)
Shadow = Annotated[str, msgspec.Meta(pattern=rf"\A({'|'.join(_SHADOW)})\Z")]
"""A crypt(5) hash of a strong method, never a plain text, an empty string or `*`.

Its cost is at most some four times what the agent gives (host/shadow.py): one hash of a day's work would keep every
sign-in of the host busy. yescrypt's parameters are those of crypt_gensalt's counts 1–7.
"""
Password = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Gecos = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00-\x1f\x7f:,]{0,100}\Z")]
Shell = Annotated[str, msgspec.Meta(pattern=r"\A/[A-Za-z0-9/._+-]{1,100}\Z")]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a slice allows. cpu: cores; memory: bytes; tasks: processes and threads."""

    cpu: Cores
    memory: MemoryBytes
    tasks: Tasks


class State(StrEnum):
    """What the account may do on the host."""

    ACTIVE = "active"
    LOCKED = "locked"


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the server wants of one account. The agent makes the host equal to it.

    generation: grows with every change of the wish; an older one is refused. The UID is the agent's choice.
    """

    name: Name
    generation: Generation
    limits: Limits
    state: State = State.ACTIVE
    full_name: Gecos = ""
    shell: Shell = "/bin/bash"


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="message"):
    """Root of everything that may be asked."""


class Ping(Message, frozen=True, tag="ping"):
    """Answer: Pong."""


class Capacity(Message, frozen=True, tag="capacity"):
    """What the host has and can do. Answer: HostCapacity."""


class HashPasswords(Message, frozen=True, tag="hash-passwords"):
    """Make shadow hashes by the host's own method. Answer: list of str, in order."""

    passwords: Annotated[list[Password], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


class Account(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A wish with, when the password changes, its new shadow hash. create: False refuses a name not yet managed."""

    wish: Wish
    shadow: Shadow | None = None
    create: bool = False


class EnsureAccounts(Message, frozen=True, tag="ensure-accounts"):
    """Make accounts, homes, slices and limits equal to the wishes. Answer: list of Outcome, in order."""

    accounts: Annotated[list[Account], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


class CheckLimits(Message, frozen=True, tag="check-limits"):
    """Tell whether these limits could be applied now (memory is not below use, within the host). Answer: Outcome."""

    name: Name
    limits: Limits


class StopWorkloads(Message, frozen=True, tag="stop-workloads"):
    """End everything in the user's slice. Answer: number of processes ended."""

    name: Name


class PurgePreview(Message, frozen=True, tag="purge-preview"):
    """Tell what a purge would remove. Answer: Remains."""

    name: Name


class PurgeAccount(Message, frozen=True, tag="purge-account"):
    """End workloads, put the home in the trash, remove slice and account. Repeatable. Answer: Outcome."""

    name: Name
    generation: Generation


class ReadUsage(Message, frozen=True, tag="read-usage"):
    """Read the counters of some users' slices. Answer: list of Usage (users without a slice are left out)."""

    names: Annotated[list[Name], msgspec.Meta(max_length=MAX_READ)]


class Sync(Message, frozen=True, tag="sync"):
    """A part of the whole wish list; with last=True the agent reconciles. Answer: None for a part, then SyncReport."""

    part: Annotated[list[Wish], msgspec.Meta(max_length=200)]
    first: bool
    last: bool


AnyMessage = (
    Ping
    | Capacity
    | HashPasswords
    | EnsureAccounts
    | CheckLimits
    | StopWorkloads
    | PurgePreview
    | PurgeAccount
    | ReadUsage
    | Sync
)


class Pong(msgspec.Struct, frozen=True):
    """problem: why no account can be changed (the agent's file is broken), empty when all is well."""

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
    """

    created: list[str] = []
    mended: list[str] = []
    orphans: list[str] = []
    failed: list[Outcome] = []
    stopped: str = ""
    remade: list[str] = []
    overtaken: list[tuple[str, int]] = []


_NIL = msgspec.Raw(msgspec.msgpack.encode(None))


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """deadline: seconds the caller will wait, from arrival."""

    id: int
    body: AnyMessage
    version: int = VERSION
    deadline: Annotated[float, msgspec.Meta(gt=0, le=600)] = 60.0


class Reply(msgspec.Struct, frozen=True):
    """ok: the answer, itself in msgpack; nil with an error's code, message and hint (errors.BY_CODE).

    retry_after: seconds, of a TooManyRequests; 0 of anything else.
    """

    id: int
    ok: msgspec.Raw = _NIL
    code: str = ""
    message: str = ""
    hint: str = ""
    retry_after: int = 0

    @classmethod
    def of_error(cls, request: int, error: DiyCloudError) -> Reply:
        """Return the answer that tells of an error."""
        wait = error.retry_after if isinstance(error, TooManyRequests) else 0
        return cls(request, code=error.code, message=error.message, hint=error.hint, retry_after=wait)

    def error(self) -> DiyCloudError | None:
        """Return the error this tells of, None if it is an answer."""
        if not self.code:
            return None
        if self.code == TooManyRequests.code:
            return TooManyRequests(self.message, self.hint, retry_after=max(1, self.retry_after))
        return BY_CODE.get(self.code, Unavailable)(self.message, self.hint)


_LENGTH = struct.Struct(">I")


def pack(value: msgspec.Struct) -> bytes:
    """Return the frame of a Request or Reply. Raises ValueError above MAX_FRAME."""
    body = msgspec.msgpack.encode(value)
    if len(body) > MAX_FRAME:
        raise ValueError(f"a frame of {len(body)} bytes is over {MAX_FRAME}")
    return _LENGTH.pack(len(body)) + body


def frame_length(head: bytes) -> int:
    """Return the length in a frame's first four bytes. Raises ValueError if it is 0 or above MAX_FRAME."""
    (length,) = _LENGTH.unpack(head)
    if not 0 < length <= MAX_FRAME:
        raise ValueError(f"a frame of {length} bytes is not 1–{MAX_FRAME}")
    return int(length)
