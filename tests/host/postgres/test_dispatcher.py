from tests.unit.test_dispatcher import *  # noqa: F403
