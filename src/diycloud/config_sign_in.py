"""Settings of signing in through others: the section `sign_in` of config.yaml (docs/how-to/ldap.md, outside-sign-in.md)."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from msgspec import Meta, Struct

LDAP = "ldap"
"""The directory's name among the providers."""
_FILE = r"\A(/[^\x00\n]+)?\Z"
_ATTRIBUTE = r"\A[A-Za-z][A-Za-z0-9.-]{0,63}\Z"
_LINE = r"\A[^\x00-\x1f\x7f]*\Z"
File = Annotated[str, Meta(pattern=_FILE)]
Attribute = Annotated[str, Meta(pattern=_ATTRIBUTE)]
Line = Annotated[str, Meta(pattern=_LINE, max_length=2000)]
Claim = Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f]{1,200}\Z")]
GroupName = Annotated[str, Meta(pattern=r"\A[a-z_][a-z0-9_-]{0,31}\Z")]
Seconds = Annotated[float, Meta(ge=0.1, le=60)]


def is_loopback(parts: SplitResult) -> bool:
    """Tell whether a URL leads to this machine itself, so that nobody is in between."""
    host = parts.hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Linking(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What somebody whom the outside knows is here. Both kinds of providers have these."""

    label: Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f]{0,60}\Z")] = ""
    """How people call it; empty: its name."""
    link: Literal["none", "username", "email"] = "none"
    """Which user somebody is who comes for the first time: the one of the same name, or of the same address, if it is a plain
    user with neither sudo nor a link; none: only whom an administrator has linked."""
    trust_email: bool = False
    """Addresses are taken as confirmed by the provider, even without its word."""
    create: bool = False
    """Make a user of whoever is known there and is no user here yet."""
    domain: GroupName = "default"
    """The domain of users that are made."""
    only: tuple[Claim, ...] = ()
    """Groups of the outside; who is in none of them does not come in. Empty: everybody may."""
    groups: dict[Claim, tuple[GroupName, ...]] = {}
    """Group of the outside → groups here. Groups that are not named here are left alone."""
    roles: dict[Claim, Literal["admin", "domain-admin", "monitor", "user"]] = {}
    """Group of the outside → role here, the highest counts, and `user` without any. Empty: roles are left alone."""
    allow_admin: bool = False
    """Whether `roles` may make administrators, and take it from them."""
    domains: dict[Claim, GroupName] = {}
    """Group of the outside → domain here; the first counts. Empty: domains are left alone."""
    timeout_s: Seconds = 5.0
    """How long one answer may take, in seconds."""
    ca_file: File = ""
    """Certificates (PEM) that the other side's is checked against; empty: the system's."""
    insecure: bool = False
    """Allow an unencrypted way over the network. Passwords and identities can then be read and forged there."""

    def check_linking(self) -> None:
        """Raise ValueError for rules that contradict each other."""
        if "admin" in self.roles.values() and not self.allow_admin:
            raise ValueError("roles gives admin, which needs allow_admin: true")


class LdapSettings(Linking, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An LDAP directory (RFC 4511), Active Directory among them."""

    urls: Annotated[
        tuple[Annotated[str, Meta(pattern=r"\Aldaps?://[^\s/@?#]+/?\Z")], ...], Meta(min_length=1, max_length=8)
    ]
    """The servers of one directory, `ldaps://HOST` or `ldap://HOST`; the next is asked if one does not answer."""
    starttls: bool = True
    """For `ldap://`: go on encrypted, or not at all."""
    bind_dn: Line = ""
    """Who searches for people. Empty: nobody in particular, if the directory allows that."""
    bind_password_file: File = ""
    """A file whose first line is the password of bind_dn; the server's account must be able to read it."""
    bind_template: Annotated[str, Meta(pattern=r"\A([^\x00-\x1f\x7f]*\{username\}[^\x00-\x1f\x7f]*)?\Z")] = ""
    """Instead of searching: as whom people bind, such as `uid={username},ou=people,dc=example,dc=org` or
    `{username}@example.org`."""
    user_base: Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f]+\Z")]
    """Where people are, such as `ou=people,dc=example,dc=org`."""
    user_filter: Annotated[str, Meta(pattern=r"\A\([^\x00-\x1f\x7f]*\{username\}[^\x00-\x1f\x7f]*\)\Z")] = (
        "(uid={username})"
    )
    """Who is found by a name (RFC 4515); {username} is what was typed, made harmless."""
    subject: Attribute = "entryUUID"
    """The attribute that is an entry's own for ever; of Active Directory: objectGUID."""
    username: Attribute = "uid"
    """The attribute that becomes the user's name; of Active Directory: sAMAccountName."""
    full_name: Attribute = "cn"
    """The attribute with the person's name; of Active Directory: displayName."""
    email: Attribute = "mail"
    """The attribute with the person's address."""
    member_of: Annotated[str, Meta(pattern=rf"{_ATTRIBUTE[:-2]}\Z|\A\Z")] = "memberOf"
    """The attribute of people that names their groups; empty if there is none."""
    group_base: Line = ""
    """Where groups are, if they are to be searched for; empty: member_of alone counts."""
    group_filter: Annotated[str, Meta(pattern=r"\A\([^\x00-\x1f\x7f]*\)\Z")] = (
        "(|(member={dn})(uniqueMember={dn})(memberUid={username}))"
    )
    """The groups of a person; {dn} and {username} are theirs, made harmless."""
    host_password: bool = False
    """Give the host the password that was just proved, so that SSH and sudo take the same one."""
    check_minutes: Annotated[int, Meta(ge=0, le=10_080)] = 0
    """Look every so many minutes whether who is signed in is still in the directory, and end the sessions of who is not; 0: only
    at the next sign-in."""

    def __post_init__(self) -> None:
        self.check_linking()
        if self.link == "email" and not self.trust_email:
            raise ValueError(
                "link: email needs trust_email: true, as a directory says of no address that it was confirmed"
            )
        if self.bind_dn and not self.bind_password_file:
            raise ValueError("bind_dn needs bind_password_file")
        if self.bind_template and self.check_minutes and not self.bind_dn:
            raise ValueError("check_minutes needs bind_dn and bind_password_file: somebody who may search")
        for url in self.urls:
            parts = urlsplit(url)
            _ = parts.port  # raises ValueError for what is none
            if not parts.hostname:
                raise ValueError(f"{url} names no host")
            if parts.scheme == "ldap" and not self.starttls and not self.insecure and not is_loopback(parts):
                raise ValueError(f"{url} is not encrypted: use ldaps://, or starttls: true")

    @property
    def name(self) -> str:
        return LDAP


