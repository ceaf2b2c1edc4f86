"""The schema in PostgreSQL: made from db/tables.py at this program's revision; later migrations apply to both databases.

The triggers do what tables.TRIGGERS do in SQLite. There they are many small ones that change the row again; here a row is
made right before it is written, which is one write less.
"""

from __future__ import annotations

from sqlalchemy import Connection

from diycloud.db.tables import metadata

USERS = """CREATE FUNCTION users_before() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
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
END $$"""

WISH = """CREATE FUNCTION user_wish() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        UPDATE users SET generation = generation + 1 WHERE id = OLD.user_id;
    ELSE
        UPDATE users SET generation = generation + 1 WHERE id = NEW.user_id;
    END IF;
    RETURN NULL;
END $$"""

_LIMITS = ("cpu_limit", "mem_limit", "disk_quota", "gpu_access", "tasks_limit", "disk_hard")
_OLD, _NEW = (", ".join(f"{row}.{column}" for column in _LIMITS) for row in ("OLD", "NEW"))

TRIGGERS = (
    USERS,
    WISH,
    "CREATE TRIGGER users_before BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION users_before()",
    f"""CREATE TRIGGER allocations_wish AFTER UPDATE ON resource_allocations FOR EACH ROW
WHEN (({_NEW}) IS DISTINCT FROM ({_OLD})) EXECUTE FUNCTION user_wish()""",
    """CREATE TRIGGER allocations_wish_added AFTER INSERT OR DELETE ON resource_allocations
FOR EACH ROW EXECUTE FUNCTION user_wish()""",
    """CREATE TRIGGER members_wish AFTER INSERT OR DELETE ON group_members
FOR EACH ROW EXECUTE FUNCTION user_wish()""",
    """CREATE TRIGGER totps_wish AFTER UPDATE ON totps FOR EACH ROW
WHEN ((NEW.secret, NEW.active) IS DISTINCT FROM (OLD.secret, OLD.active)) EXECUTE FUNCTION user_wish()""",
    """CREATE TRIGGER totps_wish_removed AFTER DELETE ON totps FOR EACH ROW
WHEN (OLD.active <> 0) EXECUTE FUNCTION user_wish()""",
)

FIRST_ROWS = (
    "INSERT INTO policies (name, description) VALUES ('default', 'What everybody has')",
    "INSERT INTO domains (name, description) VALUES ('default', 'Everybody')",
)
"""What the migrations put into an empty SQLite file too."""

_VERSION = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY)"


def revision(connection: Connection) -> str | None:
    """Return the schema's revision, None for a database without the platform's tables."""
    if connection.exec_driver_sql("SELECT to_regclass('public.alembic_version')").scalar() is None:
        return None
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if found is None else str(found)


def strangers(connection: Connection) -> list[str]:
    """Return the names of the tables and views in the schema, whosever they are."""
    query = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')"
    return sorted(connection.exec_driver_sql(query).scalars())


def create_tables(connection: Connection) -> None:
    """Make the tables, without triggers and rows."""
    metadata.create_all(connection, checkfirst=False)


def finish(connection: Connection, head: str) -> None:
    """Make the triggers and write which revision this is."""
    for statement in TRIGGERS:
        connection.exec_driver_sql(statement)
    connection.exec_driver_sql(_VERSION)
    connection.exec_driver_sql("INSERT INTO alembic_version VALUES (%(head)s)", {"head": head})


def create_schema(connection: Connection, head: str) -> None:
    """Make all of an empty database."""
    create_tables(connection)
    finish(connection, head)
    for statement in FIRST_ROWS:
        connection.exec_driver_sql(statement)
