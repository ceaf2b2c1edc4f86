"""Applications as the API, the command line and the portal show them."""

from __future__ import annotations

import msgspec

SCOPES = ("openid", "profile", "email", "groups", "offline_access")
"""What an application may be allowed to ask for (OpenID Connect Core 1.0, 5.4 and 11; groups is ours)."""


class App(msgspec.Struct, frozen=True):
    """An application. name: its client_id; public: it has no secret; the rest: oidc_clients in db/sign_in_tables.py."""

    name: str
    title: str
    public: bool
    redirect_uris: tuple[str, ...]
    logout_uris: tuple[str, ...]
    scopes: tuple[str, ...]
    trusted: bool
    pkce: bool
    refresh: bool
    enabled: bool
    created_at: str
    updated_at: str


class Endpoints(msgspec.Struct, frozen=True):
    """The addresses that an application is set up with."""

    issuer: str
    discovery: str
    authorization: str
    token: str
    userinfo: str
    jwks: str
    logout: str


class AppDetail(msgspec.Struct, frozen=True):
    """An application and what it is set up with."""

    app: App
    endpoints: Endpoints


class AppList(msgspec.Struct, frozen=True):
    """Every application, by name."""

    apps: list[App]


class AppIssued(msgspec.Struct, frozen=True):
    """An application with its secret, which is shown this once; None for one that has none."""

    app: App
    endpoints: Endpoints
    secret: str | None
    warnings: tuple[str, ...] = ()


class AppChanged(msgspec.Struct, frozen=True):
    """A changed application, and what people should know about the change."""

    app: App
    warnings: tuple[str, ...] = ()


class KeysRotated(msgspec.Struct, frozen=True):
    """kid: of the key that signs from now on; kept: of those that old ID tokens are still checked with."""

    kid: str
    kept: tuple[str, ...]


class OwnApp(msgspec.Struct, frozen=True):
    """An application that somebody signed in at, or allowed to know about them.

    scopes: what they allowed; allowed_at: when, None for one of the platform's own; sign_ins: how many hold now.
    """

    name: str
    title: str
    trusted: bool
    scopes: tuple[str, ...]
    allowed_at: str | None
    sign_ins: int


class OwnApps(msgspec.Struct, frozen=True):
    """The applications that know somebody, by title."""

    apps: list[OwnApp]
