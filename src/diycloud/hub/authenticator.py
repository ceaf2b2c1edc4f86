"""Signing in to the hub: whoever is signed in at the portal, by OpenID Connect; asked again at every request.

A user who was disabled, deleted, or comes from where they may not, is out at once, with cookies and tokens alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from jupyterhub.auth import Authenticator
from oauthenticator.generic import GenericOAuthenticator
from tornado import web

from diycloud.errors import Unavailable
from diycloud.hub.origin import Origin, origin_of
from diycloud.hub.portal import Person, decode_json
from diycloud.hub.signing_out import OWN_CLIENT

ADMINISTRATORS = "portal:administrators"
"""The hub's group that has what an administrator may do there (settings.py). No group of users' can be called so."""
ALWAYS = -1
"""auth_refresh_age under which JupyterHub asks at every request: it would keep the answer for all addresses alike, while
hub/portal.py keeps it by address. (0 means never.)"""

_JSON = {"Content-Type": "application/json"}


class PersonRefresh(Authenticator):
    """What every way of signing in shares: the server's word on who somebody is now. parent: the hub (hub/app.py)."""

    follows_portal = True
    """Whether somebody is signed in here only while they are at the portal, in the same browser."""

    async def refresh_user(self, user: Any, handler: Any = None, **_: Any) -> Any:
        """Return True while all is as it was, what changed, or False for somebody who must sign in again."""
        own = handler is not None and getattr(handler, "_jupyterhub_user", None) is user
        # A request that somebody else makes for a user tells nothing of where the user is.
        origin = origin_of(handler.request, self.parent.paths.server_socket.parent) if own else Origin()
        by_token = own and getattr(handler, "_token_authenticated", False)
        if own and not by_token and not self._is_same_browser(user, origin):
            return False
        if by_token and origin.address is not None and handler.get_token().client_id != OWN_CLIENT:
            return False  # a browser was given it to be let in to a server, which asks about it on the host itself
        try:
            person = await self.parent.portal.person(user.name, origin.address)
        except Unavailable as error:
            self.log.warning("Nobody can tell whether %s may work: %s", user.name, error)
            return False
        if not person.active:
            self.log.warning("%s may not work: %s", user.name, person.reason or "no reason given")
            return False
        groups = groups_of(person)
        if groups == sorted(group.name for group in user.orm_user.groups):
            return True
        return {"name": user.name, "groups": groups}

    def post_spawn_stop(self, user: Any, spawner: Any) -> None:
        """Leave no token of a server that has ended."""
        spawner.forget_tokens()

    def _is_same_browser(self, user: Any, origin: Origin) -> bool:
        """Tell whether a cookie counts: it came by Nginx, from a browser in which its user is signed in at the portal, too.

        Nobody goes on as who has signed out there, or as who was there before them.
        """
        if origin.visitor is None:
            return False
        return not self.follows_portal or origin.visitor == user.name


class PortalAuthenticator(PersonRefresh, GenericOAuthenticator):
    """OpenID Connect with the portal; what the hub itself asks goes over the server's socket."""

    def get_callback_url(self, handler: Any = None) -> str:
        """Return where the portal sends people back to: the name they came by. The portal refuses those it does not know."""
        if handler is None:
            raise web.HTTPError(500, "There is no request to tell the address from.")
        return f"https://{handler.request.host}{self.parent.base_url}hub/oauth_callback"

    async def httpfetch(
        self, url: str, label: str = "", parse_json: bool = True, raise_error: bool = True, **request: Any
    ) -> Any:
        """Ask the portal's endpoints for applications. Raises HTTPError 403 for what it refuses, 503 if it is away."""
        parts = urlsplit(url)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        headers, body = dict(request.get("headers") or {}), request.get("body")
        try:
            answer = await self.parent.portal.exchange(request.get("method", "GET"), path, headers, body)
        except Unavailable as error:
            raise web.HTTPError(503, str(error)) from error
        if answer.status >= 400 and raise_error:
            self.log.warning("The portal answered %s to %s", answer.status, parts.path)
            raise web.HTTPError(
                503 if answer.status >= 500 else 403, "The portal did not confirm the sign-in. Try again."
            )
        return decode_json(answer) if parse_json else answer

    async def get_user_groups(self, auth_state: dict[str, Any]) -> set[str]:
        """Take none from what the application is told: `authenticate` asks the server for them."""
        return set()

    async def authenticate(self, handler: Any, data: Any = None, **more: Any) -> Any:
        """Return who has signed in at the portal. Raises HTTPError 403 for who may not work, from that address.

        Asked as at every later request: who is let in here and refused there would be sent to and fro.
        """
        found = await super().authenticate(handler, data, **more)
        address = origin_of(handler.request, self.parent.paths.server_socket.parent).address
        try:
            person = await self.parent.portal.person(found["name"], address)
        except Unavailable as error:
            raise web.HTTPError(503, str(error)) from error
        if not person.active:
            raise web.HTTPError(403, person.reason or "You may not use notebooks. Ask an administrator.")
        # JupyterHub's own administrators may enter others' servers; ours may not.
        return {**found, "admin": None, "groups": groups_of(person)}


class PasswordAuthenticator(PersonRefresh):
    """A form of the hub's own, for the account's password. The server compares it, as at its own sign-in: the hub may not."""

    follows_portal = False

    async def authenticate(self, handler: Any, data: Mapping[str, str], **_: Any) -> Any:
        """Return who it is, None for a wrong password. Raises HTTPError 429 and 503 for what will pass."""
        address = origin_of(handler.request, self.parent.paths.server_socket.parent).address or ""
        asked = {"name": data.get("username", ""), "password": data.get("password", ""), "code": data.get("code", "")}
        body = msgspec.json.encode({**asked, "address": address})
        try:
            answer = await self.parent.portal.exchange("POST", "/internal/hub/password", _JSON, body)
        except Unavailable as error:
            raise web.HTTPError(503, str(error)) from error
        if answer.status in (429, 503):
            raise web.HTTPError(
                answer.status, "Too many tries. Wait a moment." if answer.status == 429 else "Try again."
            )
        if answer.status != 204:
            return None
        person = await self.parent.portal.person(asked["name"], address)
        return {"name": person.name, "groups": groups_of(person)} if person.active else None


def groups_of(person: Person) -> list[str]:
    """Return the hub's groups of a user, sorted."""
    return sorted({*person.groups, ADMINISTRATORS} if person.admin else person.groups)
