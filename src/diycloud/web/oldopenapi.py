"""The short forms of old clients in the OpenAPI description: what they stand for, with the old names (oldforms.py)."""

from __future__ import annotations

import copy
from typing import Any

from diycloud.core.routes import PREFIX
from diycloud.web import oldclients
from diycloud.web.oldforms import NAMES

_USER, _CHANGED, _PAGE = "OldUser", "OldChanged", "OldPage"
_FLAG = {"anyOf": [{"type": "boolean"}, {"enum": [0, 1]}]}
_STANDS_FOR = {
    ("post", "/auth/login"): ("post", "/auth/login", ""),
    ("post", "/auth/logout"): ("post", "/auth/logout", ""),
    ("get", "/users"): ("get", "/users", _PAGE),
    ("post", "/users"): ("post", "/users", _CHANGED),
    ("get", "/users/{username}"): ("get", "/users/{username}", _USER),
    ("put", "/users/{username}"): ("patch", "/users/{username}", _CHANGED),
    ("delete", "/users/{username}"): ("delete", "/users/{username}", _CHANGED),
}
"""Each short form: what it is of the API's, and its answer; empty for the same."""


def schemas(known: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas of the answers. known: those of the API."""
    limits = known["Limits"]["properties"]
    old = {"is_active": {"type": "boolean"}, **{name: limits[new] for name, new in NAMES.items()}}
    user = {"$ref": f"#/components/schemas/{_USER}"}
    more = {name: known["Changed"]["properties"][name] for name in ("password", "warnings")}
    return {
        _USER: {
            "description": "A user with the names of the columns beside the API's.",
            "allOf": [{"$ref": "#/components/schemas/User"}, _object(old)],
        },
        _CHANGED: {"description": "A changed user of an old client's.", "allOf": [user, _object(more)]},
        _PAGE: _object({"users": {"type": "array", "items": user}, "total": {"type": "integer"}}),
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def paths(known: dict[str, Any]) -> dict[str, Any]:
    """Return the paths. known: those of the API."""
    found: dict[str, Any] = {}
    for (method, path), (its_method, its_path, answer) in _STANDS_FOR.items():
        operation = copy.deepcopy(known[PREFIX + its_path][its_method])
        operation |= {
            "operationId": f"old.{operation['operationId']}",
            "tags": ["old clients"],
            "description": f"For old clients. Use {its_method.upper()} {PREFIX}{its_path}.",
            "deprecated": True,
        }
        if answer:
            _answer_with(operation, answer)
        if method in ("post", "put") and answer:
            _take_old_names(operation, whole=method == "put")
        found.setdefault(oldclients.PREFIX + path, {})[method] = operation
    return found


def _answer_with(operation: dict[str, Any], name: str) -> None:
    """Describe the good answers of an old client. It compares no tags when it reads."""
    if name == _USER:
        conditions = [{"$ref": f"#/components/parameters/{field}"} for field in ("IfMatch", "IfNoneMatch")]
        operation["parameters"] = [given for given in operation["parameters"] if given not in conditions]
        del operation["responses"]["304"]
    for status in ("200", "201", "202"):
        if status in operation["responses"]:
            content = operation["responses"][status]["content"]
            content["application/json"]["schema"] = {"$ref": f"#/components/schemas/{name}"}


def _take_old_names(operation: dict[str, Any], *, whole: bool) -> None:
    """Describe the body of an old client. whole: it sends back all that it has read, and what differs counts."""
    body = operation["requestBody"]["content"]["application/json"]
    body.pop("example", None)
    fields = body["schema"]["properties"]
    fields |= {name: fields[new] for name, new in NAMES.items()}
    fields |= {"is_active": _FLAG, "gpu_access": _FLAG}
    if whole:
        body["schema"]["additionalProperties"] = True
