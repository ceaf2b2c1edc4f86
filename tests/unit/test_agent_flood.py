"""The agent's log cannot be filled by a caller, and never loses a change."""

from __future__ import annotations

import pytest
import structlog

from diycloud.agent import main
from diycloud.agent.main import Flood


def said(flood: Flood, event: str, times: int) -> list[dict[str, object]]:
    lines = []
    for _ in range(times):
        try:
            lines.append(dict(flood(None, "warning", {"event": event})))
        except structlog.DropEvent:
            continue
    return lines


def test_refusals_are_counted_after_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(main.time, "monotonic", lambda: now[0])
    flood = Flood()
    assert len(said(flood, "refused", 10_000)) == Flood.BURST
    assert len(said(flood, "connection refused", 10)) == 10, "each kind has its own"
    now[0] = 1.0
    lines = said(flood, "refused", 100)
    assert len(lines) == Flood.A_SECOND
    assert lines[0]["unsaid"] == 10_000 - Flood.BURST
    now[0] = 10_000.0
    assert len(said(flood, "refused", 10_000)) == Flood.BURST, "no more than a burst is saved up"


def test_changes_are_always_logged() -> None:
    assert len(said(Flood(), "account ensured", 5_000)) == 5_000
