from tests.unit.test_repository import *  # noqa: F403
