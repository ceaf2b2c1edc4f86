from tests.app.test_outside_at_once import *  # noqa: F403
