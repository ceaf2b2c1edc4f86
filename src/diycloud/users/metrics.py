"""What is told of users, and of how the host follows the database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, func, select

from diycloud.actions.meter import Kind, Metric, Sample
from diycloud.actions.services import Services
from diycloud.db.tables import users
from diycloud.users.models import Status

USERS = Metric("diycloud_users", Kind.GAUGE, "Users by where their account is in its life.", ("status",))
RECONCILES = Metric(
    "diycloud_reconcile_runs_total", Kind.COUNTER, "Comparisons of the host with the database.", ("outcome",),
    ("done", "failed"),
)  # fmt: skip
RECONCILE_SECONDS = Metric(
    "diycloud_reconcile_duration_seconds", Kind.GAUGE, "How long the last comparison with the host took."
)
RECONCILED_AT = Metric(
    "diycloud_reconcile_last_success_timestamp_seconds", Kind.GAUGE,
    "When the host was last made equal to the database; 0 if never since the server's start.",
)  # fmt: skip
DIFFERENCES = Metric(
    "diycloud_reconcile_differences", Kind.GAUGE, "Accounts that the last comparison found otherwise, by what it did.",
    ("kind",),
)  # fmt: skip

COUNTED = (RECONCILES, RECONCILE_SECONDS, RECONCILED_AT)
READ = (USERS, DIFFERENCES)


@contextmanager
def reconciling(services: Services) -> Iterator[None]:
    """Count a comparison with the host by how it ends."""
    meter, started, outcome = services.meter, time.monotonic(), "failed"
    try:
        yield
        outcome = "done"
        meter.set(RECONCILED_AT, time.time())
    finally:
        meter.set(RECONCILE_SECONDS, time.monotonic() - started)
        meter.count(RECONCILES, outcome)


def count_by_status(connection: Connection) -> dict[str, int]:
    """Count users by status; those that nobody has are left out."""
    rows = connection.execute(select(users.c.status, func.count()).group_by(users.c.status))
    return {str(status): int(count) for status, count in rows}


async def read(services: Services) -> list[Sample]:
    found = await services.database.read_long(count_by_status)
    samples = [Sample(USERS, found.get(status, 0), (status,)) for status in Status]
    report = services.report
    created, mended, orphans, failed = len(report.created), len(report.mended), len(report.orphans), len(report.failed)
    kinds = {"created": created, "mended": mended, "orphan": orphans, "failed": failed}
    return samples + [Sample(DIFFERENCES, count, (kind,)) for kind, count in kinds.items()]