class ProviderSettings(Linking, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An OpenID Connect provider (OpenID Connect Core 1.0)."""

    name: Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9-]{0,31}\Z")]
    """Its name in addresses and links; never to be changed, nor given to another issuer, as links name it. Not `ldap`."""
    issuer: Annotated[str, Meta(pattern=r"\Ahttps?://[^\s@?#]+\Z")]
    """Its issuer, exactly as it writes it itself; /.well-known/openid-configuration must be below."""
    client_id: Annotated[str, Meta(pattern=r"\A[\x21-\x7e]{1,255}\Z")]
    """What it calls this platform."""
    client_secret_file: File = ""
    """A file whose first line is the client's secret; empty for a public client."""
    scopes: tuple[Annotated[str, Meta(pattern=r"\A[\x21\x23-\x5b\x5d-\x7e]{1,100}\Z")], ...] = (
        "openid",
        "profile",
        "email",
    )
    """What is asked for."""
    username_claim: Claim = "preferred_username"
    """The claim that becomes the user's name."""
    name_claim: Claim = "name"
    """The claim with the person's name."""
    email_claim: Claim = "email"
    """The claim with the person's address; it counts as confirmed if email_verified says so."""
    groups_claim: Claim = "groups"
    """The claim with the names of the person's groups."""
    trust_mfa: bool = False
    """Ask for no second factor here if the provider says that it has asked for one (amr, or acr below)."""
    mfa_acr: tuple[Claim, ...] = ()
    """Values of the claim acr that stand for a second factor."""

    def __post_init__(self) -> None:
        self.check_linking()
        if self.name == LDAP:
            raise ValueError("name: ldap is the directory's")
        if "openid" not in self.scopes:
            raise ValueError("scopes: openid is needed")
        parts = urlsplit(self.issuer)
        _ = parts.port
        if parts.scheme == "http" and not self.insecure and not is_loopback(parts):
            raise ValueError(f"{self.issuer} is not encrypted: use https://")


class SignInSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Signing in with what people have elsewhere already. Who was linked stays linked; see the how-to pages."""

    ldap: LdapSettings | None = None
    """A directory that checks names and passwords typed at the portal."""
    providers: Annotated[tuple[ProviderSettings, ...], Meta(max_length=16)] = ()
    """OpenID Connect providers, each with a button on the sign-in page."""

    def __post_init__(self) -> None:
        names = [provider.name for provider in self.providers]
        if len(set(names)) != len(names):
            raise ValueError("providers: two have the same name")

    @property
    def is_used(self) -> bool:
        """Whether there is anybody to ask: then the server needs the network."""
        return self.ldap is not None or bool(self.providers)

    def rules_of(self, provider: str) -> Linking | None:
        """Return the rules of a provider by its name, None if it is not set any more."""
        if provider == LDAP:
            return self.ldap
        return next((found for found in self.providers if found.name == provider), None)
