"""The OpenAPI 3.1 description, made of the same declarations as everything else."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from diycloud import __version__
from diycloud.actions.action import summary
from diycloud.actions.download import Download
from diycloud.actions.parsing import fields_of
from diycloud.auth.actions import Credentials, SecondStep
from diycloud.auth.models import AuditPage, SessionPage
from diycloud.core.routes import PREFIX, ROUTES, Route, result_type
from diycloud.groups.models import GroupChanged, GroupPage
from diycloud.resources.actions import ReadMetrics
from diycloud.users.actions import ImportUsers
from diycloud.users.models import Created, Page
from diycloud.web import oldopenapi, problems
from diycloud.web.apiwords import EXAMPLES, HEADERS, INTRODUCTION, LOGIN, PARAMETERS, WHOAMI
from diycloud.web.etag import TAGGED, has_tags
from diycloud.web.problems import MEDIA_TYPE, STATUS, TITLE

_SCHEMA = "#/components/schemas/{name}"
_SIZE = {"type": "string", "examples": ["512M", "2G"], "pattern": "^[0-9]+([.][0-9]+)?[KMGTkmgt](i?[Bb])?$"}
_LISTED = {"type": "array", "items": {"type": "object"}}
_ALWAYS = (401, 403, 404, 406, 412, 422, 429, 500, 503)
_CHANGES = (409, 413, 415, 501)
_LIMITS = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")


def document() -> dict[str, Any]:
    """Return the whole description."""
    results = {route.action: result_type(route.action) for route in ROUTES}
    types = [t for t in dict.fromkeys(results.values()) if isinstance(t, type) and issubclass(t, msgspec.Struct)]
    _, components = msgspec.json.schema_components(types, ref_template=_SCHEMA, schema_hook=_anything)
    components["Problem"] = _problem_schema()
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(PREFIX + route.path, {})[route.method.lower()] = _operation(route, results[route.action])
    paths |= _open_paths()
    paths |= oldopenapi.paths(paths)
    components |= oldopenapi.schemas(components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DIY Cloud",
            "version": __version__,
            "description": INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "headers": HEADERS,
            "parameters": PARAMETERS,
            "responses": {_problem_name(status): _problem(status) for status in sorted(set(STATUS.values()))},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}],
    }


def _anything(kind: type) -> dict[str, Any]:
    """Return the schema of a type that msgspec has none for: any JSON value. For others the error that its hook asks for."""
    if kind is not object:
        raise NotImplementedError
    return {"description": "any JSON value"}


def _operation(route: Route, result: Any) -> dict[str, Any]:
    in_path = set(re.findall(r"{(\w+)}", route.path))
    schemas = field_schemas(route.action)
    required = [name for name, field in fields_of(route.action).items() if field.required]
    operation: dict[str, Any] = {
        "operationId": route.action.action_name,
        "tags": [route.action.action_name.partition(".")[0]],
        "summary": summary(route.action),
        "description": f"Needs the permission `{route.action.permission}`" + ".",
        "parameters": [
            {"name": name, "in": "path" if name in in_path else "query", "required": name in required}
            | {"schema": _in_url(schema)}
            | ({"style": "form", "explode": False} if _is_list(schema) else {})
            for name, schema in schemas.items()
            if name in in_path or route.method == "GET"
        ]
        + _conditions(route, result),
        "responses": _responses(route, result),
    }
    body = {name: schema for name, schema in schemas.items() if name not in in_path}
    if route.method != "GET" and body:
        operation["requestBody"] = _request_body(route, body, [name for name in required if name in body])
    return operation


def _request_body(route: Route, body: dict[str, Any], needed: list[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": body, "additionalProperties": False}
    if needed:
        schema["required"] = needed
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if route.action in EXAMPLES:
        content["application/json"]["example"] = EXAMPLES[route.action]
    if route.action is ImportUsers:
        content["text/csv"] = {
            "schema": {"type": "string", "description": "the file itself"},
            "example": "username\nada\n",
        }
    return {"required": bool(needed), "content": content}


def _conditions(route: Route, result: Any) -> list[dict[str, Any]]:
    """Return the header fields that an operation takes, as references."""
    names = ["OnBehalfOf"]
    if has_tags(result) or (route.method != "GET" and route.action.kind in TAGGED):
        names += ["IfMatch", "IfNoneMatch"]
    if route.keyed:
        names.append("IdempotencyKey")
    if route.action is ImportUsers:
        names.append("DryRun")
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


def _in_url(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a field's schema where it is text in an address: there is no null, what is not given is left out."""
    parts = [part for part in schema.get("anyOf", ()) if part != {"type": "null"}]
    if len(parts) == 1:
        schema = {**parts[0], **{key: value for key, value in schema.items() if key != "anyOf"}}
    if schema.get("default", "") is None:
        schema = {key: value for key, value in schema.items() if key != "default"}
    return schema


