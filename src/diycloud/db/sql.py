"""What SQLite and PostgreSQL write differently: types and a few functions.

The program uses SQLite's names (func.ifnull, func.instr, func.group_concat, func.current_timestamp); PostgreSQL's spelling
of the same is here. Text is compared byte by byte in both (COLLATE "C" in PostgreSQL; lower() then knows ASCII only, as
SQLite's does): a list has one order, whatever keeps it.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.sql.functions import GenericFunction, ReturnTypeFromArgs, current_timestamp

Integer = sa.Integer().with_variant(sa.BigInteger(), "postgresql")
"""64 bits, as every integer of SQLite's has."""
Real: sa.REAL[Any] = sa.REAL().with_variant(sa.Double(), "postgresql")
"""64 bits."""
Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


class ifnull(ReturnTypeFromArgs[Any]):  # the class's name is the function's
    """The first value, or the second where it is NULL."""

    inherit_cache = True


class instr(GenericFunction[int]):
    """Where the second text is in the first, from 1; 0 if it is not."""

    inherit_cache = True
    type = sa.Integer()


class contains(GenericFunction[bool]):
    """Whether a text has another in it, ASCII letters in either case. The second is what `pattern` makes of the other.

    A third of the time of instr(lower(x), y), which copies every text that it looks into.
    """

    inherit_cache = True
    type = sa.Boolean()


class group_concat(GenericFunction[str]):
    """The texts of a group with commas between; NULL of none."""

    inherit_cache = True
    type = sa.Text()


def pattern(text: str) -> str:
    """Return what `contains` takes for a text that is searched for."""
    for special in "\\%_":
        text = text.replace(special, f"\\{special}")
    return f"%{text}%"


class RandomHex(ColumnElement[str]):
    """128 random bits as 32 hexadecimal digits."""

    inherit_cache = True
    type = sa.Text()


_NOW = "to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')"
"""What CURRENT_TIMESTAMP is in SQLite: the time of the transaction as text, UTC."""


@compiles(current_timestamp, "postgresql")
def _now(_element: current_timestamp, _compiler: SQLCompiler, **_: Any) -> str:
    return _NOW


@compiles(ifnull, "postgresql")
def _ifnull(element: ifnull, compiler: SQLCompiler, **options: Any) -> str:
    return f"coalesce({compiler.process(element.clauses, **options)})"


@compiles(instr, "postgresql")
def _instr(element: instr, compiler: SQLCompiler, **options: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **options)})"


@compiles(contains)
def _contains(element: contains, compiler: SQLCompiler, **options: Any) -> str:
    text, wanted = (compiler.process(clause, **options) for clause in element.clauses)
    like = "ILIKE" if compiler.dialect.name == "postgresql" else "LIKE"
    return f"{text} {like} {wanted} ESCAPE '\\'"


@compiles(group_concat, "postgresql")
def _group_concat(element: group_concat, compiler: SQLCompiler, **options: Any) -> str:
    return f"string_agg({compiler.process(element.clauses, **options)}, ',')"


@compiles(RandomHex)
def _random_hex(_element: RandomHex, compiler: SQLCompiler, **_: Any) -> str:
    if compiler.dialect.name == "postgresql":
        return "replace(gen_random_uuid()::text, '-', '')"
    return "(lower(hex(randomblob(16))))"
