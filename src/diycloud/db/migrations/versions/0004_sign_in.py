"""Second factors, API tokens, outside identities and applications; what a session was begun with. Frozen.

SQLite knows `(a, b) <> (c, d)` but no function in common with PostgreSQL for triggers, so each has its own.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from diycloud.db.sql import Integer, Text

revision = "0004"
down_revision = "0003"

SQLITE = (
    "DROP TRIGGER users_wish",
    """CREATE TRIGGER users_wish AFTER UPDATE OF status, full_name, shell, shadow_hash, ssh_keys, allowed_client_ip,
must_change_password ON users
WHEN (NEW.full_name, NEW.shell, NEW.ssh_keys, NEW.allowed_client_ip, NEW.must_change_password)
  <> (OLD.full_name, OLD.shell, OLD.ssh_keys, OLD.allowed_client_ip, OLD.must_change_password)
  OR (NEW.shadow_hash IS NOT NULL AND NEW.shadow_hash IS NOT OLD.shadow_hash)
  OR (NEW.status <> OLD.status AND NOT (OLD.status = 'pending' AND NEW.status = 'active'))
BEGIN UPDATE users SET generation = generation + 1 WHERE id = NEW.id; END""",
    """CREATE TRIGGER totps_wish AFTER UPDATE OF secret, active ON totps
WHEN (NEW.secret, NEW.active) <> (OLD.secret, OLD.active)
BEGIN UPDATE users SET generation = generation + 1 WHERE id = NEW.user_id; END""",
    """CREATE TRIGGER totps_wish_removed AFTER DELETE ON totps WHEN OLD.active
BEGIN UPDATE users SET generation = generation + 1 WHERE id = OLD.user_id; END""",
)

POSTGRESQL = (
    """CREATE OR REPLACE FUNCTION users_before() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- A name that is free again starts above every generation it ever had (tables.TRIGGERS).
        IF NEW.generation = 1 AND NEW.host_generation = 0 THEN
            NEW.generation := (NEW.id & 536870911) << 20;
        END IF;
        IF NEW.is_active = 0 AND NEW.status IN ('pending', 'active') THEN
            NEW.status := 'inactive';
        END IF;
        NEW.is_active := (NEW.status IN ('pending', 'active'))::int;
        RETURN NEW;
    END IF;
    -- Whichever of the two is changed, the other follows; if both are, the status says.
    IF NEW.status = OLD.status AND NEW.is_active <> OLD.is_active THEN
        IF NEW.is_active = 0 AND NEW.status IN ('pending', 'active') THEN
            NEW.status := 'inactive';
        ELSIF NEW.is_active <> 0 AND NEW.status = 'inactive' THEN
            NEW.status := 'active';
        END IF;
    END IF;
    NEW.is_active := (NEW.status IN ('pending', 'active'))::int;
    -- pending to active is the host's answer, not a new wish.
    IF (NEW.full_name, NEW.shell, NEW.ssh_keys, NEW.allowed_client_ip, NEW.must_change_password)
            <> (OLD.full_name, OLD.shell, OLD.ssh_keys, OLD.allowed_client_ip, OLD.must_change_password)
        OR (NEW.shadow_hash IS NOT NULL AND NEW.shadow_hash IS DISTINCT FROM OLD.shadow_hash)
        OR (NEW.status <> OLD.status AND NOT (OLD.status = 'pending' AND NEW.status = 'active'))
    THEN
        NEW.generation := NEW.generation + 1;
    END IF;
    RETURN NEW;
END $$""",
    """CREATE TRIGGER totps_wish AFTER UPDATE ON totps FOR EACH ROW
WHEN ((NEW.secret, NEW.active) IS DISTINCT FROM (OLD.secret, OLD.active)) EXECUTE FUNCTION user_wish()""",
    """CREATE TRIGGER totps_wish_removed AFTER DELETE ON totps FOR EACH ROW
