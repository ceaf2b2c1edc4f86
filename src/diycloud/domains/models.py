"""What a domain is: a tenant that users and groups belong to."""

from __future__ import annotations

import msgspec

DEFAULT = "default"
"""The domain that is always there."""


class Domain(msgspec.Struct, frozen=True):
    """A domain. policy: of its new users; users, groups: how many it has; admins: names of its own administrators."""

    name: str
    description: str
    policy: str
    users: int
    groups: int
    admins: tuple[str, ...]
    created_at: str
    updated_at: str


class DomainList(msgspec.Struct, frozen=True):
    """Every domain that the asker may see, by name."""

    domains: list[Domain]
