"""The tables.

People read and change this database with their own sqlite3 (3.26 or newer), so: no STRICT, no generated columns,
AUTOINCREMENT ids (a row deleted by hand must not hand its orphans to the next user), a default on every column beyond
the eight of `users` and six of `resource_allocations` that are promised, and sizes as text. Domains and policies are
named, not numbered, in the rows that point at them: `SELECT username, domain FROM users` needs no join. Times are UTC,
`YYYY-MM-DD HH:MM:SS`, as SQLite's own CURRENT_TIMESTAMP writes them.

generation grows by trigger with every change of what the host must know; host_generation is the last one the agent
confirmed. They differ: something is still to be done (users/reconcile.py). ssh_keys: lines of authorized_keys without
options. shadow_hash waits here until the agent has set it; shadow_set 0 means that the host's password is not the
portal's yet (the next sign-in mends that).
"""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, LargeBinary, Table, UniqueConstraint, text

from diycloud.db import notebook_tables as notebooks
from diycloud.db import sign_in_tables as sign_in
from diycloud.db.sql import Integer, RandomHex, Real, Text
from diycloud.db.tables_base import NOW, metadata, one_of

__all__ = ["metadata", "notebooks", "sign_in"]  # whoever takes the metadata of here has every table

STATUSES = ("pending", "active", "inactive", "deleted", "purging", "purge-error")
ROLES = ("admin", "domain-admin", "monitor", "user")


policies = Table(
    "policies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("description", Text, nullable=False, server_default=""),
    Column("cpu", Real, nullable=False, server_default="1.0"),
    Column("memory", Text, nullable=False, server_default="2G"),
    Column("disk", Text, nullable=False, server_default="5G"),
    Column("tasks", Integer, nullable=False, server_default="512"),
    Column("gpu", Integer, nullable=False, server_default="0"),
    Column("max_cpu", Real),
    Column("max_memory", Text),
    Column("max_disk", Text),
    Column("max_tasks", Integer),
    Column("max_gpu", Integer, nullable=False, server_default="1"),
    Column("created_at", Text, nullable=False, server_default=NOW),
    Column("updated_at", Text, nullable=False, server_default=NOW),
    Column("second_factor", Integer, nullable=False, server_default="0"),
    Column("max_sessions", Integer),
    sqlite_autoincrement=True,
)
"""Named sets of limits: what a new user gets, and the most that can be given. No maximum: NULL.

second_factor: whoever has the policy must have one; max_sessions: of one person, the oldest gives way.
"""

domains = Table(
    "domains",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("description", Text, nullable=False, server_default=""),
    Column("policy", Text, ForeignKey("policies.name"), nullable=False, server_default="default"),
    Column("created_at", Text, nullable=False, server_default=NOW),
    Column("updated_at", Text, nullable=False, server_default=NOW),
    sqlite_autoincrement=True,
)
"""Tenants. policy: of the domain's new users."""

_UNSETTLED = text("generation <> host_generation AND portal_only = 0")

users = Table(
    "users",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("username", Text, nullable=False, unique=True),
    Column("password_hash", Text, nullable=False),
    Column("email", Text),
    Column("created_at", Text, nullable=False, server_default=NOW),
    Column("last_login", Text),
    Column("role", Text, nullable=False, server_default="user"),
    Column("is_active", Integer, nullable=False, server_default="1"),
    Column("uuid", Text, nullable=False, server_default=RandomHex()),
    Column("status", Text, nullable=False, server_default="pending"),
    Column("full_name", Text, nullable=False, server_default=""),
    Column("description", Text, nullable=False, server_default=""),
    Column("shell", Text, nullable=False, server_default="/bin/bash"),
    Column("portal_only", Integer, nullable=False, server_default="0"),
    Column("uid", Integer),
    Column("generation", Integer, nullable=False, server_default="1"),
    Column("host_generation", Integer, nullable=False, server_default="0"),
    Column("host_problem", Text, nullable=False, server_default=""),
    Column("shadow_hash", Text),
    Column("shadow_set", Integer, nullable=False, server_default="0"),
    Column("must_change_password", Integer, nullable=False, server_default="0"),
    Column("password_changed_at", Text, nullable=False, server_default=NOW),
    Column("updated_at", Text, nullable=False, server_default=NOW),
    Column("last_login_ip", Text),
    Column("domain", Text, ForeignKey("domains.name"), nullable=False, server_default="default"),
    Column("policy", Text, ForeignKey("policies.name"), nullable=False, server_default="default", index=True),
    Column("allowed_client_ip", Text, nullable=False, server_default=""),
    Column("external_id", Text, unique=True),
    Column("sudo", Integer, nullable=False, server_default="0"),
    Column("container_uid", Integer),
    Column("container_gid", Integer),
    Column("container_gids", Text, nullable=False, server_default=""),
    Column("ssh_keys", Text, nullable=False, server_default=""),
    Column("password_void", Integer, nullable=False, server_default="0"),
    one_of("status", STATUSES),
    one_of("role", ROLES),
    Index("users_domain", "domain", "username"),
    Index("users_email", text("lower(email)"), unique=True),
    Index("users_uuid", "uuid", unique=True),
    Index("users_unsettled", "id", sqlite_where=_UNSETTLED, postgresql_where=_UNSETTLED),
    sqlite_autoincrement=True,
)

