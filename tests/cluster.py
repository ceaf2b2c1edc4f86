"""A PostgreSQL of the tests' own: Debian's program, a cluster in /tmp, one Unix socket, nothing on the network.

with Cluster() as cluster:
    address = cluster.database("one")
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg

from diycloud.db.postgres import Address

ROLE = "postgres"


def programs() -> Path | None:
    """Return the folder of the newest PostgreSQL's programs, None if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return found[-1] if found else None


def cannot_run() -> str:
    """Return why there can be no cluster here, empty if there can."""
    if os.geteuid() != 0:
        return "needs root: PostgreSQL runs as its own account"
    return "" if programs() else "needs Debian's postgresql package"


class Cluster:
    """Its own administrator `postgres` needs no password; others sign in as the account they are (peer).

    durable: whether it waits for the disk.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._durable = durable
        self.folder = Path(tempfile.mkdtemp(prefix="dtpg-", dir="/tmp"))
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Cluster:
        account = pwd.getpwnam(ROLE)
        os.chown(self.folder, account.pw_uid, account.pw_gid)
        self.folder.chmod(0o755)
        found = programs()
        assert found is not None
        self._programs, self._account = found, account
        self._run("initdb", "-D", str(self.folder / "data"), "-A", "peer", "-E", "UTF8", "--no-locale")
        self._authenticate("peer")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _identity(self) -> dict[str, object]:
        return {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}

    def _run(self, program: str, *arguments: str) -> None:
        argv = [str(self._programs / program), *arguments]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd="/", **self._identity())  # type: ignore[call-overload]
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr}")

    def start(self) -> None:
        """Start it and wait until it answers."""
        on = "on" if self._durable else "off"
        options = {
            "listen_addresses": "", "unix_socket_directories": str(self.folder), "max_connections": "60",
            "fsync": on, "full_page_writes": on, "logging_collector": "off",
        }  # fmt: skip
        words = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self.folder / "data"), *words],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/", **self._identity(),
            )  # type: ignore[call-overload]  # fmt: skip
        for _ in range(200):
            try:
                self._run("psql", "-h", str(self.folder), "-c", "SELECT 1", "postgres")
                return
            except RuntimeError:
                time.sleep(0.05)
        raise RuntimeError(self.log())

    def stop(self) -> None:
        """Stop it at once, ending every connection."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=60)
            self.process = None

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def sql(self, statement: str, database: str = "postgres") -> None:
        """Run a statement as PostgreSQL's own administrator."""
        self._run("psql", "-h", str(self.folder), "-v", "ON_ERROR_STOP=1", "-qXc", statement, database)

    def url(self, database: str, role: str = ROLE) -> str:
        return f"postgresql://{role}@/{database}?host={self.folder}"

    def database(self, name: str, *, like: str = "template0", owner: str = ROLE) -> Address:
        """Make a database, empty or as another is."""
        self.sql(f"CREATE DATABASE {name} TEMPLATE {like} OWNER {owner}")
        return Address(self.url(name, owner))

    def drop(self, name: str) -> None:
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def ensure_role(self, name: str) -> None:
        """Make a role that may sign in and do nothing else."""
        if not self.run(self.url("postgres"), "SELECT 1 FROM pg_roles WHERE rolname = %s", (name,))[1]:
            self.sql(f"CREATE ROLE {name} LOGIN")

    def require_password(self) -> None:
        """Have everybody but its own administrator give a password."""
        self._authenticate("scram-sha-256")
        self.sql("SELECT pg_reload_conf()")

    def _authenticate(self, way: str) -> None:
        (self.folder / "data/pg_hba.conf").write_text(f"local all {ROLE} trust\nlocal all all {way}\n")

    def run(self, url: str, statement: str, values: Sequence[object] = ()) -> tuple[list[str], list[tuple]]:
        """Run a statement by hand; returns the columns' names and the rows."""
        with psycopg.connect(url) as connection:
            cursor = connection.execute(statement, values)
            if cursor.description is None:
                return [], []
            return [column.name for column in cursor.description], cursor.fetchall()

    def query(self, address: Address, statement: str) -> list[tuple]:
        """Return the rows of a statement, run by hand."""
        return self.run(address.url, statement)[1]
