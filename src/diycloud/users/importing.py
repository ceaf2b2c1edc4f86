"""Import of users: every row checked before the first is created, results row by row.

Batches flow through a small pipeline: while the agent makes the accounts of one, the passwords of the next are hashed.
Rows of users that exist are changes, each of them the ordinary action (users/bulk.py). Every user has a row in the audit.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import msgspec
from sqlalchemy import Connection

from diycloud.actions import audit
from diycloud.actions.dispatcher import Context
from diycloud.actions.parsing import parse_action
from diycloud.actions.services import Services
from diycloud.agent import protocol as wire
from diycloud.errors import Conflict, FieldError, InvalidInput, Unavailable
from diycloud.users import bulk, host, placing, progress, repository, service
from diycloud.users.actions import CreateUser, ImportUsers, ModifyUser
from diycloud.users.checking import check_rows
from diycloud.users.models import Allocation, BulkRow, ImportReport, ImportRow, Row, Status
from diycloud.users.rows import Candidate, ignored_columns, parse_csv, parse_objects

BATCH = wire.MAX_BATCH
UNSET = msgspec.UNSET
_CHANGEABLE = frozenset(ModifyUser.__struct_fields__) - {"force"}
_OUTCOMES = {"done": "changed", "possible": "change", "left-out": "refused", "failed": "refused"}


async def import_users(ctx: Context, action: ImportUsers) -> ImportReport:
    """Create the users of a CSV text or a list, or only say what would be wrong (dry run).

    With any row at fault nothing is done. A crash leaves whole users: reconcile completes those that were committed, and
    importing the rest again says which rows exist (`update` passes over them).
    """
    found = await asyncio.to_thread(_candidates, action)
    found = await check_rows(ctx, found, update=action.update)
    changes = {c.line: _change(c) for c in found if c.exists and not c.errors}
    checked = {job.number: job for job in await bulk.check(ctx, list(changes.values()))}
    found = [c._replace(errors=checked[c.line].errors) if c.line in checked else c for c in found]
    good = [c.allocation for c in found if not c.errors and not c.exists]
    warnings = ignored_columns(found) + await _promises(ctx.services, good)
    refused = sum(bool(c.errors) for c in found)
    ctx.changes = {"rows": len(found), "refused": refused}
    if refused or action.dry_run:
        rows = [c.row("refused" if c.errors else "change" if c.exists else "new") for c in found]
        if refused and not action.dry_run:
            raise ImportRefused(ImportReport(False, rows, 0, refused))
        return ImportReport(action.dry_run, rows, 0, refused, warnings=warnings)
    rows = await _create_all(ctx, [c for c in found if not c.exists])
    rows += [_as_row(c, row) for c, row in await _change_all(ctx, [c for c in found if c.exists], checked)]
    count = Counter(row.outcome for row in rows)
    ctx.changes = {name: [r.username for r in rows if r.outcome in kinds][:1000] for name, kinds in _TOLD.items()}
    return ImportReport(
        False, sorted(rows, key=lambda row: row.line), count["created"], count["refused"], count["pending"],
        count["changed"], warnings,
    )  # fmt: skip


_TOLD = {"created": ("created", "pending"), "changed": ("changed",)}


def _candidates(action: ImportUsers) -> list[Candidate]:
    if bool(action.csv) == bool(action.users):
        raise InvalidInput.of([FieldError("csv", "the rows are needed, either as csv or as users")])
    return parse_csv(action.csv) if action.csv else parse_objects(action.users)


async def _promises(services: Services, good: list[Allocation]) -> tuple[str, ...]:
    """Return warnings if these users' limits promise more than the settings' part of the host. Raises Conflict."""
    try:
        capacity = await services.capacity()
    except Unavailable:
        return ()
    if not good:
        return ()
    cores, memory = await services.database.read_long(repository.promised)
    cores, memory = cores + sum(a.cpu for a in good), memory + sum(a.memory for a in good)
    return service.overcommitment(services.settings.server, capacity, cores, memory)


class ImportRefused(InvalidInput):
    """Rows at fault; report says which and why. Nothing was created."""

    def __init__(self, report: ImportReport) -> None:
        errors = [FieldError(f"line {row.line}, {column}", text) for row in report.rows for column, text in row.errors]
        super().__init__(
            f"{report.refused} of {len(report.rows)} rows are at fault; nothing was created.", errors=errors
        )
        self.report = report


# -- users that exist


def _change(c: Candidate) -> bulk.Job:
    """Return the change that a row of a user who exists asks for: what it says, no more. JSON's null clears."""
    clearable = {"email", "full_name", "description", "external_id", "container_uid", "container_gid"}
    said = {
        name: value
        for name, value in c.given.items()
        if name in _CHANGEABLE and (value is not None or name in clearable)
    }
    return bulk.Job(c.line, c.username, "modify", parse_action(ModifyUser, said, c.source))


async def _change_all(
    ctx: Context, found: list[Candidate], checked: dict[int, bulk.Job]
) -> list[tuple[Candidate, BulkRow]]:
    done = await bulk.run(ctx, [checked[c.line] for c in found], stop=False) if found else []
    return list(zip(found, done, strict=True))


def _as_row(c: Candidate, done: BulkRow) -> ImportRow:
    outcome = _OUTCOMES.get(done.outcome, done.outcome)
    return ImportRow(c.line, c.username, outcome, None, (*c.warnings, *done.warnings), done.errors)


