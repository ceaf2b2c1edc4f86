"""What tests of the whole application share, and what is watched in each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from diycloud.auth.oidc import keys
from diycloud.db.engine import Database
from tests.app import openid
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
