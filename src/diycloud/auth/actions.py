"""What people do with their own sign-in, and what can be asked of the audit."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from diycloud.actions.action import Action, Audited, Permission, action
from diycloud.actions.entry import Entry
from diycloud.actions.fields import Password, Search
from diycloud.users.models import Changed


@action("password.change", needs=Permission.OWN_PASSWORD, target="")
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


@action("session.end", needs=Permission.OWN_READ, target="")
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


@action("audit.list", needs=Permission.AUDIT_READ, audited=Audited.NO, target="")
class ListAudit(Action[AuditPage], frozen=True):
    """Show who did what: changes, refusals and failures, newest first."""

    user: Annotated[Search, Meta(extra={"help": "only what was done to this user"})] = ""
    actor: Annotated[Search, Meta(extra={"help": "only what this actor did"})] = ""
    action: Annotated[Search, Meta(extra={"help": "only this action, such as user.create"})] = ""
    outcome: Outcome | None = None
    before: Annotated[
        int, Meta(ge=0, le=2**53, extra={"rule": "an entry's id", "help": "only entries before this id"})
    ] = 0
    limit: Annotated[int, Meta(ge=1, le=1000, extra={"rule": "1–1000", "help": "entries in a page"})] = 50
