"""The same kills with PostgreSQL behind the server: ten minutes and more, so only when it is asked for."""

import pytest

from tests.host import test_kill_everywhere as same
from tests.host.test_kill_everywhere import *  # noqa: F403

pytestmark = [*same.pytestmark, pytest.mark.exhaustive]
