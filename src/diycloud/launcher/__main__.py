"""`LAB/bin/python -I -m diycloud.launcher --prefix /`: the service diycloud-launcher."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
SOCKET = "run/diycloud/launcher/launcher.sock"
"""Below the prefix (config.Paths.launcher_socket)."""


def main() -> None:
    """Prepare what all servers have in common, then start those that are asked for."""
    parser = argparse.ArgumentParser(prog="diycloud-launcher")
    parser.add_argument("--prefix", type=Path, default=Path("/"), help="where the platform's own places are")
    prefix: Path = parser.parse_args().prefix
    if os.geteuid() != 0:
        sys.exit("The launcher starts servers as other users: run it as root.")
    if dict(os.environ) != ENVIRONMENT:
        # A fork shows its parent's first environment in /proc/PID/environ, whatever it sets later: begin without one.
        # The same words as before: by them it is found again (distro/supervisor.py).
        os.execve(sys.executable, sys.orig_argv, ENVIRONMENT)  # noqa: S606 - itself
    os.chdir("/")
    os.umask(0o022)

    from diycloud.launcher.listening import open_socket, say, serve
    from diycloud.launcher.prepare import prepare

    listener = open_socket(prefix / SOCKET)
    visible = [Path(sys.prefix)] + ([prefix] if prefix != Path("/") else [])
    say("ready", **prepare())
    serve(listener, visible)


if __name__ == "__main__":
    main()
