"""The endpoints of old clients' short forms (oldforms.py tells what they read and write)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from diycloud.actions.action import Kind
from diycloud.actions.dispatcher import Terms
from diycloud.actions.parsing import Source
from diycloud.core.routes import ROUTES, Route
from diycloud.errors import InvalidInput
from diycloud.users.actions import DisableUser, EnableUser, ListUsers, ModifyUser, ShowUser
from diycloud.users.models import SIGN_IN, Changed, Page, User
from diycloud.web import bodies, oldforms
from diycloud.web.answers import answer, encode, links
from diycloud.web.calls import Call, Endpoint

if TYPE_CHECKING:
    from diycloud.web.rest import Rest

PREFIX = "/api"


class OldClients:
    """rest: what runs the actions."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    def endpoints(self) -> list[tuple[str, str, Endpoint]]:
        """Return method, path and endpoint of each short form."""
        rest, by_place = self._rest, {(route.method, route.path): route for route in ROUTES}
        create, delete = by_place["POST", "/users"], by_place["DELETE", "/users/{username}"]
        leave = by_place["POST", "/auth/logout"]
        made = {
            ("POST", "/auth/login"): Endpoint(rest.login, open=True),
            ("POST", "/auth/logout"): Endpoint(lambda call: rest.change(leave, call), says=""),
            ("GET", "/users"): Endpoint(self._list),
            ("POST", "/users"): Endpoint(lambda call: rest.change(create, call, old=oldforms.of_create)),
            ("GET", "/users/{username}"): Endpoint(self._show),
            ("PUT", "/users/{username}"): Endpoint(self._put),
            ("DELETE", "/users/{username}"): Endpoint(lambda call: rest.change(delete, call, old=oldforms.fields)),
        }
        return [(method, PREFIX + path, end) for (method, path), end in made.items()]

    async def _show(self, call: Call) -> Response:
        asked = {**bodies.query(call.request), **call.names}
        return await self._answer(await self._rest.run(call, ShowUser, asked, Source.TEXT))

    async def _answer(self, result: Any) -> Response:
        return answer(encode(oldforms.answer(result)), 200, await self._rest.tag_after(result))

    async def _list(self, call: Call) -> Response:
        """Answer with every user that matches: an old client knows no pages."""
        asked = bodies.query(call.request)
        page: Page = await self._rest.run(call, ListUsers, {"limit": "1000", **asked}, Source.TEXT)
        whole = list(page.users)
        while page.next and "limit" not in asked:
            following = {"limit": "1000", **asked, "cursor": page.next}
            page = await self._rest.run(call, ListUsers, following, Source.TEXT)
            whole += page.users
        shown = Page(whole, page.total)
        body = await asyncio.to_thread(lambda: encode(oldforms.answer(shown)))
        return answer(body, 200, links(call.request, page))

    async def _put(self, call: Call) -> Response:
        """Change fields of a user and whether the account is active: what differs from what is there."""
        run, names = self._rest.run, dict(call.names)
        raw = await self._rest.sent(Route("PUT", "", ModifyUser), call, {})
        now: User = await run(call, ShowUser, names, Source.TEXT)
        given, active = oldforms.of_change(raw, now)
        terms: list[Terms] = self._rest.conditions(call, Kind.USER, now.username)
        result: Any = Changed(now)
        try:
            if given or terms or active is None:
                result = await run(call, ModifyUser, {**given, **names}, Source.JSON, terms)
        except InvalidInput as error:
            raise oldforms.renamed(error, raw) from None
        if active is not None and active is not (now.status in SIGN_IN):
            result = await run(call, EnableUser if active else DisableUser, names, Source.JSON)
        return await self._answer(result)
