from tests.host.test_actions import *  # noqa: F403
