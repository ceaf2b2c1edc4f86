"""One request as root, without a listening server: `python -m diycloud.web.once`, started by core/in_place.py.

Reads {"method", "path", "query", "body"} as JSON on standard input and prints {"status", "body"}. It runs under the
server's own uid, so whoever can start it could read and write the database anyway.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from typing import Any

from diycloud.config import Paths
from diycloud.errors import DiyCloudError
from diycloud.log import configure_logging
from diycloud.web.app import make_app
from diycloud.web.identity import UNIX_PEER
from diycloud.web.main import make_services
from diycloud.web.problems import problem_of


async def answer(paths: Paths, request: dict[str, Any]) -> dict[str, Any]:
    """Run one request through the application. A database that cannot be opened is the answer, too."""
    try:
        services = make_services(paths)
    except DiyCloudError as error:
        told = problem_of(error, "")
        return {"status": told.status_code, "body": bytes(told.body).decode()}
    app = make_app(services, background=False)
    body = (request["body"] or "").encode()
    headers = [(name.lower().encode(), value.encode()) for name, value in (request.get("headers") or {}).items()]
    if body:
        headers.append((b"content-type", b"application/json"))
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": request["method"], "scheme": "http",
        "path": request["path"], "raw_path": request["path"].encode(), "query_string": request["query"].encode(),
        "headers": headers, "client": (UNIX_PEER, 0), "server": None,
    }  # fmt: skip
    found: dict[str, Any] = {"status": 500, "body": ""}

    asked = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if asked.is_set():  # an answer in parts asks on, until its reader goes away: this one stays
            await asyncio.Event().wait()
        asked.set()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            found["status"] = message["status"]
        else:
            found["body"] += message.get("body", b"").decode()

    try:
        await app(scope, receive, send)
    finally:
        services.database.close()
        await services.agent.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", default="/")
    paths = Paths(parser.parse_args().prefix)
    if os.geteuid() == 0:
        sys.stderr.write("diycloud.web.once must not run as root.\n")
        return 1
    configure_logging()
    os.umask(0o077)
    sys.stdout.write(json.dumps(asyncio.run(answer(paths, json.load(sys.stdin)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
