"""Old databases of the plain kind: `users` and `resource_allocations` in SQLite, unsalted SHA-256 of passwords.

What is read is somebody else's file, perhaps an attacker's: it is opened read-only, nothing that its schema holds is run
(views, virtual tables, triggers, functions), and every value is checked by the import that it is handed to.
"""

from __future__ import annotations

import math
import re
import sqlite3
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from diycloud.errors import FieldError, InvalidInput
from diycloud.units import format_size, parse_size

MAX_BYTES = 1 << 30
MAX_S = 60.0
MAX_ROWS = 10_000
NEEDED = ("id", "username", "password_hash")
COLUMNS = {
    "users": (*NEEDED, "email", "created_at", "role", "is_active"),
    "resource_allocations": ("id", "user_id", "cpu_limit", "mem_limit", "disk_quota", "gpu_access"),
}
NAMES = {
    "cpu": "cpu_limit", "memory": "mem_limit", "disk": "disk_quota", "gpu": "gpu_access", "status": "is_active",
}  # fmt: skip
"""Import's fields, and what their columns are called here."""
_SHA256 = re.compile(r"[0-9a-fA-F]{64}\Z")
_ARGON2 = re.compile(r"\$argon2id\$v=19\$m=[0-9]{1,6},t=[1-9],p=1\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,86}\Z")
_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]([0-9]{2}:[0-9]{2}:[0-9]{2})")


class Old(NamedTuple):
    """A row of `users`: its id, what import is told of it, what is wrong with it, what people should know."""

    id: object
    user: dict[str, Any]
    faults: tuple[FieldError, ...] = ()
    warnings: tuple[str, ...] = ()


def read_database(path: Path) -> list[Old]:
    """Return the users of an old database by id, with their limits. Raises InvalidInput if it is none of the plain kind."""
    with _open(path) as connection:
        users = _rows(connection, "users", path)
        limits = _rows(connection, "resource_allocations", path)
    if len(users) > MAX_ROWS:
        raise InvalidInput(f"{path} has more than {MAX_ROWS} users.", "Import it in parts: copy it, and delete rows.")
    newest: dict[object, Mapping[str, Any]] = {}
    twice: set[object] = set()
    for row in limits:  # by id
        twice |= {row.get("user_id")} & newest.keys()
        newest[row.get("user_id")] = row
    return [_user(row, newest.get(row["id"]), several=row["id"] in twice) for row in users]


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        found = path.stat()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from None
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
        raise InvalidInput(f"{path} is no file of at most {format_size(MAX_BYTES)}.")
    wal = path.with_name(f"{path.name}-wal")
    if wal.exists() and wal.stat().st_size:
        raise InvalidInput(f"{path} is in use: {wal.name} holds changes.", "Stop the old program, then try again.")
    end = time.monotonic() + MAX_S
    with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1", uri=True)) as connection:
        connection.text_factory = lambda value: value.decode("utf-8", "replace")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("PRAGMA query_only = ON")
        connection.set_authorizer(_allow)
        connection.set_progress_handler(lambda: time.monotonic() > end, 100_000)
        try:
            yield connection
        except sqlite3.Error as error:
            raise InvalidInput(f"{path} cannot be read as a SQLite database: {error}.") from None


def _allow(action: int, first: str | None, second: str | None, database: str | None, by: str | None) -> int:
    """Let through what reads tables, and nothing that a view or trigger of the file's asks for."""
    reads = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ) and by is None
    looks = action == sqlite3.SQLITE_PRAGMA and first == "table_info"
    return sqlite3.SQLITE_OK if reads or looks else sqlite3.SQLITE_DENY


def _rows(connection: sqlite3.Connection, table: str, path: Path) -> list[Mapping[str, Any]]:
    """Return the known columns of a table, by id. Raises InvalidInput for a view or virtual table in its place."""
    found = connection.execute("SELECT type, rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    if found is None and table != "users":
        return []
    if found is None or found[0] != "table" or not found[1]:
        what = "no table" if found is None else "a view or a virtual table, no table,"
        raise InvalidInput(
            f"{path} has {what} {table}.", "An old database has the tables users and resource_allocations."
        )
    there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    columns = [name for name in COLUMNS[table] if name in there]
    missing = set(NEEDED if table == "users" else ("id", "user_id")) - there
    if missing:
        raise InvalidInput(f"{path}: the table {table} has no column {', '.join(sorted(missing))}.")
    query = f"SELECT {', '.join(columns)} FROM {table} ORDER BY id LIMIT {2 * MAX_ROWS}"  # noqa: S608 - our own names
    return [dict(zip(columns, row, strict=True)) for row in connection.execute(query)]


def _user(row: Mapping[str, Any], limits: Mapping[str, Any] | None, *, several: bool) -> Old:
    user: dict[str, Any] = {"username": row["username"], "email": row.get("email") or None}
    faults: list[FieldError] = []
    warnings = ["It had limits more than once: the newest hold."] if several else []
    role = str(row.get("role") or "user").strip().lower()
    user["role"] = role if role in ("admin", "user") else "user"
    if role != user["role"]:
        warnings.append(f"The role {role[:40]!r} becomes user.")
    if not row.get("is_active", 1):
        user["status"] = "inactive"
    if created := _TIME.match(str(row.get("created_at") or "")):
        user["created_at"] = f"{created[1]} {created[2]}"
    hashed = _hash(row["password_hash"])
    if hashed is None:
        warnings.append("The old password's hash is of another kind: the user has a generated password.")
    else:
        user["password_hash"] = hashed
    if limits is not None:
        faults += _limits(user, limits)
    return Old(row["id"], user, tuple(faults), tuple(warnings))


def _hash(text: object) -> str | None:
    """Return an old hash as the platform keeps it, None for one that it cannot check."""
    if isinstance(text, str) and _SHA256.match(text):
        return f"sha256${text.lower()}"
    known = isinstance(text, str) and (text == "PLACEHOLDER" or _ARGON2.match(text))
    return str(text) if known else None


def _limits(user: dict[str, Any], limits: Mapping[str, Any]) -> list[FieldError]:
    """Put limits into what import is told of a user; returns what cannot be read. A bare number is MB, as it was there."""
    faults = []
    for field in ("memory", "disk"):
        value = limits.get(NAMES[field])
        try:
            if value is not None:
                user[field] = format_size(parse_size(str(value).strip(), bare="M"))
        except InvalidInput as error:
            faults.append(FieldError(NAMES[field], f"{error.message} {error.hint}"))
    cores = limits.get("cpu_limit")
    try:
        if cores is not None:
            user["cpu"] = float(cores)
            if not math.isfinite(user["cpu"]):
                raise ValueError
    except (TypeError, ValueError):
        faults.append(FieldError("cpu_limit", f"{str(cores)[:40]!r} is no number"))
    if limits.get("gpu_access") is not None:
        user["gpu"] = str(limits["gpu_access"]).strip().lower() not in ("0", "", "false", "no")
    return faults