groups = Table(
    "groups",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("domain", Text, ForeignKey("domains.name"), nullable=False, server_default="default"),
    Column("description", Text, nullable=False, server_default=""),
    Column("gid", Integer),
    Column("disk_quota", Text),
    Column("removing", Integer, nullable=False, server_default="0"),
    Column("host_problem", Text, nullable=False, server_default=""),
    Column("created_at", Text, nullable=False, server_default=NOW),
    Column("updated_at", Text, nullable=False, server_default=NOW),
    Index("groups_domain", "domain", "name"),
    sqlite_autoincrement=True,
)
"""Teams of a domain. gid: the host's number, NULL until the host has it; removing: to be taken off the host."""

group_members = Table(
    "group_members",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("group_id", Integer, ForeignKey("groups.id", ondelete="CASCADE"), nullable=False),
    Column("user_id", Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("added_at", Text, nullable=False, server_default=NOW),
    UniqueConstraint("group_id", "user_id"),
    sqlite_autoincrement=True,
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("actor", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("status", Integer),
    Column("answer", Text, nullable=False, server_default=""),
    Column("created_at", Integer, nullable=False),
    UniqueConstraint("actor", "key"),
    Index("idempotency_keys_age", "created_at"),
    sqlite_autoincrement=True,
)
"""Creates that were asked for with a key. status: the answer's, NULL while it runs; answer: its body, without secrets."""

resource_allocations = Table(
    "resource_allocations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("cpu_limit", Real, nullable=False, server_default="1.0"),
    Column("mem_limit", Text, nullable=False, server_default="2G"),
    Column("disk_quota", Text, nullable=False, server_default="5G"),
    Column("gpu_access", Integer, nullable=False, server_default="0"),
    Column("disk_hard", Text),
    Column("tasks_limit", Integer, nullable=False, server_default="512"),
    sqlite_autoincrement=True,
)

purges = Table(
    "purges",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("history", Text, nullable=False, server_default="keep"),
    Column("asked_at", Text, nullable=False, server_default=NOW),
    sqlite_autoincrement=True,
)
"""What was asked of purges that have begun: one that a crash cuts off goes on as it was meant."""

sessions = Table(
    "sessions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("token_hash", LargeBinary, nullable=False, unique=True),
    Column("user_id", Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("kind", Text, nullable=False, server_default="browser"),
    Column("csrf", Text, nullable=False, server_default=""),
    Column("created_at", Integer, nullable=False),
    Column("last_seen", Integer, nullable=False),
    Column("expires_at", Integer, nullable=False),
    Column("address", Text, nullable=False, server_default=""),
    Column("user_agent", Text, nullable=False, server_default=""),
    Column("methods", Text, nullable=False, server_default="pwd"),
    Column("proved_at", Integer, nullable=False, server_default="0"),
    sqlite_autoincrement=True,
)
"""Times here are Unix seconds: they are compared at every request and read by nobody.

methods: how it was proved who it is, in the words of RFC 8176; proved_at: when, for the last time.
"""

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Text, nullable=False, server_default=NOW),
    Column("actor", Text, nullable=False),
    Column("on_behalf_of", Text, nullable=False, server_default=""),
    Column("domain", Text, nullable=False, server_default=""),
    Column("via", Text, nullable=False, server_default=""),
    Column("address", Text, nullable=False, server_default=""),
    Column("request_id", Text, nullable=False, server_default=""),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False, server_default=""),
    Column("outcome", Text, nullable=False, server_default="started"),
    Column("code", Text, nullable=False, server_default=""),
    Column("message", Text, nullable=False, server_default=""),
    Column("duration_ms", Real),
    Column("changes", Text, nullable=False, server_default="{}"),
    Column("token", Text, nullable=False, server_default=""),
    one_of("outcome", ("started", "done", "refused", "failed", "crashed")),
    Index("audit_target", "target", "id"),
    Index("audit_actor", "actor", "id"),
    Index("audit_domain", "domain", "id"),
    sqlite_autoincrement=True,
)
"""token: the key id of the API token by which it was done, empty without one."""

