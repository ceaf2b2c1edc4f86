from tests.unit.test_factors import *  # noqa: F403
