"""What notebook servers of these tests leave, and what they run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.host.limits_support import why_not as why_no_limits
from tests.host.notebook_agent import CONTROLLERS, NotebookHost, part
from tests.notebooks import why_not

NEEDED = pytest.mark.skipif(bool(why := why_no_limits() or why_not()), reason=why)
ALICE, BOB = "dtnaalice", "dtnabob"
MIB = 1 << 20


def nothing_left(host: NotebookHost, name: str) -> bool:
    """Whether nothing at all tells of a user's servers."""
    stems = [path for path in host.paths.notebooks.glob("*/*") if path.name.partition(".")[0].partition("+")[0] == name]
    return not stems and not any(part(controller, name).exists() for controller in CONTROLLERS)


def has_run(host: NotebookHost, name: str, code: str) -> None:
    """Have a user's next server run some Python as it starts."""
    home, uid = Path("/home", name), host.ensure(name, cpu=0.5, memory=512 * MIB)
    folder = home / ".jupyter"
    folder.mkdir(exist_ok=True)
    (folder / "jupyter_server_config.py").write_text(code)
    for path in (folder, folder / "jupyter_server_config.py"):
        os.chown(path, uid, uid)


def uids(pid: int) -> set[int]:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Uid:"))
    return {int(word) for word in line.split()[1:]}
