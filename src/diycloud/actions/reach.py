"""How far an actor reaches: everywhere, within a domain, to oneself; and acting on another's behalf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import Connection

from diycloud.actions.action import Action, Kind, Permission
from diycloud.actions.actor import Actor
from diycloud.actions.roles import PERMISSIONS, TRUSTED, Role, Scope
from diycloud.errors import PermissionDenied

_HOW = "At the portal, or by `diycloud account password`."
WHILE_PASSWORD_MUST_CHANGE = ("password.change", "session.end")
_HOW_TO_ENROL = "At the portal, on the page of your account, or by `diycloud factor begin-totp`."
WHILE_MUST_ENROL = (
    *WHILE_PASSWORD_MUST_CHANGE, "session.prove", "factor.show", "factor.begin-totp", "factor.activate-totp", "passkey.begin",
    "passkey.add", "identity.list",
)  # fmt: skip
"""What a session may do, for itself, whose user must have a second factor and has none yet. An API token may do none of it."""


class Place(NamedTuple):
    """Where a target is. user_id, role, signs_in, sudo: of a user."""

    domain: str
    user_id: int | None = None
    role: Role | None = None
    signs_in: bool = False
    sudo: bool = False


Lookup = Callable[[Connection, Kind, str], Place | None]
"""Finds a target's place; None if there is no such thing."""


def scope_of(actor: Actor, permission: Permission) -> Scope:
    """Return how far the actor's permission reaches."""
    if permission is Permission.ROOT:
        return Scope.ALL if actor.is_root else Scope.NONE
    if actor.scopes is not None and permission not in actor.scopes:
        return Scope.NONE
    return PERMISSIONS[actor.role].get(permission, Scope.NONE)


def authorise(actor: Actor, action: type[Action[Any]], target: str) -> Scope:
    """Return how far the actor reaches with an action. Raises PermissionDenied if not to the target.

    With DOMAIN the target's place has still to be looked at: `check_place`.
    """
    if actor.must_change_password and action.action_name not in WHILE_PASSWORD_MUST_CHANGE:
        raise PermissionDenied("The password must be changed first.", _HOW)
    elsewhere = action.kind is Kind.USER and target != actor.name
    if actor.must_enrol and (action.action_name not in WHILE_MUST_ENROL or actor.scopes is not None or elsewhere):
        raise PermissionDenied("A second factor must be set up first.", _HOW_TO_ENROL)
    scope = scope_of(actor, action.permission)
    own = action.kind is Kind.USER and target == actor.name and actor.user_id is not None
    if scope is Scope.NONE or (scope is Scope.OWN and not own):
        hint = _WHO_MAY.get(action.permission, "Ask an administrator.")
        raise PermissionDenied(f"{actor.name} may not do this ({action.action_name}).", hint)
    return scope


_WHO_MAY = {
    Permission.ROOT: "As root on the host itself.",
    Permission.NOTEBOOKS_START: "Everybody starts their own only: at the portal, or after `diycloud login` as themselves.",
}


def check_place(actor: Actor, target: str, place: Place | None) -> None:
    """Raise PermissionDenied unless a target is in the actor's domain and does not reach beyond it.

    What is elsewhere and what is not at all are told apart for nobody.
    """
    if place is None or place.domain != actor.domain:
        raise PermissionDenied(f"{target or 'This'} is not in your domain {actor.domain}.", "Ask an administrator.")
    check_rank(actor, target, place.role, sudo=place.sudo)


def check_rank(actor: Actor, target: str, role: Role | None, *, sudo: bool) -> None:
    """Raise PermissionDenied if a user of the actor's domain is above its administrators; oneself is not."""
    if target == actor.name:
        return
    if role in TRUSTED:
        raise PermissionDenied(f"{target} has a role beyond the domain {actor.domain}.", "Ask an administrator.")
    if sudo:
        raise PermissionDenied(f"{target} is an administrator of the host.", "Ask an administrator.")


def check_lent(actor: Actor, target: str, role: Role | None) -> None:
    """Raise PermissionDenied if an API token is used on somebody who has rights over others.

    Whoever finds a token could make that account their own (a password, a key), and would have more than was lent.
    """
    if actor.scopes is not None and target != actor.name and role not in (None, Role.USER):
        raise PermissionDenied(f"{target} has the role {role}: no API token changes that account.", "Sign in for this.")


def check_actor(actor: Actor, now: Place | None) -> None:
    """Raise PermissionDenied if the actor has lost its account, role or domain since it was let in."""
    known = (actor.user_id, actor.role, actor.domain)
    if now is None or not now.signs_in or (now.user_id, now.role, now.domain) != known:
        raise PermissionDenied(f"{actor.name} has been changed meanwhile.", "Sign in again.")


def stand_in(actor: Actor, place: Place | None) -> Actor:
    """Return the actor that acts as the user it asks to act for, with that user's rights and no more.

    Raises PermissionDenied: an administrator's rights are lent to root only, a disabled user's to nobody.
    """
    name = actor.on_behalf_of
    if actor.must_change_password:
        raise PermissionDenied("The password must be changed first.", _HOW)
    if actor.must_enrol:
        raise PermissionDenied("A second factor must be set up first.", _HOW_TO_ENROL)
    scope = scope_of(actor, Permission.ACT_AS)
    if scope is Scope.DOMAIN:
        check_place(actor, name, place)
    if scope < Scope.DOMAIN or place is None or place.role is None or place.user_id is None:
        raise PermissionDenied(f"{actor.name} may not act for {name}.", "Ask an administrator.")
    if place.role is Role.ADMIN and not actor.is_root:
        raise PermissionDenied(f"{name} is an administrator: nobody acts for them.", "Only root on the host may.")
    check_lent(actor, name, place.role)
    if not place.signs_in:
        raise PermissionDenied(f"{name} may not sign in, so nobody acts for them.", f"diycloud user enable {name}")
    return actor._replace(
        name=name, role=place.role, user_id=place.user_id, domain=place.domain, session_id=None, on_behalf_of="",
        real=actor,
    )  # fmt: skip
