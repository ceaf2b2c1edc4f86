from tests.host.test_kill_everywhere import *  # noqa: F403
