"""What can be done with the links between users here and people elsewhere. How: auth/outside/service.py."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from diycloud.actions.action import Action, Audited, Permission, action
from diycloud.actions.fields import Username

ProviderName = Annotated[
    str,
    Meta(
        pattern=r"\A[a-z][a-z0-9-]{0,31}\Z",
        extra={
            "rule": "ldap, or the name of a provider of the settings",
            "help": "provider: ldap, or a name of the settings",
        },
    ),
]
Subject = Annotated[
    str,
    Meta(
        max_length=255,
        pattern=r"\A[^\x00-\x1f\x7f]*\Z",
        extra={
            "rule": "at most 255 printable characters",
            "help": "who it is there, for ever: entryUUID, objectGUID or sub",
        },
    ),
]
NameThere = Annotated[
    str,
    Meta(
        max_length=255,
        pattern=r"\A[^\x00-\x1f\x7f]*\Z",
        extra={"rule": "at most 255 printable characters", "help": "the name in the directory, instead of the subject"},
    ),
]


class Identity(msgspec.Struct, frozen=True):
    """One link: whoever is subject to provider is the user."""

    provider: str
    subject: str
    linked_at: str
    last_used: str | None


class Identities(msgspec.Struct, frozen=True):
    """A user's links. password: whether they could sign in without any of them."""

    username: str
    identities: list[Identity]
    password: bool
    warnings: tuple[str, ...] = ()


@action("identity.list", needs=Permission.FACTORS_READ, audited=Audited.NO)
class ListIdentities(Action[Identities], frozen=True):
    """List who a user is to a directory and to outside providers."""

    username: Username


@action("identity.link", needs=Permission.USERS_PASSWORD)
class LinkIdentity(Action[Identities], frozen=True):
    """Let somebody elsewhere sign in as a user; give either the subject, or the name in the directory."""

    username: Username
    provider: ProviderName
    subject: Subject = ""
    name_there: NameThere = ""


@action("identity.unlink", needs=Permission.FACTORS)
class UnlinkIdentity(Action[Identities], frozen=True):
    """Let nobody of a provider's sign in as a user any more; sessions begun so end."""

    username: Username
    provider: ProviderName
