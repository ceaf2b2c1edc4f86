"""Which distribution this is, from os-release, and the family it belongs to.

Source: os-release(5). The file is data for us, never a script: nothing in it is expanded or run.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import msgspec

from diycloud.distro.tables import FAMILIES, family, family_of_id
from diycloud.errors import Unsupported
from diycloud.system import System

PLACES = ("etc/os-release", "usr/lib/os-release")

_ASSIGNMENT = re.compile(r"\s*([A-Z][A-Z0-9_]*)=(.*?)\s*\Z")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED_IN_DOUBLE_QUOTES = re.compile(r'\\([$"\\`])')
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Distribution(msgspec.Struct, frozen=True):
    """id: `debian`; like: ID_LIKE, nearest first; version: VERSION_ID, empty for a rolling one; family: of FAMILIES."""

    id: str
    family: str
    version: str = ""
    codename: str = ""
    pretty_name: str = "Linux"
    like: tuple[str, ...] = ()
    known: bool = True
    """False for one that ID_LIKE alone has placed."""


def parse_os_release(text: str) -> dict[str, str]:
    """Return the assignments of an os-release file; of a name given twice the last counts, as in a shell.

    Lines that are no assignment are passed over, unprintable characters dropped.
    """
    found: dict[str, str] = {}
    for line in text.split("\n"):
        match = _ASSIGNMENT.match(line)
        if match is not None:
            found[match[1]] = _UNPRINTABLE.sub("", _unquote(match[2]))
    return found


def _unquote(value: str) -> str:
    quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
    if not quoted:
        return _ESCAPED.sub(r"\1", value)
    return value[1:-1] if value[0] == "'" else _ESCAPED_IN_DOUBLE_QUOTES.sub(r"\1", value[1:-1])


def read_distribution(system: System, root: Path = Path("/")) -> Distribution:
    """Read which distribution is in `root`.

    Raises Unsupported, naming what was read, if there is no os-release or its ID and ID_LIKE belong to no family.
    """
    for place in PLACES:
        text = system.read(root / place)
        if text is not None:
            return _place(parse_os_release(text), root / place)
    places = " or ".join(str(root / place) for place in PLACES)
    raise Unsupported(f"There is no {places}.", f"This program runs on Linux of the families {', '.join(FAMILIES)}.")


def _place(values: dict[str, str], where: Path) -> Distribution:
    own = values.get("ID", "linux").lower()
    like = tuple(values.get("ID_LIKE", "").lower().split())
    placed = next(filter(None, map(family_of_id, (own, *like))), None)
    if placed is None:
        raise Unsupported(
            f"{where} says ID={own!r}, ID_LIKE={' '.join(like)!r}: no family of distributions that this program knows.",
            f"The families are {', '.join(FAMILIES)}.",
        )
    return Distribution(
        id=own,
        family=placed,
        version=values.get("VERSION_ID", ""),
        codename=values.get("VERSION_CODENAME", ""),
        pretty_name=values.get("PRETTY_NAME") or values.get("NAME") or "Linux",
        like=like,
        known=family_of_id(own) is not None,
    )


class Support(StrEnum):
    """How well a distribution is known to this program."""

    SUPPORTED = "supported"
    EXPERIMENTAL = "experimental"
    DERIVED = "derived"
    """Placed by ID_LIKE, or a relative without a known least version: treated as its family."""
    NEEDS_PYTHON = "needs a private Python"
    """Its packages have no Python of version 3.11 or later."""
    TOO_OLD = "too old"


def support(distribution: Distribution) -> Support:
    """Tell how well a distribution is supported, from its ID and version."""
    table = family(distribution.family)
    least = table.supported_from.get(distribution.id)
    if least is None:
        return Support.DERIVED
    if distribution.version and _numbers(distribution.version) < _numbers(least):
        least = table.without_python.get(distribution.id)
        enough = least is not None and _numbers(distribution.version) >= _numbers(least)
        return Support.NEEDS_PYTHON if enough else Support.TOO_OLD
    return Support.EXPERIMENTAL if distribution.family == "alpine" else Support.SUPPORTED


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", version))
