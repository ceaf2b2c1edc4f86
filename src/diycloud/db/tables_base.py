"""What the tables share (tables.py, sign_in_tables.py)."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, MetaData, func

metadata = MetaData()
NOW = func.current_timestamp()


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    """Return the constraint that a text is one of some words."""
    return CheckConstraint(f"{column} IN ({', '.join(repr(v) for v in values)})", name=f"ck_{column}")
