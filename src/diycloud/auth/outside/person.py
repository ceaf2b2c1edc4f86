"""Who somebody is elsewhere, and what may become a name here."""

from __future__ import annotations

import re
from typing import NamedTuple

from diycloud.config_sign_in import LDAP, Linking

_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}\Z")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9_-]+")
MAX_SUBJECT = 255
"""OpenID Connect Core 1.0, 2, "sub"."""


class Person(NamedTuple):
    """Somebody as a provider knows them. provider, subject: for ever; all else may change there.

    username, email, full_name: empty if not known; email_verified: the provider has made sure that it is theirs. groups: as
    the provider names them. methods: how they proved it, beside `fed` (RFC 8176).
    """

    provider: str
    subject: str
    username: str = ""
    email: str = ""
    email_verified: bool = False
    full_name: str = ""
    groups: frozenset[str] = frozenset()
    methods: tuple[str, ...] = ()


def username_here(name: str) -> str:
    """Return the name that somebody gets here by their name elsewhere, empty if none can be made of it.

    Small letters; of an address what is before the @; what no name may hold becomes one hyphen.
    """
    made = _NOT_IN_NAMES.sub("-", name.strip().partition("@")[0].lower()).strip("-")
    return made if _NAME.match(made) else ""


def exact_name(name: str) -> str:
    """Return the name here that is the same as one elsewhere but for capitals, empty if there can be none.

    Nothing else is left out: `ada@elsewhere.example` is not ada, whoever gives out such names.
    """
    lower = name.lower()
    return lower if name.isascii() and _NAME.match(lower) else ""


def is_in(person: Person, group: str) -> bool:
    """Tell whether somebody is in a group of the outside.

    Names of directories do not tell capitals, or blanks beside commas, apart; providers' are compared as they are. Source:
    RFC 4517, 4.2.11 (caseIgnoreMatch); RFC 4514, 3.
    """
    if person.provider != LDAP:
        return group in person.groups
    return _plain_group(group) in map(_plain_group, person.groups)


def _plain_group(name: str) -> str:
    return re.sub(r"\s*([,=])\s*", r"\1", name.strip()).casefold()


def may_come(person: Person, rules: Linking) -> bool:
    """Tell whether somebody is in one of the groups that may come in."""
    return not rules.only or any(is_in(person, name) for name in rules.only)
