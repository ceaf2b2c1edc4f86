"""The verbs that are actions: their options made of the declarations, sent to the server, shown as tables or JSON."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from diycloud.actions.action import summary
from diycloud.actions.parsing import Field, Source, fields_of, parse_action
from diycloud.cli import views
from diycloud.cli.output import as_json, colour, printable
from diycloud.cli.passwords import read_password
from diycloud.cli.transport import checked, send
from diycloud.config import Paths
from diycloud.core.routes import PREFIX, ROUTES, Route
from diycloud.errors import InvalidInput
from diycloud.units import format_size
from diycloud.users.actions import ImportUsers, PurgeUser


def add_verbs(parser: argparse.ArgumentParser, noun: str) -> None:
    """Give a noun's parser its verbs."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    for route in ROUTES:
        if route.verb.split(" ")[0] != noun:
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


def _add_options(parser: argparse.ArgumentParser, route: Route) -> None:
    for field in fields_of(route.action).values():
        if field.name == "csv":
            parser.add_argument("file", metavar="FILE", help="CSV file with a heading line, - for standard input")
        elif field.name == "username":
            parser.add_argument("name", nargs="?", metavar="NAME", help=field.help)
            parser.add_argument("--username", help=argparse.SUPPRESS)
        elif field.name == "password":
            parser.add_argument(
                "--password",
                nargs="?",
                const="",
                metavar="-",
                help="ask for it; with - read one line of standard input",
            )
            parser.add_argument("--password-file", metavar="FILE", help="read it from a file's first line")
        else:
            _add_option(parser, field)
    if route.action is PurgeUser:
        parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_option(parser: argparse.ArgumentParser, field: Field) -> None:
    option = f"--{field.name.replace('_', '-')}"
    text = (field.help or field.rule).replace("%", "%%")
    if field.kind == "flag":
        parser.add_argument(option, action=argparse.BooleanOptionalAction, default=None, help=text)
        return
    if field.default not in (msgspec.UNSET, msgspec.NODEFAULT, None, ""):
        shown = format_size(field.default) if field.kind == "size" else printable(field.default)
        text += f" (default: {shown})"
    elif field.clearable and field.default is msgspec.UNSET:
        text += ' ("" clears)'
    parser.add_argument(option, metavar=_METAVARS.get(field.kind, "TEXT"), help=text)


_METAVARS = {"size": "SIZE", "number": "N", "integer": "N", "choice": "ONE"}


def run(arguments: argparse.Namespace, route: Route) -> int:
    """Send one action and show its result."""
    raw = _raw(arguments, route)
    action = parse_action(route.action, raw, Source.TEXT)
    paths = Paths(arguments.prefix)
    if route.action is PurgeUser and not arguments.yes:
        _confirm_purge(paths, raw["username"])
    path, query, body = request_of(route, {name: getattr(action, name) for name in raw})
    answer = send(paths, route.method, path, query, body)
    if route.action is PurgeUser and answer.status == 429:
        _purge_as_root(paths, raw["username"])
        answer = send(paths, route.method, path, query, body)
    if route.action is ImportUsers and answer.status == 422 and "report" in (answer.body or {}):
        sys.stdout.write(
            (as_json(answer.body["report"]) if arguments.json else views.imported(answer.body["report"])) + "\n"
        )
        return 2
    result = checked(answer)
    sys.stdout.write((as_json(result) if arguments.json else views.show(route.action, result)) + "\n")
    if not arguments.json:
        for warning in result.get("warnings") or []:
            sys.stderr.write(f"{colour('note:', 'yellow', sys.stderr)} {printable(warning)}\n")
    return 2 if route.action is ImportUsers and result["refused"] else 0


def _raw(arguments: argparse.Namespace, route: Route) -> dict[str, Any]:
    """Return what was given, as text; options that were not given are left out."""
    raw: dict[str, Any] = {}
    for field in fields_of(route.action).values():
        if field.name == "csv":
            raw["csv"] = _read_text(arguments.file)
        elif field.name == "username":
            if arguments.name and arguments.username:
                raise InvalidInput("The name is there twice.", "Give NAME or --username.")
            raw["username"] = arguments.name or arguments.username or ""
        elif field.name == "password":
            given = read_password(arguments.password, arguments.password_file)
            if given is not None:
                raw["password"] = given
        else:
            given = getattr(arguments, field.name)
            if given is not None:
                raw[field.name] = None if given == "" and field.clearable else given
    return raw


def _read_text(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"{name} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{name} is not UTF-8.", "Save it as CSV UTF-8.") from None


def request_of(route: Route, values: dict[str, Any]) -> tuple[str, dict[str, str], dict[str, Any] | None]:
    """Return an action's path, query and body for the REST API; sizes as text."""
    fields = fields_of(route.action)
    plain = {
        name: format_size(v) if fields[name].kind == "size" and isinstance(v, int) else v for name, v in values.items()
    }
    path = PREFIX + re.sub(r"{(\w+)}", lambda match: str(plain.pop(match[1])), route.path)
    if route.method == "GET":
        return (
            path,
            {name: str(v).lower() if isinstance(v, bool) else str(v) for name, v in plain.items() if v is not None},
            None,
        )
    return path, {}, plain


def _confirm_purge(paths: Paths, username: str) -> None:
    plan = checked(send(paths, "GET", f"{PREFIX}/users/{username}/purge", {}, None))
    sys.stderr.write(views.purge_plan(plan) + "\n")
    if not sys.stdin.isatty():
        raise InvalidInput("A purge cannot be undone.", "Say --yes to purge without being asked.")
    sys.stderr.write(f"Type {username} to purge: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() != username:
        raise InvalidInput("Nothing was purged.")


def _purge_as_root(paths: Paths, username: str) -> None:
    """Have the agent purge an account on root's own word: on the server's it purges only some in an hour.

    The server then finds nothing left to purge, and removes the user.
    """
    from diycloud.agent.client import call_blocking
    from diycloud.agent.protocol import Outcome, PurgeAccount

    found = checked(send(paths, "GET", f"{PREFIX}/users/{username}", {}, None))
    call_blocking(paths.agent_socket, PurgeAccount(username, found["version"]), Outcome)
