from tests.unit.test_tokens import *  # noqa: F403
