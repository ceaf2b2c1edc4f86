"""The verbs that are actions: their options made of the declarations, sent to the server, shown as tables or JSON."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from diycloud.actions.action import summary
from diycloud.actions.download import Download
from diycloud.actions.parsing import Field, Source, fields_of, parse_action
from diycloud.cli import files, rooted, tenancy, views
from diycloud.cli.output import as_json, colour, printable
from diycloud.cli.passwords import add_password, given_password
from diycloud.cli.transport import Target, checked, send
from diycloud.client.requests import request_of
from diycloud.core.routes import PREFIX, ROUTES, Route, result_type
from diycloud.errors import InvalidInput
from diycloud.groups.actions import RemoveGroup
from diycloud.units import format_size
from diycloud.users.actions import PurgeUser


def add_verbs(parser: argparse.ArgumentParser, noun: str, wanted: str = "") -> None:
    """Give a noun's parser its verbs; only the wanted one if it is one of them (all the others take 20 ms)."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    routes = [route for route in ROUTES if route.verb.split(" ")[0] == noun]
    for route in [route for route in routes if route.verb == f"{noun} {wanted}"] or routes:
        if route.action in rooted.VERBS:
            rooted.add_verb(verbs, route, parser.formatter_class)
            continue
        if route.action in files.VERBS:
            files.add_verb(verbs, route, parser.formatter_class)
            continue
        text = summary(route.action)
        sub = verbs.add_parser(
            route.verb.split(" ")[1],
            help=text[0].lower() + text[1:].rstrip("."),
            description=text,
            formatter_class=parser.formatter_class,
        )
        _add_options(sub, route)
        sub.set_defaults(run=lambda arguments, route=route: run(arguments, route))
    if noun == "user":
        files.add_database(verbs, parser.formatter_class)


def _add_options(parser: argparse.ArgumentParser, route: Route) -> None:
    for field in fields_of(route.action).values():
        if field.name == "username":
            parser.add_argument("name", nargs="?", metavar="NAME", help=field.help)
            parser.add_argument("--username", help=argparse.SUPPRESS)
        elif _is_name(route, field):
            parser.add_argument("name", metavar="NAME", help=field.help)
        elif field.kind == "text" and field.secret:
            add_password(parser, field.name)
        else:
            _add_option(parser, field)
    if route.action in _CONFIRMED:
        parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _is_name(route: Route, field: Field) -> bool:
    """Tell whether a field names what is acted on, other than a user."""
    return field.name == "name" == route.action.target_field


def _add_option(parser: argparse.ArgumentParser, field: Field) -> None:
    option = f"--{field.name.replace('_', '-')}"
    text = (field.help or field.rule).replace("%", "%%")
    if field.kind == "flag":
        parser.add_argument(option, action=argparse.BooleanOptionalAction, default=None, help=text)
        return
    if field.default not in (msgspec.UNSET, msgspec.NODEFAULT, None, "", ()):
        plain: Any = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = format_size(plain) if field.kind == "size" else printable(plain)
        text += f" (default: {shown})"
    elif field.clearable and field.default is msgspec.UNSET:
        text += ' ("" clears)'
    parser.add_argument(option, metavar=_METAVARS.get(field.kind, "TEXT"), help=text)


_METAVARS = {"size": "SIZE", "number": "N", "integer": "N", "choice": "ONE"}


def run(arguments: argparse.Namespace, route: Route) -> int:
    """Send one action and show its result."""
    raw = _raw(arguments, route)
    action = parse_action(route.action, raw, Source.TEXT)
    target = Target.of(arguments)
    if route.action in _CONFIRMED and not arguments.yes:
        _confirm(target, _CONFIRMED[route.action], action.target)
    path, query, body = request_of(route, {name: getattr(action, name) for name in raw})
    if result_type(route.action) is Download:
        checked(send(target, route.method, path, query, body, sink=sys.stdout.buffer.write))
        return 0
    answer = send(target, route.method, path, query, body, keyed=route.keyed)
    if route.action is PurgeUser and answer.status == 429 and target.session() is None:
        rooted.purge(target, raw["username"], archive=getattr(action, "archive", False))
        answer = send(target, route.method, path, query, body)
    if route.action is RemoveGroup and answer.status == 429 and target.session() is None:
        rooted.remove_group(target, action.target)
        answer = send(target, route.method, path, query, body)
    result = checked(answer)
    if isinstance(result, dict) and "session_token" in result:
        keep_token(target, result.pop("session_token"))
    shown = views.done(route.action, action.target) if route.status == 204 else views.show(route.action, result)
    sys.stdout.write((as_json(result) if arguments.json else shown) + "\n")
    if not arguments.json:
        for warning in (result or {}).get("warnings") or []:
            sys.stderr.write(f"{colour('note:', 'yellow', sys.stderr)} {printable(warning)}\n")
    return 0


def keep_token(target: Target, token: str | None) -> None:
    """Go on under the token that has taken the place of the one that was asked with."""
    kept = target.session() if token else None
    if token is None or kept is None:
        return
    if os.environ.get("DIYCLOUD_TOKEN") or os.environ.get("DIYCLOUD_TOKEN_FILE"):
        sys.stderr.write("note: the token that you had has ended; sign in for another: `diycloud login`.\n")
        return
    from diycloud.client import session

    session.write(msgspec.structs.replace(kept, token=token))


def _raw(arguments: argparse.Namespace, route: Route) -> dict[str, Any]:
    """Return what was given, as text; options that were not given are left out."""
    raw: dict[str, Any] = {}
    for field in fields_of(route.action).values():
        if field.name == "username":
            if arguments.name and arguments.username:
                raise InvalidInput("The name is there twice.", "Give NAME or --username.")
            raw["username"] = arguments.name or arguments.username or ""
            if field.required and not raw["username"]:
                raise InvalidInput("The user's name is missing.", f"Write: diycloud {route.verb} NAME")
        elif field.kind == "text" and field.secret:
            given = given_password(arguments, field.name, needed=field.required, again=field.name == "password")
            if given is not None:
                raw[field.name] = given
        else:
            given = getattr(arguments, field.name)
            if given is not None:
                raw[field.name] = None if given == "" and field.clearable else given
    return raw


class _Confirmed(NamedTuple):
    """preview: the path that tells what would be taken away; view: how that is shown; word: what is done."""

    preview: str
    view: Callable[[dict[str, Any]], str]
    word: str


_CONFIRMED = {
    PurgeUser: _Confirmed("/users/{}/purge", views.purge_plan, "purge"),
    RemoveGroup: _Confirmed("/groups/{}/removal", tenancy.group_plan, "remove"),
}


def _confirm(target: Target, asked: _Confirmed, name: str) -> None:
    plan = checked(send(target, "GET", PREFIX + asked.preview.format(name), {}, None))
    sys.stderr.write(asked.view(plan) + "\n")
    if not sys.stdin.isatty():
        raise InvalidInput("This cannot be undone.", f"Say --yes to {asked.word} without being asked.")
    sys.stderr.write(f"Type {name} to {asked.word}: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() != name:
        raise InvalidInput("Nothing was changed.")
