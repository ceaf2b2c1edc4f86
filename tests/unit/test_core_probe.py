"""Waiting for a platform that starts: asking must not take the processor away from what is waited for."""

from __future__ import annotations

from pathlib import Path

import pytest

from diycloud.core import probe


class Clock:
    """Time that passes by sleeping and asking alone."""

    def __init__(self) -> None:
        self.now = self.asked = 0.0
        self.times = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def ask(self, seconds: float) -> str:
        """Take so long to find out that nothing answers."""
        self.now += seconds
        self.asked += seconds
        self.times += 1
        return "refused"


@pytest.mark.parametrize(("seconds", "least", "share"), [(0.001, 250, 0.01), (0.1, 50, 0.11), (3.0, 7, 0.45)])
def test_asking_takes_a_small_part_of_the_wait(
    monkeypatch: pytest.MonkeyPatch, seconds: float, least: int, share: float
) -> None:
    clock = Clock()
    monkeypatch.setattr(probe, "time", clock)
    monkeypatch.setattr(probe, "ask", lambda *_: clock.ask(seconds))
    assert "refused" in probe.probe(Path("/none"), "name", 443, Path("/none"), wait=60)
    assert clock.times >= least, "and yet it is asked often"
    assert clock.asked <= share * clock.now
    assert clock.now < 70
