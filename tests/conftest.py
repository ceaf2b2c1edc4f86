"""What the tests share. A running platform (tests/stack.py) is started once for a module, if this machine can."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import CONTROLLERS, Stack


def cannot_run() -> str:
    """Return why the platform cannot be run on this machine, empty if it can."""
    if os.geteuid() != 0:
        return "needs root: accounts are made"
    missing = [c for c in CONTROLLERS if not os.access(Path("/sys/fs/cgroup") / c, os.W_OK)]
    return f"no cgroup v1 controller {', '.join(missing)}" if missing else ""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The platform with its own UIDs and cgroups; every account, home and process of it is gone afterwards."""
    reason = cannot_run()
    if reason:
        pytest.skip(reason)
    with Stack(uid_min=53_000, uid_max=54_999, cgroup="dtwide") as running:
        yield running
