"""What a setting must be, in words: for whoever has written something else into config.yaml."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import inspect

from diycloud.config_names import Account, Folder, HostName, NameOrAddress
from diycloud.config_notebooks import Package, ProfileName, Size


def explain(value: object, kind: Any) -> tuple[str, str]:
    """Return where in a value the first thing is that its type does not take (`.small.memory`), and what it must be.

    kind: a type of the settings'. value: of YAML, which `kind` as a whole does not take. The value is not repeated: who
    reads this need not be who may know it.
    """
    plain = _plain(kind)
    for key, part, wanted in _parts(value, plain):
        if wanted is None:
            return f".{key}", f"is no setting. There are: {', '.join(_fields(plain))}."
        if not _takes(part, wanted):
            where, said = explain(part, wanted)
            return f".{key}{where}", said
    if isinstance(value, dict) and get_origin(plain) is dict:
        for key in value:
            if not _takes(key, get_args(plain)[0]):
                return f".{key}", f"is no name: it must be {allowed(get_args(plain)[0])}."
    if isinstance(value, dict) and _is_struct(plain):
        missing = [name for name in _needed(plain) if name not in value]
        return "", f"needs the key {missing[0]}." if missing else f"cannot be so: {_refusal(value, plain)}."
    return "", f"must be {allowed(kind)}."


def allowed(kind: Any) -> str:
    """Return what a type takes, in words."""
    return _words(inspect.type_info(kind))


def _words(found: inspect.Type) -> str:
    if isinstance(found, inspect.StrType):
        return PATTERNS.get(found.pattern or "", f"text like {found.pattern}" if found.pattern else "text")
    if isinstance(found, inspect.IntType | inspect.FloatType):
        name = "a whole number" if isinstance(found, inspect.IntType) else "a number"
        bounds = [f"at least {found.ge:g}"] if found.ge is not None else []
        bounds += [f"more than {found.gt:g}"] if found.gt is not None else []
        bounds += [f"at most {found.le}"] if found.le is not None else []
        return ", ".join([name, *bounds])
    if isinstance(found, inspect.LiteralType):
        return f"one of {', '.join(str(value) for value in found.values)}"
    if isinstance(found, inspect.UnionType):
        return " or ".join(_words(part) for part in found.types if not isinstance(part, inspect.NoneType))
    if isinstance(found, inspect.DictType | inspect.StructType):
        most = getattr(found, "max_length", None)
        return f"keys with values below it, {f'{most} at most' if most else 'or {} for none'}"
    if isinstance(found, inspect.VarTupleType):
        bounds = [f"{found.min_length} at least"] if found.min_length else []
        bounds += [f"{found.max_length} at most"] if found.max_length else []
        return "a list, such as [one, two]" + (f", of {', '.join(bounds)}" if bounds else "")
    return "true or false" if isinstance(found, inspect.BoolType) else "something else"


_WRITTEN = 'without https:// and port, letters of other alphabets in their xn-- form; "" for none'
_OF_TYPES: tuple[tuple[Any, str], ...] = (
    (HostName, f"a host name in small letters, no address, such as notebooks.example.org, {_WRITTEN}"),
    (NameOrAddress, f"a host name or an address, such as cloud.example.org, {_WRITTEN}"),
    (Folder, "a folder's whole path, of letters, digits and _.@+-, such as /srv/lab"),
    (Account, "a name of a–z, 0–9, _ and -, at most 32 characters, beginning with a letter or _"),
    (ProfileName, "a–z, 0–9 and -, at most 30 characters, beginning with no -"),
    (Size, "a whole number with K, M, G or T behind it, such as 2G"),
    (Package, "a package's name, with a version if you like: numpy or numpy==2.4.1"),
)
PATTERNS: dict[str, str] = {str(getattr(inspect.type_info(kind), "pattern", "")): words for kind, words in _OF_TYPES}
"""What the types with a pattern take, in words."""


def _parts(value: object, plain: Any) -> list[tuple[object, object, Any]]:
    """Return a value's parts with their names and types; None for one that should not be there."""
    if isinstance(value, dict) and _is_struct(plain):
        fields = _fields(plain)
        return [(key, part, fields.get(str(key))) for key, part in value.items()]
    if isinstance(value, dict) and get_origin(plain) is dict:
        return [(key, part, get_args(plain)[1]) for key, part in value.items()]
    if isinstance(value, list) and get_origin(plain) is tuple:
        return [(number, part, get_args(plain)[0]) for number, part in enumerate(value, 1)]
    return []


def _plain(kind: Any) -> Any:
    """Return a type without its bounds, and without None beside it."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        (kind, *_) = [part for part in get_args(kind) if part is not NoneType]
        return _plain(kind)
    return kind


def _is_struct(plain: Any) -> bool:
    return isinstance(plain, type) and issubclass(plain, msgspec.Struct)


def _fields(plain: Any) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(plain)}


def _needed(plain: Any) -> list[str]:
    return [field.name for field in msgspec.structs.fields(plain) if field.required]


def _takes(value: object, kind: Any) -> bool:
    return not _refusal(value, kind)


def _refusal(value: object, kind: Any) -> str:
    """Return why a type does not take a value, empty if it does; without the place in the value."""
    try:
        msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        return str(error).partition(" - at ")[0].removesuffix(".")
    return ""
