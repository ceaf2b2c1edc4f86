"""What changes how somebody signs in asks for a fresh proof of who it is: a session that was left open must not be enough."""

from __future__ import annotations

import time

from diycloud.actions.actor import Actor
from diycloud.errors import PermissionDenied, ProofNeeded

FRESH_S = 15 * 60
"""How long a proof counts: from signing in, or from `session.prove`."""


def require(actor: Actor) -> None:
    """Raise ProofNeeded unless who acts has proved it just now, PermissionDenied for an API token, which cannot.

    The host's own root needs none. Who acts for another proves who they are themselves.
    """
    who = actor.real or actor
    if who.user_id is None:
        return
    if who.scopes is not None or who.session_id is None:
        raise PermissionDenied("An API token may not change how somebody signs in.", "Sign in, at the portal or by REST.")
    if time.time() - who.proved_at > FRESH_S:
        raise ProofNeeded("This needs your password once more.", "Confirm it is you, then send it again.")
