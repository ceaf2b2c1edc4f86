"""The tables of notebooks: what was run, and whom the hub has still to turn out. The rules for all tables are in tables.py."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, Table

from diycloud.db.sql import Integer, Real, Text
from diycloud.db.tables_base import NOW, metadata, one_of

activity = Table(
    "activity",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("at", Text, nullable=False, server_default=NOW),
    Column("kind", Text, nullable=False, server_default="notebook"),
    Column("server", Text, nullable=False, server_default=""),
    Column("profile", Text, nullable=False, server_default=""),
    Column("outcome", Text, nullable=False),
    Column("seconds", Real),
    Column("by_whom", Text, nullable=False, server_default=""),
    Column("reason", Text, nullable=False, server_default=""),
    one_of("outcome", ("started", "stopped", "failed")),
    Index("activity_user", "user_id", "id"),
    sqlite_autoincrement=True,
)
"""What people ran, never what was in it; gone after server.audit_days, or with its user.

seconds: how long the start took, or how long what ended had run; by_whom: who ended it, empty for its user."""

notebook_evictions = Table(
    "notebook_evictions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("username", Text, nullable=False, unique=True),
    Column("asked_at", Real, nullable=False),
    Column("gone", Integer, nullable=False, server_default="0"),
    Column("servers", Integer, nullable=False, server_default="1"),
    Column("tokens", Integer, nullable=False, server_default="1"),
    Column("kept_session", Integer),
    Column("last_session", Integer, nullable=False, server_default="0"),
    sqlite_autoincrement=True,
)
"""Users whose sign-ins at the notebooks' hub must end, until agent and hub have done so (notebooks/eviction.py).

By name, because a purged user has no row any more; gone: that is the case, so the hub forgets the user too. servers: what
runs ends as well; tokens: so do the API tokens that the user made there; kept_session: of the browser that stays signed in;
last_session: the newest there was, later ones are not meant; asked_at: Unix seconds."""
