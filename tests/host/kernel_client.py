"""Runs cells in a kernel of a notebook server's over its Unix socket. For the lab environment's Python; JSON in and out."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import uuid
from typing import Any

from tornado.httpclient import HTTPRequest
from tornado.netutil import Resolver
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.websocket import websocket_connect


class AtSocket(Resolver):
    """Every name is the server's socket."""

    def initialize(self, path: str) -> None:
        self.path = path

    async def resolve(self, host: str, port: int, family: Any = 0) -> list[Any]:
        return [(socket.AF_UNIX, self.path)]


async def main(told: dict[str, Any]) -> list[str]:
    resolver = AtSocket(path=told["socket"])
    headers = {"Authorization": f"token {told['token']}"}
    client = SimpleAsyncHTTPClient(resolver=resolver, force_instance=True)
    address = f"http://unix{told['prefix']}api/kernels"
    kernel = await client.fetch(HTTPRequest(address, "POST", headers, body="{}", request_timeout=30))
    name = json.loads(kernel.body)["id"]
    channels = HTTPRequest(f"ws://unix{told['prefix']}api/kernels/{name}/channels", headers=headers)
    talk = await websocket_connect(channels, resolver=resolver)
    return [await run(talk, cell) for cell in told["cells"]]


async def run(talk: Any, cell: str) -> str:
    number = uuid.uuid4().hex
    header = {"msg_id": number, "msg_type": "execute_request", "session": "test", "username": "", "version": "5.3"}
    content = {"code": cell, "silent": False, "store_history": False, "allow_stdin": False}
    message = {
        "header": header,
        "parent_header": {},
        "metadata": {},
        "content": content,
        "channel": "shell",
        "buffers": [],
    }
    await talk.write_message(json.dumps(message))
    said = ""
    while True:
        text = await talk.read_message()
        if text is None:
            return said + "[closed]"
        answer = json.loads(text)
        kind, content = answer["header"]["msg_type"], answer["content"]
        if kind == "status" and content["execution_state"] in ("restarting", "dead"):
            return said + f"[{content['execution_state']}]"
        if answer["parent_header"].get("msg_id") != number:
            continue
        if kind == "stream":
            said += content["text"]
        elif kind == "error":
            said += "\n".join(content["traceback"])
        elif kind == "status" and content["execution_state"] == "idle":
            return said


print(json.dumps(asyncio.run(main(json.load(sys.stdin)))))
