"""What can be done with applications that sign people in through the platform. How: service.py."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from diycloud.actions.action import Action, Audited, Permission, action
from diycloud.actions.fields import Flag
from diycloud.auth.oidc.models import SCOPES, AppChanged, AppDetail, AppIssued, AppList, KeysRotated, OwnApps

AppName = Annotated[
    str,
    Meta(
        pattern=r"\A[a-z_][a-z0-9_-]{0,31}\Z",
        extra={
            "rule": "1–32 characters: a–z, 0–9, _ and -, starting with a letter or _",
            "help": "application: its client_id, fixed for life",
        },
    ),
]
Title = Annotated[
    str,
    Meta(
        pattern=r"\A(?=\S)[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]{1,60}(?<=\S)\Z",
        extra={"rule": "1–60 printable characters, no blank at the ends", "help": "what people know it by"},
    ),
]
_URI = Annotated[str, Meta(pattern=r"\A[\x21-\x7e]{1,500}\Z")]
_URIS = "at most 20 addresses of printable ASCII, each at most 500 characters"
RedirectUris = Annotated[
    tuple[_URI, ...],
    Meta(
        max_length=20,
        extra={"rule": _URIS, "help": "where it gets people back after they signed in, exactly; commas between"},
    ),
]
LogoutUris = Annotated[
    tuple[_URI, ...],
    Meta(
        max_length=20,
        extra={"rule": _URIS, "help": "where it may send people after they signed out, exactly; commas between"},
    ),
]
AppScopes = Annotated[
    tuple[Literal["openid", "profile", "email", "groups", "offline_access"], ...],
    Meta(
        min_length=1,
        max_length=len(SCOPES),
        extra={"rule": f"of: {', '.join(SCOPES)}", "help": f"what it may ask for, commas between: {', '.join(SCOPES)}"},
    ),
]
Public = Annotated[Flag, Meta(extra={"help": "it can keep no secret: a program on people's own devices"})]
Trusted = Annotated[Flag, Meta(extra={"help": "of the platform's own: people are not asked whether it may know them"})]
Pkce = Annotated[Flag, Meta(extra={"help": "it must use PKCE; off only for one with a secret that cannot"})]
Refresh = Annotated[Flag, Meta(extra={"help": "it gets refresh tokens that hold while people are signed in"})]
Enabled = Annotated[Flag, Meta(extra={"help": "people can sign in at it"})]


@action("app.create", needs=Permission.CLIENTS, target="name")
class CreateApp(Action[AppIssued], frozen=True, kw_only=True):
    """Let an application sign people in through the platform; its secret is shown once."""

    name: AppName
    title: Title | None = None
    redirect_uris: RedirectUris
    logout_uris: LogoutUris = ()
    scopes: AppScopes = ("openid", "profile", "email")
    public: Public = False
    trusted: Trusted = False
    pkce: Pkce = True
    refresh: Refresh = False


@action("app.list", needs=Permission.CLIENTS_READ, audited=Audited.NO, target="")
class ListApps(Action[AppList], frozen=True):
    """List the applications that sign people in through the platform."""


@action("app.show", needs=Permission.CLIENTS_READ, audited=Audited.NO, target="name")
class ShowApp(Action[AppDetail], frozen=True):
    """Show one application and the addresses it is set up with."""

    name: AppName


@action("app.modify", needs=Permission.CLIENTS, target="name")
class ModifyApp(Action[AppChanged], frozen=True):
    """Change an application; what is left out stays. Switched off, all its tokens end."""

    name: AppName
    title: Title | UnsetType = UNSET
    redirect_uris: RedirectUris | UnsetType = UNSET
    logout_uris: LogoutUris | UnsetType = UNSET
    scopes: AppScopes | UnsetType = UNSET
    trusted: Trusted | UnsetType = UNSET
    pkce: Pkce | UnsetType = UNSET
    refresh: Refresh | UnsetType = UNSET
    enabled: Enabled | UnsetType = UNSET


@action("app.rotate-secret", needs=Permission.CLIENTS, target="name")
class RotateSecret(Action[AppIssued], frozen=True):
    """Give an application a new secret, shown once; the old one ends."""

    name: AppName


@action("app.remove", needs=Permission.CLIENTS, target="name")
class RemoveApp(Action[None], frozen=True):
    """Remove an application; everything it was given ends."""

    name: AppName


@action("app.rotate-keys", needs=Permission.CLIENTS, target="")
class RotateKeys(Action[KeysRotated], frozen=True):
    """Sign ID tokens with a new key from now on; those signed before are still checked with the old one."""


@action("app.list-own", needs=Permission.ACCOUNT, audited=Audited.NO, target="")
class ListOwnApps(Action[OwnApps], frozen=True):
    """List the applications that know you: those you signed in at, and those you allowed to."""


@action("app.withdraw", needs=Permission.ACCOUNT, target="name")
class WithdrawApp(Action[None], frozen=True):
    """Take back what you allowed an application; your sign-ins there end."""

    name: AppName
