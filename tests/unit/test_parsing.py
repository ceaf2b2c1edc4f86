"""Raw input to actions: every kind of field, every fault named at once, three states."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from diycloud.actions.parsing import Source, decode_json, fields_of, parse_action
from diycloud.actions.roles import Role
from diycloud.core.routes import ROUTES
from diycloud.errors import InvalidInput
from diycloud.users.actions import CreateUser, ListUsers, ModifyUser, SetLimits

ACTIONS = [route.action for route in ROUTES]


def faults(action: type, raw: dict[str, Any], source: Source = Source.JSON) -> dict[str, str]:
    """Return field → what is wrong with it."""
    with pytest.raises(InvalidInput) as caught:
        parse_action(action, raw, source)
    return {error.field: error.message for error in caught.value.errors}


def test_json_values_become_an_action() -> None:
    raw = {"username": "ada", "cpu": 0.5, "memory": "512M", "gpu": True, "role": "monitor", "email": None, "tasks": 64}
    found = parse_action(CreateUser, raw, Source.JSON)
    assert (found.cpu, found.memory, found.gpu, found.role) == (0.5, 512 << 20, True, Role.MONITOR)
    assert (found.email, found.password, found.disk, found.tasks) == (None, UNSET, UNSET, 64)


def test_text_is_read_as_people_write_it() -> None:
    raw = {"username": "ada", "cpu": "0.5", "memory": " 512 ", "gpu": "true", "tasks": "64", "disk": "1.5g"}
    found = parse_action(CreateUser, raw, Source.TEXT)
    assert (found.cpu, found.memory, found.gpu, found.tasks, found.disk) == (0.5, 512 << 20, True, 64, 3 << 29)


@pytest.mark.parametrize(
    ("field", "value"),
    [("cpu", "0.5"), ("cpu", True), ("memory", 512), ("memory", "512"), ("memory", True), ("tasks", "64"), ("tasks", 64.5),
     ("gpu", "true"), ("gpu", 1), ("role", "root"), ("role", 1), ("username", 5), ("username", None), ("cpu", None)],
)  # fmt: skip
def test_json_is_strict(field: str, value: object) -> None:
    assert list(faults(CreateUser, {"username": "ada", field: value})) == [field]


def test_every_fault_is_named_at_once_with_its_rule() -> None:
    found = faults(CreateUser, {"cpu": 0, "memory": "lots", "email": "x", "colour": "red", "full_name": "=1+1"})
    assert set(found) == {"username", "cpu", "memory", "email", "colour", "full_name"}
    assert found["username"] == "is needed"
    assert found["cpu"] == "cores, 0.01–4096, fractions allowed"
    assert "512M" in found["memory"]
    assert "no such field" in found["colour"] and "full_name" in found["colour"]


def test_three_states() -> None:
    left = parse_action(ModifyUser, {"username": "ada"}, Source.JSON)
    cleared = parse_action(ModifyUser, {"username": "ada", "email": None, "full_name": None}, Source.JSON)
    given_ = parse_action(ModifyUser, {"username": "ada", "email": "a@b.org"}, Source.JSON)
    assert (left.email, cleared.email, cleared.full_name, given_.email) == (UNSET, None, None, "a@b.org")
    assert set(faults(ModifyUser, {"username": "ada", "cpu": None, "role": None})) == {"cpu", "role"}


@pytest.mark.parametrize(
    "name",
    ["", "Ada", "1ada", "-ada", "ada lovelace", "ada\n", "\nada", "ada\x00", "аda", "ada․", "ada\u200b", "a" * 33, "../ada",
     "ada;id", "$(id)", "ada'--", "-rf", "ａda", "ada:x", "ada/", "ada\t", "ad\u0131"],
)  # fmt: skip
def test_names_that_are_none(name: str) -> None:
    for source in Source:
        assert list(faults(CreateUser, {"username": name}, source)) == ["username"]


@pytest.mark.parametrize(
    ("field", "text"),
    [("full_name", "a:b"), ("full_name", "a\nb"), ("full_name", "@SUM(1)"), ("full_name", "-2"), ("full_name", "x" * 101),
     ("full_name", "a\u202eb"), ("description", "+1"), ("description", "a\x1bb"), ("description", "x" * 501),
     ("email", "a@b@c"), ("email", "=a@b.org"), ("email", "a@b.org\n"), ("email", "a@-b.org"), ("email", "ä@b.org"),
     ("email", "a" * 65 + "@b.org"), ("password", "a\nb"), ("password", ""), ("password", "x" * 257)],
)  # fmt: skip
def test_texts_that_are_refused(field: str, text: str) -> None:
    assert list(faults(CreateUser, {"username": "ada", field: text})) == [field]


@pytest.mark.parametrize(
    "text", ["Robert'); DROP TABLE users;--", "日本語", "O’Brien, Ada", "$(id) `id` | sh", "a=b", "ß"]
)
def test_free_text_is_free(text: str) -> None:
    assert parse_action(CreateUser, {"username": "ada", "description": text}, Source.JSON).description == text


def test_a_secret_is_not_echoed() -> None:
    secret = "very secret\x07"
    assert "secret\x07" not in json.dumps(faults(CreateUser, {"username": "ada", "password": secret}))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, 0, 4097, 1e308])
def test_cores_out_of_range(value: float) -> None:
    assert list(faults(SetLimits, {"username": "ada", "cpu": value})) == ["cpu"]


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("action", ACTIONS, ids=lambda a: a.action_name)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_comes_is_an_action_or_refused_by_field(action: type, data: st.DataObject) -> None:
    names = list(fields_of(action))
    raw = data.draw(st.dictionaries(st.sampled_from(names) if names else st.nothing(), _json_values))
    for source in Source:
        try:
            found = parse_action(action, raw, source)
        except InvalidInput as error:
            assert error.errors
            assert all(e.field in names and e.message for e in error.errors)
        else:
            assert isinstance(found, action)


def test_what_the_edges_need_to_know_of_a_field() -> None:
    fields = fields_of(CreateUser)
    assert next(iter(fields)) == "username"
    kinds = {name: field.kind for name, field in fields.items()}
    assert (kinds["memory"], kinds["cpu"], kinds["tasks"], kinds["gpu"], kinds["role"], kinds["email"]) == (
        "size", "number", "integer", "flag", "choice", "text",
    )  # fmt: skip
    assert [name for name, field in fields.items() if field.required] == ["username"]
    assert [name for name, field in fields.items() if field.secret] == ["password"]
    assert fields_of(ModifyUser)["email"].clearable and not fields_of(ModifyUser)["cpu"].clearable
    assert fields_of(ListUsers)["descending"].kind == "flag"


@pytest.mark.parametrize("action", ACTIONS, ids=lambda a: a.action_name)
def test_every_field_has_a_rule_or_help(action: type) -> None:
    for field in fields_of(action).values():
        assert field.rule, f"{action.__name__}.{field.name} says no rule to whoever breaks it"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"x": {"a": 1, "a": 2}}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b"[1]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a": 1} x', "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a":' + b"[" * 100_000, "not JSON"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'{"a": [{"b": "x\\uD83Dy"}]}', "surrogate"),
    ],
)
def test_json_that_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        decode_json(body)


def test_json_that_is_taken() -> None:
    assert decode_json('{"a": "é", "b": "\\ud83d\\ude00", "c": "\\u0041"}'.encode()) == {"a": "é", "b": "😀", "c": "A"}


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(body: bytes) -> None:
    try:
        assert isinstance(decode_json(body), dict)
    except InvalidInput as error:
        assert error.message
