"""Many actions at once: a row of result for each, in order, and no failure stops the rest."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from diycloud.actions.action import Action
from diycloud.client.requests import route_of
from diycloud.errors import DiyCloudError

R = TypeVar("R")


class Row(NamedTuple, Generic[R]):
    """What became of one action: its result, or the error that refused it. number: from 0, as they were given."""

    number: int
    action: Action[R]
    result: R | None
    error: DiyCloudError | None


class Progress(NamedTuple):
    """How far many actions are."""

    done: int
    total: int
    failed: int


class Report(Generic[R]):
    """What became of many actions. rows: one for each, in the order they were given."""

    def __init__(self, rows: list[Row[R]]) -> None:
        self.rows = rows

    @property
    def results(self) -> list[R]:
        """The results of those that were done."""
        return [row.result for row in self.rows if row.error is None]  # type: ignore[misc]  # None is R then

    @property
    def failed(self) -> list[Row[R]]:
        """The rows that were refused or failed, each with its error."""
        return [row for row in self.rows if row.error is not None]


def run_all(
    run: Callable[[Action[R]], R],
    actions: Iterable[Action[R]],
    *,
    connections: int,
    progress: Callable[[Progress], None] | None,
) -> Report[R]:
    """Run actions, `connections` at a time. progress: called after each, in the caller's own thread.

    An interruption (Ctrl-C) lets those under way end and starts no others. Raises TypeError before the first for
    something that is no action.
    """
    from concurrent.futures import ThreadPoolExecutor, as_completed

    wanted = list(actions)
    for action in wanted:
        route_of(type(action))

    def one(number: int) -> Row[R]:
        try:
            return Row(number, wanted[number], run(wanted[number]), None)
        except DiyCloudError as error:
            return Row(number, wanted[number], None, error)

    rows: dict[int, Row[R]] = {}
    failed = 0
    pool = ThreadPoolExecutor(connections, thread_name_prefix="diycloud")
    try:
        for future in as_completed([pool.submit(one, number) for number in range(len(wanted))]):
            row = future.result()
            rows[row.number] = row
            failed += row.error is not None
            if progress is not None:
                progress(Progress(len(rows), len(wanted), failed))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return Report([rows[number] for number in range(len(wanted))])


class Lines:
    """Takes an answer that comes line by line (NDJSON): tells of its rows and keeps its end. Any other is kept whole."""

    def __init__(self, told: Callable[[dict[str, Any]], object]) -> None:
        self._told = told
        self._part = b""
        self._end: _Line | None = None

    def __call__(self, piece: bytes) -> None:
        *lines, self._part = (self._part + piece).split(b"\n")
        for line in lines:
            found = _LINE.decode(line)
            if found.row is None:
                self._end = found
            else:
                self._told(found.row)

    def rest(self) -> tuple[bytes, dict[str, Any] | None]:
        """Return the result as JSON, or the problem that the work ended with."""
        if self._end is None:
            return self._part, None
        return bytes(self._end.report), self._end.problem


class _Line(msgspec.Struct):
    row: dict[str, Any] | None = None
    report: msgspec.Raw = msgspec.Raw()
    problem: dict[str, Any] | None = None


_LINE = msgspec.json.Decoder(_Line)


def print_progress(progress: Progress, stream: Any = None) -> None:
    """Show how far it is, in one line that is written over on a terminal; elsewhere only the end."""
    stream = stream or sys.stderr
    last = progress.done == progress.total
    failed = f", {progress.failed} failed" if progress.failed else ""
    if stream.isatty():
        stream.write(f"\r{progress.done} of {progress.total}{failed}" + ("\n" if last else ""))
        stream.flush()
    elif last:
        stream.write(f"{progress.done} of {progress.total}{failed}\n")
