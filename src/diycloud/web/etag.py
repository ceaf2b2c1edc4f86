"""Entity tags of users, groups, domains and policies, and the conditions that requests make of them (RFC 9110, 8.8 and 13).

A tag is `"SET-ALL"`. ALL is a hash of the whole representation, so the tag is a strong validator: no two
representations share one, and If-None-Match never hides a change. SET is a hash of what people set, without what changes
by itself (a last sign-in, whether the host has followed, how many users a domain has). If-Match holds if SET is the same:
whoever changes a domain while users are imported into it overwrites nobody's work, and is not refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from hashlib import blake2b
from operator import attrgetter
from typing import Any

import msgspec
from sqlalchemy import Connection

from diycloud.actions.action import Kind
from diycloud.actions.dispatcher import Terms
from diycloud.actions.services import Services
from diycloud.domains import repository as domains
from diycloud.domains.models import Domain
from diycloud.errors import PreconditionFailed
from diycloud.groups import repository as groups
from diycloud.groups import service as groups_service
from diycloud.groups.models import Group, GroupDetail
from diycloud.policies import repository as policies
from diycloud.policies.models import Policy
from diycloud.users import shown
from diycloud.users.models import User

Thing = User | GroupDetail | Domain | Policy
BY_ITSELF: dict[type[Any], tuple[str, ...]] = {
    User: ("settled", "host_problem", "last_login", "last_login_ip"),
    GroupDetail: (),
    Group: ("host_problem",),
    Domain: ("users", "groups", "admins"),
    Policy: ("users", "domains"),
}
"""Fields that change without anybody changing the thing: they count in ALL only."""

_encode = msgspec.json.Encoder().encode
_TAG = re.compile(r'(W/)?"([!#-~\x80-\xff]*)"')


def _set(kind: type[Any], *, below: str = "") -> list[str]:
    return [below + name for name in kind.__struct_fields__ if name not in BY_ITSELF[kind]]


_SET: dict[type[Any], Callable[[Any], Any]] = {
    User: attrgetter(*_set(User)),
    GroupDetail: attrgetter(*_set(Group, below="group."), "members"),
    Domain: attrgetter(*_set(Domain)),
    Policy: attrgetter(*_set(Policy)),
}


def has_tags(kind: object) -> bool:
    """Tell whether what is of a type has entity tags."""
    return kind in _SET


def has_tag(thing: object) -> bool:
    """Tell whether something is what has entity tags."""
    return type(thing) in _SET


def tag(thing: Thing, body: bytes | None = None) -> str:
    """Return a thing's entity tag, with its quotes. body: its JSON, where that is made already."""
    return f'"{_hash(_encode(_SET[type(thing)](thing)))}-{_hash(_encode(thing) if body is None else body)}"'


def _hash(data: bytes) -> str:
    return blake2b(data, digest_size=8).hexdigest()


def read(connection: Connection, services: Services, kind: Kind, name: str) -> Thing | None:
    """Return a thing as a GET of it shows it now, None if there is none."""
    if kind is Kind.USER:
        return shown.by_name(connection, name)
    if kind is Kind.GROUP:
        group = groups.by_name(connection, name)
        if group is None:
            return None
        return GroupDetail(groups_service.view(services, group), tuple(groups.member_names(connection, group.id)))
    found: Iterable[Thing] = ()
    if kind is Kind.DOMAIN:
        found = domains.every(connection, name)
    elif kind is Kind.POLICY:
        found = policies.every(connection, name)
    return next(iter(found), None)


def matches(field: str, current: str) -> bool:
    """Tell whether an If-Match field names a tag. A weak tag in it never does, `*` always."""
    if field.strip() == "*":
        return True
    wanted = current.strip('"').partition("-")[0]
    return any(not weak and opaque.partition("-")[0] == wanted for weak, opaque in _TAG.findall(field))


def differs(field: str, current: str) -> bool:
    """Tell whether an If-None-Match field does not name a tag, compared weakly: the whole representation counts."""
    return field.strip() != "*" and current.strip('"') not in (opaque for _, opaque in _TAG.findall(field))


class Precondition(Terms):
    """What a request asks of the thing that it changes. if_match, if_none_match: the fields, None if they are not there."""

    def __init__(
        self, services: Services, kind: Kind, name: str, if_match: str | None, if_none_match: str | None
    ) -> None:
        self._services = services
        self._kind = kind
        self._name = name
        self._if_match = if_match
        self._if_none_match = if_none_match

    def check(self, connection: Connection) -> None:
        """Raise PreconditionFailed unless it holds for the thing as the database has it now.

        What is not there at all is the handler's to say: conditions count only where there is something (13.2.1).
        """
        if self._kind not in TAGGED:
            if self._if_match is not None and self._if_match.strip() != "*":
                raise PreconditionFailed("What this address names has no entity tag.", "Leave If-Match out.")
            return
        thing = read(connection, self._services, self._kind, self._name)
        if thing is not None:
            check(tag(thing), self._if_match, self._if_none_match)


TAGGED = frozenset({Kind.USER, Kind.GROUP, Kind.DOMAIN, Kind.POLICY})


def check(current: str, if_match: str | None, if_none_match: str | None) -> None:
    """Raise PreconditionFailed unless the fields of a change hold for a tag."""
    if if_match is not None and not matches(if_match, current):
        raise PreconditionFailed(
            "It was changed meanwhile: If-Match names another state.", "Read it again, then decide."
        )
    if if_none_match is not None and not differs(if_none_match, current):
        raise PreconditionFailed("It is there already: If-None-Match names its state.", "Read it first.")
