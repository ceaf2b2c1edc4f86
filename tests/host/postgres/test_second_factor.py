from tests.app.test_second_factor import *  # noqa: F403
