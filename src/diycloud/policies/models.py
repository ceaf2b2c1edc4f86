"""What a policy is: the limits of new users, and the most that can be given."""

from __future__ import annotations

import msgspec

DEFAULT = "default"
"""The policy that is always there."""


class Defaults(msgspec.Struct, frozen=True):
    """Limits as people read them: cores, sizes such as 2G, a number of processes."""

    cpu: float
    memory: str
    disk: str
    tasks: int
    gpu: bool


class Maxima(msgspec.Struct, frozen=True):
    """The most that can be given; None: as much as the host has."""

    cpu: float | None
    memory: str | None
    disk: str | None
    tasks: int | None
    gpu: bool


class Policy(msgspec.Struct, frozen=True):
    """A policy as the API, the command line and the portal show it. users: how many have it.

    max_sessions: of one person, None for any number. second_factor: whoever has the policy must have one.
    """

    name: str
    description: str
    defaults: Defaults
    maxima: Maxima
    users: int
    domains: tuple[str, ...]
    created_at: str
    updated_at: str
    max_sessions: int | None = None
    second_factor: bool = False


class PolicyList(msgspec.Struct, frozen=True):
    """Every policy, by name."""

    policies: list[Policy]


class PolicyChanged(msgspec.Struct, frozen=True):
    """A changed policy, and what people should know about the change."""

    policy: Policy
    warnings: tuple[str, ...] = ()
