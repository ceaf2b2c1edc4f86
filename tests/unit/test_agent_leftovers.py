"""A purge that was cut off between the account and its slice: the next wish list takes the slice away too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diycloud.errors import HostError
from tests.unit.test_agent_changes import make, sync


class Slices:
    """The one thing of the slices that is asked for here."""

    def __init__(self) -> None:
        self.there, self.busy = {("alice", 20_000)}, True

    def remove(self, name: str, uid: int) -> None:
        if self.busy:
            raise HostError("processes are in it")
        self.there.discard((name, uid))


def test_a_line_without_account_and_home_takes_its_slice_along(tmp_path: Path) -> None:
    _, agent = make(tmp_path, passwd="root:x:0:0:root:/root:/bin/bash\n")
    (tmp_path / "alice").rmdir()
    del agent.system.files[f"{tmp_path}/alice/x"], agent.system.files[f"{tmp_path}/alice"]  # type: ignore[attr-defined]
    slices: Any = Slices()
    agent.slices = slices
    report = sync(agent)
    assert ([failed.name for failed in report.failed], report.orphans) == (["alice"], [])
    assert "alice" in agent.registry.entries, "the line stays until the slice is gone"
    slices.busy = False
    assert sync(agent).failed == []
    assert (slices.there, "alice" in agent.registry.entries) == (set(), False)
