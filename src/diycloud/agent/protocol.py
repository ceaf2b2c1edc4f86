"""What may be said to the agent (agent/answers.py: what it answers; agent/framing.py: how it is sent).

The agent checks every value again, whoever sends it; patterns end in \\Z because `$` lets a newline through.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from diycloud.agent.answers import (
    Adoptable,
    Archived,
    GroupRemains,
    Handed,
    HostCapacity,
    Notebook,
    Outcome,
    Pong,
    Remains,
    SyncReport,
    Trashed,
    Usage,
    Verified,
)

# The answers belong to what is asked, and are found here too.
__all__ = [
    "Adoptable", "Archived", "GroupRemains", "Handed", "HostCapacity", "Notebook", "Outcome", "Pong", "Remains", "SyncReport",
    "Trashed", "Usage", "Verified",
]  # fmt: skip

MAX_BATCH = 50
"""Accounts or passwords in one message."""
MAX_PART = 200
"""Wishes in one part of the list."""
MAX_READ = 400
"""Users in one ReadUsage: their answers fit a frame."""
MAX_GROUPS = 200
"""Groups in one EnsureGroups."""
MAX_FOUND = 200
"""Accounts or folders in one answer to root."""

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


TrashFolder = Annotated[
    str, msgspec.Meta(pattern=r"\A/[A-Za-z0-9/._@+-]{1,200}/[a-z_][a-z0-9_-]{0,31}\.[0-9]+\.[0-9]+\Z")
]


KeyLine = Annotated[
    str,
    msgspec.Meta(
        max_length=3000,
        pattern=r"\A(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-ssh-ed25519@openssh\.com"
        r"|sk-ecdsa-sha2-nistp256@openssh\.com) [A-Za-z0-9+/]{40,2900}={0,2}( [^\x00-\x1f\x7f]{1,100})?\Z",
    ),
]
"""A line of authorized_keys(5) without options."""
Network = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-fA-F:.]{2,45}(/[0-9]{1,3})?\Z")]
NOWHERE = "0.0.0.0/32"  # nobody comes from there
"""The network of a user whose own cannot be read: that is no reason to let them in from anywhere."""
Secret = Annotated[str, msgspec.Meta(pattern=r"\A([A-Z2-7]{16,128})?\Z")]
"""What codes are made of (RFC 6238), in base32; empty for none."""
Step = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
Fingerprint = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""Of a password field of shadow(5): agent/passwords.py."""

ServerName = Annotated[str, msgspec.Meta(pattern=r"\A([a-z0-9-]{1,30})?\Z")]
"""Of one of a user's notebook servers, as JupyterHub 6 has them; empty for the first."""
ProfileName = Annotated[str, msgspec.Meta(pattern=r"\A([a-z0-9][a-z0-9-]{0,29})?\Z")]
"""One of the settings' profiles; empty for the first, or none."""
HubKey = Annotated[str, msgspec.Meta(pattern=r"\AJUPYTERHUB_[A-Z_]{1,60}\Z")]
HubValue = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00-\x1f\x7f]{0,4000}\Z")]
MAX_NOTEBOOKS = 150
"""Servers in one answer, which fits a frame with the longest names."""


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
    groups: the managed groups it is to be a member of, beside its private one. Its membership in groups that are not
    managed is left as it is; a name that is not a managed group is left out, with a warning in the Outcome.
    networks: where sign-ins by SSH may come from, anywhere if there are none; secret: of the codes that a sign-in by
    password asks for; last_step: the time step of the last code that the server took, for a secret that is new here;
    uncoded: a password alone does not do, and there are no codes to ask for.
    must_change_password: the password that the server set is good for one sign-in.
    """

    name: Name
    generation: Generation
    limits: Limits
    state: State = State.ACTIVE
    full_name: Gecos = ""
    shell: Shell = "/bin/bash"
    groups: Annotated[list[Name], msgspec.Meta(max_length=64)] = []
    networks: Annotated[list[Network], msgspec.Meta(max_length=64)] = []
    secret: Secret = ""
    last_step: Step = 0
    uncoded: bool = False
    must_change_password: bool = False


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
    """A wish with, when the password changes, its new shadow hash. create: False refuses a name not yet managed.

    keys: the SSH keys that open the account from the wish's networks; None leaves them.
    """

    wish: Wish
    shadow: Shadow | None = None
    create: bool = False
    keys: Annotated[list[KeyLine], msgspec.Meta(max_length=32)] | None = None


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


class EnsureGroups(Message, frozen=True, tag="ensure-groups"):
    """Have managed groups, each with its shared folder. Answer: list of Outcome, in order (uid is the GID).

    Members come with the wishes of accounts. Repeatable; a group that is not named is left alone.
    """

    groups: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=MAX_GROUPS)]


class GroupPreview(Message, frozen=True, tag="group-preview"):
    """Tell what removing a group would remove. Answer: GroupRemains."""

    name: Name


class RemoveGroup(Message, frozen=True, tag="remove-group"):
    """Put a group's folder in the trash, remove the group. Repeatable. Answer: Outcome (uid is the GID)."""

    name: Name


class ArchiveHome(Message, frozen=True, tag="archive-home"):
    """Pack a locked account's home into a folder of root's. Answer: Archived. An archive of the home as it is counts."""

    name: Name


