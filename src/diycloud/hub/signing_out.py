"""Ending what lets somebody in at the hub, while their servers go on: the portal asks for it (notebooks/eviction.py).

A password was changed, a role, or somebody signed out everywhere: whoever was let in before must be let in anew.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import ClientError
from jupyterhub import orm
from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.httpclient import fetch
from jupyterhub.scopes import needs_scope
from tornado import web

TOLD_S = 2.0
AGAIN_S = 2.5
"""Until then Nginx may let a browser connect anew by an answer that it keeps (templates/nginx: two seconds)."""
OWN_CLIENT = "jupyterhub"
"""The application that a token is of which its user made, or a server has; others are of browsers, let in to a server."""

_waiting: set[asyncio.Task[None]] = set()


class SignOut(APIHandler):
    """POST {"tokens": bool, "kept_session": int or null, "last_session": int}: 204.

    tokens: the API tokens that the user made end, too. kept_session: of the portal's; its browser stays let in to servers.
    last_session: the newest that was begun before; connections of later ones stay, too.
    What browsers were given for that stays with it, for the others too: it opens nothing without a session at the portal
    (templates/nginx), and the hub takes it from servers only (hub/authenticator.py). Connections end but that browser's.
    """

    @needs_scope("tokens")
    async def post(self, user_name: str) -> None:
        """Sign a user out. Raises HTTPError 404 for who is not known here."""
        user = self.find_user(user_name)
        if user is None:
            raise web.HTTPError(404, f"There is no user {user_name} here.")
        asked = self.get_json_body() or {}
        servers = {spawner.token_id for spawner in list(user.spawners.values())}
        ended = [token for token in list(user.api_tokens) if token.id not in servers and _ends(token, asked)]
        for token in ended:
            self.db.delete(token)
        user.orm_user.cookie_id = orm.new_token()
        self.db.commit()
        self.log.info("%s is signed out: %d tokens", user_name, len(ended))
        query = f"kept_session={int(asked.get('kept_session') or 0)}&last_session={int(asked.get('last_session') or 0)}"
        await self._tell_servers(user, query)
        again = asyncio.create_task(self._tell_servers(user, query, AGAIN_S))
        _waiting.add(again)
        again.add_done_callback(_waiting.discard)
        self.set_status(204)

    async def _tell_servers(self, user: Any, query: str, after: float = 0.0) -> None:
        await asyncio.sleep(after)
        running = [spawner for spawner in list(user.spawners.values()) if spawner.ready]
        await asyncio.gather(*(self._tell(spawner, query) for spawner in running))

    async def _tell(self, spawner: Any, query: str) -> None:
        """Have a server end the connections of other browsers. It is its user's program, and may not listen."""
        url = f"{spawner.address}{spawner.server.base_url}diycloud/sign-out?{query}"
        try:
            async with asyncio.timeout(TOLD_S):
                answer = await fetch(url, method="POST", raise_for_status=False)
        except (OSError, ClientError, TimeoutError) as error:
            self.log.warning("%s was not told that its user is signed out: %r", spawner._log_name, error)
            return
        if answer.status != 204:
            self.log.warning("%s answered %s when its user was signed out", spawner._log_name, answer.status)


def _ends(token: orm.APIToken, asked: dict[str, Any]) -> bool:
    if token.client_id == OWN_CLIENT:
        return bool(asked.get("tokens", True))
    return asked.get("kept_session") is None
