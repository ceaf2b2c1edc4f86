from tests.unit.test_group_members import *  # noqa: F403
from tests.unit.test_groups import *  # noqa: F403
