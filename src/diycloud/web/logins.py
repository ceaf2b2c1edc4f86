"""Signing in by REST: a bearer token for a name and password, and for the second factor if there is one."""

from __future__ import annotations

import time

from starlette.responses import Response

from diycloud.actions.parsing import Source, parse_action
from diycloud.auth.actions import Credentials, SecondStep
from diycloud.auth.signin import SignedIn, SignIn, Visit, stranger
from diycloud.web import bodies, identity
from diycloud.web.answers import json_answer
from diycloud.web.calls import Call


class Logins:
    """sign_in: what checks and starts sessions."""

    def __init__(self, sign_in: SignIn) -> None:
        self._sign_in = sign_in

    async def first(self, call: Call) -> Response:
        """Give a token for a name and password, and a code if it is asked for."""
        sent = parse_action(Credentials, await bodies.read_json(call.request), Source.JSON)
        actor, kind, agent, _ = _visit(call)
        done = await self._sign_in(
            sent.username, sent.password, actor=actor, kind=kind, user_agent=agent, code=sent.code
        )
        return _answer(done)

    async def second(self, call: Call) -> Response:
        """Give a token for the ticket of a sign-in and its second factor."""
        sent = parse_action(SecondStep, await bodies.read_json(call.request), Source.JSON)
        return _answer(await self._sign_in.second(sent.ticket, _visit(call), code=sent.code, passkey=sent.passkey))


def _visit(call: Call) -> Visit:
    request = call.request
    actor = stranger("rest", identity.address(request), identity.request_id(request))
    return Visit(actor, "api", request.headers.get("user-agent", ""), time.monotonic())


def _answer(done: SignedIn) -> Response:
    told = {"token": done.token, "token_type": "bearer", "username": done.username, "expires_at": done.expires_at}
    musts = {"must_change_password": done.must_change_password, "must_enrol": done.must_enrol}
    return json_answer({**told, **musts})
