"""Groups, role and domain that somebody has here by their groups elsewhere. Pure: linking.py and gateway.py do it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from diycloud.actions.roles import Role
from diycloud.auth.outside.person import Person, is_in
from diycloud.config_sign_in import Linking

RANK = (Role.ADMIN, Role.DOMAIN_ADMIN, Role.MONITOR, Role.USER)
"""The one that counts if several are mapped comes first."""


class Mapped(NamedTuple):
    """What the rules ask for; None: left as it is. groups: the whole list that the user is to have."""

    groups: frozenset[str] | None
    role: Role | None
    domain: str | None


def is_above(role: Role, other: Role) -> bool:
    """Tell whether a role counts more than another."""
    return RANK.index(role) < RANK.index(other)


def mapped(person: Person, rules: Linking, *, role: Role, groups: Iterable[str]) -> Mapped:
    """Return what somebody is to be here. role, groups: what they are now."""
    return Mapped(_groups(person, rules, frozenset(groups)), _role(person, rules, role), _domain(person, rules))


def _groups(person: Person, rules: Linking, now: frozenset[str]) -> frozenset[str] | None:
    """Only groups that the rules name are given or taken."""
    managed = {name for names in rules.groups.values() for name in names}
    given = {name for outside, names in rules.groups.items() if is_in(person, outside) for name in names}
    wanted = (now - managed) | given
    return None if wanted == now else frozenset(wanted)


def _role(person: Person, rules: Linking, now: Role) -> Role | None:
    """Administrators are made, and made less, only if the rules say so by name."""
    if not rules.roles or (now is Role.ADMIN and not rules.allow_admin):
        return None
    given = {Role(role) for outside, role in rules.roles.items() if is_in(person, outside)}
    if not rules.allow_admin:
        given.discard(Role.ADMIN)
    wanted = next((role for role in RANK if role in given), Role.USER)
    return None if wanted is now else wanted


def _domain(person: Person, rules: Linking) -> str | None:
    return next((domain for outside, domain in rules.domains.items() if is_in(person, outside)), None)
