from tests.unit.test_domains import *  # noqa: F403
