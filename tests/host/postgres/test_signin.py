from tests.host.test_signin import *  # noqa: F403
