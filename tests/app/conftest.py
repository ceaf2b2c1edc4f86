"""What is watched in every test of the whole application."""

from tests.unit.conftest import closes_what_it_opens

__all__ = ["closes_what_it_opens"]
