"""Import from CSV: every row checked before the first is created, results row by row.

Columns are CreateUser's fields by name, in any order; username is needed. Batches flow through a small pipeline: while
the agent makes the accounts of one, the passwords of the next are hashed.
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections import Counter
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection

from diycloud.actions.dispatcher import Context
from diycloud.actions.parsing import Source, fields_of, parse_action
from diycloud.actions.services import Services
from diycloud.agent import protocol as wire
from diycloud.errors import Conflict, FieldError, InvalidInput, Unavailable
from diycloud.host.names import is_reserved
from diycloud.users import host, repository, service
from diycloud.users.actions import CreateUser, ImportUsers
from diycloud.users.models import Allocation, ImportReport, ImportRow, Row

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
                raise _no_table(f"more than {MAX_ROWS} rows", "Split the file.")
    except csv.Error as error:
        raise _no_table(f"line {reader.line_num}: {error}", "Put double quotes around text with commas.") from None
    return Table(heading, rows)


def _no_table(message: str, hint: str) -> InvalidInput:
    return InvalidInput(f"csv: {message}.", hint, errors=[FieldError("csv", message)])


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


class _Others(NamedTuple):
    """What a row is checked beside: the database, the lines before it, the host."""

    names: set[str]
    emails: set[str]
    lines: dict[str, int]
    email_lines: dict[str, int]
    capacity: wire.HostCapacity | None


async def check_rows(ctx: Context, found: list[Candidate]) -> list[Candidate]:
    """Return the rows with a password each, and with what is wrong in them, among them and beside what exists."""
    read = ctx.services.database.read
    names = [c.username for c in found if c.action]
    emails = [c.action.email.lower() for c in found if c.action and c.action.email]
    try:
        capacity = await ctx.services.capacity()
    except Unavailable:
        capacity = None
    taken, taken_emails = await read(repository.existing_names, names), await read(repository.existing_emails, emails)
    others = _Others(taken, taken_emails, {}, {}, capacity)
    return [_checked(ctx, c, others) if c.action else c for c in found]


def _checked(ctx: Context, c: Candidate, others: _Others) -> Candidate:
    a, email = c.wanted, (c.wanted.email or "").lower()
    errors = service.beyond_host(others.capacity, service.allocation_of(a)) if others.capacity else []
    if is_reserved(c.username):
        errors.append(FieldError("username", "is a name of the system's"))
    elif c.username in others.names:
        errors.append(FieldError("username", "there is such a user already"))
    elif c.username in others.lines:
        errors.append(FieldError("username", f"is on line {others.lines[c.username]} too"))
    if email in others.emails:
        errors.append(FieldError("email", "another user has this address"))
    elif email in others.email_lines:
        errors.append(FieldError("email", f"is on line {others.email_lines[email]} too"))
    others.lines.setdefault(c.username, c.line)
    if email:
        others.email_lines.setdefault(email, c.line)
    password = ""
    warnings: tuple[str, ...] = ()
    try:
        own = (c.username, a.full_name or "", a.email or "")
        password, warnings = service.choose_password(ctx, a.password, own)
    except InvalidInput as error:
        errors.extend(error.errors)
    return c._replace(errors=tuple(errors), password=password, warnings=warnings)


async def import_users(ctx: Context, action: ImportUsers) -> ImportReport:
    """Create the users of a CSV text, or only say what would be wrong (dry run).

    With any row at fault nothing is created. A crash leaves whole users: reconcile completes those that were committed,
    and importing the rest again says which rows exist.
    """
    found = await check_rows(ctx, await asyncio.to_thread(parse_csv, action.csv))
    good = [service.allocation_of(c.wanted) for c in found if not c.errors]
    warnings = await _promises(ctx.services, good)
    refused = len(found) - len(good)
    ctx.changes = {"rows": len(found), "refused": refused}
    if refused or action.dry_run:
        rows = [c.row("refused" if c.errors else "new") for c in found]
        if refused and not action.dry_run:
            raise ImportRefused(ImportReport(False, rows, 0, refused))
        return ImportReport(action.dry_run, rows, 0, refused, warnings=warnings)
    rows = await _create_all(ctx, found)
    by_outcome = Counter(row.outcome for row in rows)
    ctx.changes = {"created": [r.username for r in rows if r.outcome != "refused"][:1000]}
    return ImportReport(
        False, rows, by_outcome["created"], by_outcome["refused"], by_outcome["pending"], warnings=warnings
    )


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


async def _create_all(ctx: Context, found: list[Candidate]) -> list[ImportRow]:
    batches = [found[i : i + BATCH] for i in range(0, len(found), BATCH)]
    rows: list[ImportRow] = []
    hashing = asyncio.create_task(_hash(ctx, batches[0])) if batches else None
    for number, batch in enumerate(batches):
        assert hashing is not None
        hashes = await hashing
        hashing = asyncio.create_task(_hash(ctx, batches[number + 1])) if number + 1 < len(batches) else None
        rows += await _create_batch(ctx, batch, hashes)
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
            ids.append(repository.add(connection, columns, service.allocation_of(a)))
        return [row for user_id in ids if (row := repository.by_id(connection, user_id))]

    try:
        stored = await ctx.write(store)
    except Conflict:
        if len(batch) > 1:  # one of them was taken meanwhile: which?
            one_by_one = [await _create_batch(ctx, [c], [both]) for c, both in zip(batch, hashes, strict=True)]
            return [row for rows in one_by_one for row in rows]
        return [batch[0]._replace(errors=(FieldError("username", "was taken meanwhile"),)).row("refused")]
    try:
        outcomes = await host.settle(services.database, services.agent, stored)
    except Unavailable:
        return [c._replace(warnings=(*c.warnings, service.LATER)).row("pending") for c in batch]
    rows = []
    for c, row, outcome in zip(batch, stored, outcomes, strict=True):
        if outcome.code:
            await ctx.write(repository.remove, row.id)
            rows.append(c._replace(errors=(FieldError("host", outcome.message),)).row("refused"))
        else:
            warnings = (*c.warnings, outcome.warning) if outcome.warning else c.warnings
            rows.append(c._replace(warnings=warnings).row("created"))
    return rows
