"""What is watched in every unit test, and what they share."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from diycloud.system import System
from tests.unit import systems


def open_files() -> dict[int, str]:
    """Return what each descriptor of this process is open on."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that the listing itself had
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


@pytest.fixture(autouse=True)
def closes_what_it_opens() -> Iterator[None]:
    """Fail the test that leaves a file, socket or database open, its own or the program's."""

    def more() -> dict[int, str]:
        return {fd: name for fd, name in open_files().items() if before.get(fd) != name}

    before = open_files()
    yield
    if more():
        gc.collect()  # what waits in a cycle only is no leak
    assert more() == {}


@pytest.fixture(params=systems.REAL)
def real(request: pytest.FixtureRequest, tmp_path: Path) -> System:
    """Each System that changes the host."""
    return systems.make(request.param, tmp_path)
