"""The OpenAPI description: whole, and true to what the API does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from diycloud.actions.parsing import Source, parse_action
from diycloud.core.routes import PREFIX, ROUTES, Route
from diycloud.errors import InvalidInput
from diycloud.web.oldclients import OldClients
from diycloud.web.openapi import document
from diycloud.web.problems import STATUS

IDS = {"argvalues": ROUTES, "ids": [route.action.action_name for route in ROUTES]}
METHODS = {"get", "put", "post", "delete", "patch", "head", "options", "trace"}


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return json.loads(json.dumps(document()))


def walk(node: Any, path: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from walk(value, f"{path}/{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from walk(value, f"{path}/{number}")


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        assert set(methods) <= METHODS
        for method, operation in methods.items():
            yield path, method, operation


def test_the_frame(described: dict[str, Any]) -> None:
    assert described["openapi"].startswith("3.1.")
    assert set(described["info"]) >= {"title", "version"}
    assert set(described) <= {"openapi", "info", "paths", "components", "security", "servers", "tags"}


def resolved(described: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Return what a reference leads to, anything else as it is."""
    target: Any = described
    for part in node.get("$ref", "#").split("/")[1:]:
        target = target[part]
    return target if "$ref" in node else node


def test_every_reference_leads_somewhere(described: dict[str, Any]) -> None:
    references = [(path, node["$ref"]) for path, node in walk(described) if "$ref" in node]
    assert len(references) > 50
    for path, reference in references:
        target: Any = described
        for part in reference.removeprefix("#/").split("/"):
            assert part in target, f"{path}: {reference} leads nowhere"
            target = target[part]


def test_every_route_is_there_and_no_other(described: dict[str, Any]) -> None:
    there = {(method.upper(), path) for path, method, _ in operations(described)}
    open_to_all = {
        ("GET", "health"),
        ("GET", "openapi.json"),
        ("GET", "problems/{code}"),
        ("POST", "auth/login"),
        ("POST", "auth/login/second"),
        ("GET", "auth/whoami"),
    }
    routes = {(r.method, PREFIX + r.path) for r in ROUTES} | {(m, f"{PREFIX}/{p}") for m, p in open_to_all}
    assert there == routes | short_forms()


def short_forms() -> set[tuple[str, str]]:
    rest: Any = SimpleNamespace(login=None)
    return {(method, path) for method, path, _ in OldClients(rest).endpoints()}


def test_the_short_forms_are_described_as_what_is_no_longer_to_be_used(described: dict[str, Any]) -> None:
    old = {(m.upper(), path) for path, m, operation in operations(described) if operation.get("deprecated")}
    assert old == short_forms() and len(old) == 7
    for method, path in old:
        operation = described["paths"][path][method.lower()]
        instead = operation["description"].removeprefix("For old clients. Use ").removesuffix(".").split(" ")
        assert instead[1] in described["paths"] and instead[0].lower() in described["paths"][instead[1]]
    create = described["paths"]["/api/users"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"cpu", "cpu_limit", "mem_limit", "disk_quota", "gpu_access", "is_active"} <= set(create["properties"])
    assert create["additionalProperties"] is False
    new = described["paths"][f"{PREFIX}/users"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert not {"cpu_limit", "is_active"} & set(new["properties"]), "the API's own stays as it is"


def test_operations_are_whole(described: dict[str, Any]) -> None:
    seen = set()
    for path, method, operation in operations(described):
        assert operation["operationId"] not in seen
        seen.add(operation["operationId"])
        assert operation["summary"]
        parameters = [resolved(described, p) for p in operation.get("parameters", [])]
        in_path = {p["name"] for p in parameters if p["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))
        assert all(p["required"] for p in parameters if p["in"] == "path")
        assert len({(p["name"], p["in"]) for p in parameters}) == len(parameters)
        assert method != "get" or "requestBody" not in operation
        assert any(code.startswith("2") for code in operation["responses"])
        assert all(response["description"] for response in operation["responses"].values())


def test_patterns_are_those_of_json_schema(described: dict[str, Any]) -> None:
    patterns = [node["pattern"] for _, node in walk(described) if isinstance(node.get("pattern"), str)]
    assert patterns
    for pattern in patterns:
        assert r"\A" not in pattern and r"\Z" not in pattern, "ECMA 262 has no such anchors"
        re.compile(pattern)


def test_schemas_are_schemas(described: dict[str, Any]) -> None:
    known = {"object", "array", "string", "integer", "number", "boolean", "null"}
    for path, node in walk(described):
        if "/properties" in path.rpartition("/")[0][-11:] or path.endswith(("/schema", "/items")):
            kinds = node.get("type", [])
            assert set([kinds] if isinstance(kinds, str) else kinds) <= known, path
            assert {"type", "$ref", "anyOf", "enum", "const"} & set(node), f"{path} says nothing"
        if isinstance(node.get("required"), list):
            assert set(node["required"]) <= set(node["properties"]), path


def test_secrets_are_write_only(described: dict[str, Any]) -> None:
    create = described["paths"][f"{PREFIX}/users"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert create["properties"]["password"]["writeOnly"] is True
    assert create["additionalProperties"] is False
    assert create["required"] == ["username"]
    assert set(described["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]) == set(STATUS)


@pytest.mark.parametrize("route", **IDS)
def test_examples_that_fit_the_description_are_taken(route: Route, described: dict[str, Any]) -> None:
    """Every bound that is described is the one that is kept: the least and the most are taken, beyond is not."""
    operation = described["paths"][PREFIX + route.path][route.method.lower()]
    schemas = {p["name"]: p["schema"] for p in operation["parameters"] if p.get("in") in ("path", "query")}
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    schemas |= body.get("properties", {})
    needed = {"username": "ada", "csv": "username\n", "current": "x", "password": "correct horse battery"}
    needed |= {"label": "ci", "session": "1", "key_id": "a" * 12}
    needed |= {"name": "lab", "shell": "/bin/bash", "changes": [], "uid": 20_000, "members": ["ada"]}
    base = {name: value for name, value in needed.items() if name in schemas}
    for name, schema in schemas.items():
        for limit, sign in (("minimum", -1), ("maximum", 1)):
            for part in (schema, *schema.get("anyOf", [])):
                if limit in part:
                    parse_action(route.action, {**base, name: part[limit]}, Source.JSON)
                    with pytest.raises(InvalidInput):
                        parse_action(route.action, {**base, name: part[limit] + sign}, Source.JSON)
        for value in schema.get("enum", []):
            parse_action(route.action, {**base, name: value}, Source.JSON)
