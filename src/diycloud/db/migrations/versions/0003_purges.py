"""What was asked of a purge, so that one that is cut off goes on as it was meant."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from diycloud.db.sql import Integer, Text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "purges",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("user_id", Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, unique=True),
        sa.Column("history", Text, nullable=False, server_default="keep"),
        sa.Column("asked_at", Text, nullable=False, server_default=sa.func.current_timestamp()),
        sqlite_autoincrement=True,
    )