def _is_list(schema: dict[str, Any]) -> bool:
    return "array" in (schema.get("type"), *(part.get("type") for part in schema.get("anyOf", ())))


def field_schemas(action: type[msgspec.Struct]) -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each field, with its help and rule as the description."""
    found = {}
    for name, field in fields_of(action).items():
        (schema,), definitions = msgspec.json.schema_components([field.type], schema_hook=_anything)
        schema = _inline(schema, definitions)
        if field.kind == "size":
            schema = dict(_SIZE) if not field.clearable else {"anyOf": [_SIZE, {"type": "null"}]}
        schema["description"] = ": ".join(text for text in (field.help, field.rule) if text)
        if field.secret:
            schema["writeOnly"] = True
        found[name] = schema
    return found


def _inline(schema: Any, definitions: dict[str, Any]) -> Any:
    """Return a schema with its references replaced and its patterns in ECMA 262's terms."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inline(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        found = {key: _inline(value, definitions) for key, value in schema.items()}
        if isinstance(found.get("pattern"), str):
            found["pattern"] = found["pattern"].replace(r"\A", "^").replace(r"\Z", "$")
        return found
    return [_inline(part, definitions) for part in schema] if isinstance(schema, list) else schema


def _responses(route: Route, result: Any) -> dict[str, Any]:
    good = _good(route, result)
    found = {str(route.status): good}
    if route.status == 201 and result in (Created, GroupChanged):
        found["202"] = {**good, "description": "Stored; the host could not be reached, and follows later."}
    if route.method == "GET" and has_tags(result):
        found["304"] = {"description": "It is as If-None-Match says.", "headers": _headers("ETag", *_LIMITS)}
    statuses = _ALWAYS + (() if route.method == "GET" else _CHANGES)
    return found | {str(status): _refusal(status) for status in sorted(statuses)}


def _good(route: Route, result: Any) -> dict[str, Any]:
    names = [*_LIMITS]
    if has_tags(result) or (route.method != "GET" and route.status != 204 and route.action.kind in TAGGED):
        names.append("ETag")
    if route.status == 201:
        names += ["ETag", "Location"]
    if route.keyed:
        names.append("Idempotency-Replayed")
    if result in (Page, GroupPage, AuditPage, SessionPage):
        names.append("Link")
    good: dict[str, Any] = {"description": "Done.", "headers": _headers(*names)}
    text = {"schema": {"type": "string"}}
    if route.action is ReadMetrics:
        good["content"] = {"text/plain": text}
    elif result is Download:
        good["content"] = {"text/csv": text, "application/x-ndjson": text, "application/json": {"schema": _LISTED}}
    elif route.status != 204:
        good["content"] = {"application/json": {"schema": {"$ref": _SCHEMA.format(name=result.__name__)}}}
    return good


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in dict.fromkeys(names)}


def _problem_name(status: int) -> str:
    return f"Problem{status}"


def _refusal(status: int) -> dict[str, Any]:
    return {"$ref": f"#/components/responses/{_problem_name(status)}", "description": TITLE[status]}


