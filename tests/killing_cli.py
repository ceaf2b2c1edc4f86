"""The command line that kills itself ahead of a step of its talk with the server (tests/killing_process.py).

With the server down its work is done by a child, which is the killing one (tests/killing_server.py --once).
"""

from __future__ import annotations

import http.client
import os
import sys
from pathlib import Path

from diycloud.cli import main as cli
from diycloud.cli import transport
from diycloud.core import in_place
from diycloud.system import Local, Result
from tests.killing_process import Killer

ROOT = Path(__file__).parents[1]


class _InPlace(Local):
    """Starts the killing child where the command line starts the real one."""

    def run(self, argv, **options) -> Result:
        words = [*argv, "--once"]
        words[words.index("diycloud.web.once")] = "tests.killing_server"
        return super().run(words, **options | {"env": {"PYTHONPATH": f"{ROOT}/src:{ROOT}"}})


class _Connection(transport._UnixConnection):
    def connect(self) -> None:
        killer("connect")
        super().connect()

    def request(self, *args, **options) -> None:
        killer("send the request")
        super().request(*args, **options)

    def getresponse(self) -> http.client.HTTPResponse:
        killer("read the answer")
        response = super().getresponse()
        killer("show the answer")
        return response


if __name__ == "__main__":
    killer = Killer("cli", sys.argv)
    transport._UnixConnection = _Connection  # type: ignore[misc]
    in_place.Local = _InPlace  # type: ignore[misc]
    os.chdir("/")
    sys.exit(cli.main())
