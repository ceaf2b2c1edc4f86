"""Changing one key of config.yaml and nothing else: comments, order and spacing are people's own."""

from __future__ import annotations

import json
from pathlib import Path

from diycloud import config
from diycloud.config import Settings
from diycloud.errors import InvalidInput
from diycloud.system import System

FIRST = """\
# Settings of DIY Cloud. Every key with its meaning: docs/reference/settings.md; check: diycloud config validate.
"""


def set_key(text: str, section: str, key: str, value: str | int | float | bool | list[str]) -> str:
    """Return the YAML text with section.key set to value. Raises InvalidInput if the text is not a mapping of sections."""
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise InvalidInput(f"The settings are not YAML: {error}") from error
    written = json.dumps(value)  # JSON's scalars are YAML's
    if node is None:
        return f"{text}{section}:\n  {key}: {written}\n"
    if not isinstance(node, yaml.MappingNode):
        raise InvalidInput("The settings are not a mapping.", "Write `server:` and keys below it.")
    inside = next((child for name, child in node.value if name.value == section), None)
    if inside is None:
        return f"{text.rstrip()}\n{section}:\n  {key}: {written}\n"
    if not isinstance(inside, yaml.MappingNode):
        if inside.value not in ("", "null", "~"):
            raise InvalidInput(f"{section} is not a mapping in the settings.")
        at = inside.start_mark.index
        return f"{text[:at].rstrip()}\n  {key}: {written}\n{text[inside.end_mark.index :].lstrip()}"
    if inside.flow_style:
        raise InvalidInput(f"{section} is written in braces in the settings.", "Write its keys one to a line.")
    for name, child in inside.value:
        if name.value == key:
            return text[: child.start_mark.index] + written + text[child.end_mark.index :]
    first = inside.value[0][0].start_mark
    indent = " " * first.column
    return f"{text[: first.index]}{key}: {written}\n{indent}{text[first.index :]}"


def change_setting(system: System, path: Path, name: str, value: str) -> Settings:
    """Set `section.key` in the file to a value written as YAML, if the whole is right then; returns the settings.

    Raises InvalidInput with the key and what is allowed; the file is as it was then.
    """
    import yaml

    section, _, key = name.partition(".")
    text = system.read(path) or FIRST
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        parsed = value
    if not isinstance(parsed, str | int | float | bool):
        raise InvalidInput(f"{value!r} is not one value.", "Lists are edited in the file itself.")
    changed = set_key(text, section, key, parsed)
    found = config.parse(changed, path)
    system.write(path, changed)
    return found
