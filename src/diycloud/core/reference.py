"""The generated pages of the reference: `python -m diycloud.core.reference [FOLDER]`, docs/reference by default.

actions.md, settings.md, metrics.md and schema.sql are made of the declarations; a test holds the committed ones to this.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from diycloud import config
from diycloud.actions.action import Action, Audited, summary
from diycloud.actions.meter import Kind, Metric
from diycloud.actions.parsing import Field, fields_of
from diycloud.actions.roles import PERMISSIONS, Scope
from diycloud.config_words import PATTERNS
from diycloud.core.metrics import METRICS, READERS
from diycloud.core.routes import PREFIX, ROUTES, Route, result_type
from diycloud.db.tables import TRIGGERS, metadata
from diycloud.units import format_size

_MADE = "made by `python -m diycloud.core.reference`; change the declarations, not this file"
NO_VERB = {
    "metrics.read": "`diycloud metrics` prints it",
    "passkey.begin": "a browser makes passkeys: the portal's page /account/second-factor",
    "passkey.add": "a browser makes passkeys: the portal's page /account/second-factor",
    "session.end": "`diycloud logout` ends it and forgets the token",
    "session.prove": "`diycloud login` is a fresh proof",
}
"""Actions without a command line verb, and why."""


def pages() -> dict[str, str]:
    """Return each page's text by its file name."""
    return {
        "actions.md": actions_page(),
        "settings.md": settings_page(),
        "metrics.md": metrics_page(),
        "schema.sql": schema_page(),
    }


def actions_page() -> str:
    """Return the page of every action: what it does, who may, how to reach it, its fields."""
    parts = [f"<!-- {_MADE} -->", "# Actions", ""]
    parts.append(
        "Every change and every guarded read is one of these, by whichever way it comes: REST, command line or portal. "
        f"REST paths are below `{PREFIX}`; the errors of all are listed in `{PREFIX}/openapi.json`."
    )
    for route in ROUTES:
        parts += ["", *_action(route)]
    return "\n".join(parts) + "\n"


def _action(route: Route) -> Iterator[str]:
    action = route.action
    roles = ", ".join(
        f"{role}{_SCOPES[held[action.permission]]}" for role, held in PERMISSIONS.items() if action.permission in held
    )
    yield f"## {action.action_name}"
    yield ""
    yield summary(action)
    yield ""
    yield f"- REST: `{route.method} {route.path}`, answers {route.status}"
    yield f"- command line: `diycloud {route.verb}`" if route.verb else f"- no command: {NO_VERB[action.action_name]}"
    yield f"- needs `{action.permission}` ({roles or 'only root on the host itself'})"
    yield f"- audit: {_AUDIT[action.audited]}"
    yield f"- answer: {_result(action)}"
    fields = fields_of(action)
    if fields:
        yield ""
        yield "| field | | rule | meaning |"
        yield "| --- | --- | --- | --- |"
        for field in fields.values():
            yield f"| `{field.name}` | {_presence(field)} | {_cell(field.rule)} | {_cell(field.help)} |"


_SCOPES = {Scope.ALL: "", Scope.DOMAIN: " within the domain", Scope.OWN: " for oneself"}
_AUDIT = {
    Audited.EXPORT: "always",
    Audited.CHANGE: "always",
    Audited.NO: "refusals only",
}


def _result(action: type[Action[Any]]) -> str:
    kind = result_type(action)
    return "nothing" if kind is type(None) or kind is None else f"`{kind.__name__}`"


def _presence(field: Field) -> str:
    if field.required:
        return "needed"
    clears = ", null clears" if field.clearable else ""
    if field.default is msgspec.UNSET:
        return f"optional{clears}"
    if field.default is None or field.default == "":
        return "optional"
    shown = format_size(field.default) if field.kind == "size" else msgspec.json.encode(field.default).decode()
    return f"default `{shown}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def settings_page() -> str:
    """Return the page of every setting, its meaning taken from the text below it where it is declared."""
    parts = [f"<!-- {_MADE} -->", "# Settings", ""]
    parts.append(
        "In `/etc/diycloud/config.yaml`; a variable in the environment of the process stands above the file. "
        "`diycloud config` shows and checks them."
    )
    for section in msgspec.structs.fields(config.Settings):
        parts += ["", f"## {section.name}", "", (section.type.__doc__ or "").strip(), ""]
        parts += _keys(section.type, section.name)
        for field in msgspec.structs.fields(section.type):
            inner, is_list = _inner(field.type)
            if inner is not None:
                parts += ["", f"### {section.name}.{field.name}", "", (inner.__doc__ or "").strip(), ""]
                parts += ["A list; each has these keys.", ""] if is_list else []
                parts += _keys(inner, "")
    return "\n".join(parts) + "\n"


