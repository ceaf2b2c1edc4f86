"""Drive the older ways: the shell scripts and the Flask service."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import venv
from pathlib import Path

from tests.bench.harness import CACHE, SERVER_CORE, stop, wait_for
from tests.waiting import free_port

HERE = Path(__file__).parent
TOKEN = "bench-" + "0" * 37


def make_database(path: Path, users: int, *, index: bool = False) -> None:
    """Make the older ways' database with an administrator, a session of theirs, and so many users.

    index: add the index on resource_allocations.user_id that the plain schema lacks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    password = "salt$" + hashlib.sha256(b"saltbench").hexdigest()
    connection = sqlite3.connect(path)
    with connection:
        connection.executescript((HERE / "schema.sql").read_text())
        if index:
            connection.execute("CREATE INDEX allocation_of_user ON resource_allocations (user_id)")
        insert = "INSERT INTO users (id, username, password_hash, role) VALUES (1, 'admin', ?, 'admin')"
        connection.execute(insert, (password,))
        connection.execute("INSERT INTO sessions VALUES (?, 1, ?)", (TOKEN, int(time.time()) + 86_400))
        connection.executemany(
            "INSERT INTO users (id, username, password_hash, email) VALUES (?, ?, ?, ?)",
            ((n + 2, f"user{n:05}", password, f"user{n:05}@example.org") for n in range(users)),
        )
        connection.executemany(
            "INSERT INTO resource_allocations (user_id, cpu_limit, mem_limit) VALUES (?, ?, ?)",
            ((n + 2, 0.5, "512M") for n in range(users)),
        )
    connection.close()


class Shell:
    """The scripts in shell/, with their own database, home folder and cgroup parent."""

    def __init__(self, place: Path, cgroup: str) -> None:
        self.home = place / "home"
        self.home.mkdir(parents=True)
        self.database = place / "shell.db"
        make_database(self.database, 0)
        self.environment = os.environ | {
            "USERS_DB": str(self.database),
            "HOME_BASE": str(self.home),
            "CGROUP_PARENT": cgroup,
        }

    def create(self, name: str, *, cores: str = "0.5", memory_mb: int = 512) -> None:
        self._run("create_user.sh", name, f"{name}@example.org", cores, str(memory_mb), "1024")

    def set_limits(self, name: str, *, cores: str, memory_mb: int = 512) -> None:
        self._run("set_limits.sh", name, cores, str(memory_mb), "1024")

    def programs(self, script: str, *values: str) -> int:
        """Return how many programs one run of a script starts, itself counted; 0 where there is no strace."""
        if shutil.which("strace") is None:
            return 0
        trace = self.home.parent / "trace"
        strace = ("strace", "-f", "-qq", "-e", "trace=execve", "-e", "status=successful", "-o", str(trace))
        self._run(script, *values, under=strace)
        return trace.read_text().count("execve(")

    def _run(self, script: str, *values: str, under: tuple[str, ...] = ()) -> None:
        subprocess.run(
            [*under, HERE / "shell" / script, *values],
            env=self.environment,
            input=b"correct horse battery\n",  # read by create_user.sh alone
            check=True,
            stdout=subprocess.DEVNULL,
        )


def flask_python() -> Path:
    """Return the Python of an environment of its own that has Flask and gunicorn, made on first use."""
    place = CACHE / "venv"
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
    if subprocess.run([python, "-c", "import flask, gunicorn"], capture_output=True).returncode:
        install = [str(python), "-m", "pip", "install", "-q", "flask==3.1.3", "gunicorn==27.0.1"]
        subprocess.run(install, check=True, stdout=sys.stderr)
    return python


class Flask:
    """The Flask service under `gunicorn -w 2`, on one core, over a filled database."""

    def __init__(self, place: Path, *, users: int, index: bool) -> None:
        port = free_port()
        self.base = f"http://127.0.0.1:{port}"
        self.token, self.users = TOKEN, users
        self.headers: dict[str, str] = {}
        database = place / f"flask-{port}.db"
        make_database(database, users, index=index)
        serve = ["-m", "gunicorn", "-w", "2", "-b", f"127.0.0.1:{port}", "--chdir", str(HERE), "flask_app:app"]
        with (place / f"flask-{port}.log").open("wb") as log:
            self.process = subprocess.Popen(
                ["taskset", "-c", str(SERVER_CORE), flask_python(), *serve],
                env=os.environ | {"USERS_DB": str(database)},
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: bool(fetch(f"{self.base}/api/users/user00000", TOKEN)), self.process, "gunicorn")

    def pids(self) -> dict[str, int]:
        return {"server": self.process.pid}

    def user_path(self, n: int) -> str:
        return f"/api/users/user{n:05}"

    def page_paths(self) -> list[str]:
        """Return every tenth page of fifty."""
        return [f"/api/users?page={page}&per_page=50" for page in range(1, self.users // 50 + 1, 10)]

    def close(self) -> None:
        stop(self.process)


def fetch(url: str, token: str) -> bytes:
    """Return the body of one GET with a bearer token. Raises OSError (HTTPError too) when it fails."""
    import urllib.request

    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return bytes(answer.read())
