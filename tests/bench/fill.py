"""Fill a migrated database, under the server's user: `python -m tests.bench.fill DATABASE USERS`."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

PASSWORD = "correct horse battery staple"


def name_of(n: int) -> str:
    """Return the name of the n-th filled user."""
    return f"user{n:05}"


def fill(path: Path, users: int) -> None:
    """Add an administrator and so many users. All are portal-only: the host has nothing of them."""
    from diycloud.auth.passwords import hash_password

    hashed = hash_password(PASSWORD)
    connection = sqlite3.connect(path)
    insert = (
        "INSERT INTO users (username, password_hash, email, role, status, full_name, portal_only)"
        " VALUES (?, ?, ?, ?, 'active', ?, 1)"
    )
    people = ((name_of(n), hashed, f"{name_of(n)}@example.org", "user", f"Person Number {n}") for n in range(users))
    admin = ("benchadmin", hashed, "benchadmin@example.org", "admin", "Bench Administrator")
    with connection:
        connection.executemany(insert, (admin, *people))
        connection.execute(
            "INSERT INTO resource_allocations (user_id, cpu_limit, mem_limit) SELECT id, 0.5, '512M' FROM users"
        )
    connection.close()


if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]))