class HandOver(Message, frozen=True, tag="hand-over"):
    """Give what a locked account has in the groups' folders to another account. Repeatable. Answer: Handed."""

    name: Name
    to: Name


class FindAdoptable(Message, frozen=True, tag="find-adoptable"):
    """Look at the host's accounts that are not managed. Answer: list of Adoptable by name, MAX_FOUND at most."""

    after: Annotated[str, msgspec.Meta(max_length=256)] = ""


class AdoptAccounts(Message, frozen=True, tag="adopt-accounts"):
    """Take accounts of the host's under management as they are, on root's word. Answer: list of Outcome, in order."""

    wishes: Annotated[list[Wish], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


class GrantSudo(Message, frozen=True, tag="grant-sudo"):
    """Make an account an administrator of the host, or no longer, on root's word. Answer: Outcome."""

    name: Name
    granted: bool


class ChangeOwnPassword(Message, frozen=True, tag="change-own-password"):
    """Set a password's hash for who knows the old one: all that the server can do for an administrator. Answer: Outcome."""

    name: Name
    old: Password
    shadow: Shadow


class IsPasswordForeign(Message, frozen=True, tag="is-password-foreign"):
    """Tell whether somebody else than the server set the account's password last. Answer: bool.

    False for what is not managed, and where there is no password.
    """

    name: Name


class VerifyPassword(Message, frozen=True, tag="verify-password"):
    """Compare a password with a managed account's, as the host has it. Answer: Verified."""

    name: Name
    password: Password


class ConfirmPassword(Message, frozen=True, tag="confirm-password"):
    """Note that the server knows the account's password of this fingerprint. Answer: None."""

    name: Name
    fingerprint: Fingerprint


class SpendStep(Message, frozen=True, tag="spend-step"):
    """Note that the code of a time step was used at the server. Answer: bool, False if PAM has taken it before.

    step: 30 s since 1970. True for an account without codes.
    """

    name: Name
    step: Step


class ListTrash(Message, frozen=True, tag="list-trash"):
    """Tell what was purged and is kept for a while. Answer: list of Trashed, the oldest first, MAX_FOUND at most."""


class EmptyTrash(Message, frozen=True, tag="empty-trash"):
    """Remove folders in the trash for good, on root's word. Answer: list of str, those that were there."""

    folders: Annotated[list[TrashFolder], msgspec.Meta(min_length=1, max_length=MAX_FOUND)]


class ReadUsage(Message, frozen=True, tag="read-usage"):
    """Read the counters of some users' slices. Answer: list of Usage (users without a slice are left out)."""

    names: Annotated[list[Name], msgspec.Meta(max_length=MAX_READ)]


class Sync(Message, frozen=True, tag="sync"):
    """A part of the whole wish list; with last=True the agent reconciles. Answer: None for a part, then SyncReport."""

    part: Annotated[list[Wish], msgspec.Meta(max_length=MAX_PART)]
    first: bool
    last: bool


class StartNotebook(Message, frozen=True, tag="start-notebook"):
    """Start a notebook server as the user in the user's slice, and wait until it answers. Answer: Notebook.

    environment: what the hub tells its server. One of the same name that runs was not known to the hub: it is ended first.
    Raises Conflict if the account may not sign in, Unavailable if it does not answer in time or ends, with its last lines.
    """

    name: Name
    server: ServerName = ""
    profile: ProfileName = ""
    environment: Annotated[dict[HubKey, HubValue], msgspec.Meta(max_length=64)] = {}


class StopNotebook(Message, frozen=True, tag="stop-notebook"):
    """End a notebook server with all it started. Repeatable. Answer: Notebook, as it is afterwards."""

    name: Name
    server: ServerName = ""


class EndNotebooks(Message, frozen=True, tag="end-notebooks"):
    """End all servers of a user who is shut out, within seconds whatever they do. Repeatable. Answer: int, how many ran."""

    name: Name


class ReadNotebooks(Message, frozen=True, tag="read-notebooks"):
    """Tell how notebook servers fare, those that ended and were not forgotten among them.

    name: one user's; empty: everybody's. server: only that one, and the answer has its log. after: `NAME` or `NAME+SERVER`,
    where an answer of MAX_NOTEBOOKS goes on. Answer: list of Notebook, by name and server.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"\A([a-z_][a-z0-9_-]{0,31})?\Z")] = ""
    server: ServerName | None = None
    after: Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9_+-]{0,63}\Z")] = ""


AnyMessage = (
    Ping
    | Capacity
    | HashPasswords
    | EnsureAccounts
    | CheckLimits
    | StopWorkloads
    | PurgePreview
    | PurgeAccount
    | EnsureGroups
    | GroupPreview
    | RemoveGroup
    | ArchiveHome
    | HandOver
    | FindAdoptable
    | AdoptAccounts
    | GrantSudo
    | ChangeOwnPassword
    | IsPasswordForeign
    | VerifyPassword
    | ConfirmPassword
    | SpendStep
    | ListTrash
    | EmptyTrash
    | ReadUsage
    | StartNotebook
    | StopNotebook
    | EndNotebooks
    | ReadNotebooks
    | Sync
)
