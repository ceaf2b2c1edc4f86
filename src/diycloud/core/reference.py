"""The generated pages of the reference: `python -m diycloud.core.reference [FOLDER]`, docs/reference by default.

actions.md, settings.md and schema.sql are made of the declarations themselves; a test holds the committed ones to this.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from diycloud import config
from diycloud.actions.action import Action, Audited, summary
from diycloud.actions.parsing import Field, fields_of
from diycloud.actions.roles import PERMISSIONS, Scope
from diycloud.core.routes import PREFIX, ROUTES, Route, result_type
from diycloud.db.tables import TRIGGERS, metadata
from diycloud.units import format_size

_MADE = "made by `python -m diycloud.core.reference`; change the declarations, not this file"
NO_VERB = {
    "session.end": "`diycloud logout` ends it and forgets the token",
    "session.prove": "`diycloud login` is a fresh proof",
}
"""Actions without a command line verb, and why."""


def pages() -> dict[str, str]:
    """Return each page's text by its file name."""
    return {"actions.md": actions_page(), "settings.md": settings_page(), "schema.sql": schema_page()}


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
    """Return the page of every setting, its meaning taken from the text below it in config.py."""
    parts = [f"<!-- {_MADE} -->", "# Settings", ""]
    parts.append(
        "In `/etc/diycloud/config.yaml`; a variable in the environment of the process stands above the file. "
        "`diycloud config` shows and checks them."
    )
    tree = ast.parse(inspect.getsource(config))
    for section in msgspec.structs.fields(config.Settings):
        texts = _field_texts(tree, section.type.__name__)
        parts += ["", f"## {section.name}", "", (section.type.__doc__ or "").strip(), ""]
        parts += ["| key | default | allowed | environment | meaning |", "| --- | --- | --- | --- | --- |"]
        for field in msgspec.structs.fields(section.type):
            default = msgspec.json.encode(field.default).decode()
            variable = f"DIYCLOUD_{section.name}__{field.name}".upper()
            meaning = _cell(texts.get(field.name, ""))
            parts.append(f"| `{field.name}` | `{default}` | {_cell(_allowed(field.type))} | `{variable}` | {meaning} |")
    return "\n".join(parts) + "\n"


def _field_texts(tree: ast.Module, name: str) -> dict[str, str]:
    """Return the text that follows each field of a class."""
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    texts = {}
    for field, after in zip(found.body, found.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            value = after.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                texts[field.target.id] = " ".join(value.value.split())
    return texts


def _allowed(kind: Any) -> str:
    (schema,), _ = msgspec.json.schema_components([kind])
    words = {"integer": "whole number", "number": "number", "boolean": "true or false", "array": "list of text"}
    text = words.get(schema.get("type", ""), "text")
    least, most = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if least is not None:
        above = "above " if "exclusiveMinimum" in schema else ""
        text += f", {above}{least}–{most}" if not above else f", above {least}, at most {most}"
    if "pattern" in schema:
        text += f" like `{schema['pattern']}`"
    return text


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
