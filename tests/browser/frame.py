"""The frame of the preview's pages: who looks, and the header of the real server."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from diycloud.actions.action import Permission
from diycloud.actions.roles import PERMISSIONS, Scope
from diycloud.users.models import User
from diycloud.web import templating

from .samples import ADA, ADMIN, HEAD, HOST, MONITOR

JINJA = templating.environment()
JINJA.globals["providers"] = []
HEADERS = {
    "Content-Security-Policy": templating.CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


def page(request: Request, name: str, code: int = 200, *, actor: User | None = ADMIN, **context: Any) -> Response:
    """Answer with a page, as the one that `?as=` names would see it."""
    if actor:
        actor = {"user": ADA, "monitor": MONITOR, "head": HEAD}.get(request.query_params.get("as", ""), actor)

    def may(permission: str) -> bool:
        return bool(actor) and PERMISSIONS[actor.role].get(Permission(permission), Scope.NONE) > Scope.OWN  # type: ignore[union-attr]

    frame = {"host": HOST, "version": "0.1.0", "actor": actor, "csrf": "sample-token", "may": may}
    text = JINJA.get_template(name).render(frame | {"flashes": []} | context)
    return HTMLResponse(text, code, headers=HEADERS)


async def form_of(request: Request) -> dict[str, str]:
    """Return the text fields of a form."""
    async with request.form(max_fields=250) as form:
        return {key: value for key, value in form.items() if isinstance(value, str)}
