from tests.app.test_second_factor_portal import *  # noqa: F403
