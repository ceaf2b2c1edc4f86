"""One launcher in the real lab environment, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.host.launcher_support import ALICE, BOB, Answered, Bed, alive, users


@pytest.fixture(scope="package")
def module_bed() -> Iterator[Bed]:
    with users():
        bed = Bed()
        try:
            yield bed
        finally:
            bed.close()


@pytest.fixture
def bed(module_bed: Bed) -> Iterator[Bed]:
    """The launcher. Servers of a test end with it."""
    yield module_bed
    for server in module_bed.servers:
        if server.shim and alive(server.shim):
            server.stop()
    module_bed.servers.clear()


@pytest.fixture(scope="package")
def both(module_bed: Bed) -> Iterator[tuple[Answered, Answered]]:
    """A server of each user's, for tests that only look."""
    servers = (module_bed.start(ALICE, "look"), module_bed.start(BOB, "look"))
    module_bed.servers.clear()
    yield servers
    for server in servers:
        server.stop()