WHEN (OLD.active <> 0) EXECUTE FUNCTION user_wish()""",
)


def upgrade() -> None:
    op.add_column("policies", sa.Column("second_factor", Integer, nullable=False, server_default="0"))
    op.add_column("policies", sa.Column("max_sessions", Integer))
    op.add_column("users", sa.Column("password_void", Integer, nullable=False, server_default="0"))
    op.add_column("sessions", sa.Column("methods", Text, nullable=False, server_default="pwd"))
    op.add_column("sessions", sa.Column("proved_at", Integer, nullable=False, server_default="0"))
    op.add_column("audit", sa.Column("token", Text, nullable=False, server_default=""))
    op.create_table(
        "totps",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("user_id", Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, unique=True),
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.Column("active", Integer, nullable=False, server_default="0"),
        sa.Column("last_step", Integer, nullable=False, server_default="0"),
        sa.Column("created_at", Text, nullable=False, server_default=sa.func.current_timestamp()),
        sa.Column("activated_at", Text),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "recovery_codes",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("user_id", Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("code_hash", sa.LargeBinary, nullable=False),
        sa.Column("used_at", Text),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "passkeys",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("user_id", Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("credential_id", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("sign_count", Integer, nullable=False, server_default="0"),
        sa.Column("name", Text, nullable=False, server_default=""),
        sa.Column("transports", Text, nullable=False, server_default=""),
        sa.Column("backed_up", Integer, nullable=False, server_default="0"),
        sa.Column("created_at", Text, nullable=False, server_default=sa.func.current_timestamp()),
        sa.Column("last_used", Text),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "notices",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("user_id", Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("at", Text, nullable=False, server_default=sa.func.current_timestamp()),
        sa.Column("kind", Text, nullable=False),
        sa.Column("by_whom", Text, nullable=False, server_default=""),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "api_tokens",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("user_id", Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("key_id", Text, nullable=False, unique=True),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("name", Text, nullable=False, server_default=""),
        sa.Column("scopes", Text, nullable=False, server_default=""),
        sa.Column("created_at", Integer, nullable=False),
        sa.Column("expires_at", Integer, nullable=False),
        sa.Column("last_used", Integer),
        sa.Column("last_address", Text, nullable=False, server_default=""),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "old_passwords",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("user_id", Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("password_hash", Text, nullable=False),
        sa.Column("changed_at", Text, nullable=False, server_default=sa.func.current_timestamp()),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "identities",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("user_id", Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("provider", Text, nullable=False),
        sa.Column("subject", Text, nullable=False),
        sa.Column("linked_at", Text, nullable=False, server_default=sa.func.current_timestamp()),
        sa.Column("last_used", Text),
        sa.Column("vouched", Integer, nullable=False, server_default="0"),
        sa.UniqueConstraint("provider", "subject"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "oidc_clients",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("client_id", Text, nullable=False, unique=True),
        sa.Column("name", Text, nullable=False),
        sa.Column("secret", sa.LargeBinary),
        sa.Column("redirect_uris", Text, nullable=False, server_default=""),
        sa.Column("logout_uris", Text, nullable=False, server_default=""),
        sa.Column("scopes", Text, nullable=False, server_default="openid profile email"),
        sa.Column("trusted", Integer, nullable=False, server_default="0"),
        sa.Column("pkce", Integer, nullable=False, server_default="1"),
        sa.Column("refresh", Integer, nullable=False, server_default="0"),
        sa.Column("enabled", Integer, nullable=False, server_default="1"),
        sa.Column("created_at", Text, nullable=False, server_default=sa.func.current_timestamp()),
        sa.Column("updated_at", Text, nullable=False, server_default=sa.func.current_timestamp()),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "oidc_consents",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("user_id", Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column(
            "client_id", Integer, sa.ForeignKey("oidc_clients.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("scopes", Text, nullable=False, server_default=""),
        sa.Column("given_at", Text, nullable=False, server_default=sa.func.current_timestamp()),
        sa.UniqueConstraint("user_id", "client_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "oidc_grants",
        sa.Column("id", Integer, primary_key=True),
        sa.Column(
            "client_id", Integer, sa.ForeignKey("oidc_clients.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("user_id", Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("session_id", Integer, sa.ForeignKey("sessions.id", ondelete="SET NULL"), index=True),
        sa.Column("code_hash", sa.LargeBinary, unique=True),
        sa.Column("code_expires_at", Integer, nullable=False),
        sa.Column("redirect_uri", Text, nullable=False),
        sa.Column("challenge", Text, nullable=False, server_default=""),
        sa.Column("nonce", Text, nullable=False, server_default=""),
        sa.Column("scopes", Text, nullable=False, server_default=""),
        sa.Column("methods", Text, nullable=False, server_default=""),
        sa.Column("address", Text, nullable=False, server_default=""),
        sa.Column("signed_in_at", Integer, nullable=False),
        sa.Column("created_at", Integer, nullable=False),
        sa.Column("redeemed", Integer, nullable=False, server_default="0"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "oidc_tokens",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("grant_id", Integer, sa.ForeignKey("oidc_grants.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("kind", Text, nullable=False),
        sa.Column("token_hash", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("scopes", Text, nullable=False, server_default=""),
        sa.Column("created_at", Integer, nullable=False),
        sa.Column("expires_at", Integer, nullable=False, index=True),
        sa.Column("current", sa.LargeBinary),
        sa.CheckConstraint("kind IN ('access', 'refresh')", name="ck_kind"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "oidc_keys",
        sa.Column("id", Integer, primary_key=True),
        sa.Column("kid", Text, nullable=False, unique=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("created_at", Integer, nullable=False),
        sa.Column("retired_at", Integer),
        sqlite_autoincrement=True,
    )
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.execute(statement)
