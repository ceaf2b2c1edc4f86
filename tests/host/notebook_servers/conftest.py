"""An agent and a launcher for all tests of this folder, and alice, who has half a core and 512 MiB.

What a user's kernels would do is done by ~/.jupyter/jupyter_server_config.py, which the server runs as the user.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.notebook_agent import NotebookHost, running_host
from tests.host.notebook_servers.support import ALICE, MIB, nothing_left
from tests.notebooks import environment

SETTINGS = """\
  start_seconds: 8
  named_servers: 2
  at_once: 3
  profiles:
    all: {title: Everything}
    small: {memory: 160M, cpu: 0.2}
    huge: {memory: 900G, cpu: 4000}
    boxed: {kind: docker, image: lab}
"""


@pytest.fixture(scope="package")
def running() -> Iterator[NotebookHost]:
    yield from running_host(environment("lab"), SETTINGS)


@pytest.fixture
def host(running: NotebookHost) -> Iterator[NotebookHost]:
    """Alice with half a core and 512 MiB, and no server."""
    running.ensure(ALICE, cpu=0.5, memory=512 * MIB)
    yield running
    for notebook in running.read():
        running.stop(notebook.name, notebook.server)
    jupyter = Path("/home", ALICE, ".jupyter")
    if jupyter.exists():
        subprocess.run(["rm", "-r", str(jupyter)], check=True)
    assert nothing_left(running, ALICE)
