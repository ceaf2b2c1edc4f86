"""Who may do what: the whole matrix. What is expected is written by hand here, and only here.

Each action is tried by each role on itself, on another user (or group) of its domain, on one of another domain, on
an administrator within the domain, and on nobody in particular.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, insert, text

from diycloud.actions.action import Action, Audited, Kind, Permission
from diycloud.actions.actor import Actor
from diycloud.actions.dispatcher import Dispatcher
from diycloud.actions.reach import authorise
from diycloud.actions.roles import PERMISSIONS, Role, Scope
from diycloud.core.routes import ROUTES
from diycloud.db.engine import Database
from diycloud.db.tables import domains, groups, users
from diycloud.errors import PermissionDenied
from diycloud.users import places

ACTIONS: dict[str, type[Action[Any]]] = {route.action.action_name: route.action for route in ROUTES}

# action                 root  admin  domain-admin  monitor  user
#   1 everything · d within the domain · o oneself · - nothing
TABLE = """
user.create               1     1      d             -        -
user.list                 1     1      d             1        -
user.show                 1     1      d             1        o
user.modify               1     1      d             -        -
user.disable              1     1      d             -        -
user.enable               1     1      d             -        -
user.delete               1     1      d             -        -
user.restore              1     1      d             -        -
user.purge-preview        1     1      d             -        -
user.purge                1     1      d             -        -
user.set-password         1     1      d             -        -
user.import               1     1      d             -        -
user.export               1     1      d             1        -
user.bulk                 1     1      d             -        -
user.adopt                1     -      -             -        -
user.set-sudo             1     -      -             -        -
user.usage                1     1      d             1        o
limits.set                1     1      d             -        -
policy.apply              1     1      d             -        -
policy.list               1     1      1             1        -
policy.show               1     1      1             1        -
policy.create             1     1      -             -        -
policy.modify             1     1      -             -        -
policy.remove             1     1      -             -        -
domain.list               1     1      d             1        -
domain.show               1     1      d             1        -
domain.create             1     1      -             -        -
domain.modify             1     1      -             -        -
domain.remove             1     1      -             -        -
group.list                1     1      d             1        -
group.show                1     1      d             1        -
group.create              1     1      d             -        -
group.modify              1     1      d             -        -
group.add-members         1     1      d             -        -
group.remove-members      1     1      d             -        -
group.remove-preview      1     1      d             -        -
group.remove              1     1      d             -        -
key.list                  1     1      d             1        o
key.add                   1     1      d             o        o
key.remove                1     1      d             o        o
audit.list                1     1      d             1        -
audit.export              1     1      d             1        -
host.show                 1     1      -             1        -
metrics.read              1     1      -             1        -
app.create                1     1      -             -        -
app.list                  1     1      -             1        -
app.show                  1     1      -             1        -
app.modify                1     1      -             -        -
app.rotate-secret         1     1      -             -        -
app.remove                1     1      -             -        -
app.rotate-keys           1     1      -             -        -
app.list-own              1     1      1             1        1
app.withdraw              1     1      1             1        1
session.list              1     1      d             1        -
session.show              1     1      d             1        o
session.revoke            1     1      d             o        o
session.end-all           1     1      d             o        o
session.prove             1     1      1             1        1
token.list                1     1      d             1        o
token.create              1     1      d             o        o
token.revoke              1     1      d             o        o
throttle.list             1     1      d             1        -
throttle.clear            1     1      d             -        -
factor.show               1     1      d             1        o
factor.reset              1     1      d             o        o
factor.begin-totp         1     1      1             1        1
factor.activate-totp      1     1      1             1        1
factor.remove-totp        1     1      1             1        1
factor.renew-codes        1     1      1             1        1
passkey.begin             1     1      1             1        1
passkey.add               1     1      1             1        1
passkey.rename            1     1      1             1        1
passkey.remove            1     1      1             1        1
identity.list             1     1      d             1        o
identity.link             1     1      d             -        -
identity.unlink           1     1      d             o        o
notebook.list             1     1      d             1        o
notebook.start            -     o      o             o        o
notebook.stop             1     1      d             o        o
password.change           1     1      1             1        1
session.end               1     1      1             1        1
"""
ROLES = ("root", *(Role.ADMIN, Role.DOMAIN_ADMIN, Role.MONITOR, Role.USER))
MAY = {line.split()[0]: dict(zip(ROLES, line.split()[1:], strict=True)) for line in TABLE.strip().splitlines()}
TARGETS = {
    Kind.USER: {"own": "alice", "same": "bob", "other": "carol", "trusted": "boss", "none": "nobody"},
    Kind.GROUP: {"same": "team", "other": "elsewhere", "none": "nothing"},
    Kind.DOMAIN: {"same": "physics", "other": "default", "none": "nowhere"},
    Kind.POLICY: {"same": "default"},
    Kind.NEW: {"same": "dave"},
    Kind.NEW_GROUP: {"same": "crew"},
    Kind.NOTHING: {"same": ""},
}


def alice(role: str, **more: Any) -> Actor:
    if role == "root":
        return Actor("root", Role.ADMIN, "cli")
    return Actor("alice", Role(role), "rest", user_id=1, domain="physics", **more)


def expected(name: str, role: str, where: str, kind: Kind) -> bool:
    reach = MAY[name][role]
    if reach == "d" and kind in (Kind.USER, Kind.GROUP, Kind.DOMAIN):
        return where in ("own", "same")
    if reach == "o":
        return where == "own"
    return reach in ("1", "d")


def fill(connection: Connection) -> None:
    connection.execute(insert(domains).values(name="physics"))
    for name, role, domain in (
        ("alice", Role.USER, "physics"),
        ("bob", Role.USER, "physics"),
        ("carol", Role.USER, "default"),
        ("boss", Role.ADMIN, "physics"),
        ("watcher", Role.MONITOR, "physics"),
    ):
        connection.execute(
            insert(users).values(username=name, password_hash="-", role=role, domain=domain, status="active")
        )
    connection.execute(insert(groups).values(name="team", domain="physics"))
    connection.execute(insert(groups).values(name="elsewhere", domain="default"))


@pytest.fixture
def check(database: Database) -> Callable[[Actor, str, str], str | None]:
    """Return what `Dispatcher.check` says: the only domain that may be touched, or PermissionDenied."""
    asyncio.run(database.write(fill))
    services: Any = type("Services", (), {"database": database})()
    dispatcher = Dispatcher({}, services, places.find)

    def ask(actor: Actor, name: str, target: str) -> str | None:
        return asyncio.run(dispatcher.check(actor, ACTIONS[name], target))

    return ask


def test_the_table_has_every_action_and_no_other() -> None:
    assert set(MAY) == set(ACTIONS)


def test_the_matrix(check: Callable[[Actor, str, str], str | None]) -> None:
    wrong = []
    for name, action in ACTIONS.items():
        for role in ROLES:
            for where, target in TARGETS[action.kind].items():
                try:
                    bound = check(alice(role), name, target)
                except PermissionDenied:
                    allowed, bound = False, None
                else:
                    allowed = True
                if allowed != expected(name, role, where, action.kind):
                    wrong.append(f"{role} {'may' if allowed else 'may not'} {name} on {where} {target!r}")
                if allowed and MAY[name][role] == "d" and bound != "physics":
                    wrong.append(f"{role} {name} is not bound to the domain")
    assert not wrong, "\n".join(wrong)


def test_domain_administrators_reach_no_monitor_and_no_administrator(
    check: Callable[[Actor, str, str], str | None],
) -> None:
    for target in ("boss", "watcher"):
        for name in ("user.show", "user.set-password", "user.modify", "user.purge"):
            with pytest.raises(PermissionDenied, match="beyond the domain"):
                check(alice(Role.DOMAIN_ADMIN), name, target)


def test_what_is_elsewhere_and_what_is_not_are_refused_alike(
    check: Callable[[Actor, str, str], str | None],
) -> None:
    said = []
    for target in ("carol", "nobody"):
        with pytest.raises(PermissionDenied) as caught:
            check(alice(Role.DOMAIN_ADMIN), "user.show", target)
        said.append(str(caught.value).replace(target, "NAME"))
    assert said[0] == said[1]


def test_monitors_change_nothing_but_their_own_account() -> None:
    for name, row in MAY.items():
        if row[Role.MONITOR] == "1" and ACTIONS[name].audited is Audited.CHANGE:
            assert ACTIONS[name].permission is Permission.ACCOUNT, name


def test_a_name_alone_does_not_make_one_oneself() -> None:
    """An actor that is no user (root on the socket, a stranger) owns nothing, whatever its name."""
    with pytest.raises(PermissionDenied):
        authorise(Actor("alice", Role.USER, "rest", user_id=None), ACTIONS["user.show"], "alice")


@pytest.mark.parametrize(("via", "user_id"), [("rest", None), ("portal", None), ("cli", 7), ("install", None)])
def test_only_the_kernels_word_makes_root(via: str, user_id: int | None) -> None:
    """rules.md 1: what needs root's word is done for nobody who is only called so."""
    actor = Actor("root", Role.ADMIN, via, user_id=user_id)
    assert not actor.is_root
    for name, row in MAY.items():
        if row[Role.ADMIN] == "-":
            with pytest.raises(PermissionDenied, match="root"):
                authorise(actor, ACTIONS[name], "bob")


