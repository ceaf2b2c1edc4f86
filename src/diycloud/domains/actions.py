"""What can be done with domains: data and permission, nothing else. How: domains/service.py."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from diycloud.actions.action import Action, Audited, Kind, Permission, action
from diycloud.actions.fields import Description, DomainName, PolicyName
from diycloud.domains.models import Domain, DomainList


@action("domain.create", needs=Permission.DOMAINS, target="name", kind=Kind.NOTHING)
class CreateDomain(Action[Domain], frozen=True):
    """Create a domain: a tenant with users, groups and administrators of its own."""

    name: DomainName
    description: Description | None = None
    policy: PolicyName = "default"


@action("domain.list", needs=Permission.DOMAINS_READ, audited=Audited.NO, target="")
class ListDomains(Action[DomainList], frozen=True):
    """List domains, with how many users and groups each has."""


@action("domain.show", needs=Permission.DOMAINS_READ, audited=Audited.NO, target="name", kind=Kind.DOMAIN)
class ShowDomain(Action[Domain], frozen=True):
    """Show one domain."""

    name: DomainName


@action("domain.modify", needs=Permission.DOMAINS, target="name", kind=Kind.DOMAIN)
class ModifyDomain(Action[Domain], frozen=True):
    """Change a domain; what is left out stays, null clears. The policy is of users created from now on."""

    name: DomainName
    description: Description | UnsetType | None = UNSET
    policy: PolicyName | UnsetType = UNSET


@action("domain.remove", needs=Permission.DOMAINS, target="name", kind=Kind.DOMAIN)
class RemoveDomain(Action[None], frozen=True):
    """Remove a domain that has no users (the deleted count too) and no groups."""

    name: DomainName
