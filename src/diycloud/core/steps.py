"""A list of named steps, run in order, each safe to run again.

Nothing is remembered between runs: every step looks at the host and does what is missing. So a run that failed or was
killed is continued by running it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from diycloud.errors import DiyCloudError

Context = TypeVar("Context")

Printer = Callable[[str], None]


class Step(NamedTuple, Generic[Context]):
    """One step. run: does it, and returns in a few words what it found or did."""

    title: str
    run: Callable[[Context], str]


class StepFailed(Exception):
    """A step did not succeed; why is the cause."""

    def __init__(self, number: int, count: int, title: str) -> None:
        super().__init__(f"step {number} of {count} ({title}) failed")


def run_steps(steps: Sequence[Step[Context]], context: Context, out: Printer, *, plan: bool = False) -> None:
    """Run the steps, printing each with its time and outcome. Raises StepFailed from the error of the first that fails.

    plan: what is printed is the plan of a dry run: each title stands above what its step would do.
    """
    width = max(len(step.title) for step in steps)
    for number, step in enumerate(steps, 1):
        begun = time.monotonic()
        label = f"[{number:2}/{len(steps)}] {step.title:<{width}}"
        if plan:
            out(label.rstrip())
        try:
            outcome = step.run(context)
        except DiyCloudError as error:
            out(f"{label}  FAILED  {time.monotonic() - begun:5.1f} s")
            raise StepFailed(number, len(steps), step.title) from error
        if not plan:
            out(f"{label}  {time.monotonic() - begun:5.1f} s  {outcome}")
