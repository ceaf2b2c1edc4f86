"""From raw input to an action: the one check of JSON bodies, command lines, forms and CSV rows.

Every field at fault is named at once, with its rule. Unknown fields are refused. Nothing of the input is echoed for
secret fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from diycloud.errors import FieldError, InvalidInput
from diycloud.units import parse_size

A = TypeVar("A", bound=msgspec.Struct)
_MISSING = object()
MAX_NAMED = 20
"""Unknown fields that are named: more is no mistake, and the answer would be longer than what was sent."""
MAX_NETWORKS = 1000
"""Networks that are looked at, those there more than once with them; the type says how many there may be."""


class Source(Enum):
    """Where input comes from. JSON is strict; the others are text: numbers and booleans written out, a bare size is MB."""

    JSON = "json"
    TEXT = "text"


class Field(NamedTuple):
    """What the edges need to know of an action's field. default: msgspec.NODEFAULT if required."""

    name: str
    type: Any
    required: bool
    default: Any
    rule: str
    help: str
    kind: str
    secret: bool
    clearable: bool


@cache
def fields_of(action: type[msgspec.Struct]) -> dict[str, Field]:
    """Return an action's fields in the order of their declaration."""
    found = {}
    for field in msgspec.structs.fields(action):
        kind = inspect.type_info(field.type)
        extra: dict[str, Any] = {}
        for part in _parts(kind):  # from outside in: what is said nearer to the field counts
            if isinstance(part, inspect.Metadata):
                extra = {**(part.extra or {}), **extra}
        found[field.name] = Field(
            name=field.name,
            type=field.type,
            required=field.required,
            default=field.default,
            rule=extra.get("rule", ""),
            help=extra.get("help", ""),
            kind=extra.get("kind") or _kind(kind),
            secret=extra.get("secret", False),
            clearable=any(isinstance(part, inspect.NoneType) for part in _parts(kind)),
        )
    return found


def _parts(info: Any) -> Iterator[Any]:
    yield info
    if isinstance(info, inspect.UnionType):
        for part in info.types:
            yield from _parts(part)
    elif isinstance(info, inspect.Metadata):
        yield from _parts(info.type)


def _kind(info: Any) -> str:
    for part in _parts(info):
        for cls, kind in _KINDS.items():
            if isinstance(part, cls):
                return kind
    return "text"


_KINDS: dict[type[Any], str] = {
    inspect.BoolType: "flag",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.EnumType: "choice",
    inspect.LiteralType: "choice",
    inspect.ListType: "list",
    inspect.VarTupleType: "list",
}


def parse_action(action: type[A], raw: Mapping[str, Any], source: Source) -> A:
    """Return the action (or other declaration) that raw input describes. Raises InvalidInput with every field at fault."""
    known = fields_of(action)
    there = f"no such field; there are: {', '.join(known)}"
    errors = [FieldError(str(name)[:60], there) for name in islice((n for n in raw if n not in known), MAX_NAMED)]
    values = {}
    for name, field in known.items():
        given = raw.get(name, _MISSING)
        if given is _MISSING:
            if field.required:
                errors.append(FieldError(name, "is needed"))
            continue
        try:
            values[name] = parse_field(field, given, source)
        except InvalidInput as error:
            errors.append(FieldError(name, error.message))
    if errors:
        raise InvalidInput.of(errors)
    return action(**values)


def parse_field(field: Field, given: Any, source: Source) -> Any:
    """Return one field's value. Raises InvalidInput with the rule it breaks."""
    if given is None and field.clearable:
        return None
    if source is Source.TEXT and isinstance(given, str) and not field.secret:
        given = given.strip(" ")  # people leave blanks in forms and tables
    if field.kind == "size":
        given = _size(field, given, source)
    elif field.kind in _LISTS and source is Source.TEXT and isinstance(given, str):
        given = [part for part in re.split(r"[\s,;]+", given) if part]
    if field.kind == "networks":
        given = _networks(field, given)
    try:
        return msgspec.convert(given, field.type, strict=source is Source.JSON)
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        raise InvalidInput(field.rule or str(error)) from None


_LISTS = frozenset({"list", "networks"})
"""Kinds that are written with commas or spaces between the parts where input is text."""


def _networks(field: Field, given: Any) -> Any:
    """Return networks as the standard writes them: 192.168.1.5/24 means 192.168.1.0/24, each once."""
    import ipaddress  # 3 ms that only these fields pay

    is_list = isinstance(given, list | tuple) and len(given) <= MAX_NETWORKS
    if not is_list or not all(isinstance(part, str) for part in given):
        return given  # the type's own check says what is wrong
    found: dict[str, None] = {}
    for part in given:
        try:
            network = ipaddress.ip_network(part.strip(), strict=False)
        except ValueError:
            raise InvalidInput(f"{field.rule}; {part[:60]!r} is none") from None
        mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
        if mapped is not None and network.prefixlen >= 96:
            network = ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}")
        found[str(network)] = None
    return list(found)


def _size(field: Field, given: Any, source: Source) -> int:
    if isinstance(given, bool) or not isinstance(given, str):
        raise InvalidInput(f"{field.rule}, as text with its unit")
    try:
        return parse_size(
            given.strip() if source is Source.TEXT else given, bare="M" if source is Source.TEXT else None
        )
    except InvalidInput as error:
        raise InvalidInput(f"{field.rule} ({error.message} {error.hint})".replace(" )", ")")) from None


def decode_json(body: bytes) -> dict[str, Any]:
    """Return the object of a JSON body. Raises InvalidInput for anything else, duplicate keys and NaN included."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise InvalidInput("The JSON has a key twice.", "Send each key once.")
        return found

    def constant(name: str) -> Any:
        raise InvalidInput(f"{name} is no JSON number.")

    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"The body is not JSON: {error}.") from None
    if b"\\u" in body:
        _refuse_surrogates(value)
    if not isinstance(value, dict):
        raise InvalidInput("The body is not a JSON object.", 'Send {"field": value, …}.')
    return value


def _refuse_surrogates(value: object) -> None:
    """Raise InvalidInput for half a surrogate pair: no text that could be stored or shown (RFC 8259, 8.2)."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidInput("The JSON has half a character (a lone surrogate).", "Send text as UTF-8.") from None
