"""The verbs that take and give whole files: import, bulk, export. Long work shows how far it is."""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from diycloud.actions.action import Action, summary
from diycloud.actions.parsing import Source, fields_of, parse_action
from diycloud.cli import views
from diycloud.cli.output import as_json, colour, printable
from diycloud.cli.transport import Answer, Target, checked, send
from diycloud.client.bulk import Progress, print_progress
from diycloud.client.requests import error_of, request_of
from diycloud.core.routes import ROUTES, Route
from diycloud.errors import FieldError, InvalidInput, PermissionDenied
from diycloud.units import format_size
from diycloud.users.actions import BULK, BulkUsers, ExportUsers, ImportUsers

LINES = "application/x-ndjson"


def add_verb(verbs: Any, route: Route, formatter: Any) -> None:
    """Give a noun's parser one of these verbs."""
    text = summary(route.action)
    parser = verbs.add_parser(
        route.verb.split(" ")[1],
        help=text[0].lower() + text[1:].rstrip("."),
        description=text,
        formatter_class=formatter,
    )
    options, run = VERBS[route.action]
    options(parser)
    parser.set_defaults(run=lambda arguments: run(arguments, route))


# -- import and bulk


def _import_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="CSV with a heading line or a JSON array, - for standard input")
    parser.add_argument("--update", action="store_true", help=fields_of(ImportUsers)["update"].help)
    _work_options(parser)


def _bulk_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE",
        help="CSV or JSON array: action, username and its fields in each row, - for standard input",
    )
    parser.add_argument(
        "--on-error", choices=("stop", "continue"), default="stop", help=fields_of(BulkUsers)["on_error"].help
    )
    _work_options(parser)


def _work_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="check only, change nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _import(arguments: argparse.Namespace, route: Route) -> int:
    text = read_text(arguments.file)
    rows: dict[str, Any] = {"users": _objects(text)} if _is_json(text) else {"csv": text}
    total = len(rows["users"]) if "users" in rows else text.count("\n")
    asked = {**rows, "update": arguments.update, "dry_run": arguments.dry_run}
    answer = _work(arguments, route, asked, total)
    report = checked(answer) if "report" not in (answer.body or {}) else answer.body["report"]
    _say(arguments, report, views.imported(report), report.get("warnings", ()))
    return 2 if report["refused"] else 0


def _bulk(arguments: argparse.Namespace, route: Route) -> int:
    text = read_text(arguments.file)
    changes = _objects(text) if _is_json(text) else changes_of_csv(text)
    asked = {"changes": changes, "on_error": arguments.on_error, "dry_run": arguments.dry_run}
    answer = _work(arguments, route, asked, len(changes))
    report = checked(answer) if "report" not in (answer.body or {}) else answer.body["report"]
    _say(arguments, report, views.bulk(report), ())
    return 2 if report["failed"] else 0


def _say(arguments: argparse.Namespace, report: dict[str, Any], text: str, warnings: Any) -> None:
    sys.stdout.write((as_json(report) if arguments.json else text) + "\n")
    for warning in () if arguments.json else warnings:
        sys.stderr.write(f"{colour('note:', 'yellow', sys.stderr)} {printable(warning)}\n")


