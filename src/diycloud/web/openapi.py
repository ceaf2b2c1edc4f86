"""The OpenAPI 3.1 description, made of the same declarations as everything else."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from diycloud import __version__
from diycloud.actions.action import summary
from diycloud.actions.parsing import fields_of
from diycloud.auth.actions import Credentials
from diycloud.core.routes import PREFIX, ROUTES, Route, result_type
from diycloud.web.problems import MEDIA_TYPE, STATUS, TITLE

_REF = "#/components/schemas/{name}"
_SIZE = {"type": "string", "examples": ["512M", "2G"], "pattern": "^[0-9]+([.][0-9]+)?[KMGTkmgt](i?[Bb])?$"}


def document() -> dict[str, Any]:
    """Return the whole description."""
    results = {route.action: result_type(route.action) for route in ROUTES}
    types = [t for t in dict.fromkeys(results.values()) if isinstance(t, type) and issubclass(t, msgspec.Struct)]
    _, components = msgspec.json.schema_components(types, ref_template=_REF)
    components["Problem"] = _problem_schema()
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(PREFIX + route.path, {})[route.method.lower()] = _operation(route, results[route.action])
    paths[f"{PREFIX}/auth/login"] = {"post": _login()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DIY Cloud",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        "security": [{"bearer": []}],
    }


def _operation(route: Route, result: Any) -> dict[str, Any]:
    in_path = set(re.findall(r"{(\w+)}", route.path))
    schemas = field_schemas(route.action)
    required = [name for name, field in fields_of(route.action).items() if field.required]
    operation: dict[str, Any] = {
        "operationId": route.action.action_name,
        "summary": summary(route.action),
        "description": f"Needs the permission `{route.action.permission}`" + ".",
        "parameters": [
            {"name": name, "in": "path" if name in in_path else "query", "required": name in required, "schema": schema}
            for name, schema in schemas.items()
            if name in in_path or route.method == "GET"
        ],
        "responses": _responses(route, result),
    }
    body = {name: schema for name, schema in schemas.items() if name not in in_path}
    if route.method != "GET" and body:
        needed = [name for name in required if name in body]
        schema = {
            "type": "object",
            "properties": body,
            "additionalProperties": False,
            **({"required": needed} if needed else {}),
        }
        operation["requestBody"] = {"required": bool(needed), "content": {"application/json": {"schema": schema}}}
    return operation


def field_schemas(action: type[msgspec.Struct]) -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each field, with its help and rule as the description."""
    found = {}
    for name, field in fields_of(action).items():
        (schema,), definitions = msgspec.json.schema_components([field.type])
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
    if route.status == 204:
        good: dict[str, Any] = {"description": "Done."}
    else:
        schema = {"$ref": _REF.format(name=result.__name__)}
        good = {"description": "Done.", "content": {"application/json": {"schema": schema}}}
    problem = {"content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}}}
    return {
        str(route.status): good,
        **{str(s): {"description": TITLE[s], **problem} for s in sorted(set(STATUS.values()))},
    }


def _problem_schema() -> dict[str, Any]:
    text = {"type": "string"}
    field = {"type": "object", "properties": {"field": text, "message": text}, "required": ["field", "message"]}
    return {
        "type": "object",
        "description": "RFC 9457 problem details.",
        "required": ["type", "title", "status", "code", "detail"],
        "properties": {
            "type": text, "title": text, "status": {"type": "integer"}, "code": {"enum": sorted(STATUS)}, "detail": text,
            "hint": text, "request_id": text, "errors": {"type": "array", "items": field}, "report": {"type": "object"},
        },
    }  # fmt: skip


def _login() -> dict[str, Any]:
    text = {"type": "string"}
    asked = {
        "type": "object",
        "properties": field_schemas(Credentials),
        "required": list(fields_of(Credentials)),
        "additionalProperties": False,
    }
    given = {
        "type": "object",
        "required": ["token", "token_type", "username", "expires_at", "must_change_password"],
        "properties": {
            "token": text, "token_type": {"const": "bearer"}, "username": text,
            "expires_at": {"type": "integer", "description": "Unix seconds"}, "must_change_password": {"type": "boolean"},
        },
    }  # fmt: skip
    problem = {"content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}}}
    return {
        "operationId": "session.begin",
        "summary": "Give a bearer token for a name and password.",
        "security": [],
        "requestBody": {"required": True, "content": {"application/json": {"schema": asked}}},
        "responses": {
            "200": {"description": "Signed in.", "content": {"application/json": {"schema": given}}},
            **{str(s): {"description": TITLE[s], **problem} for s in (401, 422, 429, 503)},
        },
    }