def _problem(status: int) -> dict[str, Any]:
    more = {401: ("WWW-Authenticate",), 405: ("Allow",), 409: ("Retry-After",), 415: ("Accept",)}
    names = (*_LIMITS, *more.get(status, ()), *(("Retry-After",) if status in (429, 503) else ()))
    return {
        "description": TITLE[status],
        "headers": _headers(*names),
        "content": {MEDIA_TYPE: {"schema": {"$ref": _SCHEMA.format(name="Problem")}}},
    }


def _problem_schema() -> dict[str, Any]:
    text = {"type": "string"}
    field = {"type": "object", "properties": {"field": text, "message": text}, "required": ["field", "message"]}
    return {
        "type": "object",
        "description": "RFC 9457 problem details.",
        "required": ["type", "title", "status", "code", "detail"],
        "properties": {
            "type": {"enum": [problems.TYPES + code for code in sorted(STATUS)]},
            "title": text, "status": {"enum": sorted(set(STATUS.values()))}, "code": {"enum": sorted(STATUS)}, "detail": text,
            "hint": text, "request_id": text, "errors": {"type": "array", "items": field}, "report": {"type": "object"},
            "ticket": text, "ways": {"type": "array", "items": {"enum": ["totp", "passkey", "recovery"]}},
        },
    }  # fmt: skip


def _open_paths() -> dict[str, Any]:
    """Return what anybody may ask for, signed in or not."""
    limits = _headers(*_LIMITS)

    def good(text: str, kind: str, schema: dict[str, Any]) -> dict[str, Any]:
        return {"description": text, "headers": limits, "content": {kind: {"schema": schema}}}

    def taken(declared: type[msgspec.Struct]) -> dict[str, Any]:
        asked = {
            "type": "object",
            "properties": field_schemas(declared),
            "required": [name for name, field in fields_of(declared).items() if field.required],
            "additionalProperties": False,
        }
        content = {"application/json": {"schema": asked, "example": EXAMPLES[declared]}}
        return {"required": True, "content": content}

    def operation(name: str, summary: str, answer: dict[str, Any], *statuses: int, **more: Any) -> dict[str, Any]:
        refusals = {str(status): _refusal(status) for status in (*statuses, 429, 500, 503)}
        head = {"operationId": name, "tags": ["server"], "summary": summary, "security": []}
        return {**head, **more, "responses": {"200": answer, **refusals}}

    alive = {"type": "object", "properties": {"status": {"const": "ok"}}, "required": ["status"]}
    code = {"name": "code", "in": "path", "required": True, "schema": {"enum": sorted(STATUS)}}
    login = good("Signed in.", "application/json", LOGIN)
    return {
        f"{PREFIX}/health": {
            "get": operation("server.health", "Tell that the server lives.", good("It does.", "application/json", alive), 406)
        },
        f"{PREFIX}/openapi.json": {
            "get": operation(
                "server.openapi", "Give this description.", good("It.", "application/json", {"type": "object"}), 406
            )
        },
        problems.TYPES + "{code}": {
            "get": operation(
                "server.problem", "Tell what a problem's type means.", good("A page.", "text/html", {"type": "string"}), 404,
                parameters=[code],
            )
        },
        f"{PREFIX}/auth/whoami": {
            "get": operation(
                "session.whoami", "Tell whose session or API token this is, and what it may do.",
                good("Yours.", "application/json", WHOAMI), 401, 406, security=[{"bearer": []}],
            )
        },
        f"{PREFIX}/auth/login": {
            "post": operation(
                "session.begin", "Give a bearer token for a name and password.", login, 401, 406, 413, 415, 422,
                requestBody=taken(Credentials),
            )
        },
        f"{PREFIX}/auth/login/second": {
            "post": operation(
                "session.begin-second", "Give a bearer token for a sign-in's ticket and its second factor.", login, 401, 406,
                413, 415, 422, requestBody=taken(SecondStep),
            )
        },
    }  # fmt: skip