class _Lines:
    """Takes an answer that comes line by line; counts its rows and keeps the rest."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = self._failed = 0
        self._part = b""
        self.last: Any = None

    def __call__(self, piece: bytes) -> None:
        *lines, self._part = (self._part + piece).split(b"\n")
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        found = msgspec.json.decode(line)
        if "row" not in found:
            self.last = found
            return
        self._done += 1
        self._failed += found["row"]["outcome"] in ("refused", "failed")
        if sys.stderr.isatty():
            print_progress(Progress(self._done, max(self._total, self._done), self._failed))

    def answer(self) -> Answer:
        """Return the answer that the last line holds. Raises the error that it tells of."""
        if self._part:
            self._take(self._part)
        if self.last and "problem" in self.last:
            raise error_of(self.last["problem"]["status"], self.last["problem"], {})
        return Answer(200, self.last["report"] if self.last and "report" in self.last else self.last)


def _work(arguments: argparse.Namespace, route: Route, asked: dict[str, Any], total: int) -> Answer:
    """Send what may take minutes and follow it."""
    given = {name: value for name, value in asked.items() if value not in (False, "", [])}
    lines = _Lines(total)
    path, query, body = request_of(route, given)
    answer = send(Target.of(arguments), route.method, path, query, body, sink=lines, accept=LINES)
    return lines.answer() if answer.body is None and answer.status == 200 else answer


def changes_of_csv(text: str) -> list[dict[str, Any]]:
    """Return the changes of a CSV text, as JSON has them; an empty cell says nothing. Raises InvalidInput with all faults."""
    found, errors = [], []
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), strict=True)
    try:
        for row in reader:
            said = {str(name).strip().lower(): str(cell).strip() for name, cell in row.items() if cell}
            verb = said.pop("action", "")
            if verb not in BULK:
                errors.append(FieldError(f"line {reader.line_num}, action", f"one of: {', '.join(BULK)}"))
                continue
            try:
                found.append({"action": verb, **_plain(BULK[verb], said)})
            except InvalidInput as error:
                errors += [FieldError(f"line {reader.line_num}, {e.field}", e.message) for e in error.errors]
    except csv.Error as error:
        raise InvalidInput(f"line {reader.line_num}: {error}.") from None
    if errors:
        raise InvalidInput.of(errors)
    return found


def _plain(action: type[Action[Any]], said: dict[str, str]) -> dict[str, Any]:
    parsed, fields = parse_action(action, said, Source.TEXT), fields_of(action)
    values = {name: getattr(parsed, name) for name in said}
    return {name: format_size(v) if fields[name].kind == "size" else v for name, v in values.items()}


def _is_json(text: str) -> bool:
    return text.lstrip()[:1] == "["


def _objects(text: str) -> list[Any]:
    try:
        return msgspec.json.decode(text, type=list[dict[str, Any]])
    except msgspec.DecodeError as error:
        raise InvalidInput(f"The file is no JSON array of objects: {error}.") from None


def read_text(name: str) -> str:
    """Return a file's text, standard input's for `-`. Raises InvalidInput."""
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"{name} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{name} is not UTF-8.", "Save it as CSV UTF-8.") from None


# -- an old database


def add_database(verbs: Any, formatter: Any) -> None:
    """Give the users' parser the verb for old databases: no action of its own, but an import of what this machine reads."""
    text = "Create users from an old database of the plain kind, with their passwords."
    parser = verbs.add_parser(
        "import-database", help=text[0].lower() + text[1:-1], description=text, formatter_class=formatter
    )
    parser.add_argument("file", metavar="FILE", help="a SQLite file with the tables users and resource_allocations")
    parser.add_argument("--update", action="store_true", help=fields_of(ImportUsers)["update"].help)
    _work_options(parser)
    parser.set_defaults(run=_database)


def _database(arguments: argparse.Namespace) -> int:
    from diycloud.users import legacy

    target = Target.of(arguments)
    if target.on_behalf_of or target.session() is not None:
        raise PermissionDenied("This holds only on root's own word, on the server itself.", "Run it there with sudo.")
    (route,) = (route for route in ROUTES if route.action is ImportUsers)
    found = legacy.read_database(Path(arguments.file))
    if not found:
        raise InvalidInput(f"{arguments.file} has no users.")
    at_fault = any(old.faults for old in found)
    asked = {"users": [old.user for old in found], "update": arguments.update, "dry_run": arguments.dry_run or at_fault}
    answer = _work(arguments, route, asked, len(found))
    report = checked(answer) if "report" not in (answer.body or {}) else answer.body["report"]
    for row in report["rows"]:
        old = found[row["line"] - 1]
        row["line"] = old.id
        told = [[legacy.NAMES.get(field, field), text] for field, text in row["errors"]]
        row["errors"] = [*[[fault.field, fault.message] for fault in old.faults], *told]
        row["warnings"] = [*old.warnings, *row["warnings"]]
        if row["errors"] and row["outcome"] in ("new", "change"):
            row["outcome"] = "refused"
            report["refused"] += 1
    report["dry_run"] = arguments.dry_run
    _say(arguments, report, views.imported(report), report.get("warnings", ()))
    return 2 if report["refused"] else 0


# -- export


def _export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="where to (default: standard output)")
    for field in fields_of(ExportUsers).values():
        option = f"--{field.name.replace('_', '-')}"
        if field.kind == "flag":
            parser.add_argument(option, action="store_const", const="true", help=field.help)
        else:
            parser.add_argument(
                option, metavar="ONE" if field.kind == "choice" else "TEXT", help=field.help or field.rule
            )
    parser.add_argument("--json", action="store_true", help="the same as --format json")


def _export(arguments: argparse.Namespace, route: Route) -> int:
    raw = {n: str(v) for n in fields_of(ExportUsers) if (v := getattr(arguments, n)) is not None}
    if "format" not in raw and arguments.file.endswith(".csv") and not arguments.json:
        raw["format"] = "csv"
    action = parse_action(ExportUsers, raw, Source.TEXT)
    path, query, body = request_of(route, {name: getattr(action, name) for name in raw})
    if arguments.file == "-":
        checked(send(Target.of(arguments), route.method, path, query, body, sink=sys.stdout.buffer.write))
        return 0
    with _private(arguments.file) as file:
        checked(send(Target.of(arguments), route.method, path, query, body, sink=file.write))
    return 0


def _private(name: str) -> BinaryIO:
    """Open a new file that only its owner can read. Raises InvalidInput: a file that is there is not written over."""
    try:
        return os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
    except OSError as error:
        raise InvalidInput(f"{name} cannot be written: {error.strerror}.") from None


VERBS: dict[type[Action[Any]], Any] = {
    ImportUsers: (_import_options, _import),
    BulkUsers: (_bulk_options, _bulk),
    ExportUsers: (_export_options, _export),
}
