"""Kill a piece of work with SIGKILL before each of its effects in turn, to see what a fresh start makes of it.

    for step in every_step(lambda system: create_user(system, ...)):
        recover()
        check(step)
        reset()

A step is every effect that goes through a System (diycloud.system.recording).
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import NamedTuple

from diycloud.system import Local, System
from diycloud.system.recording import Recording

MAX_STEPS = 500


class Step(NamedTuple):
    """number: from 0; effect: the text of the effect that was not done any more."""

    number: int
    effect: str

    def __str__(self) -> str:
        return f"killed before effect {self.number}: {self.effect}"


def killed_before(number: int, act: Callable[[System], object]) -> Step | None:
    """Run the work in a forked child that kills itself before an effect. None if the work ended before that.

    Raises RuntimeError with the child's traceback on standard error if the work failed by itself.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _run(number, act, write)
    os.close(write)
    with os.fdopen(read) as pipe:
        effect = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Step(number, effect)
    if status:
        raise RuntimeError(f"the work failed by itself before effect {number}")
    return None


def every_step(act: Callable[[System], object]) -> Iterator[Step]:
    """Kill the work before its first effect, then, at the next turn, before its second, until it runs to its end."""
    for number in range(MAX_STEPS):
        step = killed_before(number, act)
        if step is None:
            return
        yield step
    raise RuntimeError(f"the work has more than {MAX_STEPS} effects")


def every_step_anew(act: Callable[[System], object], ready: Callable[[], object]) -> Iterator[Step]:
    """The same for work of some length, with the host made ready ahead of each turn, and once more at the end."""
    ready()
    seen = 0
    for step in every_step(act):
        seen += 1
        yield step
        ready()
    assert seen > 3, "the work has steps"


def _run(number: int, act: Callable[[System], object], report: int) -> None:
    """The child's part: never returns."""
    left = number

    def before(effect: str) -> None:
        nonlocal left
        if left == 0:
            os.write(report, effect.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    try:
        act(Recording(Local(), before=before))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
