"""Many actions on users at once: each checked before the first is done, each with its own result and row in the audit.

They are the very actions that are there one by one, with the same permissions for each user, run side by side
(users/together.py).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from diycloud.actions.action import Action
from diycloud.actions.dispatcher import Context, Dispatcher, Handler
from diycloud.actions.parsing import Source, parse_action
from diycloud.actions.turns import Turns
from diycloud.agent import protocol as wire
from diycloud.errors import DiyCloudError, FieldError, InvalidInput
from diycloud.users import life, places, progress, service, together
from diycloud.users.actions import (
    BULK,
    BulkUsers,
    CreateUser,
    DeleteUser,
    DisableUser,
    EnableUser,
    ModifyUser,
    PurgeUser,
    RestoreUser,
    SetLimits,
    SetPassword,
)
from diycloud.users.models import BulkReport, BulkRow, Changed, Created, Status

log = structlog.get_logger()
AT_ONCE = 2 * wire.MAX_BATCH
"""While the agent works on one batch, the passwords of the next are hashed."""
A_TURN = 4
"""Jobs that begin before the event loop may look at others: what they read before their first wait takes a millisecond each."""

_HANDLERS: dict[type[Action[Any]], Handler] = {
    CreateUser: service.create_user,
    ModifyUser: service.modify_user,
    SetLimits: service.modify_user,
    SetPassword: service.set_password,
    DisableUser: life.disable_user,
    EnableUser: life.enable_user,
    DeleteUser: life.delete_user,
    RestoreUser: life.restore_user,
    PurgeUser: life.purge_user,
}


class Job(NamedTuple):
    """One change: what it asks for, or what is wrong with it. number: its place in the list, from 1."""

    number: int
    username: str
    verb: str
    action: Action[Any] | None = None
    errors: tuple[FieldError, ...] = ()

    def row(self, outcome: str, errors: Sequence[FieldError] = (), **more: Any) -> BulkRow:
        told = tuple((error.field, error.message) for error in (*self.errors, *errors))
        return BulkRow(self.number, self.username, self.verb, outcome, errors=told, **more)


class BulkRefused(InvalidInput):
    """Rows at fault; report says which and why. Nothing was done."""

    def __init__(self, report: BulkReport) -> None:
        errors = [FieldError(f"row {row.row}, {field}", text) for row in report.rows for field, text in row.errors]
        super().__init__(f"{report.failed} of {len(report.rows)} rows are at fault; nothing was done.", errors=errors)
        self.report = report


async def bulk_users(ctx: Context, action: BulkUsers) -> BulkReport:
    """Do many changes, or only say what is in their way. Raises BulkRefused where one is at fault and none is to be done."""
    jobs = await check(ctx, await _parsed(action.changes))
    good = [job for job in jobs if not job.errors]
    refused = {job.number: job.row("refused") for job in jobs if job.errors}
    ctx.changes = {
        "rows": len(jobs),
        "refused": [f"{job.verb} {job.username}"[:60] for job in jobs if job.errors][:100],
    }
    if action.dry_run or (refused and action.on_error == "stop"):
        report = _report(action.dry_run, {**refused, **{job.number: job.row("possible") for job in good}})
        if refused and not action.dry_run:
            raise BulkRefused(report)
        return report
    for row in refused.values():
        progress.tell(row)
    done = await run(ctx, good, stop=action.on_error == "stop")
    report = _report(False, {**refused, **{row.row: row for row in done}})
    ctx.changes |= {"done": report.done + report.pending, "failed": report.failed}
    return report


def _report(dry_run: bool, rows: Mapping[int, BulkRow]) -> BulkReport:
    count = Counter(row.outcome for row in rows.values())
    return BulkReport(
        dry_run,
        [rows[number] for number in sorted(rows)],
        done=count["done"],
        failed=count["refused"] + count["failed"],
        pending=count["pending"],
        left_out=count["left-out"],
    )


async def _parsed(changes: Sequence[Mapping[str, object]]) -> list[Job]:
    jobs, rows, turns = [], dict[str, int](), Turns()
    for number, change in enumerate(changes, 1):
        await turns.give_way()
        job = _job(number, dict(change))
        if job.username in rows:
            job = job._replace(errors=(*job.errors, FieldError("username", f"is in row {rows[job.username]} too")))
        rows.setdefault(job.username, number)
        jobs.append(job)
    return _unlike(jobs)


def _job(number: int, change: dict[str, object]) -> Job:
    verb, name = change.pop("action", None), change.get("username")
    job = Job(number, name[:60] if isinstance(name, str) else "", str(verb)[:60])
    if not isinstance(verb, str) or verb not in BULK:
        return job._replace(errors=(FieldError("action", f"one of: {', '.join(BULK)}"),))
    try:
        return job._replace(action=parse_action(BULK[verb], change, Source.JSON))
    except InvalidInput as error:
        return job._replace(errors=error.errors or (FieldError("row", error.message),))


def _unlike(jobs: Sequence[Job]) -> list[Job]:
    """Name the rows that give two users one address or outside id: alone each of them would be possible."""
    found, seen = [], dict[tuple[str, str], int]()
    for job in jobs:
        errors = []
        for field in ("email", "external_id"):
            value = getattr(job.action, field, None)
            if isinstance(value, str):
                first = seen.setdefault((field, value.lower() if field == "email" else value), job.number)
                if first != job.number:
                    errors.append(FieldError(field, f"is in row {first} too"))
        found.append(job._replace(errors=(*job.errors, *errors)))
    return found


async def check(ctx: Context, jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs with what is in their way: rights, rules, the state of things. Nothing is changed."""
    dispatcher = Dispatcher(_HANDLERS, together.checking(ctx.services), places.find)

    async def one(job: Job) -> Job:
        assert job.action is not None
        try:
            await _try(dispatcher, ctx, job.action)
        except together.Checked:
            return job
        except InvalidInput as error:
            return job._replace(errors=error.errors or (FieldError("row", error.message),))
        except DiyCloudError as error:
            return job._replace(errors=(FieldError("row", str(error)),))
        return job  # nothing to change is nothing in the way

    return await _side_by_side(jobs, one, lambda job: job if job.errors else None)


