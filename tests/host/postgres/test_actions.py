import pytest

from tests.host.test_actions import *  # noqa: F403

pytestmark = [pytestmark, pytest.mark.slow]  # noqa: F405
