from tests.unit.test_groups import *  # noqa: F403
