"""What people do with their own sign-in, and what can be asked of the audit."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from diycloud.actions.action import Action, Audited, Permission, action
from diycloud.actions.download import Download
from diycloud.actions.entry import Entry
from diycloud.actions.fields import DomainName, Password, Search, Username
from diycloud.auth.models import KeyList
from diycloud.users.models import Changed


@action("password.change", needs=Permission.ACCOUNT, target="")
class ChangePassword(Action[Changed], frozen=True):
    """Change your own password; all your other sessions end."""

    current: Password
    password: Password


class Credentials(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What signing in asks for. No action: it makes the actor of all others.

    Any text will do, so that no refusal tells what a name or password could be: what does not hold is wrong.
    """

    username: Annotated[str, Meta(extra={"rule": "text", "help": "name"})]
    password: Annotated[str, Meta(extra={"rule": "text", "secret": True, "help": "password"})]


@action("session.end", needs=Permission.ACCOUNT, target="")
class SignOut(Action[None], frozen=True):
    """Sign out: end the session this request belongs to."""


Outcome = Annotated[
    Literal["done", "refused", "failed", "crashed", "started"],
    Meta(extra={"rule": "one of: done, refused, failed, crashed, started", "help": "how it ended"}),
]


class AuditPage(msgspec.Struct, frozen=True):
    """Entries, newest first. next: what `before` asks for the following page, None at the end."""

    entries: list[Entry]
    next: int | None = None


_WHEN = r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?Z?)?\Z"
Since = Annotated[
    str,
    Meta(
        pattern=_WHEN,
        extra={"rule": "a time in UTC: 2026-11-21 or 2026-11-21 14:05", "help": "not before this time (UTC)"},
    ),
]
Until = Annotated[Since, Meta(extra={"help": "before this time (UTC); of a day alone: until its end"})]


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an entry must be to be shown; empty asks for nothing."""

    user: Annotated[Search, Meta(extra={"help": "only what was done to this user, group, domain or policy"})] = ""
    actor: Annotated[Search, Meta(extra={"help": "only what this actor did, or was done on their behalf"})] = ""
    action: Annotated[
        Search, Meta(extra={"help": "only this action, such as user.create; user. means all of users"})
    ] = ""
    outcome: Outcome | None = None
    via: Annotated[Search, Meta(extra={"help": "only what came this way: cli, rest, portal, system"})] = ""
    address: Annotated[Search, Meta(extra={"help": "only what came from this address"})] = ""
    request_id: Annotated[Search, Meta(extra={"help": "only what belongs to this request"})] = ""
    domain: DomainName | None = None
    search: Annotated[Search, Meta(extra={"help": "text in the message or in the changes"})] = ""
    since: Since | None = None
    until: Until | None = None


@action("audit.list", needs=Permission.AUDIT_READ, audited=Audited.NO, target="")
class ListAudit(Action[AuditPage], AuditFilter, frozen=True, kw_only=True):
    """Show who did what: changes, refusals and failures, newest first."""

    before: Annotated[
        int, Meta(ge=0, le=2**53, extra={"rule": "an entry's id", "help": "only entries before this id"})
    ] = 0
    limit: Annotated[int, Meta(ge=1, le=1000, extra={"rule": "1–1000", "help": "entries in a page"})] = 50


Format = Annotated[
    Literal["csv", "json"], Meta(extra={"rule": "csv or json", "help": "csv, or json: one object a line"})
]


@action("audit.export", needs=Permission.AUDIT_EXPORT, audited=Audited.EXPORT, target="")
class ExportAudit(Action[Download], AuditFilter, frozen=True, kw_only=True):
    """Export the audit, oldest first, as CSV or as JSON with one entry a line."""

    format: Format = "csv"


KeyText = Annotated[
    str,
    Meta(
        max_length=3000,
        pattern=r"\A[^\x00-\x1f\x7f]*\Z",
        extra={"rule": "one line as in ~/.ssh/id_ed25519.pub", "help": "SSH public key: the line of the .pub file"},
    ),
]
Fingerprint = Annotated[
    str,
    Meta(
        pattern=r"\ASHA256:[A-Za-z0-9+/]{43}\Z",
        extra={"rule": "SHA256: and 43 characters, as `ssh-keygen -l` shows it", "help": "the key's fingerprint"},
    ),
]


@action("key.list", needs=Permission.KEYS_READ, audited=Audited.NO)
class ListKeys(Action[KeyList], frozen=True):
    """List the SSH keys that open a user's account."""

    username: Username


@action("key.add", needs=Permission.KEYS)
class AddKey(Action[KeyList], frozen=True):
    """Let an SSH key open a user's account."""

    username: Username
    key: KeyText


@action("key.remove", needs=Permission.KEYS)
class RemoveKey(Action[KeyList], frozen=True):
    """Let an SSH key open a user's account no more; sessions that are open stay."""

    username: Username
    fingerprint: Fingerprint


@action("session.end-all", needs=Permission.USERS_PASSWORD)
class EndSessions(Action[None], frozen=True):
    """Sign a user out everywhere: every session of theirs ends."""

    username: Username


@action("throttle.clear", needs=Permission.USERS_PASSWORD)
class ClearThrottle(Action[None], frozen=True):
    """Let a user who mistyped the password too often try again at once."""

    username: Username
