"""The server: `python -m diycloud.web.main [--prefix P]`, run as the user diycloud.

Listens on one Unix socket (Paths.server_socket) and nothing else. --port N: on 127.0.0.1 instead, for tests and
benchmarks of the web tier alone.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import socket
import sys
from pathlib import Path

import structlog
import uvicorn
import uvloop

from diycloud import config
from diycloud.actions.services import Services
from diycloud.agent.client import Client
from diycloud.auth.passwords import Hasher
from diycloud.auth.throttle import Throttle
from diycloud.config import Paths
from diycloud.core import metrics
from diycloud.db.engine import open_database
from diycloud.db.vault import Vault
from diycloud.errors import DiyCloudError, Unavailable
from diycloud.log import configure_logging
from diycloud.notebooks.hub import Hub
from diycloud.web import identity
from diycloud.web.app import make_app

log = structlog.get_logger()
WAIT_S = 2.0
"""Between two tries to reach the database at the start."""


def make_services(paths: Paths) -> Services:
    """Return the server's parts: database (migrated), agent, hasher, settings."""
    settings = config.load(paths.config)
    return Services(
        database=open_database(settings, paths),
        agent=Client(paths.agent_socket),
        hasher=Hasher(),
        throttle=Throttle(),
        settings=settings,
        vault=Vault.at(paths.secret_key),
        hub=Hub(paths.hub_socket, paths.portal_token),
    )


def listen(path: Path) -> socket.socket:
    """Return a listening socket at path, 0660 with its folder's group (the folder is setgid). Replaces a dead one."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o117)
    try:
        listener.bind(str(path))
    finally:
        os.umask(old)
    listener.listen(2048)
    return listener


async def claim_services(paths: Paths) -> Services:
    """Return the server's parts, once the database is this server's alone; waits for a PostgreSQL that does not answer.

    Ending instead would be final: systemd starts nothing again that ended ten times within a minute.
    """
    said = ""
    while True:
        services = None
        try:
            services = make_services(paths)
            services.database.claim()
            return services
        except Unavailable as error:
            if services is not None:
                services.database.close()
            if not config.load(paths.config).server.database:
                raise
            if said != (said := error.message):
                log.warning("waiting for the database", reason=said, hint=error.hint)
        await asyncio.sleep(WAIT_S)


async def serve(paths: Paths, port: int | None) -> None:
    """Run until a signal says to stop; requests under way get 10 s to end."""
    services = await claim_services(paths)
    metrics.keep(services)
    options = uvicorn.Config(
        make_app(services),
        http=identity.protocol(services.settings.notebooks.hub_user),
        port=port or 0,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # identity.address decides
        lifespan="on",
        timeout_graceful_shutdown=10,
        timeout_keep_alive=75,
    )
    server = uvicorn.Server(options)
    gc.collect()
    gc.freeze()  # what is loaded stays: a collection that walks it holds everybody up for some 50 ms
    try:
        await server.serve(sockets=None if port else [listen(paths.server_socket)])
    finally:
        services.database.close()


def main() -> int:
    """Entry point; exit status 0 stopped, 1 could not start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", default="/")
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    if os.geteuid() == 0:
        sys.stderr.write("The server must not run as root. Start it with `diycloud up`.\n")
        return 1
    configure_logging()
    os.umask(0o077)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(Paths(options.prefix), options.port))
    except DiyCloudError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
