from tests.unit.test_oidc_grants import *  # noqa: F403
