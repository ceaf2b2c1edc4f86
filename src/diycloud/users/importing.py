"""Import from CSV: every row checked before the first is created, results row by row.

Columns are CreateUser's fields by name, in any order; username is needed. Batches flow through a small pipeline: while
the agent makes the accounts of one, the passwords of the next are hashed.
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection

from diycloud.actions.dispatcher import Context
from diycloud.actions.parsing import Source, fields_of, parse_action
from diycloud.agent import protocol as wire
from diycloud.errors import Conflict, FieldError, InvalidInput, Unavailable
from diycloud.users import host, repository, service
from diycloud.users.actions import CreateUser, ImportUsers
from diycloud.users.models import Allocation, ImportReport, ImportRow, Row
from diycloud.users.names import RESERVED

BATCH = wire.MAX_BATCH
MAX_ROWS = 10_000


class Candidate(NamedTuple):
    """One line of the file: what it asks for, or what is wrong with it."""

    line: int
    username: str
    action: CreateUser | None
    errors: tuple[FieldError, ...] = ()
    password: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def wanted(self) -> CreateUser:
        """What a row without faults asks for."""
        assert self.action is not None
        return self.action

    def row(self, outcome: str) -> ImportRow:
        given = self.action is not None and self.action.password is not msgspec.UNSET
        errors = tuple((error.field, error.message) for error in self.errors)
        shown = self.password if outcome in ("created", "pending") and not given else None
        return ImportRow(self.line, self.username, outcome, shown, self.warnings, errors)


class Table(NamedTuple):
    """A CSV text taken apart. heading: column names in lower case; rows: number of the line a row starts on → cells."""

    heading: list[str]
    rows: dict[int, list[str]]


def read_table(text: str) -> Table:
    """Take a CSV text apart; commas, semicolons or tabs between the cells. Empty lines are left out.

    Raises InvalidInput for what is no CSV, and for more than MAX_ROWS rows.
    """
    text = text.removeprefix("\ufeff")
    delimiter = max((",", ";", "\t"), key=text.partition("\n")[0].count)  # Excel writes what its country uses
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    rows: dict[int, list[str]] = {}
    try:
        heading = [name.strip().lower() for name in next(reader, [])]
        start = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows[start] = cells
            start = reader.line_num + 1
            if len(rows) > MAX_ROWS:
                raise InvalidInput(f"csv: more than {MAX_ROWS} rows.", "Split the file.")
    except csv.Error as error:
        raise InvalidInput(
            f"csv: line {reader.line_num}: {error}.", "Put double quotes around text with commas."
        ) from None
    return Table(heading, rows)


def parse_csv(text: str) -> list[Candidate]:
    """Return the rows of a CSV text, each parsed or with all that is wrong in it.

    Raises InvalidInput if there is no usable heading: nothing can be said of single rows then.
    """
    table = read_table(text)
    _check_heading(table.heading)
    return [_candidate(line, cells, table.heading) for line, cells in table.rows.items()]


def _check_heading(heading: list[str]) -> None:
    known = fields_of(CreateUser)
    errors = [
        FieldError(f"line 1, column {number}", f"{name[:60]!r} is no column; there are: {', '.join(known)}")
        for number, name in enumerate(heading, 1)
        if name not in known
    ]
    twice = sorted({name for name in heading if heading.count(name) > 1})
    errors += [FieldError(f"line 1, column {name}", "is there twice") for name in twice]
    if "username" not in heading:
        errors.append(FieldError("line 1", "a heading with the column username is needed"))
    if errors:
        raise InvalidInput.of(errors)


def _candidate(line: int, cells: list[str], heading: list[str]) -> Candidate:
    raw = {name: cell.strip() if name != "password" else cell for name, cell in zip(heading, cells, strict=False)}
    username = raw.get("username", "")[:60]
    if len(cells) != len(heading):
        message = f"{len(cells)} cells where the heading has {len(heading)}"
        return Candidate(line, username, None, (FieldError("row", message),))
    filled = {name: cell for name, cell in raw.items() if cell}  # an empty cell means the default
    try:
        return Candidate(line, username, parse_action(CreateUser, filled, Source.TEXT))
    except InvalidInput as error:
        return Candidate(line, username, None, error.errors)


def check_rows(ctx: Context, found: list[Candidate]) -> list[Candidate]:
    """Return the rows with a password each, and with what is wrong among them and beside what exists."""
    database = ctx.services.database
    names = [c.username for c in found if c.action]
    emails = [c.action.email.lower() for c in found if c.action and c.action.email]
    taken, taken_emails = (
        database.read(repository.existing_names, names),
        database.read(repository.existing_emails, emails),
    )
    seen: dict[str, int] = {}
    seen_emails: dict[str, int] = {}
    return [_checked(ctx, c, taken, taken_emails, seen, seen_emails) for c in found]


def _checked(
    ctx: Context,
    c: Candidate,
    taken: set[str],
    taken_emails: set[str],
    seen: dict[str, int],
    seen_emails: dict[str, int],
) -> Candidate:
    if c.action is None:
        return c
    errors, email = [], (c.action.email or "").lower()
    if c.username in RESERVED:
        errors.append(FieldError("username", "is a name of the system's"))
    elif c.username in taken:
        errors.append(FieldError("username", "there is such a user already"))
    elif c.username in seen:
        errors.append(FieldError("username", f"is on line {seen[c.username]} too"))
    if email in taken_emails:
        errors.append(FieldError("email", "another user has this address"))
    elif email in seen_emails:
        errors.append(FieldError("email", f"is on line {seen_emails[email]} too"))
    seen.setdefault(c.username, c.line)
    if email:
        seen_emails.setdefault(email, c.line)
    password = ""
    warnings: tuple[str, ...] = ()
    try:
        own = (c.username, c.action.full_name or "", c.action.email or "")
        password, warnings = service.choose_password(ctx, c.action.password, own)
    except InvalidInput as error:
        errors.extend(error.errors)
    return c._replace(errors=tuple(errors), password=password, warnings=warnings)


async def import_users(ctx: Context, action: ImportUsers) -> ImportReport:
    """Create the users of a CSV text, or only say what would be wrong (dry run).

    With any row at fault nothing is created. A crash leaves whole users: reconcile completes those that were committed,
    and importing the rest again says which rows exist.
    """
    found = check_rows(ctx, await asyncio.to_thread(parse_csv, action.csv))
    largest = max((c for c in found if c.action), key=lambda c: c.action.cpu if c.action else 0, default=None)
    if largest and largest.action:
        allocation = Allocation(largest.action.cpu, max(c.action.memory for c in found if c.action))
        await service.check_capacity(ctx.services, allocation)
    refused = sum(bool(c.errors) for c in found)
    ctx.changes = {"rows": len(found), "refused": refused}
    if refused or action.dry_run:
        rows = [c.row("refused" if c.errors else "new") for c in found]
        if refused and not action.dry_run:
            raise ImportRefused(ImportReport(False, rows, 0, refused))
        return ImportReport(action.dry_run, rows, 0, refused)
    rows = await _create_all(ctx, found)
    outcomes = [row.outcome for row in rows]
    report = ImportReport(False, rows, outcomes.count("created"), outcomes.count("refused"), outcomes.count("pending"))
    ctx.changes = {"created": [r.username for r in rows if r.outcome != "refused"][:1000]}
    return report


class ImportRefused(InvalidInput):
    """Rows at fault; report says which and why. Nothing was created."""

    def __init__(self, report: ImportReport) -> None:
        errors = [FieldError(f"line {row.line}, {column}", text) for row in report.rows for column, text in row.errors]
        super().__init__(
            f"{report.refused} of {len(report.rows)} rows are at fault; nothing was created.", errors=errors
        )
        self.report = report


async def _create_all(
    ctx: Context, found: list[Candidate], progress: Callable[[int], None] | None = None
) -> list[ImportRow]:
    batches = [found[i : i + BATCH] for i in range(0, len(found), BATCH)]
    rows: list[ImportRow] = []
    hashing = asyncio.create_task(_hash(ctx, batches[0])) if batches else None
    for number, batch in enumerate(batches):
        assert hashing is not None
        hashes = await hashing
        hashing = asyncio.create_task(_hash(ctx, batches[number + 1])) if number + 1 < len(batches) else None
        rows += await _create_batch(ctx, batch, hashes)
        if progress:
            progress(len(rows))
    return rows


async def _hash(ctx: Context, batch: list[Candidate]) -> list[tuple[str, str | None]]:
    """Return the portal's and the host's hash of each password, both made at once."""
    texts = [c.password for c in batch]

    async def shadows() -> list[str | None]:
        try:
            return [*await ctx.services.agent.call(wire.HashPasswords(texts), list[str])]
        except Unavailable:
            return [None] * len(texts)

    hashed, shadow = await asyncio.gather(ctx.services.hasher.hash_many(texts), shadows())
    return list(zip(hashed, shadow, strict=True))


async def _create_batch(ctx: Context, batch: list[Candidate], hashes: list[tuple[str, str | None]]) -> list[ImportRow]:
    services = ctx.services

    def store(connection: Connection) -> list[Row]:
        ids = []
        for c, (hashed, shadow) in zip(batch, hashes, strict=True):
            a = c.wanted
            generated = a.password is msgspec.UNSET
            columns = service.new_columns(a, hashed, shadow, generated=generated)
            ids.append(
                repository.add(connection, columns, Allocation(a.cpu, a.memory, a.disk, 2 * a.disk, a.tasks, a.gpu))
            )
        return [row for user_id in ids if (row := repository.by_id(connection, user_id))]

    try:
        stored = await ctx.write(store)
    except Conflict:
        return [c._replace(errors=(FieldError("username", "was taken meanwhile"),)).row("refused") for c in batch]
    try:
        outcomes = await host.settle(services.database, services.agent, stored)
    except Unavailable:
        return [c._replace(warnings=(*c.warnings, service.LATER)).row("pending") for c in batch]
    rows = []
    for c, row, outcome in zip(batch, stored, outcomes, strict=True):
        if outcome.code:
            await service.take_back(services, row, outcome)
            rows.append(c._replace(errors=(FieldError("host", outcome.message),)).row("refused"))
        else:
            warnings = (*c.warnings, outcome.warning) if outcome.warning else c.warnings
            rows.append(c._replace(warnings=warnings).row("created"))
    return rows
