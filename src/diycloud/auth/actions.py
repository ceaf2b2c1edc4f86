"""What people do with their own sign-in, and what can be asked of the audit."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from diycloud.actions.action import Action, Audited, Permission, action
from diycloud.actions.download import Download
from diycloud.actions.fields import DomainName, Flag, PageSize, Password, Search, Username
from diycloud.auth.factor_actions import BrowsersAnswer
from diycloud.auth.models import (
    AuditPage,
    KeyList,
    PasswordChanged,
    Proved,
    SessionList,
    SessionPage,
    TokenCreated,
    TokenList,
    WaitList,
)


@action("password.change", needs=Permission.ACCOUNT, target="")
class ChangePassword(Action[PasswordChanged], frozen=True):
    """Change your own password; all your other sessions and your API tokens end."""

    current: Password
    password: Password
    keep_tokens: Annotated[Flag, Meta(extra={"help": "let your API tokens live on"})] = False


Code = Annotated[
    str,
    Meta(
        max_length=64,
        pattern=r"\A[A-Za-z0-9 -]*\Z",
        extra={"rule": "letters, digits, blanks and -", "secret": True, "help": "code of your second factor"},
    ),
]


@action("session.prove", needs=Permission.ACCOUNT, target="")
class Prove(Action[Proved], frozen=True):
    """Prove anew who you are, before what changes how you sign in; your session goes on under another token."""

    password: Password = ""
    code: Code = ""
    passkey: Annotated[
        BrowsersAnswer, Meta(extra={"help": "instead of both: the answer of the browser at the portal's /confirm"})
    ] = ""


class Credentials(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What signing in asks for. No action: it makes the actor of all others.

    Any text will do, so that no refusal tells what a name or password could be: what does not hold is wrong.
    """

    username: Annotated[str, Meta(extra={"rule": "text", "help": "name"})]
    password: Annotated[str, Meta(extra={"rule": "text", "secret": True, "help": "password"})]
    code: Annotated[str, Meta(extra={"rule": "text", "secret": True, "help": "code of the second factor"})] = ""


class SecondStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What finishes a sign-in whose password was right: the ticket that it got, and one of the ways it named.

    code: of the app, or a recovery code; passkey: what navigator.credentials.get gave, as JSON text.
    """

    ticket: Annotated[str, Meta(extra={"rule": "text", "secret": True, "help": "ticket of the first step"})]
    code: Annotated[str, Meta(extra={"rule": "text", "secret": True, "help": "code of the second factor"})] = ""
    passkey: Annotated[str, Meta(extra={"rule": "text", "secret": True, "help": "answer of the browser"})] = ""


@action("session.end", needs=Permission.ACCOUNT, target="")
class SignOut(Action[None], frozen=True):
    """Sign out: end the session this request belongs to."""


Outcome = Annotated[
    Literal["done", "refused", "failed", "crashed", "started"],
    Meta(extra={"rule": "one of: done, refused, failed, crashed, started", "help": "how it ended"}),
]


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
    token: Annotated[Search, Meta(extra={"help": "only what was done by the API token with this key id"})] = ""
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


SessionId = Annotated[
    str,
    Meta(
        pattern=r"\A[1-9][0-9]{0,17}\Z",
        extra={"rule": "a session's number, as the list shows it", "help": "which session"},
    ),
]


@action("session.list", needs=Permission.SESSIONS_READ, audited=Audited.NO, target="")
class ListSessions(Action[SessionPage], frozen=True, kw_only=True):
    """Show who is signed in: every session that holds, the newest sign-in first."""

    user: Annotated[Search, Meta(extra={"help": "only this user's"})] = ""
    address: Annotated[Search, Meta(extra={"help": "only those begun from this address"})] = ""
    before: Annotated[
        int, Meta(ge=0, le=2**53, extra={"rule": "a session's number", "help": "only sessions before this one"})
    ] = 0
    limit: PageSize = 50


@action("session.show", needs=Permission.SESSIONS_READ, audited=Audited.NO)
class ShowSessions(Action[SessionList], frozen=True):
    """Show where a user is signed in."""

    username: Username


@action("session.revoke", needs=Permission.SESSIONS)
class EndSession(Action[None], frozen=True):
    """End one session of a user."""

    username: Username
    session: SessionId


@action("session.end-all", needs=Permission.SESSIONS)
class EndSessions(Action[None], frozen=True):
    """Sign a user out everywhere: every session and every API token of theirs ends."""

    username: Username
    keep_this: Annotated[Flag, Meta(extra={"help": "but for the session that asks"})] = False
    keep_tokens: Annotated[Flag, Meta(extra={"help": "but for the API tokens"})] = False


@action("throttle.list", needs=Permission.SESSIONS_READ, audited=Audited.NO, target="")
class ListWaiting(Action[WaitList], frozen=True):
    """Show which accounts and addresses must wait after failed sign-ins, and how long."""


@action("throttle.clear", needs=Permission.USERS_PASSWORD)
class ClearThrottle(Action[None], frozen=True):
    """Let a user who mistyped the password too often try again at once."""

    username: Username


Label = Annotated[
    str,
    Meta(
        pattern=r"\A(?=\S)[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]{1,60}(?<=\S)\Z",
        extra={"rule": "1–60 printable characters, no blank at the ends", "help": "what it is for, in your own words"},
    ),
]
Scopes = Annotated[
    tuple[Annotated[str, Meta(max_length=40, pattern=r"\A[a-z:-]+\Z")], ...],
    Meta(
        min_length=1,
        max_length=60,
        extra={
            "rule": "permissions such as users:read, or read (all that only looks), or all",
            "help": "permissions it lends, commas between; read: all that only looks; all: everything a token may",
        },
    ),
]
Days = Annotated[int, Meta(ge=1, le=366, extra={"rule": "1–366", "help": "days until it ends"})]
KeyId = Annotated[
    str,
    Meta(
        pattern=r"\A[a-z2-7]{12}\Z",
        extra={"rule": "12 characters: what stands after dct_", "help": "the token's key id"},
    ),
]


@action("token.create", needs=Permission.TOKENS)
class CreateToken(Action[TokenCreated], frozen=True):
    """Make an API token of your own for a script; it is shown once."""

    username: Username
    label: Label
    scopes: Scopes = ("read",)
    days: Days = 90


@action("token.list", needs=Permission.TOKENS_READ, audited=Audited.NO)
class ListTokens(Action[TokenList], frozen=True):
    """List a user's API tokens, without their secrets."""

    username: Username


@action("token.revoke", needs=Permission.TOKENS)
class RevokeToken(Action[None], frozen=True):
    """End an API token."""

    username: Username
    key_id: KeyId