async def _try(dispatcher: Dispatcher, ctx: Context, action: Action[Any]) -> None:
    context = Context(dispatcher.services, ctx.actor)
    context.bound = await dispatcher.check(ctx.actor, type(action), action.target)
    await dispatcher.handlers[type(action)](context, action)


async def run(ctx: Context, jobs: Sequence[Job], *, stop: bool) -> list[BulkRow]:
    """Do checked jobs side by side and return a row for each, in order. stop: none is begun after one has failed."""
    await ctx.write(lambda _: None)  # the audit's row of the whole stands before those of its parts
    dispatcher = Dispatcher(_HANDLERS, together.gathered(ctx.services), places.find)
    failed = False

    async def one(job: Job) -> BulkRow:
        nonlocal failed
        assert job.action is not None
        try:
            row = _done(job, await dispatcher.run(ctx.actor, job.action))
        except InvalidInput as error:
            row = job.row("refused", error.errors or (FieldError("row", error.message),))
        except DiyCloudError as error:
            row = job.row("refused", (FieldError("row", str(error)),))
        except Exception:
            row = job.row("failed", (FieldError("row", "Something broke; it is in the server's log."),))
        failed |= row.outcome in ("refused", "failed")
        progress.tell(row)
        return row

    def left_out(job: Job) -> BulkRow | None:
        return job.row("left-out") if failed and stop else None

    return await _side_by_side(jobs, one, left_out)


def _done(job: Job, result: Any) -> BulkRow:
    waits, password = False, None
    if isinstance(result, Created | Changed):
        waits = not result.user.settled or result.user.status is Status.PENDING
        password = result.password
    warnings = getattr(result, "warnings", ())
    return job.row("pending" if waits else "done", password=password, warnings=warnings)


async def _side_by_side(jobs: Sequence[Job], work: Any, without: Any) -> list[Any]:
    """Return what work makes of each job, in order. without: says of a job that it needs none, and what is made of it.

    A few jobs begin in a turn of the event loop: a hundred that begin together would hold everybody up.
    """
    found: dict[int, Any] = {}
    free = asyncio.Semaphore(AT_ONCE)

    async def do(job: Job) -> None:
        try:
            found[job.number] = await work(job)
        finally:
            free.release()

    async with asyncio.TaskGroup() as tasks:
        for number, job in enumerate(jobs, 1):
            await free.acquire()
            ready = without(job)
            if ready is None:
                tasks.create_task(do(job))
            else:
                found[job.number] = ready
                free.release()
            if number % A_TURN == 0:
                await asyncio.sleep(0)
    return [found[job.number] for job in jobs]
