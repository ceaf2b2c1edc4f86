"""What a page of Lab does, without a browser: asks a Jupyter server, starts a kernel, runs cells and waits for their output.

Needs aiohttp, which the hub's and the lab environment have: run by their Python, not by the platform's. As a program it does
what a line of JSON on its input says, and answers with one: `LAB/bin/python tests/lab.py < ask.json`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

CELL_S = 60.0


class Lab:
    """A Jupyter server. base: its address with its prefix, without a slash at the end; headers: go with every request."""

    def __init__(self, session: aiohttp.ClientSession, base: str, headers: dict[str, str] | None = None) -> None:
        self.session, self.base, self.headers = session, base, headers or {}

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request as a page's script does. Raises AssertionError for anything but success."""
        async with self.session.request(method, self.base + path, json=body, headers=self.headers) as answer:
            text = await answer.text()
            assert answer.status < 300, f"{method} {path}: {answer.status} {text[:500]}"
            return json.loads(text) if "json" in answer.headers.get("content-type", "") else text

    async def start_kernel(self) -> str:
        """Start a kernel and return its identifier."""
        return str((await self.ask("POST", "/api/kernels", {"name": "python3"}))["id"])

    @asynccontextmanager
    async def channels(self, kernel: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open the WebSocket of a kernel."""
        address = f"{self.base}/api/kernels/{kernel}/channels?session_id={uuid.uuid4().hex}"
        async with self.session.ws_connect(address, headers=self.headers, max_msg_size=0) as socket:
            yield socket

    async def run(
        self, socket: aiohttp.ClientWebSocketResponse, code: str, seconds: float = CELL_S
    ) -> list[dict[str, Any]]:
        """Run a cell and return the messages that belong to it, up to the one that says it is done, or that the kernel died."""
        ident = uuid.uuid4().hex
        header = {"msg_id": ident, "msg_type": "execute_request", "username": "", "session": ident, "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        asked = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        await socket.send_str(json.dumps(asked))
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(seconds):
            async for raw in socket:
                assert raw.type is aiohttp.WSMsgType.TEXT, raw
                message = json.loads(raw.data)
                state = message["content"].get("execution_state") if message["msg_type"] == "status" else None
                if message["parent_header"].get("msg_id") == ident:
                    found.append(message)
                    if state == "idle":
                        return found
                elif state in ("restarting", "dead", "autorestarting"):
                    return [*found, message]
        raise AssertionError(f"the connection ended: {socket.close_code}")

    async def wait_until_back(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Wait for a kernel that starts again: what is sent to it before may be lost with the one that ended."""
        end = time.monotonic() + CELL_S
        while time.monotonic() < end:
            try:
                await self.run(socket, "", seconds=5)
                return
            except TimeoutError:
                continue
        raise AssertionError("the kernel did not come back")


def printed(messages: list[dict[str, Any]], stream: str = "stdout") -> str:
    """Return what a cell wrote to a stream."""
    texts = [m["content"]["text"] for m in messages if m["msg_type"] == "stream" and m["content"]["name"] == stream]
    return "".join(texts)


async def _do(asked: dict[str, Any]) -> dict[str, Any]:
    """Start a kernel, run cells, ask addresses. asked: socket or base, token, cells, gets; see the answer for what comes."""
    connector = aiohttp.UnixConnector(path=asked["socket"]) if "socket" in asked else None
    told: dict[str, Any] = {"cells": []}
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(CELL_S)) as session:
        lab = Lab(session, asked.get("base", "http://localhost"), {"Authorization": f"token {asked['token']}"})
        told["before"] = [await lab.ask("GET", path) for path in asked.get("before", ())]
        kernel = await lab.start_kernel()
        async with lab.channels(kernel) as socket:
            for code in asked["cells"]:
                begin = time.monotonic()
                messages = await lab.run(socket, code)
                if messages[-1]["content"].get("execution_state") == "restarting":
                    await lab.wait_until_back(socket)
                told["cells"].append(
                    {
                        "seconds": time.monotonic() - begin,
                        "stdout": printed(messages),
                        "stderr": printed(messages, "stderr"),
                        "last": messages[-1]["content"].get("execution_state"),
                        "errors": [m["content"]["evalue"] for m in messages if m["msg_type"] == "error"],
                    }
                )
        told["after"] = [await lab.ask("GET", path) for path in asked.get("after", ())]
        await lab.ask("DELETE", f"/api/kernels/{kernel}")
    return told


if __name__ == "__main__":
    json.dump(asyncio.run(_do(json.load(sys.stdin))), sys.stdout)
