"""`diycloud db`: looking through the database, and moving it from SQLite to PostgreSQL.

The database is opened only under the server's uid, in a child (db/move.py). The move is one write of config.yaml: before it
the file is in force, after it PostgreSQL; whatever is cut off can be run again.
"""

from __future__ import annotations

import json
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diycloud import config
from diycloud.config import Paths
from diycloud.core.operations import need_root
from diycloud.core.settings_file import FIRST, set_key
from diycloud.errors import BY_CODE, Conflict, DiyCloudError, NotFound
from diycloud.system import Local, Owner, System


def check(paths: Paths, system: System | None = None) -> dict[str, Any]:
    """Return what is in the database and what is wrong there (db.move.Report). Raises Unavailable if it does not answer."""
    need_root()
    return _child(system or Local(), paths, {})


def move(
    paths: Paths, url: str, *, password_file: str = "", dry_run: bool = False, repair: bool = False,
    system: System | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Move the database to PostgreSQL, or only tell what would be; returns db.move.Report with `kept`, the old file's name.

    Raises Conflict while the server runs, if it was moved before or the target is not empty; InvalidInput for the URL.
    """
    need_root()
    host = system or Local()
    settings = config.load(paths.config)
    if settings.server.database:
        raise Conflict(f"The database is PostgreSQL already: {settings.server.database}.")
    text = host.read(paths.config) or FIRST
    changed = set_key(text, "server", "database", url)
    if password_file:
        changed = set_key(changed, "server", "database_password_file", password_file)
    config.parse(changed, paths.config)
    if not dry_run and _answers(paths.server_socket):
        raise Conflict("The server runs and would go on writing into the file.", "Stop it first: `diycloud down`.")
    report = _child(host, paths, {"url": url, "password_file": password_file, "dry_run": dry_run, "repair": repair})
    if report["moved"]:
        host.write(paths.config, changed)
        report["kept"] = _put_aside(host, paths.database)
    return report


def _child(system: System, paths: Paths, wish: dict[str, Any]) -> dict[str, Any]:
    user = config.load(paths.config).agent.server_user
    fields = system.query(["getent", "passwd", user]).stdout.split(":")
    if len(fields) < 4:
        raise NotFound(f"There is no account {user} to run the server as.", "Run `sudo ./install.sh` again.")
    argv = [sys.executable, "-m", "diycloud.db.move", "--prefix", paths.prefix]
    done = system.run(argv, input=json.dumps(wish), timeout=3600, user=Owner(int(fields[2]), int(fields[3])), cwd="/")
    answer: dict[str, Any] = json.loads(done.stdout)
    if "error" in answer:
        error = answer["error"]
        raise BY_CODE.get(error["code"], DiyCloudError)(error["message"], error["hint"])
    return answer


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _put_aside(system: System, path: Path) -> str:
    """Rename the old file, so that nobody reads or changes it believing it is in force; returns its new name."""
    kept = path.with_name(f"{path.name}.moved-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    for ending in ("", "-wal", "-shm"):  # a sqlite3 shell that was open has its two beside it
        if system.exists(Path(f"{path}{ending}")):
            system.rename(Path(f"{path}{ending}"), Path(f"{kept}{ending}"))
    return str(kept)
