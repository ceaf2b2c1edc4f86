from tests.unit.test_policies import *  # noqa: F403
