"""The hub's word on who somebody is, which lasts while the hub is away: Lab goes on when the hub is started anew.

JupyterHub's own answers every request with an error then. What the word lets in is little: whoever comes here has passed
Nginx's question to the portal just now (web/internal.py), and servers of people who are shut out are ended by the agent.

Source: jupyterhub 6, services/auth.py.
"""

from __future__ import annotations

import time
from typing import Any

from jupyterhub.services.auth import HubOAuth
from tornado.web import HTTPError

LASTS_S = 2
"""How long it counts while the hub answers; JupyterHub's own 300 s would keep in who was disabled."""
LASTS_ALONE_S = 300.0
"""How long it counts while the hub does not answer."""
MOST = 1000
"""Words that are kept: one for each session and token."""


class LastingHubAuth(HubOAuth):  # type: ignore[misc, unused-ignore]
    """Asks the hub, and keeps what it said last."""

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self._kept: dict[str, tuple[float, dict[str, Any]]] = {}

    async def _check_hub_authorization(
        self, url: str, api_token: str, cache_key: str | None = None, use_cache: bool = True
    ) -> Any:
        key = cache_key or ""
        try:
            found = await super()._check_hub_authorization(url, api_token, cache_key, use_cache)
        except HTTPError as error:
            said_at, model = self._kept.get(key, (-LASTS_ALONE_S, None))
            if _is_away(error) and time.monotonic() - said_at < LASTS_ALONE_S:
                return model
            raise
        self._keep(key, found)
        return found

    def _keep(self, key: str, model: dict[str, Any] | None) -> None:
        self._kept.pop(key, None)
        if key and model:
            self._kept[key] = (time.monotonic(), model)
            if len(self._kept) > MOST:
                del self._kept[next(iter(self._kept))]


def _is_away(error: HTTPError) -> bool:
    """Tell whether the hub did not answer, or something before it in its place; the rest is its answer."""
    return error.status_code == 502 or (error.status_code == 500 and error.__context__ is not None)
