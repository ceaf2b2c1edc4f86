"""The application in a thread, on a port of loopback, with TLS if a folder of certificates is given.

What it answers is what REST answers; no agent is there, so the host follows later. `/ca.crt` is Nginx's otherwise.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn

from diycloud.config import Paths
from diycloud.core.certificates import ensure_certificates
from diycloud.system import Local
from diycloud.users import first_admin
from diycloud.web.app import make_app
from diycloud.web.main import make_services

ADMIN, PASSWORD = "admin", "correct horse battery"


class Served:
    """database: a migrated one, copied below the prefix. url: where it answers. one_time: the password must be changed.

    name: what it is called, in its certificate too.
    """

    def __init__(
        self, database: Path, prefix: Path, *, tls: bool = False, one_time: bool = False, name: str = "127.0.0.1"
    ) -> None:
        self._paths = Paths(str(prefix))
        self._paths.state.mkdir(parents=True)
        shutil.copyfile(database, self._paths.database)
        self._one_time = one_time
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.certificates = prefix / "tls" if tls else None
        if self.certificates is not None:
            self.certificates.mkdir()
            ensure_certificates(Local(), self.certificates, [name], datetime.now(UTC))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"{'https' if tls else 'http'}://{name}:{self.port}"
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        services = make_services(self._paths)
        try:
            await first_admin.ensure_admin(services.database, ADMIN, PASSWORD, one_time=self._one_time)
            inner = make_app(services, background=False)

            async def app(scope: Any, receive: Any, send: Any) -> None:
                if scope.get("path") == "/ca.crt" and self.certificates is not None:
                    text = (self.certificates / "ca.crt").read_bytes()
                    headers = [(b"content-length", str(len(text)).encode())]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    await send({"type": "http.response.body", "body": text})
                else:
                    await inner(scope, receive, send)

            options = uvicorn.Config(app, log_config=None, lifespan="off", **self._tls())
            self._server = uvicorn.Server(options)
            await self._server.serve(sockets=[self._listener])
        finally:
            if services.outside is not None:
                await services.outside.close()
            services.hasher.close()
            services.database.close()
            await services.agent.close()

    def _tls(self) -> dict[str, Any]:
        if self.certificates is None:
            return {}
        return {
            "ssl_certfile": str(self.certificates / "server.crt"),
            "ssl_keyfile": str(self.certificates / "server.key"),
        }

    def __enter__(self) -> Served:
        self._thread.start()
        deadline = time.monotonic() + 10
        while self._server is None or not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self._listener.close()
                raise RuntimeError("the application did not start")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._listener.close()
