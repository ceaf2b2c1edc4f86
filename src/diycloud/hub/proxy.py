"""JupyterHub's view of the proxy. Nginx computes a server's socket from the address, so there are no routes to write.

What has no socket falls through to the hub (templates/nginx). JupyterHub compares routes with servers now and then; what
it added is remembered here for that, and for nothing else.
"""

from __future__ import annotations

from typing import Any

from jupyterhub.proxy import Proxy


class ComputedRoutes(Proxy):
    """Remembers the routes that JupyterHub believes in."""

    def __init__(self, **traits: Any) -> None:
        super().__init__(should_start=False, **traits)
        self._routes: dict[str, dict[str, Any]] = {}

    async def add_route(self, routespec: str, target: str, data: dict[str, Any]) -> None:
        self._routes[routespec] = {"routespec": routespec, "target": target, "data": data}

    async def delete_route(self, routespec: str) -> None:
        self._routes.pop(routespec, None)

    async def get_all_routes(self) -> dict[str, dict[str, Any]]:
        return dict(self._routes)
