"""The server that kills itself ahead of a commit (tests/killing_process.py).

It reconciles every --every seconds, so that a test need not wait a minute, but not while a program is armed, whose steps
are to be those of the test's work alone. It works in batches of two.
`--once` runs one request in place, as core/in_place.py has it done while the server is down.
"""

from __future__ import annotations

import functools
import sys

from diycloud.actions.services import Services
from diycloud.agent import protocol
from diycloud.agent.protocol import SyncReport
from diycloud.db.engine import open_database
from diycloud.users import importing, reconcile
from diycloud.web import main as server
from diycloud.web import once
from tests.killing_process import AT_REST, FILE, Killer, prefix_of

_reconcile, _housekeeping = reconcile.reconcile, reconcile.housekeeping


async def _unless_armed(services: Services) -> SyncReport | None:
    return None if (prefix_of(sys.argv) / FILE).exists() else await _reconcile(services)


async def _and_rest(services: Services) -> None:
    await _housekeeping(services)
    sys.stderr.write(f"{AT_REST}\n")


if __name__ == "__main__":
    server.open_database = functools.partial(open_database, before_commit=Killer("server", sys.argv))  # type: ignore[attr-defined]
    protocol.MAX_BATCH = importing.BATCH = 2
    reconcile.housekeeping = _and_rest
    if "--every" in sys.argv:
        where = sys.argv.index("--every")
        reconcile.reconcile = _unless_armed  # type: ignore[assignment]
        reconcile.EVERY_S = float(sys.argv[where + 1])  # type: ignore[misc,assignment]
        del sys.argv[where : where + 2]
    if "--once" in sys.argv:
        sys.argv.remove("--once")
        sys.exit(once.main())
    sys.exit(server.main())
