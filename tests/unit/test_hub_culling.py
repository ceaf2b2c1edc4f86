"""The sweep of the hub goes on past what cannot be stopped. (What is idle, and for how long: tests/host/test_hub_culling.py.)"""

from __future__ import annotations

import asyncio
from typing import Any

from diycloud.agent.protocol import Notebook, StopNotebook
from diycloud.config_notebooks import NotebookSettings
from diycloud.errors import HostError
from diycloud.hub.board import KEPT, Reasons
from diycloud.hub.culling import Culling


class Hub:
    """A hub that knows no server, and an agent with two, of which one waits for a device that does not answer."""

    def __init__(self) -> None:
        self.agent = self.board = self
        self.users: dict[str, Any] = {}
        self.asked: list[str] = []

    async def read(self) -> dict[tuple[str, str], Notebook]:
        return {(name, ""): Notebook(name, "", "running") for name in ("ada", "grace")}

    def forget(self) -> None: ...

    async def call(self, message: StopNotebook, _: type[Notebook]) -> Notebook:
        self.asked.append(message.name)
        if message.name == "ada":
            raise HostError("1 processes outlive SIGKILL: [4].", "They wait for a device.")
        return Notebook(message.name, "", "stopped")


def test_one_that_cannot_be_stopped_keeps_nobody_else_running() -> None:
    hub = Hub()
    culling = Culling(hub, NotebookSettings())
    for _ in range(2):  # only at the second look
        asyncio.run(culling.look())
    assert hub.asked == ["ada", "grace"]


def test_reasons_are_of_the_last_end_and_bounded() -> None:
    reasons = Reasons()
    reasons.note(("ada", ""), "memory")
    reasons.note(("ada", ""), "idle")
    assert reasons.of(("ada", "")) == "idle" and reasons.of(("grace", "")) == ""
    for number in range(KEPT):
        reasons.note(("eve", f"server-{number}"), "failed")
    assert reasons.of(("ada", "")) == "" and reasons.of(("eve", "server-0")) == "failed"
    reasons.forget(("eve", "server-0"))
    assert reasons.of(("eve", "server-0")) == ""