def _keys(kind: type[msgspec.Struct], section: str) -> Iterator[str]:
    """Return the table of a section's keys; section empty: of what no variable sets one by one."""
    declared = [cls for cls in reversed(kind.__mro__) if cls.__module__.startswith("diycloud.")]
    texts = {name: text for cls in declared for name, text in _field_texts(cls).items()}
    variable = " environment |" if section else ""
    yield f"| key | default | allowed |{variable} meaning |"
    yield f"| --- | --- | --- |{' --- |' if section else ''} --- |"
    for field in msgspec.structs.fields(kind):
        given = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        default = "needed" if given is msgspec.NODEFAULT else f"`{msgspec.json.encode(given).decode()}`"
        variable = f" `DIYCLOUD_{section}__{field.name}` |".upper() if section else ""
        meaning = _cell(texts.get(field.name, ""))
        yield f"| `{field.name}` | {_cell(default)} | {_cell(_allowed(field.type))} |{variable} {meaning} |"


def _inner(kind: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """Return the keys that a setting consists of, and whether it is a list of such; None for a plain value."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind, False
    for part in get_args(kind):
        found, is_list = _inner(part)
        if found is not None:
            return found, is_list or get_origin(kind) is tuple
    return None, False


def _field_texts(cls: type) -> dict[str, str]:
    """Return the text that follows each field of a class where it is declared."""
    tree = ast.parse(inspect.getsource(sys.modules[cls.__module__]))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls.__name__)
    texts = {}
    for field, after in zip(found.body, found.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            value = after.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                texts[field.target.id] = " ".join(value.value.split())
    return texts


def _allowed(kind: Any) -> str:
    (schema,), _ = msgspec.json.schema_components([kind])
    if any("$ref" in part for part in (schema, schema.get("items", {}), *schema.get("anyOf", ()))):
        return "keys, see below"
    words = {
        "integer": "whole number", "number": "number", "boolean": "true or false", "array": "list of text", "object": "pairs"
    }  # fmt: skip
    text = words.get(schema.get("type", ""), "text")
    if "enum" in schema:
        return "one of " + ", ".join(f"`{word}`" for word in schema["enum"])
    if text == "pairs":
        return (
            f"pairs of text and {'lists of text' if schema['additionalProperties'].get('type') == 'array' else 'text'}"
        )
    least, most = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if least is not None:
        above = "above " if "exclusiveMinimum" in schema else ""
        text += f", {above}{least}–{most}" if not above else f", above {least}, at most {most}"
    if schema.get("pattern") in PATTERNS:
        return PATTERNS[schema["pattern"]]
    if "pattern" in schema:
        text += f" like `{schema['pattern']}`"
    return text


def metrics_page() -> str:
    """Return the page of every name that is told at /metrics."""
    parts = [f"<!-- {_MADE} -->", "# Metrics", ""]
    parts.append(
        "What the server tells at `/metrics`; who may read it, and how: [Watch it with Prometheus](../how-to/metrics.md). "
        "Of a histogram there are `_bucket`, `_sum` and `_count`."
    )
    parts += ["", "## Counted as it happens", "", "From the server's start on.", "", *_metrics(METRICS)]
    for reader in READERS:
        parts += ["", f"## Read when somebody asks: {reader.name}", "", *_metrics(reader.metrics)]
    return "\n".join(parts) + "\n"


def _metrics(metrics: Iterable[Metric]) -> Iterator[str]:
    yield "| name | kind | labels | meaning |"
    yield "| --- | --- | --- | --- |"
    for metric in metrics:
        labels = ", ".join(f"`{name}`" for name in metric.labels)
        if metric.values:
            labels += f": {', '.join(metric.values)}"
        upto = (
            f" Up to {', '.join(f'{bound:g}' for bound in metric.buckets)} s." if metric.kind is Kind.HISTOGRAM else ""
        )
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {_cell(metric.help)}{upto} |"


def schema_page() -> str:
    """Return the database's schema as SQL, in the order in which it can be run."""
    parts = [f"-- {re.sub('`', '', _MADE)}", ""]
    dialect = sqlite.dialect()
    for table in metadata.sorted_tables:
        statement = str(CreateTable(table).compile(dialect=dialect))
        parts.append("\n".join(line.rstrip().replace("\t", "    ") for line in statement.strip().splitlines()) + ";")
        parts += [
            f"{CreateIndex(index).compile(dialect=dialect)};"
            for index in sorted(table.indexes, key=lambda i: str(i.name))
        ]
        parts.append("")
    parts += [f"{trigger};" for trigger in TRIGGERS]
    return "\n".join(parts) + "\n"


def main() -> int:
    """Entry point: write the pages, saying which changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs/reference"))
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