# -- new users


async def _create_all(ctx: Context, found: list[Candidate]) -> list[ImportRow]:
    batches = [found[i : i + BATCH] for i in range(0, len(found), BATCH)]
    rows: list[ImportRow] = []
    hashing = asyncio.create_task(_hash(ctx, batches[0])) if batches else None
    for number, batch in enumerate(batches):
        assert hashing is not None
        hashes = await hashing
        hashing = asyncio.create_task(_hash(ctx, batches[number + 1])) if number + 1 < len(batches) else None
        made = await _create_batch(ctx, batch, hashes)
        for row in made:
            progress.tell(row)
        rows += made
    return rows


async def _hash(ctx: Context, batch: list[Candidate]) -> list[tuple[str, str | None]]:
    """Return the portal's and the host's hash of each password, both made at once; a hash that is given stays."""
    texts = [c.password for c in batch if c.password]

    async def shadows() -> list[str | None]:
        try:
            return [*await ctx.services.agent.call(wire.HashPasswords(texts), list[str])] if texts else []
        except Unavailable:
            return [None] * len(texts)

    hashed, shadow = await asyncio.gather(ctx.services.hasher.hash_many(texts), shadows())
    made = iter(zip(hashed, shadow, strict=True))
    return [next(made) if c.password else (str(c.kept.password_hash), None) for c in batch]


def _columns(c: Candidate, hashed: str, shadow: str | None) -> dict[str, Any]:
    """Return the columns of a new user, with what the row restores."""
    assert c.where is not None
    kept = {name: value for name in ("uuid", "created_at") if (value := getattr(c.kept, name)) is not UNSET}
    columns = service.new_columns(c.wanted, c.where, hashed, shadow) | kept
    if c.password == "" and c.kept.password_changed_at is not UNSET:
        columns["password_changed_at"] = c.kept.password_changed_at
    if c.password == "" and c.wanted.must_change_password is UNSET:
        columns["must_change_password"] = 0  # nobody was given a password that others know
    if c.kept.ssh_keys:
        columns["ssh_keys"] = "\n".join(c.kept.ssh_keys)
    if c.kept.portal_only:
        columns |= {"portal_only": 1, "shadow_hash": None, "status": Status.ACTIVE}
    if c.kept.status in (Status.INACTIVE, Status.DELETED):
        columns["status"] = c.kept.status
    return columns


async def _create_batch(ctx: Context, batch: list[Candidate], hashes: list[tuple[str, str | None]]) -> list[ImportRow]:
    started, begun = time.monotonic(), dict[int, int]()

    def store(connection: Connection) -> list[Row]:
        ids = []
        for c, (hashed, shadow) in zip(batch, hashes, strict=True):
            a = c.wanted
            assert c.where is not None
            placing.check_name_free(connection, c.username)
            user_id = repository.add(connection, _columns(c, hashed, shadow), c.allocation)
            if a.groups:
                placing.join(connection, user_id, c.where.domain, a.groups)
            begun[user_id] = audit.begin(
                connection, ctx.actor, CreateUser.action_name, c.username, audit.asked(a), domain=c.where.domain
            )
            ids.append(user_id)
        return [row for user_id in ids if (row := repository.by_id(connection, user_id))]

    try:
        stored = await ctx.write(store)
    except (Conflict, InvalidInput) as error:
        if len(batch) > 1:  # one of them was taken, or a group of theirs removed, meanwhile: which?
            one_by_one = [await _create_batch(ctx, [c], [both]) for c, both in zip(batch, hashes, strict=True)]
            return [row for rows in one_by_one for row in rows]
        why = getattr(error, "errors", ()) or (FieldError("username", "was taken meanwhile"),)
        return [batch[0]._replace(errors=why).row("refused")]
    outcomes, later = await _settle(ctx, stored)
    rows = []
    refused: list[Row] = []
    for c, row in zip(batch, stored, strict=True):
        outcome = outcomes.get(row.id)
        if row.portal_only:
            rows.append(c.row("created"))
        elif outcome is None:
            rows.append(c._replace(warnings=(*c.warnings, later)).row("pending"))
        elif outcome.code:
            refused.append(row)
            rows.append(c._replace(errors=(FieldError("host", outcome.message),)).row("refused"))
        else:
            more = (outcome.warning,) if outcome.warning else ()
            rows.append(c._replace(warnings=(*c.warnings, *more)).row("created"))

    def end(connection: Connection) -> None:
        for row in refused:
            repository.remove(connection, row.id)
        for row, told in zip(stored, rows, strict=True):
            outcome, message = ("refused", told.errors[0][1]) if told.errors else ("done", "")
            spent = (time.monotonic() - started) * 1000
            audit.end(connection, begun[row.id], outcome, message=message, duration_ms=spent, changes=None)

    await ctx.write(end)
    return rows


async def _settle(ctx: Context, stored: list[Row]) -> tuple[dict[int, wire.Outcome], str]:
    """Have the host follow; returns its answers by the row's id; none, and a word about it, if it is to follow later."""
    people = [row for row in stored if not row.portal_only]
    try:
        outcomes = await host.settle(ctx.services, people)
    except Unavailable as error:
        return {}, host.later(error)
    return {row.id: outcome for row, outcome in zip(people, outcomes, strict=True)}, ""
