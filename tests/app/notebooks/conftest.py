"""The application on a host with notebooks, and ada, who has an account there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from diycloud.db.engine import Database
from tests.app.notebook_site import Site


@pytest.fixture
def site(database: Database) -> Iterator[Site]:
    made = Site(database)
    made.user("boss", role="admin")
    yield made


@pytest.fixture
def ada(site: Site) -> int:
    return site.user("ada", full_name="Ada Lovelace", portal_only=0, uid=20_001, host_generation=1)
