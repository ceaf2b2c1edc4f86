"""One platform with notebooks for all tests of this folder: portal, agent, launcher, Nginx, JupyterHub and users' servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.host.hub_support import ALICE, BOB, CAROL, CLASS, running_hub, signed_in, stop
from tests.notebooks import Notebooks
from tests.visitor import Browser

SETTINGS = """\
  named_servers: 2
  profiles:
    whole: {title: "All you have"}
    small: {title: "Small <b>one</b>", cpu: 0.5, memory: 300M}
    boxed: {kind: docker, image: lab}
"""


@pytest.fixture(scope="package")
def bed() -> Iterator[Notebooks]:
    with running_hub(ALICE, BOB, CAROL, *CLASS, settings=SETTINGS) as running:
        yield running


@pytest.fixture
def alice(bed: Notebooks) -> Iterator[Browser]:
    with signed_in(bed, ALICE) as browser:
        yield browser
    stop(bed, ALICE)