TRIGGERS = (
    # is_active follows status and status follows is_active, so that both old queries and new ones tell the truth.
    """CREATE TRIGGER users_status_to_is_active AFTER UPDATE OF status ON users
WHEN NEW.is_active <> (NEW.status IN ('pending', 'active'))
BEGIN UPDATE users SET is_active = (NEW.status IN ('pending', 'active')) WHERE id = NEW.id; END""",
    """CREATE TRIGGER users_is_active_off AFTER UPDATE OF is_active ON users
WHEN NOT NEW.is_active AND NEW.status IN ('pending', 'active')
BEGIN UPDATE users SET status = 'inactive' WHERE id = NEW.id; END""",
    """CREATE TRIGGER users_is_active_on AFTER UPDATE OF is_active ON users
WHEN NEW.is_active AND NEW.status = 'inactive'
BEGIN UPDATE users SET status = 'active' WHERE id = NEW.id; END""",
    """CREATE TRIGGER users_is_active_not_now AFTER UPDATE OF is_active ON users
WHEN NEW.is_active AND NEW.status IN ('deleted', 'purging', 'purge-error')
BEGIN UPDATE users SET is_active = 0 WHERE id = NEW.id; END""",
    """CREATE TRIGGER users_insert_inactive AFTER INSERT ON users
WHEN NOT NEW.is_active AND NEW.status IN ('pending', 'active')
BEGIN UPDATE users SET status = 'inactive' WHERE id = NEW.id; END""",
    """CREATE TRIGGER users_insert_not_active AFTER INSERT ON users
WHEN NEW.is_active AND NEW.status NOT IN ('pending', 'active')
BEGIN UPDATE users SET is_active = 0 WHERE id = NEW.id; END""",
    # A name that is free again starts above every generation it ever had: ids are never given twice, and nobody
    # changes one user a million times. The agent refuses what is older than the purge.
    """CREATE TRIGGER users_first_generation AFTER INSERT ON users
WHEN NEW.generation = 1 AND NEW.host_generation = 0
BEGIN UPDATE users SET generation = (NEW.id & 536870911) << 20 WHERE id = NEW.id; END""",
    # pending → active is the host's answer, not a new wish.
    """CREATE TRIGGER users_wish AFTER UPDATE OF status, full_name, shell, shadow_hash, ssh_keys, allowed_client_ip,
must_change_password ON users
WHEN (NEW.full_name, NEW.shell, NEW.ssh_keys, NEW.allowed_client_ip, NEW.must_change_password)
  <> (OLD.full_name, OLD.shell, OLD.ssh_keys, OLD.allowed_client_ip, OLD.must_change_password)
  OR (NEW.shadow_hash IS NOT NULL AND NEW.shadow_hash IS NOT OLD.shadow_hash)
  OR (NEW.status <> OLD.status AND NOT (OLD.status = 'pending' AND NEW.status = 'active'))
BEGIN UPDATE users SET generation = generation + 1 WHERE id = NEW.id; END""",
    """CREATE TRIGGER allocations_wish AFTER UPDATE ON resource_allocations
WHEN (NEW.cpu_limit, NEW.mem_limit, NEW.disk_quota, NEW.gpu_access, NEW.tasks_limit, ifnull(NEW.disk_hard, ''))
  <> (OLD.cpu_limit, OLD.mem_limit, OLD.disk_quota, OLD.gpu_access, OLD.tasks_limit, ifnull(OLD.disk_hard, ''))
BEGIN UPDATE users SET generation = generation + 1 WHERE id = NEW.user_id; END""",
    """CREATE TRIGGER allocations_wish_added AFTER INSERT ON resource_allocations
BEGIN UPDATE users SET generation = generation + 1 WHERE id = NEW.user_id; END""",
    """CREATE TRIGGER allocations_wish_removed AFTER DELETE ON resource_allocations
BEGIN UPDATE users SET generation = generation + 1 WHERE id = OLD.user_id; END""",
    """CREATE TRIGGER members_wish_added AFTER INSERT ON group_members
BEGIN UPDATE users SET generation = generation + 1 WHERE id = NEW.user_id; END""",
    """CREATE TRIGGER members_wish_removed AFTER DELETE ON group_members
BEGIN UPDATE users SET generation = generation + 1 WHERE id = OLD.user_id; END""",
    # SSH asks for the code too.
    """CREATE TRIGGER totps_wish AFTER UPDATE OF secret, active ON totps
WHEN (NEW.secret, NEW.active) <> (OLD.secret, OLD.active)
BEGIN UPDATE users SET generation = generation + 1 WHERE id = NEW.user_id; END""",
    """CREATE TRIGGER totps_wish_removed AFTER DELETE ON totps WHEN OLD.active
BEGIN UPDATE users SET generation = generation + 1 WHERE id = OLD.user_id; END""",
)
