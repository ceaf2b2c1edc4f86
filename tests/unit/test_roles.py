"""Who may do what: the whole matrix, written out."""

from __future__ import annotations

import pytest

from diycloud.actions.action import Audited, Permission
from diycloud.actions.actor import Actor
from diycloud.actions.dispatcher import authorise
from diycloud.actions.roles import PERMISSIONS, Role
from diycloud.core.routes import ROUTES
from diycloud.errors import PermissionDenied

READS = {"user.list", "user.show", "user.usage", "audit.list", "host.show"}
OWN = {"user.show", "user.usage", "password.change", "session.end"}
"""What everybody may do to themselves."""
ACTIONS = {route.action.action_name: route.action for route in ROUTES}
MAY = {
    Role.ADMIN: (set(ACTIONS), set(ACTIONS)),
    Role.MONITOR: (READS | {"password.change", "session.end"}, READS | OWN),
    Role.USER: ({"password.change", "session.end"}, OWN),
}
"""Role → what it may do to others (or to nobody in particular), what to itself."""


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("name", ACTIONS)
def test_the_matrix(role: Role, name: str) -> None:
    for target, allowed in zip(("bob", "alice"), MAY[role], strict=True):
        try:
            authorise(Actor("alice", role, "rest", user_id=1), ACTIONS[name], target)
        except PermissionDenied:
            assert name not in allowed, f"{role} may not {name} on {target}"
        else:
            assert name in allowed, f"{role} may {name} on {target}"


def test_monitors_change_nothing_but_their_password() -> None:
    for name in MAY[Role.MONITOR][1]:
        changes = ACTIONS[name].audited is Audited.CHANGE
        assert not changes or name in ("password.change", "session.end")


def test_a_name_alone_does_not_make_one_oneself() -> None:
    """An actor that is no user (root on the socket, a stranger) owns nothing, whatever its name."""
    with pytest.raises(PermissionDenied):
        authorise(Actor("alice", Role.USER, "rest", user_id=None), ACTIONS["user.show"], "alice")


@pytest.mark.parametrize("role", Role)
def test_a_password_that_must_change_blocks_all_else(role: Role) -> None:
    actor = Actor("alice", role, "rest", user_id=1, must_change_password=True)
    for name, action in ACTIONS.items():
        if name in ("password.change", "session.end"):
            authorise(actor, action, "")
        else:
            with pytest.raises(PermissionDenied, match="changed first"):
                authorise(actor, action, "alice")


def test_every_permission_is_somebodys() -> None:
    assert set().union(*PERMISSIONS.values()) == set(Permission)
