import pytest

from tests.host.test_signin import *  # noqa: F403

pytestmark = [pytestmark, pytest.mark.slow]  # noqa: F405
