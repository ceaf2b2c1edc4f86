"""What the killing programs share: a process that ends itself with SIGKILL ahead of one of its steps.

    python -m tests.killing_agent --prefix P      a step is every effect of System
    python -m tests.killing_server --prefix P     a step is every commit
    python -m tests.killing_cli --prefix P …      a step is every exchange with the server

A test arms one of them (`arm`), has it work, and asks whether it died (`disarm`). Unarmed, each program is the real one.
The arms are a file; who dies takes it away first, so that nobody is ever between life and death: a process that has closed
its sockets, and has been answered for, may still be a moment from its end.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

FILE = "kill/armed"
AT_REST = "AT REST"
"""In the server's log when a round of reconcile is over: it commits nothing of its own accord until the next."""


def arm(prefix: Path, who: str, step: int) -> None:
    """Have a program die ahead of a step, counted from 0 and from now. who: agent, server or cli."""
    (prefix / FILE).parent.mkdir(exist_ok=True)
    (prefix / FILE).parent.chmod(0o777)  # the server must be able to take the file away
    (prefix / FILE).write_text(f"{who} {step} {time.monotonic_ns()}")


def disarm(prefix: Path) -> bool:
    """Take the arms back; returns whether there was something to take: if not, the program dies or is dead."""
    try:
        (prefix / FILE).unlink()
    except FileNotFoundError:
        return False
    return True


def prefix_of(argv: Sequence[str]) -> Path:
    return Path(argv[list(argv).index("--prefix") + 1])


class Killer:
    """Called ahead of every step with its name."""

    def __init__(self, who: str, argv: Sequence[str]) -> None:
        self._who = who
        self._prefix = prefix_of(argv)
        self._arms, self._left = "", 0

    def __call__(self, step: str = "commit") -> None:
        try:
            arms = (self._prefix / FILE).read_text()
            who, number, _ = arms.split()
        except (FileNotFoundError, ValueError):
            return
        if who != self._who:
            return
        if arms != self._arms:
            self._arms, self._left = arms, int(number)
        if self._left == 0 and disarm(self._prefix):
            sys.stderr.write(f"KILLED before: {step}\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