@pytest.mark.parametrize("role", Role)
def test_a_password_that_must_change_blocks_all_else(role: Role) -> None:
    actor = alice(role, must_change_password=True)
    for name, action in ACTIONS.items():
        if name in ("password.change", "session.end"):
            authorise(actor, action, "")
        else:
            with pytest.raises(PermissionDenied, match="changed first"):
                authorise(actor, action, "alice")


WHILE_ENROLLING = (
    "password.change", "session.end", "session.prove", "factor.show", "factor.begin-totp", "factor.activate-totp",
    "passkey.begin", "passkey.add", "identity.list",
)  # fmt: skip


@pytest.mark.parametrize("role", Role)
def test_a_second_factor_that_must_be_set_up_blocks_all_else(role: Role) -> None:
    actor, token = alice(role, must_enrol=True), alice(role, must_enrol=True, scopes=frozenset(Permission))
    for name, action in ACTIONS.items():
        if name in WHILE_ENROLLING:
            authorise(actor, action, "alice")
        else:
            with pytest.raises(PermissionDenied, match="second factor"):
                authorise(actor, action, "alice")
        with pytest.raises(PermissionDenied, match="second factor"):
            authorise(token, action, "alice")
        if action.kind is Kind.USER:
            with pytest.raises(PermissionDenied, match="second factor"):
                authorise(actor, action, "bob")


def test_every_permission_is_somebodys_but_roots_nobodys() -> None:
    held = {p for table in PERMISSIONS.values() for p, scope in table.items() if scope is not Scope.NONE}
    assert held == set(Permission) - {Permission.ROOT}


def test_roles_of_rows_and_of_the_program_are_the_same(database: Database) -> None:
    found = database.read_now(
        lambda c: c.execute(text("SELECT sql FROM sqlite_master WHERE name = 'users'")).scalar_one()
    )
    assert all(f"'{role}'" in found for role in Role)
