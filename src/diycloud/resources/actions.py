"""What the host has, and what is promised of it."""

from __future__ import annotations

import msgspec

from diycloud.actions.action import Action, Audited, Permission, action
from diycloud.actions.download import Download


class Host(msgspec.Struct, frozen=True):
    """cores and memory the host has; what is promised to users; memory in bytes. slices: how limits are applied, or why not.

    unsettled: users the host has not confirmed; orphans: accounts of the platform's without a user, locked; stopped: why
    the last reconcile locked none of them. locked_out: users, at most 100, whose `allowed_client_ip` somebody has written so
    that nobody can read it.
    """

    cores: int
    memory: int
    promised_cores: float
    promised_memory: int
    slices: str
    unsupported: str
    unsettled: int = 0
    orphans: list[str] = []
    stopped: str = ""
    locked_out: list[str] = []


@action("host.show", needs=Permission.HOST_READ, audited=Audited.NO, target="")
class ShowHost(Action[Host], frozen=True):
    """Show what the host has and how much of it is promised."""


@action("metrics.read", needs=Permission.METRICS_READ, audited=Audited.NO, target="")
class ReadMetrics(Action[Download], frozen=True):
    """Read what is counted, in Prometheus' text format; the same is at `/metrics`, outside the API."""
