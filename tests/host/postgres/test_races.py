from tests.unit.test_races import *  # noqa: F403
