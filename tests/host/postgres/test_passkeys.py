from tests.app.test_passkeys import *  # noqa: F403
