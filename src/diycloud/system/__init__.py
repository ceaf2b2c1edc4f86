"""The one seam to the operating system.

Every process that is started and every file of the host that is changed goes through a `System`:
Local does it, DryRun prints it, Recording notes each effect on its way to another System, Fake keeps it in memory.
One contract test (tests/unit/test_system.py) holds for all of them. Nothing else imports subprocess.

Paths are absolute. Effects are idempotent and say whether they changed anything. No effect follows a symlink in the
last component of its path, so a link that a user left in the way is replaced or refused, never written through.
"""

from diycloud.system.contract import CLEAN_ENV, PATH, ROOT, Owner, Result, System, command_line
from diycloud.system.local import Local

__all__ = ["CLEAN_ENV", "PATH", "ROOT", "Local", "Owner", "Result", "System", "command_line"]
