"""What people ran, and whom the notebooks' hub has still to turn out. Frozen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from diycloud.db.sql import Integer, Real, Text

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "activity",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("user_id", Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("at", Text, nullable=False, server_default=sa.func.current_timestamp()),
        sa.Column("kind", Text, nullable=False, server_default="notebook"),
        sa.Column("server", Text, nullable=False, server_default=""),
        sa.Column("profile", Text, nullable=False, server_default=""),
        sa.Column("outcome", Text, nullable=False),
        sa.Column("seconds", Real),
        sa.Column("by_whom", Text, nullable=False, server_default=""),
        sa.Column("reason", Text, nullable=False, server_default=""),
        sa.CheckConstraint("outcome IN ('started', 'stopped', 'failed')", name="ck_outcome"),
        sa.Index("activity_user", "user_id", "id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "notebook_evictions",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("username", Text, nullable=False, unique=True),
        sa.Column("asked_at", Real, nullable=False),
        sa.Column("gone", Integer, nullable=False, server_default="0"),
        sa.Column("servers", Integer, nullable=False, server_default="1"),
        sa.Column("tokens", Integer, nullable=False, server_default="1"),
        sa.Column("kept_session", Integer),
        sa.Column("last_session", Integer, nullable=False, server_default="0"),
        sqlite_autoincrement=True,
    )
