"""The command line that kills itself ahead of a step of its talk with the server (tests/killing_process.py).

With the server down its work is done by a child, which is the killing one (tests/killing_server.py --once).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from diycloud.cli import main as cli
from diycloud.client import connection, wire
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


class _Wire(wire.Wire):
    def ask(self, *args) -> wire.Head:
        killer("send the request")
        return super().ask(*args)

    def _head(self) -> tuple[bytes, wire.Head]:
        killer("read the answer")
        return super()._head()

    def pieces(self, head: wire.Head) -> Iterator[bytes]:
        yield from super().pieces(head)
        killer("show the answer")


def _open(path: Path) -> wire.Wire:
    killer("connect")
    return open_unix(path)


if __name__ == "__main__":
    killer = Killer("cli", sys.argv)
    open_unix, connection.open_unix = connection.open_unix, _open
    connection.Wire = _Wire  # type: ignore[misc]
    in_place.Local = _InPlace  # type: ignore[misc]
    os.chdir("/")
    sys.exit(cli.main())
