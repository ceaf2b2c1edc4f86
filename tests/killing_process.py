"""What the killing programs share: a process that ends itself with SIGKILL ahead of one of its steps.

A test arms it with a file `PREFIX/kill`: `WHO NUMBER`. WHO is agent, server or cli; NUMBER counts that program's steps
from the moment the file is there. Unarmed, each program is the real one.

    python -m tests.killing_agent --prefix P      a step is every effect of System
    python -m tests.killing_server --prefix P     a step is every commit
    python -m tests.killing_cli --prefix P …      a step is every exchange with the server
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

FILE = "kill"


def prefix_of(argv: Sequence[str]) -> Path:
    return Path(argv[list(argv).index("--prefix") + 1])


class Killer:
    """Called ahead of every step with its name."""

    def __init__(self, who: str, argv: Sequence[str]) -> None:
        self._who = who
        self._file = prefix_of(argv) / FILE
        self._left: int | None = None

    def __call__(self, step: str = "commit") -> None:
        try:
            who, number = self._file.read_text().split()
        except (FileNotFoundError, ValueError):
            self._left = None
            return
        if who != self._who:
            return
        if self._left is None:
            self._left = int(number)
        if self._left == 0:
            sys.stderr.write(f"KILLED before: {step}\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
