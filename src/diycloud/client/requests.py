"""From an action to a request, and from an answer to its result or error: by the table of routes, for every action."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from diycloud.actions.action import Action
from diycloud.actions.parsing import Source, fields_of, parse_action
from diycloud.client.connection import Request, Response, seconds
from diycloud.core.routes import PREFIX, ROUTES, Route, result_type
from diycloud.errors import BY_CODE, DiyCloudError, FieldError, InvalidInput, SecondFactorNeeded, TooManyRequests
from diycloud.units import format_size

R = TypeVar("R")
_ROUTES = {route.action: route for route in ROUTES}


class Problem(Exception):
    """An answer that tells of an error, as it came: the cause of the error that is raised for it.

    status: HTTP's; body: problem details (RFC 9457), with `request_id`, by which the server's log and audit know it.
    """

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(f"HTTP {status}, request {body.get('request_id', 'unknown')}")
        self.status = status
        self.body = body


def route_of(action: type[Action[Any]]) -> Route:
    """Return an action's route. Raises TypeError for what is no action of the platform's."""
    try:
        return _ROUTES[action]
    except KeyError:
        raise TypeError(f"{action.__name__} is no action that a server takes") from None


def request_of(route: Route, values: Mapping[str, Any]) -> tuple[str, dict[str, str], dict[str, Any] | None]:
    """Return the path, query and body that ask for an action with these fields; sizes as text.

    Values are those of the action (parsed); what is left out, the server fills in.
    """
    fields = fields_of(route.action)
    plain = {
        name: format_size(v) if fields[name].kind == "size" and isinstance(v, int) else v for name, v in values.items()
    }
    path = PREFIX + re.sub(r"{(\w+)}", lambda match: quote(str(plain.pop(match[1])), safe=""), route.path)
    if route.method == "GET":
        return path, {name: _text(v) for name, v in plain.items() if v is not None}, None
    return path, {}, plain


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(_text, value)) if isinstance(value, list | tuple | frozenset) else str(value)


def encode(
    method: str, path: str, query: Mapping[str, str], body: object, headers: Mapping[str, str] | None = None
) -> Request:
    """Return a request as it is sent. body: None for none. Raises InvalidInput for text that no encoding can hold."""
    try:
        target = f"{path}?{urlencode(query)}" if query else path
        data = None if body is None else msgspec.json.encode(body)
    except UnicodeEncodeError:
        raise InvalidInput(
            "Something in the input is not UTF-8.", "Check the terminal's and the file's encoding."
        ) from None
    return Request(method, target, data, headers or {})


def key() -> dict[str, str]:
    """Return the header by which the server knows a request that is sent again."""
    return {"Idempotency-Key": os.urandom(16).hex()}


def values_of(action: Action[Any]) -> dict[str, Any]:
    """Return the fields of an action that say something: those that are not as declared. Raises InvalidInput.

    They are checked here as the server will check them, so that nothing is sent that cannot be right.
    """
    route, found = route_of(type(action)), {}
    for name, field in fields_of(type(action)).items():
        value = getattr(action, name)
        if value is not msgspec.UNSET and (field.required or "{" + name + "}" in route.path or value != field.default):
            found[name] = value
    sizes = {
        name for name, value in found.items() if fields_of(type(action))[name].kind == "size" and value is not None
    }
    raw = {name: format_size(v) if name in sizes and type(v) is int else v for name, v in found.items()}
    parsed = parse_action(type(action), raw, Source.JSON)
    return {name: getattr(parsed, name) for name in found}


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def result_of(action: type[Action[R]], response: Response) -> R:
    """Return an action's result. Raises the error that the answer tells of."""
    return decoded(result_type(action), response)  # type: ignore[no-any-return]


def decoded(kind: Any, response: Response) -> Any:
    """Return the body of a good answer as a type. Raises the error that another answer tells of."""
    if not 200 <= response.status < 300:
        body = problem_of(response)
        raise error_of(response.status, body, response.headers) from Problem(response.status, body)
    if response.status == 204 or kind is None:
        return None
    try:
        return _decoder(kind).decode(response.body)
    except msgspec.DecodeError as error:
        raise DiyCloudError(
            f"The server's answer is not as this client knows it: {error}.", "Take the server's version of the client."
        ) from error


def problem_of(response: Response) -> dict[str, Any]:
    """Return the problem details of an answer, empty if it has none."""
    try:
        found = msgspec.json.decode(response.body)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def error_of(status: int, problem: Mapping[str, Any], headers: Mapping[str, str]) -> DiyCloudError:
    """Return the error that problem details tell of."""
    cls = BY_CODE.get(str(problem.get("code")), DiyCloudError)
    message, hint = str(problem.get("detail", f"The answer is HTTP {status}.")), str(problem.get("hint", ""))
    if not problem:
        hint = f"It was sent on to {there}." if (there := headers.get("location")) else "Is this DIY Cloud's address?"
    if cls is InvalidInput:
        found = [FieldError(str(e.get("field")), str(e.get("message"))) for e in problem.get("errors") or ()]
        return InvalidInput(message, hint, errors=found)
    if cls is SecondFactorNeeded:
        ways = [str(way) for way in problem.get("ways") or ()]
        return SecondFactorNeeded(message, hint, ticket=str(problem.get("ticket", "")), ways=ways)
    if cls is TooManyRequests:
        return TooManyRequests(message, hint, retry_after=int(seconds(headers.get("retry-after", "")) or 1))
    return cls(message, hint)
