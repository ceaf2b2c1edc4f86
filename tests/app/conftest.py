"""What tests of the whole application share, and what is watched in each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from diycloud.auth.oidc import keys
from diycloud.db.engine import Database
from tests.app import openid
from tests.app import provider as outside
from tests.app.town import Town
from tests.unit.conftest import closes_what_it_opens

__all__ = ["closes_what_it_opens"]


@pytest.fixture
def site(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[openid.OpenId]:
    """The whole application with an administrator (id 1) and the trusted application `wiki`."""
    monkeypatch.setattr(keys, "_make", lambda: openid.MADE)
    made = openid.OpenId(database)
    made.user("root_admin", role="admin")
    made.app_of()
    yield made


@pytest.fixture
def ada(site: openid.OpenId) -> int:
    return site.user("ada", full_name="Ada Lovelace", email="ada@example.org")


@pytest.fixture
def cookie(site: openid.OpenId, ada: int) -> str:
    """What ada's browser holds."""
    return site.signed_in(ada)


@pytest.fixture
def nightly(site: openid.OpenId) -> str:
    """An application that may ask for offline access."""
    return site.app_of("nightly", scopes=["openid", "profile", "offline_access"])


@pytest.fixture
def town(database: Database) -> Town:
    """Two domains with their people."""
    found = Town(database)
    found.fill()
    return found


@pytest.fixture
def provider() -> Iterator[outside.Provider]:
    """An OpenID provider of somebody else's."""
    yield from outside.running()


@pytest.fixture
def make(database: Database, provider: outside.Provider, tmp_path: Path) -> Iterator[outside.Make]:
    """Make a server that trusts the provider, and a browser at it."""
    yield from outside.browsers(database, provider, tmp_path)
