"""Fixtures: bare Debian roots (bareroot.py says what they are)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bare.bareroot import BareRoot
from tests.bare.debian import CannotBuild


def _started(suite: str, *, private_network: bool = False) -> BareRoot:
    try:
        return BareRoot(suite, private_network=private_network).start()
    except CannotBuild as reason:
        pytest.skip(f"no bare root: {reason}")


@pytest.fixture
def bare_root(request: pytest.FixtureRequest) -> Iterator[BareRoot]:
    """A fresh root for one test: Debian 12, or the suite given by `parametrize("bare_root", […], indirect=True)`."""
    root = _started(getattr(request, "param", "bookworm"))
    yield root
    root.stop()


@pytest.fixture(scope="module")
def module_root(request: pytest.FixtureRequest) -> Iterator[BareRoot]:
    """One root for all tests of a module, in their order; the suite as for bare_root."""
    root = _started(getattr(request, "param", "bookworm"))
    yield root
    root.stop()


@pytest.fixture
def lonely_root() -> Iterator[BareRoot]:
    """A fresh Debian 12 root with only a loopback network of its own, where any port is free."""
    root = _started("bookworm", private_network=True)
    yield root
    root.stop()
