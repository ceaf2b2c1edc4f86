from tests.unit.test_importing import *  # noqa: F403
