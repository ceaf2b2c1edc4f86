"""What is told of signing in: how sign-ins at the portal and by REST end, who is signed in, how much waits to be hashed."""

from __future__ import annotations

import time

from sqlalchemy import Connection, func, select

from diycloud.actions.meter import Kind, Metric, Sample
from diycloud.actions.services import Services
from diycloud.auth.passwords import Hasher
from diycloud.db.tables import sessions
from diycloud.errors import TooManyRequests

SIGN_INS = Metric(
    "diycloud_sign_ins_total", Kind.COUNTER,
    "Sign-ins at the portal and by REST: a session (done), refused, or told to wait after failures (throttled).",
    ("outcome",), ("done", "refused", "throttled"),
)  # fmt: skip
SESSIONS = Metric("diycloud_sessions", Kind.GAUGE, "Sessions that hold.", ("kind",))
HASHES = Metric("diycloud_hash_queue_length", Kind.GAUGE, "Password hashes that wait or are being made.")
KINDS = ("browser", "api")

COUNTED = (SIGN_INS,)
READ = (SESSIONS, HASHES)


def outcome(code: str) -> str:
    """Return what a refusal counts as, by its code."""
    return "throttled" if code == TooManyRequests.code else "refused"


def count_sessions(connection: Connection, now: int, idle_s: int) -> dict[str, int]:
    """Count the sessions that hold by their kind."""
    holds = (sessions.c.expires_at > now) & (sessions.c.last_seen > now - idle_s)
    rows = connection.execute(select(sessions.c.kind, func.count()).where(holds).group_by(sessions.c.kind))
    return {str(kind): int(count) for kind, count in rows}


async def read(services: Services) -> list[Sample]:
    idle = services.settings.server.session_idle_minutes * 60
    found = await services.database.read_long(count_sessions, int(time.time()), idle)
    held = [Sample(SESSIONS, found.get(kind, 0), (kind,)) for kind in KINDS]
    hasher = services.hasher
    return [*held, *([Sample(HASHES, hasher.queued)] if isinstance(hasher, Hasher) else [])]
