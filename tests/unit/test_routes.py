"""Nothing is forgotten: every action is declared, done, reachable, permitted and told of."""

from __future__ import annotations

import re

import msgspec
import pytest

from diycloud.actions.action import Action, Audited, Permission, summary
from diycloud.actions.download import Download
from diycloud.actions.parsing import fields_of
from diycloud.cli.main import NOUNS
from diycloud.client.requests import request_of
from diycloud.core.handlers import HANDLERS
from diycloud.core.reference import NO_VERB, actions_page
from diycloud.core.routes import PREFIX, ROUTES, Route, result_type
from diycloud.web.openapi import document

IDS = {"argvalues": ROUTES, "ids": [route.action.action_name for route in ROUTES]}


def declared() -> set[type[Action]]:
    """Return every action class of the product."""

    def below(cls: type) -> set[type]:
        found = set()
        for sub in cls.__subclasses__():
            if sub.__module__.startswith("diycloud."):
                found |= {sub} | below(sub)
        return found

    return {cls for cls in below(Action) if hasattr(cls, "action_name")}


def test_every_action_has_a_route_and_a_handler() -> None:
    assert declared() == {route.action for route in ROUTES} == set(HANDLERS)
    assert len(declared()) >= 18


@pytest.mark.parametrize("route", **IDS)
def test_every_action_is_whole(route: Route) -> None:
    action = route.action
    assert re.fullmatch(r"[a-z]+\.[a-z]+(-[a-z]+)*", action.action_name)
    assert isinstance(action.permission, Permission) and isinstance(action.audited, Audited)
    assert summary(action).endswith(".") and len(summary(action)) < 120
    result = result_type(action)
    assert result is None or result is type(None) or issubclass(result, msgspec.Struct | Download)
    assert action.target_field == "" or action.target_field in fields_of(action) or action.target_field == "username"


@pytest.mark.parametrize("route", **IDS)
def test_every_change_is_audited_and_no_read_changes(route: Route) -> None:
    assert (route.method == "GET") == (route.action.audited is not Audited.CHANGE)


@pytest.mark.parametrize("route", **IDS)
def test_every_action_has_a_verb_or_a_reason(route: Route) -> None:
    if route.verb:
        noun, _, verb = route.verb.partition(" ")
        assert noun in NOUNS and re.fullmatch(r"[a-z]+(-[a-z]+)*", verb)
        assert route.action.action_name not in NO_VERB
    else:
        assert NO_VERB[route.action.action_name]


@pytest.mark.parametrize("route", **IDS)
def test_every_action_is_in_reference_and_description(route: Route) -> None:
    assert f"\n## {route.action.action_name}\n\n{summary(route.action)}\n" in actions_page()
    assert document()["paths"][PREFIX + route.path][route.method.lower()]["operationId"] == route.action.action_name


@pytest.mark.parametrize("route", **IDS)
def test_what_stands_in_the_path_is_a_field(route: Route) -> None:
    in_path = set(re.findall(r"{(\w+)}", route.path))
    assert in_path <= set(fields_of(route.action))
    values = dict.fromkeys(in_path, "ada")
    path, _, _ = request_of(route, values)
    assert "{" not in path


def test_names_routes_and_verbs_are_each_there_once() -> None:
    for key in (lambda r: r.action.action_name, lambda r: (r.method, r.path), lambda r: r.verb or r.action):
        assert len({key(route) for route in ROUTES}) == len(ROUTES)
